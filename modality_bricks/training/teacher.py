"""Pooled features of a teacher, computed once: what a small encoder may learn beside the labels. Training only, never shipped."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from modality_bricks.training.features import half
from modality_bricks.training.packs import Pixels

TEACHER_SIZE = 128


def load_teacher(weights: Path) -> nn.Module:
    """MobileNetV2 1.0 with TensorFlow's "same" padding; its batch norms are folded, so it stays in eval mode."""
    teacher = timm.create_model("mobilenetv2_100", pretrained=False, pad_type="same")
    teacher.load_state_dict(load_file(weights))
    frozen: nn.Module = teacher.float().eval().requires_grad_(False)
    # Module.to takes it; torch's overloads leave it out.
    frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return frozen


@torch.inference_mode()
def teacher_features(teacher: nn.Module, pixels: Pixels, batch: int = 128) -> NDArray[np.float16]:
    """Mean-pooled features of uint8 pictures (n, h, w, 3), enlarged to 128 x 128: (n, 1280) in float16."""
    forward: Any = teacher.forward_features
    out = np.empty((len(pixels), 1280), np.float16)
    for start in range(0, len(pixels), batch):
        x: Tensor = torch.from_numpy(pixels[start : start + batch]).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = F.interpolate(x, size=(TEACHER_SIZE, TEACHER_SIZE), mode="bicubic").clamp(-1, 1)
        with half(torch.device("cpu")):
            features = forward(x.to(memory_format=torch.channels_last))
        out[start : start + batch] = features.float().mean((2, 3)).half().numpy()
    return out

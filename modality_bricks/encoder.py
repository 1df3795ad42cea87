"""Frozen vision encoders of open_clip: from pictures to patch features. Knows nothing of hosts, stitches or cards."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before open_clip)

import open_clip
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from mattoni.errors import MattoniError

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
# The last two stages: the deepest says what, the one before says where and of what colour.
STAGES = 2
Box = tuple[float, float, float, float]  # left, top, right, bottom; outside 0..1 where the picture was padded


class VisionEncoder(nn.Module):
    """An open_clip vision tower in eval mode, with the preprocessing that it was trained with."""

    def __init__(self, model: nn.Module, preprocess: open_clip.transform.Compose) -> None:
        super().__init__()
        assert isinstance(model.visual, nn.Module)
        self.visual = model.visual
        self._transform = preprocess
        # requires_grad_(False) stops learning, not dropout or batch statistics: without eval() one picture gives two answers.
        self.requires_grad_(False).eval()
        parameter = next(self.parameters())
        size: Any = self.visual.image_size
        self.size: int = int(size[0] if isinstance(size, (tuple, list)) else size)
        probe = torch.zeros(1, 3, self.size, self.size, device=parameter.device, dtype=parameter.dtype)
        self.tokens, self.width = self.features(probe).shape[1:]

    def preprocess(self, picture: Image.Image) -> Tensor:
        """A picture of any size and mode as (3, size, size), normalised."""
        tensor = self._transform(picture.convert("RGB"))
        assert isinstance(tensor, Tensor)
        return tensor

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch tokens, which come first, row by row."""
        side = math.isqrt(self.tokens - 1)
        return side, side

    def seen(self, width: int, height: int) -> Box:
        """The part of a picture that the preprocessing leaves, as shares of its width and height."""
        mode = getattr(self.visual, "preprocess_cfg", {}).get("resize_mode")
        if mode == "squash":
            return 0.0, 0.0, 1.0, 1.0
        side = max(width, height) if mode == "longest" else min(width, height)
        across, down = side / width / 2, side / height / 2
        return 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down

    @torch.no_grad()
    def features(self, batch: Tensor) -> Tensor:
        """Patch tokens of the last two stages, and one token with the pooled embedding at the end.

        The finer stage is averaged onto the grid of the coarser one, and both stand side by side in each token; the
        embedding is padded with zeros.

        batch    (batch, 3, size, size), normalised
        returns  (batch, grid² + 1, width)
        """
        parameter = next(self.parameters())
        batch = batch.to(parameter.device, parameter.dtype)
        visual: Any = self.visual  # each tower is a class of its own with this method
        out = visual.forward_intermediates(batch, indices=STAGES, output_fmt="NCHW")
        maps: list[Tensor] = out["image_intermediates"]
        rows, columns = maps[-1].shape[-2:]
        grid = (rows, columns)
        patches = torch.cat([F.adaptive_avg_pool2d(m, grid) for m in maps], dim=1).flatten(2).transpose(1, 2)
        pooled: Tensor = out["image_features"]
        width = max(patches.shape[-1], pooled.shape[-1])
        return torch.cat([_widen(patches, width), _widen(pooled.unsqueeze(1), width)], dim=1)


def _widen(tokens: Tensor, width: int) -> Tensor:
    """Pad the last dimension with zeros."""
    return F.pad(tokens, (0, width - tokens.shape[-1]))


def load_encoder(
    source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VisionEncoder:
    """Load a frozen encoder from safetensors.

    source  `local-dir:FOLDER` or a folder (open_clip_config.json and open_clip_model.safetensors), `hf-hub:NAME`, or an
            open_clip tag as `ViT-B-32/laion2b_s34b_b79k`

    Raises MattoniError for pickled checkpoints, missing files and unknown names.
    """
    name = str(source)
    if isinstance(source, Path) or name.startswith("local-dir:"):
        return _from_folder(Path(name.removeprefix("local-dir:")), device, dtype)
    if name.startswith("hf-hub:"):
        return _from_folder(_download(name.removeprefix("hf-hub:")), device, dtype)
    architecture, _, tag = name.partition("/")
    config = open_clip.get_pretrained_cfg(architecture, tag) if tag else None
    if not config:
        raise MattoniError(
            f"There is no encoder '{name}': give local-dir:FOLDER, hf-hub:NAME or an open_clip tag such as "
            "ViT-B-32/laion2b_s34b_b79k."
        )
    if not config.get("hf_hub"):
        raise MattoniError(
            f"The encoder '{name}' is published as a pickled checkpoint, which is refused: choose another tag."
        )
    return _from_folder(_download(str(config["hf_hub"]).rstrip("/")), device, dtype)


def _download(repository: str) -> Path:
    """The two files of an open_clip repository on the Hub."""
    try:
        return Path(snapshot_download(repository, allow_patterns=[WEIGHTS, CONFIG]))
    except RepositoryNotFoundError as problem:
        raise MattoniError(f"There is no encoder '{repository}' on the Hub: check the name.") from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        raise MattoniError(
            f"The encoder '{repository}' could not be fetched from the Hub: check the network."
        ) from problem


def _from_folder(folder: Path, device: torch.device | str, dtype: torch.dtype) -> VisionEncoder:
    if not (folder / WEIGHTS).is_file():
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLES)
        if pickled:
            raise MattoniError(
                f"{folder.name}/{pickled[0]} is a pickled checkpoint, which is refused: convert it to {WEIGHTS}."
            )
        raise MattoniError(f"{folder.name}/{WEIGHTS} is missing: an encoder folder holds {CONFIG} and {WEIGHTS}.")
    try:
        json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", return_transform=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as problem:
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
        raise MattoniError(f"The encoder in {folder.name} cannot be loaded ({reason}): copy it again.") from problem
    model = model.to(device, dtype)
    return VisionEncoder(model, preprocess)


def stack(encoder: VisionEncoder, pictures: Sequence[Image.Image]) -> Tensor:
    """Preprocess several pictures: (n, 3, size, size)."""
    return torch.stack([encoder.preprocess(picture) for picture in pictures])

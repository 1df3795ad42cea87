"""Frozen vision towers of imported transformers checkpoints: the checkpoint's own preprocessing, and the features that its
stitch reads. Knows nothing of hosts, stitches or cards.
"""

import json
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before transformers)

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, Blip2VisionModel, InstructBlipVisionModel

from mattoni.errors import MattoniError
from modality_bricks.vision import Box, VisionEncoder, centred

WEIGHTS, CHOICE = "model.safetensors", "features.json"
# These two are no part of what AutoModel knows.
_CLASSES: dict[str, Any] = {
    "blip_2_vision_model": Blip2VisionModel,
    "instructblip_vision_model": InstructBlipVisionModel,
}


class FeatureChoice(BaseModel):
    """`features.json`: which hidden states of a tower a stitch was trained on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    layers: tuple[int, ...] | None = None  # None: the normalised output of the last one
    class_token: bool = True


class TransformersTower(VisionEncoder):
    """A vision tower in eval mode with its image processor."""

    def __init__(self, model: nn.Module, processor: Any, choice: FeatureChoice) -> None:
        super().__init__()
        self.model, self._processor, self._choice = model, processor, choice
        self.requires_grad_(False).eval()
        probe = self.preprocess(Image.new("RGB", (64, 64)))
        self.tokens, self.width = self.features(probe.unsqueeze(0)).shape[1:]
        config: Any = model.config
        patch = int(config.patch_size)
        self.grid = (probe.shape[-2] // patch, probe.shape[-1] // patch)
        self.first_patch = self.tokens - self.grid[0] * self.grid[1]

    def preprocess(self, picture: Image.Image) -> Tensor:
        """A picture of any size and mode as (3, height, width), as the checkpoint's own processor makes it."""
        pixels: Tensor = self._processor(picture.convert("RGB"), return_tensors="pt")["pixel_values"]
        return pixels[0]

    def seen(self, width: int, height: int) -> Box:
        """The part of a picture that the processor leaves, as shares of its width and height."""
        return centred(width, height) if getattr(self._processor, "do_center_crop", False) else (0.0, 0.0, 1.0, 1.0)

    @torch.no_grad()
    def features(self, batch: Tensor) -> Tensor:
        """The chosen hidden states, several layers side by side in each token: (batch, tokens, width)."""
        parameter = next(self.parameters())
        batch = batch.to(parameter.device, parameter.dtype)
        layers = self._choice.layers
        out = self.model(batch, output_hidden_states=layers is not None)
        states = [out.last_hidden_state] if layers is None else [out.hidden_states[layer] for layer in layers]
        if not self._choice.class_token:
            states = [state[:, 1:] for state in states]
        return torch.cat(states, dim=-1)


def load_tower(folder: Path, device: torch.device | str, dtype: torch.dtype) -> TransformersTower:
    """Load the tower that an import left in `folder`. Raises MattoniError when something is missing or damaged."""
    try:
        choice = FeatureChoice.model_validate_json((folder / CHOICE).read_text(encoding="utf-8"))
        config = AutoConfig.from_pretrained(folder)
        loader = _CLASSES.get(config.model_type, AutoModel)
        model, report = loader.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, local_files_only=True
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise MattoniError(f"{folder.name}/{WEIGHTS} lacks {missing[0]} and maybe more: import the brick again.")
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        return TransformersTower(model.to(device), processor, choice)
    except MattoniError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, IndexError, ValidationError) as problem:
        reason = (str(problem).strip() or type(problem).__name__).splitlines()[0].rstrip(".")
        raise MattoniError(
            f"The encoder in {folder.name} cannot be loaded ({reason}): import the brick again."
        ) from problem


def write_choice(folder: Path, choice: FeatureChoice) -> None:
    """Write `features.json`."""
    (folder / CHOICE).write_text(json.dumps(choice.model_dump(mode="json")), encoding="utf-8")

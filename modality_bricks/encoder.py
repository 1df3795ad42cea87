"""Frozen vision encoders: from pictures to patch features. Knows nothing of hosts, stitches or cards."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before open_clip)

import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from mattoni.errors import MattoniError
from mattoni.files import pickles_in
from mattoni.hub import snapshot
from mattoni.paths import model_folder
from modality_bricks.tower import load_tower
from modality_bricks.vision import Box as Box
from modality_bricks.vision import VisionEncoder as VisionEncoder
from modality_bricks.vision import centred
from modality_bricks.vision import stack as stack

WEIGHTS, CONFIG = "open_clip_model.safetensors", "open_clip_config.json"
CLASSES = "classes.safetensors"  # of an encoder that was trained to name things: its classifier on the pooled feature
FOLDERS = ("local-dir", "transformers-dir")  # sources that are folders
CATALOGUE = "catalogue"
# The last two stages: the deepest says what, the one before says where and of what colour.
STAGES = 2


class OpenClipEncoder(VisionEncoder):
    """An open_clip vision tower in eval mode, with the preprocessing that it was trained with."""

    def __init__(self, model: nn.Module, preprocess: open_clip.transform.Compose) -> None:
        super().__init__()
        assert isinstance(model.visual, nn.Module)
        self.visual = model.visual
        self._transform = preprocess
        # requires_grad_(False) stops learning, not dropout or batch statistics: without eval() one picture gives two answers.
        self.requires_grad_(False).eval()
        # Convolutions, depthwise ones most, take half as long on a CPU when the channels stand last (EfficientNet-Lite2 at 192 px:
        # 35 for 70 ms in fp32, 14 for 27 in bf16, one busy thread).
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs do not know it
        probe = self.preprocess(Image.new("RGB", (64, 64))).unsqueeze(0)
        rows, columns = self._maps(probe)[0][-1].shape[-2:]
        self.grid = (rows, columns)
        self.tokens, self.width = self.features(probe).shape[1:]

    def preprocess(self, picture: Image.Image) -> Tensor:
        """A picture of any size and mode as (3, height, width), normalised."""
        tensor = self._transform(picture.convert("RGB"))
        assert isinstance(tensor, Tensor)
        return tensor

    def seen(self, width: int, height: int) -> Box:
        """The part of a picture that the preprocessing leaves, as shares of its width and height."""
        mode = getattr(self.visual, "preprocess_cfg", {}).get("resize_mode")
        return (0.0, 0.0, 1.0, 1.0) if mode == "squash" else centred(width, height, longest=mode == "longest")

    @torch.no_grad()
    def features(self, batch: Tensor) -> Tensor:
        """Patch tokens of the last two stages, and one token with the pooled embedding at the end.

        The finer stage is averaged onto the grid of the coarser one, and both stand side by side in each token; the
        embedding is padded with zeros.

        batch    (batch, 3, height, width), normalised
        returns  (batch, rows * columns + 1, width)
        """
        maps, pooled = self._maps(batch)
        patches = torch.cat([F.adaptive_avg_pool2d(m, self.grid) for m in maps], dim=1).flatten(2).transpose(1, 2)
        width = max(patches.shape[-1], pooled.shape[-1])
        return torch.cat([_widen(patches, width), _widen(pooled.unsqueeze(1), width)], dim=1)

    @torch.no_grad()
    def _maps(self, batch: Tensor) -> tuple[list[Tensor], Tensor]:
        """The last stages' patch tokens, (batch, width, rows, columns) each, and the pooled embedding, (batch, width).

        Class and register tokens are no patches and stay away; what the tower makes of them is in the embedding.
        """
        parameter = next(self.parameters())
        batch = batch.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
        visual: Any = self.visual  # each tower is a class of its own with this method
        out = visual.forward_intermediates(batch, indices=STAGES, output_fmt="NCHW")
        maps: list[Tensor] = out["image_intermediates"]
        pooled: Tensor = out["image_features"]
        # A tower without a pool of its own gives (batch, tokens, width) or (batch, width, rows, columns).
        if pooled.dim() == 3:
            pooled = pooled.mean(1)
        elif pooled.dim() == 4:
            pooled = pooled.mean((2, 3))
        return maps, pooled


def _widen(tokens: Tensor, width: int) -> Tensor:
    """Pad the last dimension with zeros."""
    return F.pad(tokens, (0, width - tokens.shape[-1]))


def split_source(source: str | Path) -> tuple[str, str]:
    """A source's scheme and the rest: a folder without a scheme is `local-dir`, a Hub id or tag without one has none."""
    name = str(source)
    scheme, _, rest = name.partition(":")
    if scheme in (*FOLDERS, "hf-hub", CATALOGUE):
        return scheme, rest
    return ("local-dir" if isinstance(source, Path) or Path(name).is_dir() else ""), name


def load_encoder(
    source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VisionEncoder:
    """Load a frozen encoder from safetensors.

    source  a folder, also as `local-dir:FOLDER` (open_clip_config.json and open_clip_model.safetensors); a Hub id, also as
            `hf-hub:NAME`; `catalogue:NAME`, a model of the catalogue that was fetched; an open_clip tag such as `ViT-B-32/laion2b_s34b_b79k`; `transformers-dir:FOLDER`, the tower of an
            imported checkpoint

    Raises MattoniError for pickled checkpoints, missing files and unknown names.
    """
    scheme, name = split_source(source)
    if scheme == "transformers-dir":
        return load_tower(Path(name), device, dtype)
    if scheme == "local-dir":
        return _from_folder(Path(name), device, dtype)
    if scheme == CATALOGUE:
        return _from_folder(encoder_folder(str(source)), device, dtype)
    if scheme == "hf-hub":
        return _from_folder(_download(name), device, dtype)
    architecture, _, tag = name.partition("/")
    config = open_clip.get_pretrained_cfg(architecture, tag) if tag else None
    if config:
        # `owner/name/` or `owner/name/file`
        return _from_folder(_download("/".join(str(config["hf_hub"]).split("/")[:2])), device, dtype)
    if tag and open_clip.list_pretrained_tags_by_model(architecture):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise MattoniError(f"open_clip has no weights '{tag}' of {architecture}: choose one of {tags}.")
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _from_folder(_download(name), device, dtype)
    raise MattoniError(
        f"There is no encoder '{name}': give a folder, a Hub id or an open_clip tag such as ViT-B-32/laion2b_s34b_b79k."
    )


def _download(repository: str) -> Path:
    """The two files of an open_clip repository on the Hub; pickles are never asked for."""
    folder = snapshot(repository, [WEIGHTS, CONFIG])
    if not (folder / WEIGHTS).is_file():
        raise MattoniError(
            f"'{repository}' on the Hub holds no {WEIGHTS}, and pickled checkpoints are refused: choose another encoder."
        )
    return folder


@dataclass(frozen=True)
class Classes:
    """What an encoder was trained to name: names, and (classes, width) and (classes,) on its pooled feature."""

    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor


def encoder_folder(source: str) -> Path:
    """Where the files of an encoder are that is a folder or a model of the catalogue. Raises MattoniError where they are not there."""
    scheme, name = split_source(source)
    folder = model_folder(name) if scheme == CATALOGUE else Path(name)
    if scheme == CATALOGUE and not folder.is_dir():
        raise MattoniError(f"The encoder '{name}' is not on this machine yet: run `mattoni models pull {name}`.")
    return folder


def load_classes(source: str) -> Classes:
    """The classifier of an encoder's folder. Raises MattoniError where there is none."""
    folder = encoder_folder(source)
    try:
        with safe_open(folder / CLASSES, "pt") as file:
            return Classes(
                tuple(json.loads(file.metadata()["names"])), file.get_tensor("weight"), file.get_tensor("bias")
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise MattoniError(
            f"{source} brings no names of things ({CLASSES}): pull or copy the encoder again, or leave 'sure' out of the config."
        ) from problem


def _from_folder(folder: Path, device: torch.device | str, dtype: torch.dtype) -> OpenClipEncoder:
    if not (folder / WEIGHTS).is_file():
        pickled = pickles_in(folder)
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
    if not hasattr(model.visual, "forward_intermediates"):
        raise MattoniError(
            f"The encoder in {folder.name} ({type(model.visual).__name__}) does not give its patch features: choose another."
        )
    return OpenClipEncoder(model.to(device, dtype), preprocess)

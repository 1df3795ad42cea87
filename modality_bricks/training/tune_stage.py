"""Tunes a published encoder, and the classifier that it brings, on labelled tiles. Training only.

Two losses. Of a tile: cross-entropy among the classes that the tiles have, so that nothing is said against the others. Of a picture without
a label: Kullback-Leibler divergence from what the encoder said of it before, over all classes (learning without forgetting, Li and
Hoiem 2016, arXiv:1606.09282). Batch norms keep the statistics that they were published with. What comes out is, in part, the encoder as it
was: weights between the two keep more of what was known than they lose of what was learned (WiSE-FT, Wortsman et al. 2022,
arXiv:2109.01903). Such a mean is less sure than it may be, so its classifier is written with the sharpness that fits dev best
(temperature scaling, Guo et al. 2017, arXiv:1706.04599).
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before open_clip)

import numpy as np
import open_clip
import torch
from safetensors.torch import load_file, save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F

from brick_training.step import Evaluation
from mattoni.errors import MattoniError
from mattoni.files import replace_folder, write_text
from modality_bricks.encoder import CLASSES, CONFIG, WEIGHTS, Classes
from modality_bricks.training.augment import (
    CROP_CHANCES,
    JITTER_CHANCES,
    chances,
    enlarge,
    jitter,
    normalise,
    random_crops,
)
from modality_bricks.training.features import device_of, half
from modality_bricks.training.packs import Labels, Pixels

_CALIBRATED_ON = 1000  # dev tiles
_SHARPNESS = [0.5 + 0.1 * step for step in range(36)]


@dataclass(frozen=True)
class TuneData:
    """Tiles with a class of the classifier's, and pictures without."""

    tiles: Pixels  # (n, 64, 64, 3)
    labels: Labels  # (n,)
    pictures: Pixels  # (m, s, s, 3)
    dev_tiles: Pixels
    dev_labels: Labels
    dev_pictures: Pixels


def classes_of(entries: Sequence[dict[str, Any]]) -> Labels:
    """The places of a set's classes, each with a `wnid`, among the thousand of ImageNet-1k: (classes,)."""
    places = {name: place for place, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    try:
        return np.asarray([places[entry["wnid"]] for entry in entries], np.int64)
    except KeyError as problem:
        raise MattoniError(f"classes: {problem} is no class of ImageNet-1k: leave its tiles out.") from problem


class TunedModel(nn.Module):
    """An encoder of a folder with its classifier on the pooled feature."""

    def __init__(self, folder: Path, classes: Classes, frozen: Sequence[str]) -> None:
        super().__init__()
        self.config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = self.config["model_cfg"]
        self.clip = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
        self.clip.load_state_dict(load_file(folder / WEIGHTS))
        self.clip.requires_grad_(False)
        self.clip.visual.requires_grad_(True)
        for name in frozen:
            self.clip.visual.get_submodule(name).requires_grad_(False)
        self.names = classes.names
        self.classes = nn.Linear(classes.weight.shape[1], len(classes.bias))
        self.classes.load_state_dict({"weight": classes.weight, "bias": classes.bias})

    def forward(self, pictures: Tensor) -> Tensor:
        """(batch, 3, size, size), normalised -> logits over all classes."""
        logits: Tensor = self.classes(self.clip.visual(pictures))
        return logits


class TuneStage:
    """Gives batches, losses and dev accuracy to the loop."""

    best_metric = "top1"

    def __init__(
        self,
        model: TunedModel,
        data: TuneData,
        size: int,
        steps: int,
        steps_per_evaluation: int,
        batch: int,
        pictures_per_batch: int,
        seed: int,
        kept_weight: float,
        area: tuple[float, float],
        share: float,
    ) -> None:
        self.share = share  # of what is learned, in what is measured and written
        self.data, self.size, self.steps, self.steps_per_evaluation = data, size, steps, steps_per_evaluation
        self.batch, self.pictures_per_batch, self.seed = batch, pictures_per_batch, seed
        self.kept_weight, self.area = kept_weight, area
        preprocess = model.config["preprocess_cfg"]
        self.mean, self.std = tuple(preprocess["mean"]), tuple(preprocess["std"])
        self.used_at = int(preprocess["size"][0])
        self.known = torch.from_numpy(np.unique(data.labels))
        self.tuned = model
        self.model: nn.Module = model
        # Module.to takes it; torch's overloads leave it out.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.before = copy.deepcopy(model).requires_grad_(False).eval()

    def rows(self, step: int) -> list[int]:
        """Tiles of the epoch's permutation, and pictures of theirs behind all tiles' numbers."""
        tiles = len(self.data.tiles)
        pictures = _turn(len(self.data.pictures), self.pictures_per_batch, step, (self.seed, 1))
        return [
            *_turn(tiles, self.batch - self.pictures_per_batch, step, (self.seed, 0)),
            *(tiles + i for i in pictures),
        ]

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        """Sums over the rows divided by their number, so that slices of a batch add up to the batch."""
        first = len(self.data.tiles)
        tiles, others = [i for i in rows if i < first], [i - first for i in rows if i >= first]
        ordered = [*tiles, *(first + i for i in others)]
        crop, shade = chances(self.seed, step, ordered, CROP_CHANCES + JITTER_CHANCES).split(
            [CROP_CHANCES, JITTER_CHANCES], dim=1
        )
        parts = [
            random_crops(torch.from_numpy(pixels[part]), self.size, self.area, chance)
            for pixels, part, chance in (
                (self.data.tiles, tiles, crop[: len(tiles)]),
                (self.data.pictures, others, crop[len(tiles) :]),
            )
            if part
        ]
        device = device_of(model)
        pictures = normalise(jitter(torch.cat(parts), shade), self.mean, self.std).to(device)
        # The loop sets all to train.
        self.tuned.clip.eval()
        with half(device):
            logits = model(pictures)
        known = self.known.to(device)
        labels = torch.searchsorted(known, torch.from_numpy(self.data.labels[tiles]).to(device))
        loss = F.cross_entropy(logits[: len(tiles)].float()[:, known], labels, reduction="sum")
        if others:
            with torch.no_grad(), half(device):
                told = self.before.to(device)(pictures[len(tiles) :]).float().log_softmax(-1)
            said = logits[len(tiles) :].float().log_softmax(-1)
            loss = loss + self.kept_weight * F.kl_div(said, told, log_target=True, reduction="sum")
        return loss / len(rows)

    @torch.no_grad()
    def mixed(self) -> TunedModel:
        """The encoder as it is written: `share` of what was learned on top of what it was."""
        mixed = copy.deepcopy(self.tuned).eval()
        start = self.before.to(device_of(mixed)).state_dict()
        for name, value in mixed.state_dict().items():
            if value.is_floating_point():
                value.lerp_(start[name], 1 - self.share)
        return mixed

    @torch.no_grad()
    def written(self) -> TunedModel:
        """The encoder as it is written, its classifier as sure as it is right."""
        model, data = self.mixed(), self.data
        part = max(1, len(data.dev_tiles) // _CALIBRATED_ON)
        found = _logits(model, data.dev_tiles[::part], self.used_at, self.mean, self.std, device_of(model))
        best = sharpness(found, torch.from_numpy(data.dev_labels[::part]))
        model.classes.weight.mul_(best)
        model.classes.bias.mul_(best)
        return model

    @torch.inference_mode()
    def evaluate(self, step: int) -> Evaluation:
        """On dev, as it is written: top-1 of the tiles among their classes and among all, and how often a picture is called what it was."""
        model = self.mixed()
        device, known = device_of(model), self.known
        found = _logits(model, self.data.dev_tiles, self.used_at, self.mean, self.std, device)
        labels = torch.from_numpy(self.data.dev_labels)
        closed = known[found[:, known].argmax(-1)]
        now, before = (
            _logits(m.to(device), self.data.dev_pictures, self.used_at, self.mean, self.std, device).argmax(-1)
            for m in (model, self.before)
        )
        return Evaluation(
            {
                "top1": float((closed == labels).float().mean()),
                "top1 of all": float((found.argmax(-1) == labels).float().mean()),
                "kept": float((now == before).float().mean()) if len(now) else 1.0,
            }
        )


def sharpness(logits: Tensor, labels: Tensor) -> float:
    """The factor with which logits, (n, classes), say least wrongly what is likely: of the least cross-entropy from labels, (n,)."""
    return min(_SHARPNESS, key=lambda factor: float(F.cross_entropy(logits * factor, labels)))


def _turn(count: int, width: int, step: int, seed: tuple[int, int]) -> list[int]:
    """`width` numbers below `count` at this step, each number once in an epoch."""
    if not count or not width:
        return []
    per_epoch = max(1, count // width)
    epoch, place = divmod(step, per_epoch)
    order = np.random.default_rng((*seed, epoch)).permutation(count)
    return [int(i) for i in order[place * width : (place + 1) * width]]


def _logits(
    model: nn.Module,
    pixels: Pixels,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
) -> Tensor:
    """(n, height, width, 3) uint8 -> (n, classes) on the CPU."""
    found = [torch.empty(0, 1)] if not len(pixels) else []
    for start in range(0, len(pixels), 100):
        with half(device):
            found.append(
                model(normalise(enlarge(torch.from_numpy(pixels[start : start + 100]), size), mean, std).to(device))
            )
    return torch.cat(found).float().cpu()


def save_tuned(model: TunedModel, folder: Path) -> None:
    """Write what open_clip loads as `local-dir:`, in bf16 safetensors, with the classifier beside it."""

    def fill(target: Path) -> None:
        weights = {
            name: (value.bfloat16() if value.is_floating_point() else value).contiguous().cpu()
            for name, value in model.clip.state_dict().items()
        }
        save_file(weights, target / WEIGHTS)
        classifier = {name: value.detach().contiguous().cpu() for name, value in model.classes.state_dict().items()}
        save_file(classifier, target / CLASSES, {"names": json.dumps(model.names)})
        write_text(target / CONFIG, json.dumps(model.config, indent=1))

    replace_folder(folder, fill)

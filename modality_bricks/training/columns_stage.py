"""Trains an open_clip vision encoder on pictures with several labels each, such as kind, count and trend. Training only.

A row names a picture, and in `labels` one class by column ({"kind": "bar", "count": "5"}), in `values` some numbers of 0 to
1; any of them may be missing. With `mirrored`, the labels and values of its mirror image, the picture is learned from both
ways. Multi-task learning on one embedding (Caruana 1997, Machine Learning 28): a cross-entropy by
column, and the absolute error of the values, which teaches what the columns are derived from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from brick_training.pictures import PictureFolder
from mattoni.errors import MattoniError
from modality_bricks.training.augment import JITTER_CHANCES, chances, jitter, normalise, recolour, shift
from modality_bricks.training.encoder_stage import MEAN, STD
from modality_bricks.training.features import device_of, half
from modality_bricks.training.loop import Evaluation
from modality_bricks.training.packs import Labels, Pixels
from modality_bricks.training.readers import BadRow, Report, passing, picture_file, picture_of, refuse, rows_of

_SHIFT_CHANCES, _COLOUR_CHANCES = 4, 3
# Marks a label that a row does not have, as F.cross_entropy knows it.
_MISSING = -100


@dataclass(frozen=True)
class LabelledPictures:
    """Squares with the classes of each column and some values, in the order of the rows: as they are, and mirrored."""

    pixels: Pixels  # (n, size, size, 3)
    labels: Labels  # (2, n, columns), -100 where there is none
    values: NDArray[np.float32]  # (2, n, values), NaN where there is none
    mirrors: NDArray[np.bool_]  # (n,): whether the mirror image may be shown


def column_classes(rows: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, list[str]]:
    """The classes of each column, sorted."""
    found: dict[str, set[str]] = {}
    for _, row in rows:
        for column, label in [*row.get("labels", {}).items(), *row.get("mirrored", {}).get("labels", {}).items()]:
            found.setdefault(column, set()).add(str(label))
    if not found:
        raise MattoniError('data: no row has labels: give each row a mapping such as {"kind": "bar"}.')
    return {column: sorted(found[column]) for column in sorted(found)}


def read_labelled(
    files: Sequence[Path], classes: dict[str, list[str]] | None, size: int, cache: Path, report: Report = refuse
) -> tuple[LabelledPictures, dict[str, list[str]]]:
    """Read rows and their pictures, squeezed to squares that are kept in `cache` as one file by file of rows.

    classes  the columns and classes to use (those of the training rows), or None to take them from these rows
    report   hears of each bad row, which is then left out
    """
    parts, rows = [], []
    for path in files:
        of_file = rows_of(path, report)
        pixels, opened = _squares(of_file, path, size, cache, report)
        parts.append(pixels)
        rows += [of_file[i] for i in opened]
    known = classes if classes is not None else column_classes(rows)
    slots = max((len(row.get("values", ())) for _, row in rows), default=0)
    labels = np.full((2, len(rows), len(known)), _MISSING, np.int64)
    values = np.full((2, len(rows), slots), np.nan, np.float32)
    good = []
    for i, (where, row) in enumerate(rows):
        with passing(report):
            for way, said in enumerate((row, row.get("mirrored", {}))):
                labels[way, i] = [_place(said.get("labels", {}), column, known[column], where) for column in known]
                values[way, i, : len(said.get("values", ()))] = said.get("values", ())
            good.append(i)
    mirrors = np.asarray(["mirrored" in row for _, row in rows], bool)
    pixels = np.concatenate(parts)
    if len(good) < len(rows):
        pixels, labels, values, mirrors = pixels[good], labels[:, good], values[:, good], mirrors[good]
    return LabelledPictures(pixels, labels, values, mirrors), known


def _place(labels: dict[str, Any], column: str, names: list[str], where: str) -> int:
    """The class's place among the names of its column."""
    if column not in labels:
        return _MISSING
    if str(labels[column]) not in names:
        says = f": the {column} '{labels[column]}' is in no training row: correct it."
        raise BadRow("unknown label", where, says)
    return names.index(str(labels[column]))


def _squares(
    rows: Sequence[tuple[str, dict[str, Any]]], path: Path, size: int, cache: Path, report: Report
) -> tuple[Pixels, list[int]]:
    """The pictures of one file of rows that can be opened, (n, size, size, 3), and the numbers of their rows."""
    state = path.stat()
    kept = cache / f"{path.parent.name}-{path.stem}-{size}-{len(rows)}-{state.st_size}.npy"
    if kept.exists():
        loaded: Pixels = np.load(kept)
        return loaded, list(range(len(rows)))
    folder = PictureFolder(path.parent)
    squares, opened = [np.empty((0, size, size, 3), np.uint8)], []
    for i, (where, row) in enumerate(rows):
        with passing(report):
            picture = picture_of(picture_file(where, row, folder), where)()
            squares.append(np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))[None])
            opened.append(i)
    pixels = np.concatenate(squares)
    # With bad rows among them they are looked at again next time: they may have been put right.
    if len(opened) == len(rows):
        cache.mkdir(parents=True, exist_ok=True)
        np.save(kept, pixels)
    return pixels, opened


class ColumnsModel(nn.Module):
    """The vision tower, and a head that only training needs."""

    def __init__(self, config: dict[str, Any], classes: Sequence[int], values: int) -> None:
        super().__init__()
        self.clip = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
        self.clip.requires_grad_(False)
        self.clip.visual.requires_grad_(True)
        width = config["embed_dim"]
        self.sizes = [*classes, values]
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, sum(self.sizes))
        )

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """(batch, 3, size, size) -> logits over the classes of each column, and the values."""
        return tuple(self.head(self.clip.visual(pictures)).split(self.sizes, dim=-1))


class ColumnsStage:
    """Gives batches, losses and the accuracy of each column on dev to the loop."""

    best_metric = "mean"

    def __init__(
        self,
        train: LabelledPictures,
        dev: LabelledPictures,
        classes: dict[str, list[str]],
        config: dict[str, Any],
        epochs: float,
        batch: int,
        seed: int,
        values_weight: float,
        frozen: Sequence[str] = (),
    ) -> None:
        torch.manual_seed(seed)
        self.train, self.dev, self.columns, self.config = train, dev, list(classes), config
        self.batch, self.seed, self.values_weight = batch, seed, values_weight
        self.steps_per_evaluation = len(train.pixels) // batch
        self.steps = round(epochs * self.steps_per_evaluation)
        sizes = [len(names) for names in classes.values()]
        model = ColumnsModel(config, sizes, train.values.shape[2])
        visual = model.clip.visual
        self.frozen = [visual.get_submodule(name) for name in frozen]
        for part in self.frozen:
            part.requires_grad_(False)
        self.model: nn.Module = model
        # Module.to takes it; torch's overloads leave it out.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def rows(self, step: int) -> list[int]:
        """The global batch of a step: a slice of the epoch's permutation."""
        epoch, place = divmod(step, self.steps_per_evaluation)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.train.pixels))
        return [int(i) for i in order[place * self.batch : (place + 1) * self.batch]]

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        """Sums over the rows divided by their number, so that slices of a batch add up to the batch."""
        chance = chances(self.seed, step, rows, _SHIFT_CHANCES + _COLOUR_CHANCES + JITTER_CHANCES + 1)
        columns = [_SHIFT_CHANCES, _COLOUR_CHANCES, JITTER_CHANCES, 1]
        places, colours, shades, mirror = chance.split(columns, dim=1)
        mirrored = (mirror[:, 0].numpy() < 0.5) & self.train.mirrors[rows]
        pictures = torch.from_numpy(self.train.pixels[rows]).permute(0, 3, 1, 2).float() / 255
        pictures = torch.where(torch.from_numpy(mirrored).view(-1, 1, 1, 1), pictures.flip(-1), pictures)
        pictures = jitter(recolour(shift(pictures, places), colours), shades)
        device = device_of(model)
        for part in self.frozen:
            # The loop sets all to train; batch norms of what is frozen keep their statistics.
            part.eval()
        with half(device):
            *logits, values = model(normalise(pictures, MEAN, STD).to(device))
        labels = torch.from_numpy(self.train.labels[mirrored.astype(int), rows]).to(device)
        loss = torch.zeros((), device=device)
        for column, found in enumerate(logits):
            loss = loss + F.cross_entropy(found.float(), labels[:, column], ignore_index=_MISSING, reduction="sum")
        wanted = torch.from_numpy(self.train.values[mirrored.astype(int), rows]).to(device)
        error = (values.float() - wanted.nan_to_num()).abs() * ~wanted.isnan()
        total: Tensor = (loss + self.values_weight * error.sum()) / len(rows)
        return total

    @torch.inference_mode()
    def evaluate(self, step: int) -> Evaluation:
        """Accuracy of each column over the dev rows that have it, and their mean."""
        self.model.eval()
        device = device_of(self.model)
        right: dict[str, list[bool]] = {name: [] for name in self.columns}
        for start in range(0, len(self.dev.pixels), 100):
            pictures = torch.from_numpy(self.dev.pixels[start : start + 100]).permute(0, 3, 1, 2).float() / 255
            with half(device):
                *logits, _ = self.model(normalise(pictures, MEAN, STD).to(device))
            labels = self.dev.labels[0, start : start + 100]
            for column, (name, found) in enumerate(zip(self.columns, logits, strict=True)):
                has = labels[:, column] != _MISSING
                right[name] += list((found.argmax(-1).cpu().numpy() == labels[:, column])[has])
        metrics = {name: float(np.mean(found)) for name, found in right.items() if found}
        return Evaluation({"mean": float(np.mean(list(metrics.values()))), **metrics})

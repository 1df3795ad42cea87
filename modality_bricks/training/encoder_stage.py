"""Trains a small open_clip vision encoder from scratch on labelled tiles and captioned pictures. Training only.

Three losses on one embedding: cross-entropy of the class (label smoothing), cross-entropy of the caption's content words,
and one minus the cosine to a teacher's pooled features (FitNets, Romero et al. 2015, arXiv:1412.6550, with the pooled layer
only). Pictures grow over the run (progressive resizing, Tan and Le 2021, arXiv:2104.00298, section 4).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from brick_training.step import Evaluation
from mattoni.files import replace_folder, write_text
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
from modality_bricks.training.words import content_vocabulary, word_targets

MEAN, STD = (0.48, 0.45, 0.40), (0.26, 0.26, 0.27)
# CLIP has two towers; nothing here reads the text one, so it is as small as open_clip lets it be.
TEXT_TOWER = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1}


@dataclass(frozen=True)
class Phase:
    """Some epochs at one picture size."""

    size: int
    epochs: float


@dataclass(frozen=True)
class EncoderData:
    """Everything the stage reads. Flickr-like pictures have crops and captions, tiles have a class."""

    tiles: Pixels  # (n, 64, 64, 3)
    labels: Labels  # (n,)
    crops: Pixels  # (m, crops, s, s, 3)
    captions: list[list[str]]  # m
    teacher: NDArray[np.float16] | None  # (n + m * crops, width), rows of tiles first
    dev_tiles: Pixels
    dev_labels: Labels


def model_config(architecture: str, size: int, embedding: int, pool: str = "avg") -> dict[str, Any]:
    """The `model_cfg` of open_clip_config.json; `pool` as timm_pool there."""
    vision = {
        "timm_model_name": architecture,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": "linear",
    }
    return {"embed_dim": embedding, "vision_cfg": {**vision, "image_size": size}, "text_cfg": TEXT_TOWER}


class EncoderModel(nn.Module):
    """The vision tower and the heads that only training needs."""

    def __init__(self, config: dict[str, Any], classes: int, words: int, teacher_width: int) -> None:
        super().__init__()
        self.clip = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
        self.clip.requires_grad_(False)
        self.clip.visual.requires_grad_(True)
        width = config["embed_dim"]
        self.classes = nn.Linear(width, classes)
        self.words = nn.Linear(width, words)
        self.teacher = nn.Linear(width, teacher_width)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, 3, size, size) -> logits over classes, logits over words, a guess of the teacher's features."""
        embedding = self.clip.visual(pictures)
        return self.classes(embedding), self.words(embedding), self.teacher(embedding)


class Towered(Protocol):
    """A model in training around a tower of open_clip."""

    clip: open_clip.CLIP


class EncoderStage:
    """Gives batches, losses and dev accuracy to the loop."""

    best_metric = "top1"

    def __init__(
        self,
        data: EncoderData,
        config: dict[str, Any],
        phases: list[Phase],
        batch: int,
        seed: int,
        teacher_weight: float,
        teacher_from_epoch: int,
        words_weight: float,
        area: tuple[float, float],
    ) -> None:
        torch.manual_seed(seed)
        vocabulary = content_vocabulary(c for captions in data.captions for c in captions)
        index = {word: i for i, word in enumerate(vocabulary)}
        self.targets = [word_targets(captions, index) for captions in data.captions]
        self.data, self.config, self.batch, self.seed = data, config, batch, seed
        self.teacher_weight, self.words_weight, self.area = teacher_weight, words_weight, area
        self.teacher_from_epoch = teacher_from_epoch
        self.pictures = len(data.tiles) + len(data.crops)
        self.steps_per_evaluation = self.pictures // batch
        self.sizes = [p.size for p in phases for _ in range(round(p.epochs * self.steps_per_evaluation))]
        self.steps = len(self.sizes)
        self.use_teacher(data.teacher)
        width = 1 if data.teacher is None else data.teacher.shape[1]
        classes = int(data.labels.max()) + 1
        self.model: nn.Module = EncoderModel(config, classes, max(1, len(vocabulary)), width)
        # Module.to takes it; torch's overloads leave it out.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def use_teacher(self, features: NDArray[np.float16] | None) -> None:
        """Learn from these features, each dimension at zero mean and unit deviation."""
        self.teacher: Tensor | None = None
        if features is not None:
            mean, std = features.mean(0, dtype=np.float32), features.std(0, dtype=np.float32) + 0.05
            self.teacher_mean, self.teacher_std = torch.from_numpy(mean), torch.from_numpy(std)
            self.teacher = torch.from_numpy(features)

    def rows(self, step: int) -> list[int]:
        """The global batch of a step: a slice of the epoch's permutation of tiles and pictures."""
        epoch, place = divmod(step, self.steps_per_evaluation)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.pictures)
        return [int(i) for i in order[place * self.batch : (place + 1) * self.batch]]

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        """Sums over the rows divided by their number, so that slices of a batch add up to the batch."""
        first = len(self.data.tiles)
        tiles, others = [i for i in rows if i < first], [i - first for i in rows if i >= first]
        ordered = [*tiles, *(first + i for i in others)]
        chance = chances(self.seed, step, ordered, CROP_CHANCES + JITTER_CHANCES + 1)
        crop, shade, pick = chance.split([CROP_CHANCES, JITTER_CHANCES, 1], dim=1)
        size, teacher_rows = self.sizes[step], list(tiles)
        parts = []
        if tiles:
            squares = torch.from_numpy(self.data.tiles[tiles])
            parts.append(random_crops(squares, size, self.area, crop[: len(tiles)]))
        if others:
            crops = self.data.crops.shape[1]
            picked = (pick[len(tiles) :, 0] * crops).long().tolist()
            squares = torch.from_numpy(self.data.crops[others, picked])
            parts.append(random_crops(squares, size, self.area, crop[len(tiles) :]))
            teacher_rows += [len(self.data.tiles) + i * crops + k for i, k in zip(others, picked, strict=True)]
        device = device_of(model)
        pictures = normalise(jitter(torch.cat(parts), shade), MEAN, STD).to(device)
        with half(device):
            classes, words, guess = model(pictures)
        labels = torch.from_numpy(self.data.labels[tiles]).to(device)
        loss = F.cross_entropy(classes[: len(tiles)].float(), labels, label_smoothing=0.1, reduction="sum")
        if others and self.words_weight:
            log_words = words[len(tiles) :].float().log_softmax(-1)
            for row, i in enumerate(others):
                for word, share in self.targets[i].items():
                    loss = loss - self.words_weight * share * log_words[row, word]
        if self.teacher is not None and step // self.steps_per_evaluation >= self.teacher_from_epoch:
            target = ((self.teacher[teacher_rows].float() - self.teacher_mean) / self.teacher_std).to(device)
            loss = loss + self.teacher_weight * (1 - F.cosine_similarity(guess.float(), target)).sum()
        return loss / len(rows)

    @torch.inference_mode()
    def evaluate(self, step: int) -> Evaluation:
        """Top-1 of the dev tiles, without flips, at the size at which the encoder will be used.

        That may well be larger than the last phase's: things look larger in random crops than in whole pictures (FixRes,
        Touvron et al. 2019, arXiv:1906.06423).
        """
        self.model.eval()
        device, size = device_of(self.model), self.config["vision_cfg"]["image_size"]
        right = 0
        for start in range(0, len(self.data.dev_tiles), 250):
            pictures = enlarge(torch.from_numpy(self.data.dev_tiles[start : start + 250]), size)
            with half(device):
                classes = self.model(normalise(pictures, MEAN, STD).to(device))[0]
            labels = torch.from_numpy(self.data.dev_labels[start : start + 250])
            right += int((classes.argmax(-1).cpu() == labels).sum())
        return Evaluation({"top1": right / len(self.data.dev_tiles)})


def save_encoder(model: Towered, config: dict[str, Any], folder: Path) -> None:
    """Write what open_clip loads as `local-dir:`, in bf16 safetensors."""
    size = config["vision_cfg"]["image_size"]
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash", "size": [size, size]}

    def fill(target: Path) -> None:
        weights = {
            name: value.bfloat16() if value.is_floating_point() else value
            for name, value in model.clip.state_dict().items()
        }
        save_file(
            {name: value.contiguous().cpu() for name, value in weights.items()}, target / "open_clip_model.safetensors"
        )
        write_text(
            target / "open_clip_config.json", json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1)
        )

    replace_folder(folder, fill)

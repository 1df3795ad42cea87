"""Tells messages of one kind from all others: those that ask about a picture, that go on with what was said, that are about
several pictures, that want the words in one, or the name of what it shows.

Knows nothing of whether a picture is there, or of what was said.

"Is the dog wearing a collar" asks about a picture and does not say so; "what is a good camera" names one and does not. A linear
direction in what the text embedder knows at all its depths tells them apart: on the last depth alone, which is the `text`
space, topics drown it (`docs/experiments.md`). `python -m assistant.training.make_router` fits it.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import write_bytes
from mattoni.paths import shipped_models

# "Is anyone smiling?": needs a picture, here or earlier.
PICTURE_QUESTIONS = "picture-questions"
# "Are you sure?", "And what is it used for?": needs what was said before.
FOLLOW_UPS = "follow-ups"
# "Which of them shows a dog?", "And what was in the first one?": needs more pictures than the latest.
SEVERAL_PICTURES = "several-pictures"
# "What does the sign say?": wants the words in a picture.
READING_QUESTIONS = "reading-questions"
# "What is this?", "Which animal is that?": wants the name of a thing, and no description.
NAMING_QUESTIONS = "naming-questions"


def unit_depths(depths: Tensor, mean: Tensor) -> Tensor:
    """Each depth centred and of unit length, so that none outweighs the others: (…, layers, width), same shape."""
    return torch.nn.functional.normalize(depths - mean, dim=-1)


@dataclass(frozen=True)
class Recogniser:
    """The fitted direction and its threshold."""

    mean: Tensor  # (layers, width): what all messages have in common
    direction: Tensor  # (layers, width)
    threshold: float
    expected: float = math.inf  # the lower threshold, where the conversation leads one to expect such a message

    def score(self, depths: Tensor) -> float:
        """Inner product with the direction; `depths` as `Embedder.depths` gives them."""
        return float((unit_depths(depths, self.mean) * self.direction).sum())

    def lead(self, depths: Tensor) -> float:
        """How far the score is beyond the threshold; negative for a message that is not of the kind."""
        return self.score(depths) - self.threshold

    def recognises(self, depths: Tensor, expected: bool = False) -> bool:
        """Whether the message is of the kind. `expected`: what was said or shown before makes that likely."""
        return self.score(depths) >= (min(self.expected, self.threshold) if expected else self.threshold)

    def save(self, kind: str, folder: Path) -> None:
        """Write it into `folder`."""
        numbers = {"threshold": torch.tensor(self.threshold), "expected": torch.tensor(self.expected)}
        tensors = {"mean": self.mean, "direction": self.direction} | numbers
        write_bytes(_path(kind, folder), save({name: t.float().contiguous() for name, t in tensors.items()}))

    @classmethod
    def load(cls, kind: str, folder: Path | None = None) -> "Recogniser":
        """Read it from `folder`; without one, the shipped one."""
        path = _path(kind, folder or shipped_models() / "router")
        try:
            tensors = load_file(path)
            expected = float(tensors["expected"]) if "expected" in tensors else math.inf
            return cls(tensors["mean"], tensors["direction"], float(tensors["threshold"]), expected)
        except (OSError, SafetensorError, KeyError) as problem:
            raise MattoniError(f"{path} is missing or damaged: restore it.") from problem


def _path(kind: str, folder: Path) -> Path:
    return folder / f"{kind}.safetensors"

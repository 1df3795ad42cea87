"""Tells messages that ask about a picture from those that do not. Knows nothing of whether a picture is there.

"Is the dog wearing a collar" asks about one and does not say so; "what is a good camera" names one and does not. A linear
direction in what the text embedder knows at all its depths tells them apart: on the last depth alone, which is the `text`
space, topics drown it (`docs/experiments.md`). `python -m assistant.make_router` fits it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import write_bytes
from mattoni.paths import shipped_models

FILE = "picture-questions.safetensors"


def unit_depths(depths: Tensor, mean: Tensor) -> Tensor:
    """Each depth centred and of unit length, so that none outweighs the others: (…, layers, width), same shape."""
    return torch.nn.functional.normalize(depths - mean, dim=-1)


@dataclass(frozen=True)
class PictureQuestions:
    """The fitted direction and its threshold."""

    mean: Tensor  # (layers, width): what all messages have in common
    direction: Tensor  # (layers, width)
    threshold: float

    def score(self, depths: Tensor) -> float:
        """Inner product with the direction; `depths` as `Embedder.depths` gives them."""
        return float((unit_depths(depths, self.mean) * self.direction).sum())

    def asks(self, depths: Tensor) -> bool:
        """Whether the message asks about a picture."""
        return self.score(depths) >= self.threshold

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        tensors = {"mean": self.mean, "direction": self.direction, "threshold": torch.tensor(self.threshold)}
        write_bytes(folder / FILE, save({name: t.float().contiguous() for name, t in tensors.items()}))

    @classmethod
    def load(cls, folder: Path | None = None) -> "PictureQuestions":
        """Read it from `folder`; without one, the shipped one."""
        folder = folder or shipped_models() / "router"
        try:
            tensors = load_file(folder / FILE)
            return cls(tensors["mean"], tensors["direction"], float(tensors["threshold"]))
        except (OSError, SafetensorError, KeyError) as problem:
            raise MattoniError(f"{folder / FILE} is missing or damaged: restore it.") from problem

"""The four injections that a brick can make into a turn: there is no fifth. Knows nothing of hosts, prompts or files.

A sequence injection is a run of segments in the prompt. The others are low-rank deltas on linear layers, keys and values in
front of the sequence, and a factor per FFN neuron; `assistant/host/composition.py` merges those of a turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mattoni.ordinals import ORDINALS


@dataclass(frozen=True)
class Text:
    """Text that anybody may have written."""

    text: str


@dataclass(frozen=True, eq=False)
class Soft:
    """Soft tokens of one picture: (n, width); `digest` stands for the contents they were made from."""

    digest: str
    vectors: Tensor


@dataclass(frozen=True)
class Ids:
    """Token ids of an answer as the host gave them, so that its cache is found again."""

    ids: tuple[int, ...]


Segment = Text | Soft | Ids
# What parts a picture from what follows, where the template does not place pictures itself.
AFTER_PICTURE = Text("\n")


def picture_label(place: int, count: int) -> list[Text]:
    """What stands before a picture of several, counted from 0: a small host tells them apart by that alone."""
    if count < 2:
        return []
    return [Text(f"{ORDINALS[place].capitalize()} picture:" if place < len(ORDINALS) else f"Picture {place + 1}:")]


@dataclass(frozen=True, eq=False)
class LowRank:
    """ΔW = weight · scale · B @ A on named linear layers; A is (rank, in), B is (out, rank)."""

    name: str
    digest: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scales: Mapping[str, float]
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values in front of the sequence; one (kv_heads, length, head_dim) pair per layer."""

    name: str
    digest: str
    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """Positions that it takes in front of the prompt."""
        return int(self.layers[0][0].shape[1])


@dataclass(frozen=True, eq=False)
class Gate:
    """A factor per FFN neuron: layer → (intermediate,)."""

    name: str
    digest: str
    factors: Mapping[int, Tensor]

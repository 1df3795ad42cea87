"""The five injections that a brick can make into a turn: there is no sixth. Knows nothing of hosts, prompts or files.

A sequence injection is a run of segments in the prompt. The others are low-rank deltas on linear layers, keys and values in
front of the sequence, a factor per FFN neuron, and residuals that are added at an FFN where its activation is near a key; `assistant/host/composition.py` merges those of a turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mattoni.errors import MattoniError
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
class Passage:
    """Text of a stranger's that is read apart from what stands before it, so that what was read of it once is used again wherever it stands."""

    text: str


@dataclass(frozen=True)
class Ids:
    """Token ids of an answer as the host gave them, so that its cache is found again."""

    ids: tuple[int, ...]


Segment = Text | Soft | Passage | Ids
# What parts a picture from what follows, where the template does not place pictures itself.
AFTER_PICTURE = Text("\n")


def picture_label(place: int, count: int) -> list[Text]:
    """What stands before a picture of several, counted from 0: a small host tells them apart by that alone."""
    if count < 2:
        return []
    return [Text(f"{ORDINALS[place].capitalize()} picture:" if place < len(ORDINALS) else f"Picture {place + 1}:")]


@dataclass(frozen=True, eq=False)
class LowRank:
    """ΔW = weight · scale · B @ A on named linear layers; A is (rank, in), B is (out, rank).

    invocation_tokens  token ids from whose last occurrence in the prompt on it acts, so that what stands before them is read
                       as without it (activated LoRA, Greenewald et al. 2025, arXiv:2504.12397); none: it acts everywhere
    """

    name: str
    digest: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scales: Mapping[str, float]
    weight: float = 1.0
    invocation_tokens: tuple[int, ...] = ()


def last_place(places: Sequence[object], tokens: Sequence[int]) -> int | None:
    """Where token ids stand last in a prompt, one behind the other; None: nowhere."""
    wanted = list(tokens)
    starts = range(len(places) - len(wanted), -1, -1)
    return next(
        (at for at in starts if places[at] == wanted[0] and list(places[at : at + len(wanted)]) == wanted), None
    )


def misfit(delta: LowRank, shapes: Mapping[str, tuple[int, int]]) -> str | None:
    """Where a delta changes a layer that the host lacks, or has in another shape (out, in), in words."""
    for name, (a, b) in delta.factors.items():
        shape = shapes.get(name)
        if shape is None:
            return f"it changes '{name}', which the host lacks"
        if tuple(shape) != (b.shape[0], a.shape[1]):
            return f"'{name}' is {b.shape[0]} x {a.shape[1]} in it and {shape[0]} x {shape[1]} in the host"
    return None


def check_low_rank(delta: LowRank, shapes: Mapping[str, tuple[int, int]], host: str) -> None:
    """Raise MattoniError when a delta does not fit the layers of the host, by name."""
    problem = misfit(delta, shapes)
    if problem:
        raise MattoniError(f"{delta.name} was made for another host than {host}: {problem}.")


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


@dataclass(frozen=True, eq=False)
class Keyed:
    """Residuals at one FFN: where the input of its output projection is near a key, that key's residual is added to the output.

    At each position the nearest key alone counts, by cosine, and only from its own threshold on; elsewhere the output stays
    as it is, bit for bit (NeuralDB, 2025; as GRACE, Hartvigsen et al. 2023, arXiv:2211.11031).

    keys        (n, intermediate)
    residuals   (n, hidden)
    thresholds  (n,): cosines
    """

    name: str
    digest: str
    layer: int
    keys: Tensor
    residuals: Tensor
    thresholds: Tensor


Other = LowRank | Prefix | Gate | Keyed

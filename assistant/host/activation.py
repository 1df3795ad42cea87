"""From which position of a prompt on the injections of a turn act. Pure; knows nothing of how they are computed.

Method: activated LoRA (Greenewald et al. 2025, arXiv:2504.12397): a low-rank delta that was trained so acts from its invocation tokens
on, so that the keys and values of what stands before them are the bare host's, whichever skill comes next. A prompt is
read stretch by stretch, each with what acts there; of a stretch nothing else is new to a decoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mattoni.injections import LowRank, Other, last_place

Place = int | tuple[str, int]  # what stands at a position: a token id, or (digest, index) of a soft token or a passage


@dataclass(frozen=True)
class Stretch:
    """The positions from `begin` on, up to the next stretch, and what acts there."""

    begin: int
    injections: tuple[Other, ...]


def acts_from(delta: LowRank, places: Sequence[Place]) -> int | None:
    """The first position of a prompt at which a delta acts; None: its invocation tokens do not stand in it."""
    return last_place(places, delta.invocation_tokens) if delta.invocation_tokens else 0


def stretches(injections: Sequence[Other], places: Sequence[Place]) -> list[Stretch]:
    """A prompt's stretches, in order; the first begins at 0, and the last holds the answer too."""
    begins = [acts_from(one, places) if isinstance(one, LowRank) else 0 for one in injections]
    edges = sorted({0, *(begin for begin in begins if begin is not None)})
    return [
        Stretch(edge, tuple(o for o, b in zip(injections, begins, strict=True) if b is not None and b <= edge))
        for edge in edges
    ]

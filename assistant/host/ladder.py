"""Which host a machine should answer with. Pure: knows neither the machine nor the bricks, only what it is told of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from assistant.host.space import gigabytes

# A person waits that long for a whole turn; beyond it, a better answer comes too late.
PATIENCE_S = 8.0
# Of bricks that a host lacks, so many are told by name.
_NAMED = 4


@dataclass(frozen=True)
class Rung:
    """A host as the choice sees it.

    memory_bytes  what the running assistant takes with it
    turn_s        seconds of a whole turn on this machine; None: not known
    is_here       whether it is in the cache, so that nothing has to be fetched
    lost          bricks that answer with the smallest host and not with this one
    """

    name: str
    memory_bytes: int
    turn_s: float | None = None
    is_here: bool = True
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The host to answer with, why, and a better one that would have to be fetched first."""

    name: str
    reason: str
    better: str | None = None


def choose(device: str, memory_bytes: int, rungs: Sequence[Rung]) -> Choice:
    """The largest host whose bricks are all there, that fits the memory and is fast enough.

    device        cpu, cuda or mps; on CUDA every host that fits is fast enough
    memory_bytes  free on that device
    rungs         smallest first; the smallest is taken when nothing else will do
    """
    smallest, *larger = rungs
    best, missing = smallest, None
    against: dict[str, list[str]] = {}
    for rung in larger:
        objection = _objection(device, memory_bytes, rung)
        if objection:
            against.setdefault(objection, []).append(rung.name)
        elif rung.is_here:
            best, missing = rung, None
        elif missing is None or rung.turn_s is not None or device == "cuda":
            missing = rung.name  # nothing is known of this machine's speed: a step, and not the longest
    reasons = ["the largest that fits" if best is not smallest else "the smallest"]
    if best.turn_s is not None and device != "cuda":
        reasons[0] += f", {best.turn_s:.1f} s a turn on this {device.upper()}"
    reasons += [objection.format(names=", ".join(names)) for objection, names in against.items()]
    if missing:
        reasons.append(f"`mattoni models pull {missing}` fetches a better one")
    return Choice(best.name, f"{best.name}: {'; '.join(reasons)}", missing)


def _objection(device: str, memory_bytes: int, rung: Rung) -> str:
    """Why a host should not answer here, with {names} for all of whom that is true; empty when it may."""
    if rung.memory_bytes > memory_bytes:
        return f"{gigabytes(rung.memory_bytes)} of memory for {{names}} and {gigabytes(memory_bytes)} are free"
    if rung.lost:
        return f"no {_some(rung.lost)} yet for {{names}} (--host takes one all the same)"
    if device != "cuda" and rung.turn_s is not None and rung.turn_s > PATIENCE_S:
        return f"{rung.turn_s:.0f} s a turn with {{names}}"
    return ""


def _some(names: Sequence[str]) -> str:
    """The first of many names, as a line has to be read at a glance."""
    return (
        ", ".join(names)
        if len(names) <= _NAMED
        else f"{', '.join(names[: _NAMED - 1])} and {len(names) - _NAMED + 1} more"
    )

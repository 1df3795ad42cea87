"""Which host a machine should answer with. Pure: knows neither the machine nor the bricks, only what it is told of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from assistant.host.space import gigabytes

# A person waits that long for a whole turn; beyond it, a better answer comes too late.
PATIENCE_S = 8.0


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
    best, missing, against = smallest, None, []
    for rung in larger:
        objection = _objection(device, memory_bytes, rung)
        if objection:
            against.append(f"{rung.name} {objection}")
        elif rung.is_here:
            best, missing = rung, None
        else:
            missing = rung.name
    because = "the largest that fits" if best is not smallest else "the smallest"
    if best.turn_s is not None and device != "cuda":
        because += f", {best.turn_s:.1f} s a turn on this {device.upper()}"
    if missing:
        against.append(f"`mattoni models pull {missing}` fetches a better one")
    return Choice(best.name, f"{best.name}: {because}" + "".join(f"; {reason}" for reason in against), missing)


def _objection(device: str, memory_bytes: int, rung: Rung) -> str:
    """Why a host should not answer here; empty when it may."""
    if rung.memory_bytes > memory_bytes:
        return f"needs {gigabytes(rung.memory_bytes)} of memory and {gigabytes(memory_bytes)} are free"
    if rung.lost:
        return f"has no {', '.join(rung.lost)} yet (--host {rung.name} takes it all the same)"
    if device != "cuda" and rung.turn_s is not None and rung.turn_s > PATIENCE_S:
        return f"would take {rung.turn_s:.0f} s a turn"
    return ""

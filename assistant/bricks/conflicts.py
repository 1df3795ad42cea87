"""How bricks that are here get into each other's way: skills with skills, and skills with functions of the host.

What is computed is kept by the bricks' contents, so that a page may ask on every drawing.
"""

from dataclasses import asdict, dataclass
from typing import Any

from assistant.registry import Brick
from emergent_bricks.gates import load_gates
from mattoni.cache import RecentlyUsed
from mattoni.errors import MattoniError
from task_bricks.lora import read_lora
from task_bricks.overlap import Meeting, Touching, angle_and_sizes, meet, touches

# Skills that were trained apart lie at right angles: of 20 pairs of the shipped ones the largest cosine is 0.007.
_ALIGNED = 0.2
_DROWNS = 4.0  # so many times as large in ‖ΔW‖

_met: RecentlyUsed["Conflict"] = RecentlyUsed(512)
_angles: RecentlyUsed[tuple[float, tuple[float, float]]] = RecentlyUsed(512)


@dataclass(frozen=True)
class Conflict:
    """Two bricks beside each other. `together` is None where they change no layer in common; `touching` is for a function."""

    names: tuple[str, str]
    together: Meeting | None
    layers: dict[str, Meeting]
    touching: Touching | None = None

    @property
    def told(self) -> dict[str, Any]:
        """As JSON: in total and per layer."""
        values: dict[str, Any] = {"bricks": list(self.names), "sentences": list(self.sentences)}
        if self.together is not None:
            values |= {"total": asdict(self.together), "layers": {n: asdict(m) for n, m in self.layers.items()}}
        return values | ({"neurons": asdict(self.touching)} if self.touching is not None else {})

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the figures come to, in words; none where there is nothing to say."""
        one, other = self.names
        if self.touching is not None:
            t = self.touching
            most = ", ".join(f"{layer}/{neuron}" for layer, neuron, _ in t.most[:5])
            return (
                f"{one} moves {t.hit} of {other}'s {t.neurons} neurons among its most moved ({t.by_chance:.1f} by chance), and "
                f"{t.share:.1%} of its movement falls on them ({t.even:.1%} of all neurons); most: {most} (layer/neuron).",
            )
        if self.together is None:
            return (f"{one} and {other} change nothing in common.",)
        found = _fight(self.names, self.together.cosine, self.together.sizes)
        return (found,) if found else ()


def conflict_of(one: Brick, other: Brick) -> Conflict:
    """Two skills, or a skill and a function in either order. Raises MattoniError for others, and for two functions."""
    kinds = [brick.parts.method for brick in (one, other)]
    if kinds == ["gates", "lora"]:
        return conflict_of(other, one)
    for brick, kind in zip((one, other), kinds, strict=True):
        if kind not in ("lora", "gates"):
            raise MattoniError(
                f"'{brick.name}' is a {brick.card.kind} brick ({kind}), which changes no weight or neuron: name skills, or a skill "
                "and a function of the host."
            )
    if kinds == ["gates", "gates"]:
        raise MattoniError(f"'{one.name}' and '{other.name}' are both functions of the host: name a skill with one.")
    hosts = [brick.card.host for brick in (one, other)]
    if hosts[0] is not None and hosts[1] is not None and hosts[0].fingerprint != hosts[1].fingerprint:
        raise MattoniError(f"'{one.name}' and '{other.name}' are for different hosts, so they never meet.")

    def compute() -> Conflict:
        lora = read_lora(one.host_folder, one.digest)
        if kinds[1] == "gates":
            return Conflict((one.name, other.name), None, {}, touches(lora, load_gates(other.host_folder)))
        return Conflict((one.name, other.name), *meet(lora, read_lora(other.host_folder, other.digest)))

    # The card's digest stands for its files, and holds its name.
    return _met.get((one.digest, other.digest), compute)


def fight(one: Brick, other: Brick, strengths: tuple[float, float] = (1.0, 1.0)) -> str | None:
    """Why two skills that are on at these strengths would disturb each other, in a sentence; None where nothing says so.

    For a page: it takes a fifth of a second once for a pair, and nothing afterwards.
    """
    if (
        one.parts.method != "lora"
        or other.parts.method != "lora"
        or not all(strengths)
        or one.borrowed != other.borrowed
    ):
        return None
    cosine, sizes = _angles.get(
        (one.digest, other.digest),
        lambda: angle_and_sizes(read_lora(one.host_folder, one.digest), read_lora(other.host_folder, other.digest)),
    )
    return _fight((one.name, other.name), cosine, (sizes[0] * strengths[0], sizes[1] * strengths[1]))


def _fight(names: tuple[str, str], cosine: float, sizes: tuple[float, float]) -> str | None:
    one, other = names
    if abs(cosine) >= _ALIGNED:
        same = cosine > 0
        return (
            f"{one} and {other} change the host in {'the same' if same else 'opposite'} directions (cosine {cosine:.2f}), so both "
            f"at once {'go too far' if same else 'undo each other'}: switch one off."
        )
    times = max(sizes) / max(min(sizes), 1e-30)
    if times < _DROWNS:
        return None
    large, small = (one, other) if sizes[0] > sizes[1] else (other, one)
    return f"{large} changes the host {times:.0f} times as much as {small} and drowns it: lower its strength or switch one off."

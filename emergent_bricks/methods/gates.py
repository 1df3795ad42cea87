"""Neurons of the host itself, turned up or down by the user (`emergent_bricks/gates.py`)."""

from collections.abc import Mapping
from typing import Literal

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from emergent_bricks.gates import check_gates, factors, load_gates
from mattoni.injections import Gate
from mattoni.methods import Method, Parts
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, HostView, Injected

_PROJECTION = ".mlp.down_proj"  # whose inputs are the neurons


class GatesParts(Parts):
    """What a card says of such a brick.

    neurons   how many it acts on
    rests_at  the strength at which it changes nothing: 1 for a function, 0 for what is switched on
    """

    method: Literal["gates"]
    neurons: PositiveInt
    rests_at: NonNegativeFloat = 1.0

    @property
    def neutral(self) -> float:
        """The strength at which the host is the bare host."""
        return self.rests_at


class GatesRuntime(BrickRuntime):
    """The directions of one brick."""

    def __init__(self, brick: BrickFiles, gates: Mapping[int, Tensor]) -> None:
        super().__init__(brick)
        self._gates = gates

    def inject(self, asked: Asked) -> Injected:
        """Its neurons at the strength that the turn wants; no injection at all where that is the neutral one."""
        name, parts = self.brick.name, self.brick.parts
        at = factors(self._gates, asked.strength, parts.neutral)
        if not at:
            return Injected(described=(f"gate: none by {name}, at {asked.strength:g} it changes nothing",))
        gate = Gate(name, f"{self.brick.digest}:{asked.strength!r}", at)
        return Injected(
            others=(gate,),
            described=(f"gate: {parts.neurons} neurons of {len(at)} layers by {name}, strength {asked.strength:g}",),
        )


def _load(brick: BrickFiles, host: HostView) -> GatesRuntime:
    gates = load_gates(brick.host_folder)
    places = {name: shape[1] for name, shape in host.adaptable_shapes.items() if name.endswith(_PROJECTION)}
    widths = {int(name.removesuffix(_PROJECTION).split(".")[-1]): width for name, width in places.items()}
    check_gates(gates, widths, brick.name, host.name)
    return GatesRuntime(brick, gates)


METHODS = (Method("gates", GatesParts, _load, accepts=frozenset({"text"}), chosen_by="user"),)

"""A toy kind: turns some neurons of the first layer down. Everything that it takes is in this module and on its cards."""

from typing import Literal

import torch

from mattoni.injections import Gate
from mattoni.methods import Method, Parts
from mattoni.runtime import Asked, BrickRuntime, Injected


class DimmerParts(Parts):
    """Which neurons, and by how much."""

    method: Literal["dimmer"]
    neurons: int
    factor: float


class DimmerRuntime(BrickRuntime):
    def inject(self, asked: Asked) -> Injected:
        factors = torch.ones(self.brick.parts.neurons)
        factors[::2] = self.brick.parts.factor * asked.strength
        gate = Gate(self.brick.name, f"{self.brick.digest}:{asked.strength}", {0: factors})
        return Injected(others=(gate,), described=(f"gate: every other neuron of layer 0 by {self.brick.name}",))


METHODS = (
    Method(
        "dimmer",
        DimmerParts,
        lambda brick, host: DimmerRuntime(brick),
        accepts=frozenset({"text"}),
        chosen_by="user",
    ),
)

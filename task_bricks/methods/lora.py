"""A skill as peft trains it: low-rank deltas on linear layers (`task_bricks/lora.py`)."""

from dataclasses import replace
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from mattoni.injections import LowRank, check_low_rank
from mattoni.methods import Method, Needs, Parts, Reads
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, HostView, Injected
from task_bricks.lora import read_lora


class LoraParts(Parts):
    """What a card says of a skill.

    pictures     how many of the conversation must have been seen before it is chosen without the user
    vision       the image brick that must have seen them; none: any
    pictures_as  `words`: it was trained on pictures as mixtures of the host's words alone
    reads        `message`: it was trained on single messages, and is shown no other
    """

    method: Literal["lora"]
    rank: PositiveInt | None = None
    pictures: NonNegativeInt = 0
    vision: str = ""
    pictures_as: Literal["words"] | None = None
    reads: Reads = "conversation"

    @property
    def needs(self) -> Needs:
        """Pictures that it compares, and what it was trained to read."""
        return Needs(self.pictures, self.vision, self.pictures_as == "words", self.reads)


class LoraRuntime(BrickRuntime):
    """The factors of one adapter."""

    def __init__(self, brick: BrickFiles, lora: LowRank) -> None:
        super().__init__(brick)
        self._lora = lora

    def inject(self, asked: Asked) -> Injected:
        """Its deltas, as strong as the turn wants them."""
        layers, name = len(self._lora.factors), self.brick.name
        return Injected(
            others=(replace(self._lora, name=name, weight=asked.strength),),
            described=(f"low-rank: {layers} layers by {name}, strength {asked.strength:g}",),
        )


def _load(brick: BrickFiles, host: HostView) -> LoraRuntime:
    lora = read_lora(brick.folder, brick.digest)
    check_low_rank(lora, host.adaptable_shapes, host.name)
    return LoraRuntime(brick, lora)


METHODS = (Method("lora", LoraParts, _load, accepts=frozenset({"text"})),)

"""A skill as peft trains it: low-rank deltas on linear layers (`task_bricks/lora.py`)."""

from dataclasses import replace
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from mattoni.injections import LowRank, check_low_rank
from mattoni.methods import Method, Needs, Parts, Reads
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, Finished, HostView, Injected
from task_bricks.evaluators import EVALUATORS, EvaluatorName
from task_bricks.lora import read_lora


class LoraParts(Parts):
    """What a card says of a skill.

    pictures     how many of the conversation must have been seen before it is chosen without the user
    vision       the image brick that must have seen them; none: any
    pictures_as  `words`: it was trained on pictures as mixtures of the host's words alone
    reads        `message`: it was trained on single messages, and is shown no other; `last`: that, and where the message brings
                 nothing, the documents that were sent last
    needs_text   it is chosen without the user only where a document, or a picture of text, was read
    for_passages  it was trained to answer from passages: it is chosen without the user wherever some were found for the message, or
                 the message asks of a text that came with it, and no other skill is
    evaluator    what computes or checks what the skill writes: `arithmetic`
    on_answer    the instruction under which it takes an answer as its text, where a message asks for something else and for
                 this: "Translate to German."
    """

    method: Literal["lora"]
    rank: PositiveInt | None = None
    pictures: NonNegativeInt = 0
    vision: str = ""
    pictures_as: Literal["words"] | None = None
    reads: Reads = "conversation"
    needs_text: bool = False
    for_passages: bool = False
    evaluator: EvaluatorName | None = None
    on_answer: str = ""

    @property
    def on_answer_text(self) -> str:
        """The card's own."""
        return self.on_answer

    @property
    def needs(self) -> Needs:
        """Pictures that it compares, what it was trained to read, and the numbers of what is computed."""
        computes = self.evaluator == "arithmetic"
        return Needs(
            pictures=self.pictures,
            vision=self.vision,
            as_words=self.pictures_as == "words",
            reads=self.reads,
            text=self.needs_text,
            passages=self.for_passages,
            number=computes,
        )


class LoraRuntime(BrickRuntime):
    """The factors of one adapter, and what its answers are finished by."""

    def __init__(self, brick: BrickFiles, lora: LowRank) -> None:
        super().__init__(brick)
        self._lora = lora
        evaluator: EvaluatorName | None = brick.parts.evaluator
        self._finish = EVALUATORS[evaluator] if evaluator else None

    def inject(self, asked: Asked) -> Injected:
        """Its deltas, as strong as the turn wants them."""
        layers, name = len(self._lora.factors), self.brick.name
        activated = ", from its invocation tokens on" if self._lora.invocation_tokens else ""
        return Injected(
            others=(replace(self._lora, name=name, weight=asked.strength),),
            described=(f"low-rank: {layers} layers by {name}, strength {asked.strength:g}{activated}",),
        )

    def finish(self, answer: str) -> Finished:
        """What the card's evaluator makes of the answer."""
        return self._finish(answer) if self._finish is not None else Finished()


def _load(brick: BrickFiles, host: HostView) -> LoraRuntime:
    lora = read_lora(brick.host_folder, brick.digest)
    check_low_rank(lora, host.adaptable_shapes, host.name)
    return LoraRuntime(brick, lora)


METHODS = (Method("lora", LoraParts, _load, accepts=frozenset({"text"})),)

"""Facts that were taught in a sentence each: on in every turn, and each acts where its own key is met."""

from typing import Literal

from pydantic import NonNegativeInt

from knowledge_bricks.facts import Facts, read_facts
from mattoni.methods import Method, Parts
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, HostView, Injected


class FactsParts(Parts):
    """What a card says of such a brick: the layer of the FFN, and how many facts there are."""

    method: Literal["facts"]
    layer: NonNegativeInt
    facts: NonNegativeInt = 0


class FactsRuntime(BrickRuntime):
    """The facts of one brick."""

    def __init__(self, brick: BrickFiles, facts: Facts) -> None:
        super().__init__(brick)
        # The digest covers which of them are on, as the card lists the digest of their lines.
        self._keyed = facts.injection(brick.name, brick.digest)
        self._subjects = tuple(dict.fromkeys(x.fact.subject for x in facts.learned if x.fact.is_on))

    def inject(self, asked: Asked) -> Injected:
        """Those that are on; where none is, nothing."""
        if self._keyed is None:
            return Injected(is_empty=True)
        message = asked.question.casefold()
        named = [subject for subject in self._subjects if subject.casefold() in message]
        return Injected(
            others=(self._keyed,),
            described=(f"keyed: {len(self._keyed.keys)} keys at layer {self._keyed.layer} by {self.brick.name}",),
            # All are composed, and which of them act is seen inside the host; here is told what the message names.
            reason=f"knows a fact about {', '.join(named[:3])}" if named else None,
        )


def _load(brick: BrickFiles, host: HostView) -> FactsRuntime:
    return FactsRuntime(brick, read_facts(brick.folder, brick.parts.layer))


METHODS = (Method("facts", FactsParts, _load, accepts=frozenset({"text"}), chosen_by="always"),)

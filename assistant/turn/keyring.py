"""From bricks on disk to what the router compares: their kind, keys and thresholds. Knows nothing of scores."""

from dataclasses import replace

from assistant.registry import Brick, Bricks
from assistant.turn.admission import admitted, verdicts
from assistant.turn.route import KeyedBrick, Keyring
from mattoni.keys import load_counter_keys, load_keys
from mattoni.methods import method_of


class Keyrings:
    """Makes keyrings; keys are read once per state of a brick (its digest, never its name)."""

    def __init__(self) -> None:
        self._keyed: dict[tuple[str, bool], KeyedBrick] = {}
        self._ring = Keyring()

    def of(self, bricks: Bricks) -> Keyring:
        """The keyring of these bricks. What is gone from them is forgotten.

        Beside one that was made for this very host, a brick of its kind that was made for another of the same shape has no
        keys: only the user chooses it. So it is with an added skill that has not passed the gate (`admission.py`).
        """
        exact = {b.card.kind for b in bricks.usable if b.card.host is not None and b.warning is None}
        kept = verdicts()
        found = {
            (b.digest, (b.warning is not None and b.card.kind in exact) or not admitted(b, kept)): b
            for b in bricks.usable
        }
        self._keyed = {key: self._keyed.get(key) or keyed(b, has_keys=not key[1]) for key, b in found.items()}
        keyed_bricks = tuple(self._keyed.values())
        ring = self._ring
        if len(keyed_bricks) != len(ring.bricks) or any(
            a is not b for a, b in zip(keyed_bricks, ring.bricks, strict=True)
        ):
            ring = self._ring = Keyring(keyed_bricks)
        # The same one, whose keys need not be put side by side again.
        return ring


def keyed(brick: Brick, has_keys: bool = True) -> KeyedBrick:
    """What the router knows of one brick."""
    card = brick.card
    method = method_of(card.parts)
    plain = KeyedBrick(
        card.name,
        card.kind,
        accepts=card.takes,
        chosen_by=method.chosen_by,
        needs=card.parts.needs,
        on_answer=card.parts.on_answer_text,
        is_in_front="prefix" in card.injects,
    )
    # One that finds out itself whether it fits a message searches its own keys.
    if not has_keys or card.routes is None or method.chosen_by in ("itself", "always"):
        return plain
    path = brick.folder / card.routes.keys
    return replace(
        plain,
        space=card.routes.space,
        keys=load_keys(path),
        threshold=card.routes.threshold,
        counter=load_counter_keys(path),
    )

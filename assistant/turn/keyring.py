"""From bricks on disk to what the router compares: their kind, keys and thresholds. Knows nothing of scores."""

from assistant.registry import Brick, Bricks
from assistant.turn.route import KeyedBrick, Keyring
from mattoni.keys import load_counter_keys, load_keys


class Keyrings:
    """Makes keyrings; keys are read once per state of a brick (its digest, never its name)."""

    def __init__(self) -> None:
        self._keyed: dict[tuple[str, bool], KeyedBrick] = {}

    def of(self, bricks: Bricks) -> Keyring:
        """The keyring of these bricks. What is gone from them is forgotten.

        Beside one that was made for this very host, a brick of its kind that was made for another of the same shape has no
        keys: only the user chooses it.
        """
        exact = {b.card.kind for b in bricks.usable if b.card.host is not None and b.warning is None}
        found = {(b.digest, b.warning is not None and b.card.kind in exact): b for b in bricks.usable}
        self._keyed = {
            key: self._keyed.get(key) or (KeyedBrick(b.name, b.card.kind) if key[1] else keyed(b))
            for key, b in found.items()
        }
        return Keyring(tuple(self._keyed.values()))


def keyed(brick: Brick) -> KeyedBrick:
    """What the router knows of one brick."""
    card = brick.card
    # A knowledge brick's keys are its passages: it searches them itself.
    if card.routes is None or card.kind == "knowledge":
        return KeyedBrick(card.name, card.kind)
    path = brick.folder / card.routes.keys
    return KeyedBrick(
        card.name,
        card.kind,
        card.routes.space,
        load_keys(path),
        card.routes.threshold,
        load_counter_keys(path),
        int(card.parts.get("pictures", 0)),
        str(card.parts.get("vision", "")),
    )

"""From bricks on disk to what the router compares: their kind, keys and thresholds. Knows nothing of scores."""

from assistant.registry import Brick, Bricks
from assistant.route import KeyedBrick, Keyring
from mattoni.keys import load_counter_keys, load_keys


class Keyrings:
    """Makes keyrings; keys are read once per state of a brick (its digest, never its name)."""

    def __init__(self) -> None:
        self._keyed: dict[str, KeyedBrick] = {}

    def of(self, bricks: Bricks) -> Keyring:
        """The keyring of these bricks. What is gone from them is forgotten."""
        self._keyed = {b.digest: self._keyed.get(b.digest) or keyed(b) for b in bricks.usable}
        return Keyring(tuple(self._keyed.values()))


def keyed(brick: Brick) -> KeyedBrick:
    """What the router knows of one brick."""
    card = brick.card
    # A knowledge brick's keys are its passages: it searches them itself.
    if card.routes is None or card.kind == "knowledge":
        return KeyedBrick(card.name, card.kind)
    path = brick.folder / card.routes.keys
    return KeyedBrick(
        card.name, card.kind, card.routes.space, load_keys(path), card.routes.threshold, load_counter_keys(path)
    )

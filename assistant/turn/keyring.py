"""From bricks on disk to what the router compares: their kind, keys and thresholds. Knows nothing of scores."""

from dataclasses import replace
from functools import cache, partial

from assistant.registry import Brick, Bricks
from assistant.turn.admission import admitted, verdicts
from assistant.turn.route import KeyedBrick, Keyring
from mattoni.cache import RecentlyUsed
from mattoni.keys import load_counter_keys, load_keys
from mattoni.methods import method_of

# The shipped bricks' keys take 4 MB, and as much again side by side; people without keys of their own share both.
_MOST_BRICKS, _MOST_RINGS = 128, 16

_State = tuple[str, str, bool]  # a brick's name and digest, and whether it may have keys


class Keyrings:
    """Makes keyrings; keys are read once per state of a brick (its digest), whoever has the brick. For several threads."""

    def __init__(self) -> None:
        self._keyed: RecentlyUsed[KeyedBrick] = RecentlyUsed(_MOST_BRICKS)
        self._rings: RecentlyUsed[Keyring] = RecentlyUsed(_MOST_RINGS)

    def of(self, bricks: Bricks) -> Keyring:
        """The keyring of these bricks: the same one for the same bricks, whose keys need not be put side by side again.

        Beside one that was made for this very host, a brick of its kind that was made for another of the same shape has no
        keys: only the user chooses it. So it is with an added skill that has not passed the gate (`admission.py`).
        """
        exact = {b.card.kind for b in bricks.usable if b.card.host is not None and b.warning is None and not b.borrowed}
        kept = cache(verdicts)  # for this call
        found: dict[_State, Brick] = {}
        for b in bricks.usable:
            has_keys = not (b.warning is not None and b.card.kind in exact) and admitted(b, kept)
            found[b.name, b.digest, has_keys] = b

        def make() -> Keyring:
            return Keyring(tuple(self._keyed.get(state, partial(keyed, b, state[2])) for state, b in found.items()))

        return self._rings.get(tuple(found), make)

    def clear(self) -> None:
        """Drop everything."""
        self._keyed.drop(lambda state: True)
        self._rings.drop(lambda states: True)

    def forget(self, names: frozenset[str]) -> None:
        """Drop what was read of the bricks of these names."""
        self._keyed.drop(lambda state: isinstance(state, tuple) and state[0] in names)
        self._rings.drop(lambda states: isinstance(states, tuple) and any(state[0] in names for state in states))


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
        is_stitched=card.host is not None,
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

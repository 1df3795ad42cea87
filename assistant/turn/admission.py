"""Which added skills Auto may choose: what the gate said of each, by content. Knows nothing of how the gate measures.

A skill that came with Mattoni was measured before it was shipped. One of the user's must have passed, in this very state of it,
or a person must have said that it may all the same; switched on by hand it works in any case.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from assistant.registry import Brick
from mattoni.card import CARD, read_card
from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.paths import data_around, data_folder, shipped_models

_FILE = "gates.json"


@dataclass(frozen=True)
class Verdict:
    """What is kept of one measuring. `moved_routes` is the share of all messages that went elsewhere."""

    name: str
    passes: bool
    moved_routes: float
    by_hand: bool = False  # a person lets Auto choose it whatever was measured

    @property
    def admits(self) -> bool:
        """Whether Auto may choose the skill."""
        return self.passes or self.by_hand


def needs_verdict(brick: Brick) -> bool:
    """Whether Auto asks for one: a skill of the user's with routing keys, other than those of a shipped one of its name."""
    if brick.card.kind != "task" or brick.card.routes is None or not brick.folder.is_relative_to(data_folder()):
        return False
    keys = brick.card.files.get(brick.card.routes.keys)
    return keys is None or keys.sha256 != _shipped_keys(brick.name, brick.card.routes.keys)


@cache
def _shipped_keys(name: str, keys: str) -> str | None:
    """The digest of the routing keys of a shipped skill; None where there is none of that name."""
    folder = shipped_models() / "bricks" / name
    if not (folder / CARD).is_file():
        return None
    try:
        file = read_card(folder).files.get(keys)
    except MattoniError:
        return None
    return file.sha256 if file is not None else None


def routes_digest(brick: Brick) -> str:
    """What a verdict is kept under: all of a skill that decides which messages it takes. Better weights need no second one."""
    routes = brick.card.routes
    assert routes is not None
    keys = brick.card.files.get(routes.keys)
    told = [
        brick.name,
        keys.sha256 if keys else brick.digest,
        routes.threshold,
        # What it does with an answer says nothing of the messages that it takes.
        brick.card.parts.model_dump(mode="json", exclude={"on_answer"}),
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def verdicts(data: Path) -> dict[str, Verdict]:
    """All that is kept in a data folder, by `routes_digest`. A file that cannot be read holds nothing: the gate is asked again."""
    try:
        values = json.loads((data / _FILE).read_text(encoding="utf-8"))
        return {digest: Verdict(**kept) for digest, kept in values.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def keep(brick: Brick, verdict: Verdict) -> None:
    """Write one down; what was said of an earlier state of the same skill goes."""
    digest = routes_digest(brick)
    data = data_of(brick)
    kept = {key: asdict(old) for key, old in verdicts(data).items() if old.name != verdict.name}
    write_text(data / _FILE, json.dumps({**kept, digest: asdict(verdict)}, indent=1))


def admitted(brick: Brick, kept: Callable[[Path], dict[str, Verdict]] = verdicts) -> bool:
    """Whether Auto may choose it.

    kept  for many bricks at once, one that reads each folder's file once
    """
    if not needs_verdict(brick):
        return True
    found = kept(data_of(brick)).get(routes_digest(brick))
    return found is not None and found.admits


def data_of(brick: Brick) -> Path:
    """The data folder that a brick lies in."""
    return data_around(brick.folder.parent) or data_folder()

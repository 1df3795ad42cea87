"""How much somebody uses: numbers, and no word of what they said, sent or called a brick."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from assistant.conversations.store import ConversationStore
from mattoni.card import CARD
from mattoni.paths import shipped_models


@dataclass(frozen=True)
class Figures:
    """What an administrator may know.

    bytes   on disk and in the database
    own     bricks that they made or brought; their names are their own
    bricks  those that came with Mattoni, with the number of answers that each took part in
    """

    conversations: int
    messages: int
    bytes: int
    own: int
    bricks: Mapping[str, int]


def figures_of(store: ConversationStore) -> Figures:
    """Count what a person has. Raises DatabaseAway."""
    counts = store.counts()
    shipped = {folder.name for folder in (shipped_models() / "bricks").glob("*")}
    used = Counter(name for trace in store.traces() for name in {brick["name"] for brick in trace.get("bricks", ())})
    return Figures(
        counts.conversations,
        counts.messages,
        bytes_in(store.folder) + counts.bytes_elsewhere,
        sum(1 for _ in store.folder.glob(f"bricks/*/{CARD}")),
        {name: count for name, count in used.most_common() if name in shipped},
    )


def bytes_in(folder: Path) -> int:
    """What the files of a folder take; links are not followed."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:
            continue  # removed this moment
    return size

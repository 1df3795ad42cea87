"""What the store asks of a database, and the tables in it. Knows no database and nothing of what is said.

Statements are SQL that every implementation understands as it is, with `?` for each value. A transaction is a function of
`Statements`: where it could not be written it is called again, from its beginning, so it may do nothing else that counts
twice.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from mattoni.errors import MattoniError

Result = TypeVar("Result")
Values = Sequence[object]

# `{counted}` is a whole number that the database counts up by itself and never gives twice, also after a deletion: what comes
# late for a message that is gone must not meet another.
SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, named INTEGER NOT NULL DEFAULT 0,
    created DOUBLE PRECISION NOT NULL, updated DOUBLE PRECISION NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    id {counted},
    conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    role TEXT NOT NULL, text TEXT NOT NULL, status TEXT NOT NULL, writer TEXT, error TEXT,
    segments TEXT, token_ids TEXT, trace TEXT, created DOUBLE PRECISION NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of ON messages(conversation, id);
CREATE TABLE IF NOT EXISTS attachments (
    message BIGINT NOT NULL REFERENCES messages(id) ON DELETE CASCADE, place INTEGER NOT NULL,
    digest TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, bytes BIGINT NOT NULL, PRIMARY KEY (message, place)
);
CREATE TABLE IF NOT EXISTS choices (
    conversation TEXT PRIMARY KEY REFERENCES conversations(id) ON DELETE CASCADE, told TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS attachments_of ON attachments(digest);
"""


class FolderRefuses(MattoniError):
    """The folder takes no attachment (it is full). Its cause says why; SQLite, which lies there too, then moves to memory."""


class DatabaseAway(MattoniError):
    """The server that has what was said does not answer; a page draws itself again when it does."""


class Closed(MattoniError):
    """Nothing may be asked of it any more: it was closed, or destroyed with all that was in it."""


class Statements(Protocol):
    """What a transaction is written with."""

    def rows(self, statement: str, values: Values = ()) -> list[Any]:
        """What a query finds, as tuples."""
        ...

    def execute(self, statement: str, values: Values = ()) -> None:
        """Run a statement."""
        ...

    def executemany(self, statement: str, rows: Sequence[Values]) -> None:
        """Run a statement once for each row of values."""
        ...

    def insert(self, statement: str, values: Values = ()) -> int:
        """Add one row to a table that counts its rows by itself and return the new row's number."""
        ...


class Database(Protocol):
    """The tables of one user; every method may be called from any thread."""

    @property
    def problem(self) -> str | None:
        """The sentence for the user when something is not kept as it should be, else None."""
        ...

    @property
    def on_disk(self) -> bool:
        """False: what is written now lives in memory and ends with the program."""
        ...

    @property
    def attachments(self) -> str:
        """The folder, below the data folder, of the attachments that these tables alone hold."""
        ...

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held around what other threads must not see half done; may be taken again by the same thread."""
        ...

    @property
    def writer(self) -> str:
        """Who writes here, by a name that tells later whether that writer is gone."""
        ...

    def rows(self, statement: str, values: Values = ()) -> list[Any]:
        """What a query finds, as tuples."""
        ...

    def write(self, body: Callable[[Statements], Result]) -> Result:
        """Run a transaction, whole or not at all, and return what came of it.

        Begun as a writer, so that no other process writes between what is read in it and what is written. Raises what
        `body` raises; nothing is written then.
        """
        ...

    def write_soon(self, what: Hashable, body: Callable[[Statements], None]) -> None:
        """As `write`, for what must be kept and nobody need wait for.

        what   of two that are still to be written under the same name, only the later one is
        body   comes to the same when it is run twice
        """
        ...

    def holds(self, column: str) -> str:
        """The condition that a column holds a text, in any case; the text is the one value of it."""
        ...

    @property
    def bytes_elsewhere(self) -> int:
        """What it takes outside of the data folder."""
        ...

    def close(self) -> None:
        """End it; what is still to be written is written first, and what comes later is not."""
        ...

    def destroy(self) -> None:
        """End it with all that is in it; what comes later is not written."""
        ...

    def forget_deleted(self) -> None:
        """Take what was deleted out of whatever else the database keeps on this disk."""
        ...

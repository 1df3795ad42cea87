"""Conversations in SQLite: a file of the data folder, or memory where the disk does not do as it should."""

import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assistant.conversations.database import SCHEMA, Closed, FolderRefuses, Result, Statements, Values
from assistant.conversations.process import is_alive, this_process

_FILE = "conversations.sqlite3"
_BUSY_S = 10  # how long another process may write before a statement of ours fails
_SCHEMA = SCHEMA.format(counted="INTEGER PRIMARY KEY AUTOINCREMENT")


class SqliteDatabase:
    """The tables in a folder: a `Database`.

    problem   the sentence for the user when the disk did not do as it should, else None
    on_disk   False: what is written now lives in memory and ends with the program
    """

    attachments = "attachments"

    def __init__(self, folder: Path) -> None:
        self.problem: str | None = None
        self.on_disk = True
        self.lock = threading.RLock()
        self.writer = this_process()
        self._folder = folder
        self._log_is_owed = False  # what was deleted still stands in the write-ahead log
        self._is_closed = False
        self._connection = self._open()

    def rows(self, statement: str, values: Values = ()) -> list[Any]:
        """What a query finds, as tuples."""
        with self._held():
            if self._log_is_owed and not self._connection.in_transaction:
                self.forget_deleted()
            return self._connection.execute(statement, values).fetchall()

    def write(self, body: Callable[[Statements], Result]) -> Result:
        """Run a transaction; when the disk refuses it, once more on a copy in memory."""
        with self._held():
            try:
                return self._attempt(body)
            except (sqlite3.OperationalError, FolderRefuses) as problem:
                if not self.on_disk:
                    raise
                self._go_on_in_memory(str(problem.__cause__ or problem))
                return self._attempt(body)

    def write_soon(self, what: Hashable, body: Callable[[Statements], None]) -> None:
        """Run a transaction, now: nobody waits long for a disk. Once it is closed, nothing."""
        with self.lock:
            if not self._is_closed:
                self.write(body)

    def holds(self, column: str) -> str:
        """The condition that a column holds a text, in any case."""
        return f"instr(fold({column}), fold(?)) > 0"

    @property
    def bytes_elsewhere(self) -> int:
        """Nothing: it is a file of the folder."""
        return 0

    def close(self) -> None:
        """Close the file."""
        with self.lock:
            self._is_closed = True
            self._connection.close()

    def destroy(self) -> None:
        """Close the file and remove it, with its log."""
        self.close()
        for path in self._folder.glob(f"{_FILE}*"):
            path.unlink(missing_ok=True)

    def forget_deleted(self) -> None:
        """Take what was deleted out of the write-ahead log too.

        Where another connection is reading, it is emptied with the next query instead: an open page asks every other second.
        """
        with self._held():
            (busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._log_is_owed = bool(busy)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The lock, while the file is open."""
        with self.lock:
            if self._is_closed:
                raise Closed(f"The conversations in {self._folder} were closed or deleted: load the page again.")
            yield

    def _attempt(self, body: Callable[[Statements], Result]) -> Result:
        assert not self._connection.in_transaction  # one in another would be written, or lost, with it
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = body(_Statements(self._connection))
            self._connection.commit()
            return result
        except BaseException:
            self._connection.rollback()
            raise

    def _go_on_in_memory(self, reason: str) -> None:
        """Move what was committed into memory: the disk takes no more (it is full)."""
        memory = _connected(":memory:")
        self._connection.backup(memory)
        memory.executescript(_SCHEMA)
        self._connection.close()
        self._connection, self.on_disk, self.problem = memory, False, self._sentence(reason)

    def _open(self) -> sqlite3.Connection:
        """Open the file, or a database in memory where the folder cannot be written; a damaged file is set aside."""
        path = self._folder / _FILE
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            connection = _connected(str(path))
            connection.executescript(_SCHEMA)
            _stop_abandoned(connection)
            return connection
        except (OSError, sqlite3.OperationalError) as problem:
            self.on_disk, self.problem = False, self._sentence(str(getattr(problem, "strerror", None) or problem))
            return _memory_from(path)
        except sqlite3.DatabaseError:
            aside = path.with_name(f"conversations.damaged-{int(time.time())}.sqlite3")
            path.rename(aside)
            self.problem = f"The list of conversations was damaged and is set aside as {aside}: a new one begins here."
            return self._open()

    def _sentence(self, reason: str) -> str:
        return (
            f"Conversations cannot be kept in {self._folder} ({reason}): this one goes on in memory and ends with the "
            "program; free some space there or set MATTONI_HOME to a folder of yours."
        )


class _Statements:
    """What a transaction is written with."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, values: Values = ()) -> list[Any]:
        return self._connection.execute(statement, values).fetchall()

    def execute(self, statement: str, values: Values = ()) -> None:
        self._connection.execute(statement, values)

    def executemany(self, statement: str, rows: Sequence[Values]) -> None:
        self._connection.executemany(statement, rows)

    def insert(self, statement: str, values: Values = ()) -> int:
        return int(self._connection.execute(statement, values).lastrowid or 0)


def _connected(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, check_same_thread=False, timeout=_BUSY_S)
    connection.create_function("fold", 1, lambda text: str(text).casefold(), deterministic=True)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _memory_from(path: Path) -> sqlite3.Connection:
    """A database in memory that begins with whatever can be read of the one on disk."""
    memory = _connected(":memory:")
    if path.is_file():
        try:
            source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
            source.backup(memory)
            source.close()
        except sqlite3.Error:
            pass  # nothing readable: an empty list of conversations, and `problem` says why
    memory.executescript(_SCHEMA)
    _stop_abandoned(memory)
    return memory


def _stop_abandoned(connection: sqlite3.Connection) -> None:
    """Mark answers whose writer is gone as stopped; what had been said is kept. Another living process writes on."""
    running = connection.execute("SELECT id, writer FROM messages WHERE status = 'running'").fetchall()
    abandoned = [(message,) for message, writer in running if not is_alive(writer or "")]
    connection.executemany("UPDATE messages SET status = 'stopped' WHERE id = ?", abandoned)
    connection.commit()

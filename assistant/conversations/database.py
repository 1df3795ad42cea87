"""The tables of conversations: SQLite on disk, or in memory where the disk does not do as it should.

Knows the tables and how they are written whole or not at all; what is said in them is for `store.py`.
"""

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from assistant.conversations.process import is_alive

_FILE = "conversations.sqlite3"
_BUSY_S = 10  # how long another process may write before a statement of ours fails
_SCHEMA = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY, title TEXT NOT NULL, named INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL, updated REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,
    role TEXT NOT NULL, text TEXT NOT NULL, status TEXT NOT NULL, writer TEXT, error TEXT,
    segments TEXT, token_ids TEXT, trace TEXT, created REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of ON messages(conversation, id);
CREATE TABLE IF NOT EXISTS attachments (
    message INTEGER NOT NULL REFERENCES messages(id) ON DELETE CASCADE, place INTEGER NOT NULL,
    digest TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (message, place)
);
CREATE TABLE IF NOT EXISTS choices (
    conversation TEXT PRIMARY KEY REFERENCES conversations(id) ON DELETE CASCADE, told TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS attachments_of ON attachments(digest);
"""

Values = Sequence[object] | Mapping[str, object]


class Database:
    """The tables of one folder; every method may be called from any thread.

    problem   the sentence for the user when the disk did not do as it should, else None
    on_disk   False: what is written now lives in memory and ends with the program
    lock      held around what must not be seen half done; may be taken again by the same thread
    """

    def __init__(self, folder: Path) -> None:
        self.problem: str | None = None
        self.on_disk = True
        self.lock = threading.RLock()
        self._folder = folder
        self._log_is_owed = False  # what was deleted still stands in the write-ahead log
        self._connection = self._open()

    def rows(self, statement: str, values: Values = ()) -> list[Any]:
        """What a query finds, as tuples."""
        with self.lock:
            if self._log_is_owed and not self._connection.in_transaction:
                self.empty_log()
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def writing(self) -> Iterator["Transaction"]:
        """One transaction; when the disk refuses it, the same statements again on a copy in memory.

        Begun as a writer, so that no other process writes between what is read in it and what is written.
        """
        with self.lock:
            assert not self._connection.in_transaction  # one in another would be written, or lost, with it
            transaction = Transaction(self)
            try:
                yield transaction
                transaction.commit()
            except BaseException:
                self._connection.rollback()
                raise

    def _go_on_in_memory(self, reason: str) -> None:
        """Move what was committed into memory: the disk takes no more (it is full)."""
        memory = _connected(":memory:")
        self._connection.rollback()
        self._connection.backup(memory)
        memory.executescript(_SCHEMA)
        self._connection.close()
        self._connection, self.on_disk, self.problem = memory, False, self._sentence(reason)

    def empty_log(self) -> None:
        """Take what was deleted out of the write-ahead log too.

        Where another connection is reading, it is emptied with the next query instead: an open page asks every other second.
        """
        with self.lock:
            (busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._log_is_owed = bool(busy)

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


class Transaction:
    """The statements of one transaction, remembered so that they can be said again in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._said: list[tuple[str, Any, bool]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as problem:
            self._say_again(problem)

    def execute(self, statement: str, values: Values = ()) -> sqlite3.Cursor:
        """Run a statement."""
        return self._do(statement, values, many=False)

    def executemany(self, statement: str, rows: Sequence[Sequence[object]]) -> sqlite3.Cursor:
        """Run a statement once for each row of values."""
        return self._do(statement, rows, many=True)

    def commit(self) -> None:
        """Write it all, or move to memory and write it there."""
        try:
            self._connection.commit()
        except sqlite3.OperationalError as problem:
            self._say_again(problem)
            self._connection.commit()

    def go_on_in_memory(self, reason: str) -> list[sqlite3.Cursor]:
        """Move to memory and say there what was said so far; returns what came of each statement."""
        self._database._go_on_in_memory(reason)
        return [self._run(*said) for said in self._said]

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._database._connection

    def _do(self, statement: str, values: Any, many: bool) -> sqlite3.Cursor:
        self._said.append((statement, values, many))
        try:
            return self._run(statement, values, many)
        except sqlite3.OperationalError as problem:
            return self._say_again(problem)[-1]

    def _run(self, statement: str, values: Any, many: bool) -> sqlite3.Cursor:
        connection = self._connection
        return connection.executemany(statement, values) if many else connection.execute(statement, values)

    def _say_again(self, problem: sqlite3.OperationalError) -> list[sqlite3.Cursor]:
        if not self._database.on_disk:
            raise problem
        return self.go_on_in_memory(str(problem))


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

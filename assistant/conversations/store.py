"""Keeps conversations in SQLite and attachments as files beside it. Knows nothing of pages, hosts or traces.

Everything said is on disk before anybody is told that it was said; a killed process loses nothing but the last half
second of a running answer. Where the folder cannot be written, the store goes on in memory and says so in `problem`.
"""

import hashlib
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from mattoni.errors import MattoniError
from mattoni.files import write_bytes
from mattoni.paths import data_folder

Role = Literal["user", "assistant"]
Status = Literal["running", "done", "stopped", "failed"]
AttachmentKind = Literal["picture", "document"]

_FILE = "conversations.sqlite3"
_TITLE_LENGTH = 48
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
CREATE INDEX IF NOT EXISTS attachments_of ON attachments(digest);
"""
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"RIFF")


class Sent(Protocol):
    """What a user attached: a name and its bytes."""

    @property
    def name(self) -> str: ...
    @property
    def content(self) -> bytes: ...


@dataclass(frozen=True)
class Attached:
    """An attachment of a stored message; its bytes are `ConversationStore.content(digest)`."""

    digest: str
    name: str
    kind: AttachmentKind
    bytes: int


@dataclass(frozen=True)
class StoredMessage:
    """One question or answer. `segments`, `token_ids` and `trace` are kept for whoever wrote them."""

    id: int
    conversation: str
    role: Role
    text: str
    status: Status
    created: float
    attachments: tuple[Attached, ...] = ()
    error: str | None = None
    segments: Any = None
    token_ids: list[int] | None = None
    trace: dict[str, Any] | None = None


@dataclass(frozen=True)
class Conversation:
    """A line of the list of conversations."""

    id: str
    title: str
    created: float
    updated: float


def attachment_kind(content: bytes) -> AttachmentKind:
    """Whether bytes begin like a picture; only for showing them, `look` decides what they are."""
    return "picture" if content.startswith(_MAGIC) else "document"


def title_from(text: str, names: Sequence[str] = ()) -> str:
    """A title for a conversation that nobody has named: the beginning of its first question."""
    words = " ".join(text.split()) or (names[0] if names else "") or "New conversation"
    return words if len(words) <= _TITLE_LENGTH else words[: _TITLE_LENGTH - 1].rstrip() + "…"


class ConversationStore:
    """Conversations, their messages and attachments; every method may be called from any thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem: str | None = None  # the sentence for the user when the disk did not do as it should
        self._on_disk = True
        self._lock = threading.RLock()
        self._in_memory: dict[str, bytes] = {}
        self._database = self._open()

    # ---------------------------------------------------------------- conversations

    def new(self, title: str | None = None) -> str:
        """Begin a conversation; without a title the first question names it."""
        identity, now = uuid.uuid4().hex, time.time()
        with self._writing() as database:
            database.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?, ?)",
                (identity, title or "New conversation", int(title is not None), now, now),
            )
        return identity

    def conversations(self, search: str = "") -> list[Conversation]:
        """All conversations, the latest first; with `search`, those whose title or text holds it, in any case."""
        wanted = search.strip().casefold()
        rows = self._rows(
            """SELECT id, title, created, updated FROM conversations AS c
               WHERE :wanted = '' OR instr(fold(title), :wanted) > 0
                  OR EXISTS (SELECT 1 FROM messages AS m
                             WHERE m.conversation = c.id AND instr(fold(m.text), :wanted) > 0)
                  OR EXISTS (SELECT 1 FROM messages AS m JOIN attachments AS a ON a.message = m.id
                             WHERE m.conversation = c.id AND instr(fold(a.name), :wanted) > 0)
               ORDER BY updated DESC, rowid DESC""",
            {"wanted": wanted},
        )
        return [Conversation(*row) for row in rows]

    def conversation(self, identity: str) -> Conversation | None:
        """The conversation, or None when there is none of that id (it was deleted, or the address is wrong)."""
        rows = self._rows("SELECT id, title, created, updated FROM conversations WHERE id = ?", (identity,))
        return Conversation(*rows[0]) if rows else None

    def rename(self, identity: str, title: str) -> None:
        """Give a conversation a title of the user's own."""
        shown = title_from(title)
        with self._writing() as database:
            database.execute("UPDATE conversations SET title = ?, named = 1 WHERE id = ?", (shown, identity))

    def delete(self, identity: str) -> None:
        """Delete a conversation, its messages and every attachment that no other conversation holds."""
        with self._lock:
            before = self._digests(identity)
            with self._writing() as database:
                database.execute("DELETE FROM conversations WHERE id = ?", (identity,))
            self._forget(before)

    # ---------------------------------------------------------------- messages

    def messages(self, conversation: str) -> list[StoredMessage]:
        """All messages of a conversation, in order."""
        with self._lock:
            rows = self._rows(
                """SELECT id, role, text, status, created, error, segments, token_ids, trace
                   FROM messages WHERE conversation = ? ORDER BY id""",
                (conversation,),
            )
            attached: dict[int, list[Attached]] = {}
            for message, *values in self._rows(
                """SELECT message, digest, name, kind, bytes FROM attachments
                   WHERE message IN (SELECT id FROM messages WHERE conversation = ?) ORDER BY message, place""",
                (conversation,),
            ):
                attached.setdefault(message, []).append(Attached(*values))
        return [
            StoredMessage(
                id=identity,
                conversation=conversation,
                role=role,
                text=text,
                status=status,
                created=created,
                attachments=tuple(attached.get(identity, ())),
                error=error,
                segments=_loaded(segments),
                token_ids=_loaded(token_ids),
                trace=_loaded(trace),
            )
            for identity, role, text, status, created, error, segments, token_ids, trace in rows
        ]

    def stamp(self, conversation: str) -> str:
        """A word that changes whenever there is something else to draw: a page compares it with what it has drawn."""
        rows = self._rows(
            """SELECT c.title, count(m.id), max(m.id), sum(m.status = 'running') FROM conversations AS c
               LEFT JOIN messages AS m ON m.conversation = c.id WHERE c.id = ? GROUP BY c.id""",
            (conversation,),
        )
        return repr(rows)

    def add_question(self, conversation: str, text: str, attachments: Sequence[Sent] = (), segments: Any = None) -> int:
        """Keep a question with its attachments and return its message id. The first one names the conversation."""
        kept = [self._keep(sent) for sent in attachments]
        now = time.time()
        with self._writing() as database:
            self._require(conversation)
            cursor = database.execute(
                """INSERT INTO messages (conversation, role, text, status, segments, created)
                   VALUES (?, 'user', ?, 'done', ?, ?)""",
                (conversation, text, _dumped(segments), now),
            )
            message = int(cursor.lastrowid or 0)
            database.executemany(
                "INSERT INTO attachments VALUES (?, ?, ?, ?, ?, ?)",
                [(message, place, a.digest, a.name, a.kind, a.bytes) for place, a in enumerate(kept)],
            )
            database.execute(
                """UPDATE conversations SET title = ? WHERE id = ? AND named = 0
                   AND (SELECT count(*) FROM messages WHERE conversation = ?) = 1""",
                (title_from(text, [a.name for a in kept]), conversation, conversation),
            )
            database.execute("UPDATE conversations SET updated = ? WHERE id = ?", (now, conversation))
        return message

    def begin_answer(self, conversation: str) -> int:
        """Keep an empty answer that is being written and return its message id."""
        with self._writing() as database:
            self._require(conversation)
            cursor = database.execute(
                """INSERT INTO messages (conversation, role, text, status, writer, created)
                   VALUES (?, 'assistant', '', 'running', ?, ?)""",
                (conversation, _this_process(), time.time()),
            )
        return int(cursor.lastrowid or 0)

    def update_answer(self, message: int, text: str) -> None:
        """Keep what has been said so far. An answer that was deleted meanwhile stays deleted."""
        with self._writing() as database:
            database.execute("UPDATE messages SET text = ? WHERE id = ?", (text, message))

    def finish_answer(
        self,
        message: int,
        text: str,
        status: Status,
        trace: dict[str, Any] | None = None,
        token_ids: Sequence[int] | None = None,
        segments: Any = None,
        error: str | None = None,
    ) -> None:
        """Keep an answer as it ended, with what is needed to rebuild and to explain it."""
        ids = None if token_ids is None else list(token_ids)
        with self._writing() as database:
            database.execute(
                "UPDATE messages SET text=?, status=?, error=?, trace=?, token_ids=?, segments=? WHERE id=?",
                (text, status, error, _dumped(trace), _dumped(ids), _dumped(segments), message),
            )
            database.execute(
                "UPDATE conversations SET updated = ? WHERE id = (SELECT conversation FROM messages WHERE id = ?)",
                (time.time(), message),
            )

    def update_question(self, message: int, segments: Any) -> None:
        """Keep what a question became when it was looked at (opaque here)."""
        with self._writing() as database:
            database.execute("UPDATE messages SET segments = ? WHERE id = ?", (_dumped(segments), message))

    def edit_question(self, message: int, text: str) -> None:
        """Change a question, drop what its old words became and everything after it; its attachments stay."""
        with self._lock:
            conversation = self._conversation_of(message)
            before = self._digests(conversation)
            with self._writing() as database:
                database.execute(
                    """UPDATE messages SET text = ?, segments = NULL, token_ids = NULL, trace = NULL
                       WHERE id = ? AND role = 'user'""",
                    (text, message),
                )
                database.execute("DELETE FROM messages WHERE conversation = ? AND id > ?", (conversation, message))
                database.execute(
                    """UPDATE conversations SET title = ? WHERE id = ? AND named = 0
                       AND (SELECT count(*) FROM messages WHERE conversation = ?) = 1""",
                    (title_from(text), conversation, conversation),
                )
            self._forget(before)

    def drop_last_answer(self, conversation: str) -> StoredMessage | None:
        """Drop what follows the last question, to answer it again; returns that question, None when there is none."""
        with self._lock:
            questions = [message for message in self.messages(conversation) if message.role == "user"]
            if not questions:
                return None
            with self._writing() as database:
                last = questions[-1].id
                database.execute("DELETE FROM messages WHERE conversation = ? AND id > ?", (conversation, last))
            return questions[-1]

    def change_traces(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Rewrite the traces of all messages; what they held before is in no file afterwards."""
        with self._lock:
            rows = self._rows("SELECT id, trace FROM messages WHERE trace IS NOT NULL")
            changed = [(_dumped(change(_loaded(old))), message, old) for message, old in rows]
            with self._writing() as database:
                database.executemany(
                    "UPDATE messages SET trace = ? WHERE id = ?",
                    [(new, message) for new, message, old in changed if new != old],
                )
            self._forget(set())

    # ---------------------------------------------------------------- attachments

    def content(self, digest: str) -> bytes:
        """The bytes of an attachment."""
        with self._lock:
            if digest in self._in_memory:
                return self._in_memory[digest]
        try:
            return self._path(digest).read_bytes()
        except OSError as problem:
            raise MattoniError(
                f"The attachment {digest[:12]}… is no longer in {self.folder / 'attachments'}: attach the file again."
            ) from problem

    def _keep(self, sent: Sent) -> Attached:
        """Write an attachment's bytes once, under their sha256."""
        content = bytes(sent.content)
        digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            if self._on_disk and not self._path(digest).is_file():
                try:
                    write_bytes(self._path(digest), content)
                except MattoniError as problem:
                    self._go_on_in_memory(str(problem.__cause__ or problem))
            if not self._on_disk and not self._path(digest).is_file():
                self._in_memory[digest] = content
        return Attached(digest, sent.name, attachment_kind(content), len(content))

    def _path(self, digest: str) -> Path:
        return self.folder / "attachments" / digest[:2] / digest

    def _digests(self, conversation: str) -> set[str]:
        rows = self._rows(
            "SELECT DISTINCT digest FROM attachments WHERE message IN (SELECT id FROM messages WHERE conversation = ?)",
            (conversation,),
        )
        return {digest for (digest,) in rows}

    def _forget(self, digests: set[str]) -> None:
        """Remove the files that no message holds any more, and what the write-ahead log still holds of deleted text."""
        for digest in digests:
            if not self._rows("SELECT 1 FROM attachments WHERE digest = ? LIMIT 1", (digest,)):
                self._in_memory.pop(digest, None)
                if self._on_disk:
                    self._path(digest).unlink(missing_ok=True)
        # Another connection may be reading: then the log is emptied at the next checkpoint instead.
        self._rows("PRAGMA wal_checkpoint(TRUNCATE)")

    # ---------------------------------------------------------------- export

    def export_markdown(self, identity: str) -> str:
        """The conversation as a Markdown document; attachments by name."""
        conversation = self._required(identity)
        parts = [f"# {conversation.title}", f"*{_day(conversation.created)}, exported from Mattoni*"]
        for message in self.messages(identity):
            parts.append(f"## {'You' if message.role == 'user' else 'Mattoni'}")
            parts += [f"Attached: {attached.name}" for attached in message.attachments]
            parts.append(message.text or "*(nothing said)*")
            if message.status in ("stopped", "failed"):
                parts.append(f"*({message.status}{': ' + message.error if message.error else ''})*")
            if bricks := (message.trace or {}).get("bricks"):
                parts.append("Bricks: " + ", ".join(str(brick.get("name")) for brick in bricks))
        return "\n\n".join(parts) + "\n"

    def export_json(self, identity: str) -> str:
        """The conversation as a JSON object: title, times, messages with attachments (name, digest) and traces."""
        conversation = self._required(identity)
        messages = [
            {
                "role": message.role,
                "text": message.text,
                "status": message.status,
                "error": message.error,
                "created": message.created,
                "attachments": [vars(attached) for attached in message.attachments],
                "trace": message.trace,
            }
            for message in self.messages(identity)
        ]
        return json.dumps({**vars(conversation), "messages": messages}, ensure_ascii=False, indent=2) + "\n"

    # ---------------------------------------------------------------- SQLite

    def _open(self) -> sqlite3.Connection:
        """Open the database on disk, or one in memory when the folder cannot be written."""
        path = self.folder / _FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            database = _connected(str(path))
            database.executescript(_SCHEMA)
            _stop_abandoned(database)
            return database
        except (OSError, sqlite3.OperationalError) as problem:
            self._on_disk, self.problem = False, self._sentence(str(getattr(problem, "strerror", None) or problem))
            return self._memory_from(path)
        except sqlite3.DatabaseError:
            aside = path.with_name(f"conversations.damaged-{int(time.time())}.sqlite3")
            path.rename(aside)
            self.problem = f"The list of conversations was damaged and is set aside as {aside}: a new one begins here."
            return self._open()

    def _sentence(self, reason: str) -> str:
        return (
            f"Conversations cannot be kept in {self.folder} ({reason}): this one goes on in memory and ends with the "
            "program; free some space there or set MATTONI_HOME to a folder of yours."
        )

    def _memory_from(self, path: Path) -> sqlite3.Connection:
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

    def _go_on_in_memory(self, reason: str) -> None:
        """Move the open database into memory after a write failed (a full disk)."""
        memory = _connected(":memory:")
        self._database.rollback()
        self._database.backup(memory)
        memory.executescript(_SCHEMA)
        self._database.close()
        self._database, self._on_disk, self.problem = memory, False, self._sentence(reason)

    @contextmanager
    def _writing(self) -> Iterator["_Writer"]:
        """One transaction; when the disk refuses it, the same statements again on a copy in memory."""
        writer = _Writer(self)
        with self._lock:
            try:
                yield writer
                writer.commit()
            except BaseException:
                self._database.rollback()
                raise

    def _rows(self, statement: str, values: Sequence[object] | dict[str, object] = ()) -> list[Any]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()

    def _require(self, conversation: str) -> None:
        if not self._rows("SELECT 1 FROM conversations WHERE id = ?", (conversation,)):
            raise MattoniError("This conversation was deleted: begin a new one.")

    def _required(self, identity: str) -> Conversation:
        self._require(identity)
        found = self.conversation(identity)
        assert found is not None
        return found

    def _conversation_of(self, message: int) -> str:
        rows = self._rows("SELECT conversation FROM messages WHERE id = ?", (message,))
        if not rows:
            raise MattoniError("This message was deleted: ask again.")
        return str(rows[0][0])


class _Writer:
    """The statements of one transaction, remembered so that they can be said again in memory."""

    def __init__(self, store: ConversationStore) -> None:
        self._store = store
        self._said: list[tuple[str, Any, bool]] = []

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        return self._do(statement, values, many=False)

    def executemany(self, statement: str, rows: Sequence[Sequence[object]]) -> sqlite3.Cursor:
        return self._do(statement, rows, many=True)

    def commit(self) -> None:
        try:
            self._store._database.commit()
        except sqlite3.OperationalError as problem:
            self._again(problem)
            self._store._database.commit()

    def _do(self, statement: str, values: Any, many: bool) -> sqlite3.Cursor:
        self._said.append((statement, values, many))
        try:
            return self._run(statement, values, many)
        except sqlite3.OperationalError as problem:
            return self._again(problem)

    def _run(self, statement: str, values: Any, many: bool) -> sqlite3.Cursor:
        database = self._store._database
        return database.executemany(statement, values) if many else database.execute(statement, values)

    def _again(self, problem: sqlite3.OperationalError) -> sqlite3.Cursor:
        if not self._store._on_disk:
            raise problem
        self._store._go_on_in_memory(str(problem))
        cursors = [self._run(*said) for said in self._said]
        return cursors[-1]


def _connected(name: str) -> sqlite3.Connection:
    database = sqlite3.connect(name, check_same_thread=False, timeout=10)
    database.create_function("fold", 1, lambda text: str(text).casefold(), deterministic=True)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        database.execute(f"PRAGMA {pragma}")
    return database


def _this_process() -> str:
    """Names this process also after its number has been given to another."""
    return f"{os.getpid()} {psutil.Process().create_time()}"


def _is_alive(writer: str) -> bool:
    number, _, begun = writer.partition(" ")
    try:
        return str(psutil.Process(int(number)).create_time()) == begun
    except (psutil.Error, ValueError):
        return False


def _stop_abandoned(database: sqlite3.Connection) -> None:
    """Mark answers whose writer is gone as stopped; what had been said is kept. Another living process writes on."""
    running = database.execute("SELECT id, writer FROM messages WHERE status = 'running'").fetchall()
    abandoned = [(message,) for message, writer in running if not _is_alive(writer or "")]
    database.executemany("UPDATE messages SET status = 'stopped' WHERE id = ?", abandoned)
    database.commit()


def _dumped(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _loaded(value: str | None) -> Any:
    return None if value is None else json.loads(value)


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


_stores: dict[Path, ConversationStore] = {}
_stores_lock = threading.Lock()


def open_store(folder: Path | None = None) -> ConversationStore:
    """The store of a folder (the user's own by default): one per process, so that all threads see what memory holds."""
    place = (folder or data_folder()).absolute()
    with _stores_lock:
        if place not in _stores:
            _stores[place] = ConversationStore(place)
        return _stores[place]

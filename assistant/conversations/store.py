"""Keeps conversations: everything said is on disk before anybody is told that it was said.

A killed process loses nothing but the last half second of a running answer. The facade over the tables (`database.py`),
the files of attachments (`attachments.py`) and the exports (`export.py`); knows nothing of pages, hosts or traces, and not
which database it is.
"""

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from assistant.conversations.attachments import AttachmentFiles, unheld
from assistant.conversations.database import Database, Statements
from assistant.conversations.export import as_json, as_markdown
from assistant.conversations.records import Attached, Conversation, Counts, Sent, Status, StoredMessage, title_from
from assistant.conversations.sqlite import SqliteDatabase
from mattoni.errors import MattoniError
from mattoni.paths import data_folder, person_folder


class ConversationStore:
    """Conversations, their messages and attachments; every method may be called from any thread.

    What a turn keeps of itself (`segments`, `trace`) becomes JSON here and comes back as JSON; it is never looked into.
    """

    def __init__(self, folder: Path, url: str | None = None, schema: str | None = None) -> None:
        """Open what is kept in a folder.

        url      of the PostgreSQL server that has the tables (they are in SQLite otherwise); attachments stay in the folder
        schema   where in that database they are; None: where its user's are
        Raises MattoniError when that server cannot be used.
        """
        self.folder = folder
        self._database = _open_database(folder, url, schema)
        self._files = AttachmentFiles(folder / self._database.attachments, self._database)

    def close(self) -> None:
        """End it; nothing may be asked of it any more."""
        self._database.close()

    def destroy(self) -> None:
        """End it with everything that was said and sent; nothing may be asked of it any more. Raises MattoniError.

        Only for a store of one person, as `open_store` makes them: what several share in a database would go too.
        """
        self._database.destroy()
        self._files.remove_all()

    @property
    def problem(self) -> str | None:
        """The sentence for the user when disk or server do not do as they should: what is said then lives in memory only."""
        return self._database.problem

    # ---------------------------------------------------------------- conversations

    def new(self, title: str | None = None) -> str:
        """Begin a conversation; without a title the first question names it."""
        identity, now = uuid.uuid4().hex, time.time()
        self._database.write(
            lambda tables: tables.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?, ?)",
                (identity, title or "New conversation", int(title is not None), now, now),
            )
        )
        return identity

    def conversations(self, search: str = "") -> list[Conversation]:
        """All conversations, the latest first; with `search`, those whose title or text holds it, in any case."""
        wanted, holds = search.strip(), self._database.holds
        where = f"""WHERE {holds("title")}
                    OR EXISTS (SELECT 1 FROM messages AS m WHERE m.conversation = c.id AND {holds("m.text")})
                    OR EXISTS (SELECT 1 FROM messages AS m JOIN attachments AS a ON a.message = m.id
                               WHERE m.conversation = c.id AND {holds("a.name")})"""
        rows = self._database.rows(
            f"""SELECT id, title, created, updated FROM conversations AS c {where if wanted else ""}
                ORDER BY updated DESC, created DESC""",
            (wanted, wanted, wanted) if wanted else (),
        )
        return [Conversation(*row) for row in rows]

    def conversation(self, identity: str) -> Conversation | None:
        """The conversation, or None when there is none of that id (it was deleted, or the address is wrong)."""
        return _conversation(self._database, identity)

    def rename(self, identity: str, title: str) -> None:
        """Give a conversation a title of the user's own."""
        shown = title_from(title)
        self._database.write(
            lambda tables: tables.execute(
                "UPDATE conversations SET title = ?, named = 1 WHERE id = ?", (shown, identity)
            )
        )

    def choices(self, identity: str) -> dict[str, Any] | None:
        """What the user set for a conversation, as whoever kept it says it; None: nothing was kept."""
        rows = self._database.rows("SELECT told FROM choices WHERE conversation = ?", (identity,))
        return _loaded(rows[0][0]) if rows else None

    def keep_choices(self, identity: str, told: Mapping[str, Any]) -> None:
        """Keep what the user set for a conversation, which is JSON of whoever wrote it; nothing, where it is gone."""
        self._database.write(
            lambda tables: tables.execute(
                """INSERT INTO choices (conversation, told) SELECT id, ? FROM conversations WHERE id = ?
                   ON CONFLICT (conversation) DO UPDATE SET told = excluded.told""",
                (json.dumps(told), identity),
            )
        )

    def delete(self, identity: str) -> set[str]:
        """Delete a conversation, its messages and every attachment that no other conversation holds.

        Returns the digests of the attachments that are gone with it. What a running turn would still write of it is
        dropped; memory is the assistant's (`Assistant.delete_conversation`).
        """

        def delete(tables: Statements) -> set[str]:
            before = _digests(tables, identity)
            tables.execute("DELETE FROM conversations WHERE id = ?", (identity,))
            return before

        return self._delete(delete)

    # ---------------------------------------------------------------- messages

    def messages(self, conversation: str) -> list[StoredMessage]:
        """All messages of a conversation, in order."""
        with self._database.lock:
            rows = self._database.rows(
                """SELECT id, role, text, status, created, error, segments, token_ids, trace
                   FROM messages WHERE conversation = ? ORDER BY id""",
                (conversation,),
            )
            attached: dict[int, list[Attached]] = {}
            for message, *values in self._database.rows(
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
        rows = self._database.rows(
            """SELECT c.title, count(m.id), max(m.id), count(CASE WHEN m.status = 'running' THEN 1 END) FROM conversations AS c
               LEFT JOIN messages AS m ON m.conversation = c.id WHERE c.id = ? GROUP BY c.id""",
            (conversation,),
        )
        return repr(rows)

    def add_question(self, conversation: str, text: str, attachments: Sequence[Sent] = (), segments: Any = None) -> int:
        """Keep a question with its attachments and return its message id. The first one names the conversation."""
        now = time.time()

        def add(tables: Statements) -> int:
            _required(tables, conversation)
            kept = [self._files.keep(sent) for sent in attachments]
            message = tables.insert(
                """INSERT INTO messages (conversation, role, text, status, segments, created)
                   VALUES (?, 'user', ?, 'done', ?, ?)""",
                (conversation, text, _dumped(segments), now),
            )
            tables.executemany(
                "INSERT INTO attachments VALUES (?, ?, ?, ?, ?, ?)",
                [(message, place, a.digest, a.name, a.kind, a.bytes) for place, a in enumerate(kept)],
            )
            _name_by_question(tables, conversation, title_from(text, [a.name for a in kept]))
            tables.execute("UPDATE conversations SET updated = ? WHERE id = ?", (now, conversation))
            return message

        return self._database.write(add)

    def begin_answer(self, conversation: str) -> int:
        """Keep an empty answer that is being written and return its message id."""
        now = time.time()

        def begin(tables: Statements) -> int:
            _required(tables, conversation)
            return tables.insert(
                """INSERT INTO messages (conversation, role, text, status, writer, created)
                   VALUES (?, 'assistant', '', 'running', ?, ?)""",
                (conversation, self._database.writer, now),
            )

        return self._database.write(begin)

    def update_answer(self, message: int, text: str) -> None:
        """Keep what has been said so far. An answer that was deleted meanwhile stays deleted."""
        self._database.write_soon(
            ("answer", message),
            lambda tables: tables.execute("UPDATE messages SET text = ? WHERE id = ?", (text, message)),
        )

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
        ids, now = None if token_ids is None else list(token_ids), time.time()
        values = (text, status, error, _dumped(trace), _dumped(ids), _dumped(segments), message)

        def finish(tables: Statements) -> None:
            tables.execute(
                "UPDATE messages SET text=?, status=?, error=?, trace=?, token_ids=?, segments=? WHERE id=?", values
            )
            tables.execute(
                "UPDATE conversations SET updated = ? WHERE id = (SELECT conversation FROM messages WHERE id = ?)",
                (now, message),
            )

        self._database.write_soon(("answer", message), finish)

    def update_question(self, message: int, segments: Any) -> None:
        """Keep what a question became when it was looked at (opaque here)."""
        told = _dumped(segments)
        self._database.write_soon(
            ("question", message),
            lambda tables: tables.execute("UPDATE messages SET segments = ? WHERE id = ?", (told, message)),
        )

    def edit_question(self, message: int, text: str) -> set[str]:
        """Change a question, drop what its old words became and everything after it; its attachments stay.

        Returns the digests of the later attachments that are gone.
        """

        def edit(tables: Statements) -> set[str]:
            conversation = _conversation_of(tables, message)
            before = _digests(tables, conversation)
            tables.execute(
                """UPDATE messages SET text = ?, segments = NULL, token_ids = NULL, trace = NULL
                   WHERE id = ? AND role = 'user'""",
                (text, message),
            )
            tables.execute("DELETE FROM messages WHERE conversation = ? AND id > ?", (conversation, message))
            _name_by_question(tables, conversation, title_from(text))
            return before

        return self._delete(edit)

    def drop_last_answer(self, conversation: str) -> StoredMessage | None:
        """Drop what follows the last question, to answer it again; returns that question, None when there is none."""

        def drop(tables: Statements) -> int | None:
            wanted = "SELECT max(id) FROM messages WHERE conversation = ? AND role = 'user'"
            last: int | None = tables.rows(wanted, (conversation,))[0][0]
            if last is not None:
                tables.execute("DELETE FROM messages WHERE conversation = ? AND id > ?", (conversation, last))
            return last

        last = self._database.write(drop)
        return next((message for message in self.messages(conversation) if message.id == last), None)

    def change_traces(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Rewrite the traces of all messages; what they held before is in no file afterwards."""

        def rewrite(tables: Statements) -> None:
            rows = tables.rows("SELECT id, trace FROM messages WHERE trace IS NOT NULL")
            changed = [(_dumped(change(_loaded(old))), message, old) for message, old in rows]
            tables.executemany(
                "UPDATE messages SET trace = ? WHERE id = ?",
                [(new, message) for new, message, old in changed if new != old],
            )

        self._database.write(rewrite)
        self._database.forget_deleted()

    # ---------------------------------------------------------------- how much there is

    def counts(self) -> Counts:
        """How much there is of everything."""
        ((conversations,),) = self._database.rows("SELECT count(*) FROM conversations")
        ((messages,),) = self._database.rows("SELECT count(*) FROM messages")
        return Counts(conversations, messages, self._database.bytes_elsewhere)

    def traces(self) -> list[dict[str, Any]]:
        """The traces of all answers."""
        return [_loaded(told) for (told,) in self._database.rows("SELECT trace FROM messages WHERE trace IS NOT NULL")]

    # ---------------------------------------------------------------- attachments and exports

    def content(self, digest: str) -> bytes:
        """The bytes of an attachment. Raises MattoniError when they are gone."""
        return self._files.content(digest)

    def export_markdown(self, identity: str) -> str:
        """The conversation as a Markdown document; attachments by name."""
        return as_markdown(_required(self._database, identity), self.messages(identity))

    def export_json(self, identity: str) -> str:
        """The conversation as a JSON object: title, times, messages with attachments (name, digest) and traces."""
        return as_json(_required(self._database, identity), self.messages(identity))

    # ---------------------------------------------------------------- inside

    def _delete(self, body: Callable[[Statements], set[str]]) -> set[str]:
        """Run a transaction that deletes, and take what was deleted out of files and log too.

        body   returns the attachments that were held before
        Returns which of them are gone.
        """
        before: set[str] = set()

        def delete(tables: Statements) -> set[str]:
            before.update(body(tables))
            return unheld(tables, before)

        try:
            return self._database.write(delete)
        finally:  # also where nobody knows whether it was written: what a message holds then stays
            self._files.remove_unheld(before)
            self._database.forget_deleted()


def _digests(tables: Statements, conversation: str) -> set[str]:
    rows = tables.rows(
        "SELECT DISTINCT digest FROM attachments WHERE message IN (SELECT id FROM messages WHERE conversation = ?)",
        (conversation,),
    )
    return {digest for (digest,) in rows}


def _name_by_question(tables: Statements, conversation: str, title: str) -> None:
    """Name a conversation that nobody has named, while its first question is its only message."""
    tables.execute(
        """UPDATE conversations SET title = ? WHERE id = ? AND named = 0
           AND (SELECT count(*) FROM messages WHERE conversation = ?) = 1""",
        (title, conversation, conversation),
    )


def _conversation(tables: Statements | Database, identity: str) -> Conversation | None:
    rows = tables.rows("SELECT id, title, created, updated FROM conversations WHERE id = ?", (identity,))
    return Conversation(*rows[0]) if rows else None


def _required(tables: Statements | Database, identity: str) -> Conversation:
    found = _conversation(tables, identity)
    if found is None:
        raise MattoniError("This conversation was deleted: begin a new one.")
    return found


def _conversation_of(tables: Statements, message: int) -> str:
    rows = tables.rows("SELECT conversation FROM messages WHERE id = ?", (message,))
    if not rows:
        raise MattoniError("This message was deleted: ask again.")
    return str(rows[0][0])


def _dumped(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _loaded(value: str | None) -> Any:
    return None if value is None else json.loads(value)


def _open_database(folder: Path, url: str | None, schema: str | None) -> Database:
    if url is None:
        return SqliteDatabase(folder)
    try:
        from assistant.conversations.postgres import PostgresDatabase
    except ImportError as problem:
        raise MattoniError(
            'MATTONI_DATABASE names a PostgreSQL server, and what talks to one is missing: pip install "mattoni[postgres]".'
        ) from problem
    return PostgresDatabase(url, schema)


def open_store(person: str | None = None) -> ConversationStore:
    """A person's store: in the database that MATTONI_DATABASE names, else in their data folder.

    person   of those who signed in; None: whoever runs Mattoni alone

    Open it once in a process and pass it on: where the disk fails, what was said is in that object's memory only.
    """
    folder = data_folder() if person is None else person_folder(person)
    schema = None if person is None else f"mattoni_{person}"
    return ConversationStore(folder.absolute(), os.environ.get("MATTONI_DATABASE") or None, schema)

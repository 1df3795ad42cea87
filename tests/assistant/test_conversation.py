"""The conversation store: nothing said is lost, deleting deletes, and a bad disk costs one sentence."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from assistant.conversations import sqlite
from assistant.conversations.records import Attached, title_from
from assistant.conversations.store import ConversationStore
from mattoni.errors import MattoniError

PNG = b"\x89PNG\r\n\x1a\n" + b"drawn by hand"


@dataclass(frozen=True)
class Sent:
    name: str
    content: bytes


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("postgres").new_database() if request.param == "postgres" else None


@pytest.fixture
def opened(url: str | None, tmp_path: Path) -> Iterator[Callable[[], ConversationStore]]:
    """Opens the same conversations each time, as another process would."""
    with contextlib.ExitStack() as stores:
        yield lambda: stores.enter_context(contextlib.closing(ConversationStore(tmp_path / "home", url)))


@pytest.fixture
def store(opened: Callable[[], ConversationStore]) -> ConversationStore:
    return opened()


@pytest.fixture
def file(tmp_path: Path) -> ConversationStore:
    """A store in SQLite, for what only a file can do."""
    return ConversationStore(tmp_path / "home")


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def turn(store: ConversationStore, conversation: str, question: str, answer: str) -> tuple[int, int]:
    asked = store.add_question(conversation, question)
    said = store.begin_answer(conversation)
    store.finish_answer(said, answer, "done", trace={"seed": 1}, token_ids=[1, 2])
    return asked, said


def test_a_conversation_comes_back_whole_after_a_restart(opened):
    first = opened()
    talk = first.new()
    first.add_question(talk, "The total?", [Sent("receipt.png", PNG), Sent("a.txt", b"text")], segments=[["text", "x"]])
    trace = {"bricks": [{"name": "document"}]}
    first.finish_answer(first.begin_answer(talk), "9.50", "done", trace=trace, token_ids=[5, 6], segments=["s"])

    question, said = opened().messages(talk)
    assert (question.role, question.text, question.segments) == ("user", "The total?", [["text", "x"]])
    assert [(a.name, a.kind) for a in question.attachments] == [("receipt.png", "picture"), ("a.txt", "document")]
    assert opened().content(question.attachments[0].digest) == PNG
    assert (said.text, said.status, said.token_ids, said.segments) == ("9.50", "done", [5, 6], ["s"])
    assert said.trace == trace


def test_the_first_question_names_a_conversation_until_the_user_does(store):
    talk = store.new()
    turn(store, talk, "What does\n this receipt say about the price of tomatoes and cheese?", "a")
    turn(store, talk, "And now?", "b")
    assert store.conversation(talk).title == "What does this receipt say about the price of t…"
    store.rename(talk, "Tomatoes")
    turn(store, talk, "More", "c")
    assert store.conversation(talk).title == "Tomatoes"
    assert title_from("", ["photo.jpg"]) == "photo.jpg"


def test_a_killed_process_keeps_the_question_and_what_was_said(opened, store):
    script = f"""
import os, signal
from pathlib import Path
from assistant.conversations.store import ConversationStore
store = ConversationStore(Path({str(store.folder)!r}), os.environ.get("MATTONI_DATABASE"))
talk = store.new()
store.add_question(talk, "Tell me a story")
store.update_answer(store.begin_answer(talk), "Once upon a")
os.kill(os.getpid(), signal.SIGKILL)
"""
    url = getattr(store._database, "_url", None)
    environment = {**os.environ, **({"MATTONI_DATABASE": url} if url else {})}
    assert subprocess.run([sys.executable, "-c", script], env=environment).returncode == -9
    store = opened()
    (talk,) = store.conversations()
    question, answer = store.messages(talk.id)
    assert question.text == "Tell me a story"
    assert (answer.text, answer.status) == ("Once upon a", "stopped")


def test_an_answer_that_another_process_is_writing_stays_running(opened, store):
    talk = store.new()
    store.add_question(talk, "still being answered")
    store.begin_answer(talk)
    assert opened().messages(talk)[1].status == "running"


def test_deleting_removes_every_byte_but_not_what_another_conversation_holds(store, tmp_path):
    kept, gone = store.new(), store.new()
    store.add_question(kept, "shared?", [Sent("a.png", PNG)])
    store.add_question(gone, "my secret-question", [Sent("b.png", PNG), Sent("only-here.txt", b"secret-bytes")])
    store.finish_answer(store.begin_answer(gone), "a secret-answer", "done", trace={"note": "secret-trace"})
    shared = store.messages(kept)[0].attachments[0].digest
    store.delete(gone)
    left = everything_in(tmp_path)
    assert b"secret" not in left and b"only-here" not in left
    assert store.content(shared) == PNG
    store.delete(kept)
    assert PNG not in everything_in(tmp_path)
    with pytest.raises(MattoniError, match="no longer in .*: attach the file again"):
        store.content(shared)


def test_search_finds_titles_answers_and_file_names_in_any_case(store):
    one, two = store.new(), store.new()
    store.add_question(one, "Über Äpfel", [Sent("Quittung.png", PNG)])
    turn(store, two, "Pears", "They are GREEN, 100% sure")
    assert [c.id for c in store.conversations("äPFEL")] == [one]
    assert [c.id for c in store.conversations("quittung")] == [one]
    assert [c.id for c in store.conversations("green, 100%")] == [two]
    assert store.conversations("%") == [store.conversation(two)]
    assert [c.id for c in store.conversations()] == [two, one]


def test_editing_a_question_leaves_nothing_stale_behind(store, tmp_path):
    talk = store.new()
    asked = store.add_question(talk, "old-words", [Sent("a.png", PNG)], segments=["old-segments"])
    store.finish_answer(store.begin_answer(talk), "old-answer", "done", token_ids=[1])
    store.add_question(talk, "later", [Sent("later.txt", b"later-bytes")])
    store.edit_question(asked, "new words")
    (question,) = store.messages(talk)
    assert (question.text, question.segments, len(question.attachments)) == ("new words", None, 1)
    left = everything_in(tmp_path)
    assert b"old-" not in left and b"later-bytes" not in left
    assert store.conversation(talk).title == "new words"


def test_answering_again_drops_only_what_follows_the_last_question(store):
    talk = store.new()
    assert store.drop_last_answer(talk) is None
    turn(store, talk, "one", "1")
    turn(store, talk, "two", "2")
    assert store.drop_last_answer(talk).text == "two"
    assert [m.text for m in store.messages(talk)] == ["one", "1", "two"]


def test_stopping_keeps_the_question_and_the_partial_answer(store):
    talk = store.new()
    store.add_question(talk, "count")
    store.finish_answer(store.begin_answer(talk), "one two", "stopped")
    assert [(m.text, m.status) for m in store.messages(talk)] == [("count", "done"), ("one two", "stopped")]


def test_a_deleted_conversation_takes_no_more_messages(store):
    talk = store.new()
    store.add_question(talk, "hello")
    answer = store.begin_answer(talk)
    store.delete(talk)
    store.update_answer(answer, "late words")
    store.finish_answer(answer, "late words", "done")
    assert store.messages(talk) == []
    with pytest.raises(MattoniError, match="was deleted: begin a new one"):
        store.add_question(talk, "again")


def test_exports_hold_the_words_the_names_and_the_bricks(store):
    talk = store.new("Receipts")
    store.add_question(talk, "total?", [Sent("r.png", PNG)])
    store.finish_answer(store.begin_answer(talk), "9.50", "stopped", trace={"bricks": [{"name": "document"}]})
    text = store.export_markdown(talk)
    assert text.startswith("# Receipts\n")
    for part in ("## You\n\nAttached: r.png\n\ntotal?", "## Mattoni\n\n9.50", "*(stopped)*", "Bricks: document"):
        assert part in text
    values = json.loads(store.export_json(talk))
    assert values["title"] == "Receipts" and values["messages"][0]["attachments"][0]["name"] == "r.png"
    assert values["messages"][1]["trace"]["bricks"] == [{"name": "document"}]


def test_many_threads_write_at_once_and_nothing_is_mixed(store):
    talks = [store.new() for _ in range(8)]

    def work(place: int) -> None:
        for number in range(10):
            store.add_question(talks[place], f"{place}:{number}", [Sent("f", f"bytes {place}".encode())])
            answer = store.begin_answer(talks[place])
            store.update_answer(answer, "half")
            store.finish_answer(answer, f"answer {place}:{number}", "done")

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, talk in enumerate(talks):
        expected = [text for number in range(10) for text in (f"{place}:{number}", f"answer {place}:{number}")]
        assert [message.text for message in store.messages(talk)] == expected
        assert store.content(store.messages(talk)[0].attachments[0].digest) == f"bytes {place}".encode()


def test_a_home_that_cannot_be_written_costs_one_sentence_and_no_word(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = ConversationStore(tmp_path / "file" / "home")
    assert "goes on in memory" in store.problem and "MATTONI_HOME" in store.problem
    talk = store.new()
    store.add_question(talk, "still here?", [Sent("a.png", PNG)])
    (question,) = store.messages(talk)
    assert store.content(question.attachments[0].digest) == PNG
    store.delete(talk)
    assert store.conversations() == []


def test_a_disk_that_fills_up_moves_the_conversation_into_memory(file):
    store = file
    talk = store.new()
    turn(store, talk, "before", "said")
    pages = store._database._connection.execute("PRAGMA page_count").fetchone()[0]
    store._database._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "database or disk is full"
    asked = store.add_question(talk, "x" * 100_000, [Sent("a.png", PNG)])
    answer = store.begin_answer(talk)
    store.finish_answer(answer, "y" * 100_000, "done")
    assert "database or disk is full" in store.problem and "goes on in memory" in store.problem
    assert [m.text[:6] for m in store.messages(talk)] == ["before", "said", "xxxxxx", "yyyyyy"]
    assert (asked, answer) == tuple(m.id for m in store.messages(talk)[2:])


def test_a_damaged_database_is_set_aside_not_overwritten(tmp_path):
    (tmp_path / "conversations.sqlite3").write_bytes(b"this is no database" * 100)
    store = ConversationStore(tmp_path)
    assert "set aside" in store.problem and store.conversations() == []
    store.new()
    (aside,) = tmp_path.glob("conversations.damaged-*.sqlite3")
    assert aside.read_bytes().startswith(b"this is no database")


def test_the_log_is_write_ahead(tmp_path):
    ConversationStore(tmp_path)
    assert sqlite3.connect(tmp_path / "conversations.sqlite3").execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_database_of_an_earlier_version_opens_with_everything_said_in_it(tmp_path):
    """Written statement by statement as the first release wrote it: what that kept must be readable for good."""
    old = sqlite3.connect(tmp_path / "conversations.sqlite3")
    old.executescript(
        """
        CREATE TABLE conversations (id TEXT PRIMARY KEY, title TEXT NOT NULL, named INTEGER NOT NULL DEFAULT 0,
                                    created REAL NOT NULL, updated REAL NOT NULL);
        CREATE TABLE messages (id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE, role TEXT NOT NULL,
            text TEXT NOT NULL, status TEXT NOT NULL, writer TEXT, error TEXT, segments TEXT, token_ids TEXT, trace TEXT,
            created REAL NOT NULL);
        CREATE TABLE attachments (message INTEGER NOT NULL REFERENCES messages(id) ON DELETE CASCADE,
            place INTEGER NOT NULL, digest TEXT NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL, bytes INTEGER NOT NULL,
            PRIMARY KEY (message, place));
        INSERT INTO conversations VALUES ('talk', 'A receipt', 0, 1.0, 2.0);
        INSERT INTO messages VALUES (1, 'talk', 'user', 'Total?', 'done', NULL, NULL,
            '[{"name": "a.png", "picture": "ab", "brick": "document", "text": "9.50"}]', NULL, NULL, 1.0);
        INSERT INTO messages VALUES (2, 'talk', 'assistant', '9.50', 'done', '1 0.0', NULL, '{"vocabulary": "v"}', '[5]',
            '{"seed": 1}', 2.0);
        INSERT INTO attachments VALUES (1, 0, 'ab', 'a.png', 'picture', 3);
        """
    )
    old.close()
    store = ConversationStore(tmp_path)
    assert [c.title for c in store.conversations("RECEIPT")] == ["A receipt"] and store.problem is None
    question, answer = store.messages("talk")
    assert question.segments == [{"name": "a.png", "picture": "ab", "brick": "document", "text": "9.50"}]
    assert question.attachments == (Attached("ab", "a.png", "picture", 3),)
    assert (answer.segments, answer.token_ids, answer.trace) == ({"vocabulary": "v"}, [5], {"seed": 1})
    store.add_question("talk", "And the date?")
    assert len(store.messages("talk")) == 3


def test_deleting_says_which_attachments_are_gone_for_good(store):
    kept, gone = store.new(), store.new()
    store.add_question(kept, "shared?", [Sent("a.png", PNG)])
    store.add_question(gone, "both", [Sent("b.png", PNG), Sent("only-here.txt", b"bytes")])
    shared, own = (attached.digest for attached in store.messages(gone)[0].attachments)
    assert store.delete(gone) == {own}
    assert store.delete(gone) == set()
    assert store.delete(kept) == {shared}


def test_editing_says_which_later_attachments_are_gone(store):
    talk = store.new()
    first = store.add_question(talk, "one", [Sent("a.png", PNG)])
    store.add_question(talk, "two", [Sent("a.txt", b"later")])
    (later,) = store.messages(talk)[1].attachments
    assert store.edit_question(first, "one, but better") == {later.digest}


def test_a_file_that_is_deleted_in_one_process_while_another_sends_it_again_is_kept(opened, tmp_path):
    """Each process is a store of its own on the same folder; whoever holds the file last must find its bytes."""
    stores = [opened(), opened()]
    problems = []

    def send_and_delete(store: ConversationStore) -> None:
        for _ in range(25):
            talk = store.new()
            store.add_question(talk, "same file", [Sent("a.png", PNG)])
            (attached,) = store.messages(talk)[0].attachments
            try:
                store.content(attached.digest)
            except MattoniError as problem:
                problems.append(str(problem))
            store.delete(talk)

    threads = [threading.Thread(target=send_and_delete, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and all(store.problem is None for store in stores)
    assert PNG not in everything_in(tmp_path)


def test_what_was_deleted_beside_a_reader_leaves_the_log_with_the_next_query(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.05)
    store = ConversationStore(tmp_path)
    talk = store.new()
    store.add_question(talk, "an open secret")

    def on_disk() -> bool:
        return any(b"an open secret" in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())

    reader = sqlite3.connect(next(tmp_path.glob("*.sqlite3")), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM messages").fetchall()
    store.delete(talk)
    assert on_disk()
    reader.close()
    store.conversations()
    assert not on_disk()

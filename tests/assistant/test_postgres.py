"""Conversations on a real PostgreSQL server: what may be wrong with it, and what happens when it goes away."""

import contextlib
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from assistant.conversations import postgres as module
from assistant.conversations.database import DatabaseAway
from assistant.conversations.process import this_machine
from assistant.conversations.store import ConversationStore, open_store
from assistant.host.sampling import Sampling
from mattoni.errors import MattoniError
from tests.assistant.test_conversation import PNG, Sent, everything_in, opened, store, turn
from tests.postgres import PASSWORD, Server

__all__ = ["opened", "store"]


@pytest.fixture
def url(postgres: Server) -> str:
    return postgres.new_database()


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The server away, and there again whatever happens."""
    server.stop()
    try:
        yield
    finally:
        server.start()


def await_server(store: ConversationStore) -> None:
    until = time.monotonic() + 20
    while store.problem is not None:
        assert time.monotonic() < until, store.problem
        time.sleep(0.05)


def query(url: str, statement: str) -> list:
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(statement)
        return found.fetchall() if found.description else []


def refused(url: str, folder: Path) -> str:
    """The sentence for a database that cannot be used; the password is in nothing that could be printed of it."""
    with pytest.raises(MattoniError) as caught:
        ConversationStore(folder, url)
    told = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in told and "s3cret" not in told
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "s3cret",
        "mysql://anna:s3cret@localhost/talks",
        "postgresql://anna:s3cret@localhost:port/talks",
        "postgresql://anna:12/s3cret@localhost/talks",
        "postgresql://anna:a@s3cret@localhost/talks",
        "postgresql://anna:%zzs3cret@localhost/talks",
        "postgresql://localhost/talks?passwort=s3cret",
    ],
)
def test_what_is_no_address_costs_one_sentence_that_does_not_repeat_it(address, tmp_path):
    assert "write postgresql://USER:PASSWORD@HOST:PORT/DATABASE" in refused(address, tmp_path)


def test_a_server_that_is_not_there_costs_one_sentence(tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        sentence = refused(f"postgresql://anna:s3cret@127.0.0.1:{port}/talks", tmp_path)
    assert sentence == (
        f"The database talks on 127.0.0.1:{port} does not answer (Connection refused): "
        "start the server, or correct MATTONI_DATABASE."
    )


def test_a_wrong_password_and_a_database_that_is_not_there_cost_one_sentence(postgres, url, tmp_path):
    wrong = refused(url.replace(postgres.url("")[:-1], postgres.url("", password="s3cret")[:-1]), tmp_path)
    assert 'lets nobody in (password authentication failed for user "mattoni"): correct user, password' in wrong
    missing = refused(postgres.url("nowhere"), tmp_path)
    assert 'lets nobody in (database "nowhere" does not exist)' in missing


def test_a_user_who_may_make_no_tables_is_told_and_may_use_tables_that_are_there(postgres, url, tmp_path):
    query(url, "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 's3cret'")
    guest = url.replace(postgres.url("")[:-1], postgres.url("", "guest", "s3cret")[:-1])
    sentence = refused(guest, tmp_path)
    assert "lets its user make no tables, or not use them (permission denied for schema public)" in sentence
    assert "GRANT CREATE ON SCHEMA public" in sentence

    ConversationStore(tmp_path, url).close()
    query(
        url,
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO guest; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO guest",
    )
    with contextlib.closing(ConversationStore(tmp_path, guest)) as store:
        turn(store, store.new(), "May I?", "Yes.")
        assert [m.text for m in store.messages(store.conversations()[0].id)] == ["May I?", "Yes."]


def test_a_database_that_cannot_hold_every_word_or_is_somebody_elses_costs_one_sentence(postgres, tmp_path):
    ascii_only = postgres.new_database("TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
    assert "is kept in SQL_ASCII and cannot hold every word" in refused(ascii_only, tmp_path)
    other = postgres.new_database()
    query(other, "CREATE TABLE messages (subject TEXT)")
    sentence = refused(other, tmp_path)
    assert "has other tables than Mattoni's" in sentence and "make one for Mattoni alone" in sentence
    assert query(other, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(1,)]


def test_without_psycopg_the_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "assistant.conversations.postgres", None)
    assert 'pip install "mattoni[postgres]"' in refused("postgresql://localhost/talks", tmp_path)


def test_the_users_store_is_in_the_database_that_the_environment_names(url, monkeypatch, home):
    monkeypatch.setenv("MATTONI_DATABASE", url)
    with contextlib.closing(open_store()) as store:
        store.add_question(store.new(), "Where am I?", [Sent("a.png", PNG)])
    assert query(url, "SELECT text FROM messages") == [("Where am I?",)]
    written = everything_in(home)
    assert PNG in written and b"Where am I?" not in written and PASSWORD.encode() not in written
    assert not list(home.rglob("*.sqlite3"))


def test_attachments_of_a_database_are_not_those_of_sqlite_in_the_same_folder(store):
    file = ConversationStore(store.folder)
    for each in (file, store):
        each.add_question(each.new(), "shared?", [Sent("a.png", PNG)])
    (talk,) = store.conversations()
    store.delete(talk.id)
    (attached,) = file.messages(file.conversations()[0].id)[0].attachments
    assert file.content(attached.digest) == PNG
    assert len([path for path in store.folder.rglob("*") if path.name == attached.digest]) == 1
    file.close()


def test_texts_with_signs_that_sql_and_postgresql_know_come_back(store):
    talk = store.new()
    store.add_question(talk, "100 % of 'what'? \\ \" ; -- :x %s ␀ \0", [Sent("a\0b?.txt", b"x")])
    store.finish_answer(store.begin_answer(talk), "😀 ?", "done", trace={"nul": "\0"})
    question, answer = store.messages(talk)
    assert question.text == "100 % of 'what'? \\ \" ; -- :x %s ␀ ␀" and question.attachments[0].name == "a␀b?.txt"
    assert (answer.text, answer.trace) == ("😀 ?", {"nul": "\0"})
    assert [c.id for c in store.conversations("100 % OF 'WHAT'?")] == [talk]
    assert store.conversations("100_") == []


def test_a_server_that_goes_away_in_the_middle_of_a_turn_costs_one_sentence_and_no_word(
    postgres, url, store, monkeypatch
):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    threads = threading.active_count()
    talk = store.new()
    question = store.add_question(talk, "Tell me a story")
    answer = store.begin_answer(talk)
    store.update_answer(answer, "Once")
    assert store.problem is None
    with stopped(postgres):
        began = time.monotonic()
        for said in ("Once upon", "Once upon a", "Once upon a time"):
            store.update_answer(answer, said)
        store.update_question(question, [["seen"]])
        store.finish_answer(answer, "Once upon a time.", "done", trace={"seed": 1}, token_ids=[1, 2])
        assert time.monotonic() - began < 2  # nobody waits for what is owed
        assert "does not answer (" in store.problem and "kept in memory and written when it does" in store.problem
        assert PASSWORD not in store.problem
        for refused_now in (lambda: store.messages(talk), lambda: store.add_question(talk, "And then?"), store.new):
            with pytest.raises(DatabaseAway, match="see that the server runs, and try again"):
                refused_now()
    await_server(store)
    asked, said = store.messages(talk)
    assert (asked.text, asked.segments) == ("Tell me a story", [["seen"]])
    assert (said.text, said.status, said.trace, said.token_ids) == ("Once upon a time.", "done", {"seed": 1}, [1, 2])
    assert len(store.conversations()) == 1
    # Nothing is left over of what broke.
    assert query(
        url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mattoni' AND datname = current_database()"
    ) == [(1,)]
    assert threading.active_count() == threads
    assert store._database._owed == {}


def test_a_short_restart_is_waited_for(postgres, store):
    talk = store.new()
    with stopped(postgres):
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(store.add_question(talk, "Are you there?")))
        thread.start()
        time.sleep(0.3)
        assert results == []
    thread.join()
    (question,) = store.messages(talk)
    assert (question.id, question.text) == (results[0], "Are you there?")


def test_what_is_owed_when_the_program_ends_is_written_first(postgres, opened, store):
    talk = store.new()
    answer = store.begin_answer(talk)
    with stopped(postgres):
        store.finish_answer(answer, "my last words", "done")
        ending = threading.Thread(target=store.close)
        ending.start()
    ending.join()
    assert [(m.text, m.status) for m in opened().messages(talk)] == [("my last words", "done")]


def test_a_whole_turn_of_the_assistant_survives_a_restart(postgres, url, monkeypatch, request):
    monkeypatch.setenv("MATTONI_DATABASE", url)
    assistant = request.getfixturevalue("assistant")
    with contextlib.closing(assistant.store) as store:
        talk = store.new()
        ticket = assistant.ask(
            "What is the garden?", sampling=Sampling(temperature=1.5, max_tokens=400, seed=1), conversation=talk
        )
        while not ticket.text:
            assert not ticket.wait(0.01)
        with stopped(postgres):
            time.sleep(0.7)  # a save or two while nobody is there
        assert ticket.wait(60) and ticket.status == "done"
        await_server(store)
        said = ticket.text.replace("\0", "␀")  # a host with random weights says anything
        question, answer = store.messages(talk)
        assert (question.text, answer.text, answer.status) == ("What is the garden?", said, "done")
        assert store.problem is None


class Proxy:
    """Stands between client and server; once armed, it takes a commit there, and its confirmation to nobody.

    While it is cut it lets nobody through.
    """

    def __init__(self, port: int) -> None:
        self.armed, self.cut = threading.Event(), threading.Event()
        self.lost = 0
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.cut.is_set():
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._server_port))
                threading.Thread(target=self._carry, args=(client, server), daemon=True).start()
                threading.Thread(target=self._carry_back, args=(server, client), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT" in data and self.armed.is_set():
                    self.armed.clear()
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)  # first, so that no confirmation can overtake it
                    server.sendall(data)
                    time.sleep(0.1)
                    break
                server.sendall(data)
        server.close()

    def _carry_back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        client.close()


def test_a_commit_whose_confirmation_was_lost_is_not_written_twice(postgres, url, tmp_path):
    proxy = Proxy(postgres.port)
    through = url.replace(f":{postgres.port}/", f":{proxy.port}/")
    with contextlib.closing(proxy), contextlib.closing(ConversationStore(tmp_path, through)) as store:
        talk = store.new()
        ids = []
        for number in range(3):
            proxy.armed.set()
            ids.append(store.add_question(talk, f"question {number}", [Sent("a.png", PNG)]))
            proxy.armed.set()
            store.finish_answer(store.begin_answer(talk), f"answer {number}", "done")
        await_server(store)
        assert proxy.lost == 6
        messages = store.messages(talk)
        assert [m.text for m in messages] == [f"{what} {n}" for n in range(3) for what in ("question", "answer")]
        assert [m.id for m in messages if m.role == "user"] == ids
        assert [len(m.attachments) for m in messages] == [1, 0] * 3


def test_a_deletion_of_which_nobody_knows_whether_it_was_written_leaves_no_file(postgres, url, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.3)
    proxy = Proxy(postgres.port)
    through = url.replace(f":{postgres.port}/", f":{proxy.port}/")
    with contextlib.closing(proxy), contextlib.closing(ConversationStore(tmp_path, through)) as store:
        talk = store.new()
        store.add_question(talk, "secret?", [Sent("a.png", PNG)])
        proxy.cut.set()
        proxy.armed.set()
        with pytest.raises(DatabaseAway, match="look whether it was done before you try again"):
            store.delete(talk)
        assert PNG in everything_in(tmp_path)
        proxy.cut.clear()
        await_server(store)
        assert store.conversations() == [] and PNG not in everything_in(tmp_path)


def test_a_writer_elsewhere_is_gone_when_it_has_been_silent_for_long(url, opened, store, monkeypatch):
    talk = store.new()
    for _ in range(2):
        store.begin_answer(talk)
    query(
        url,
        "UPDATE messages SET writer = 'far ' || id; INSERT INTO writers SELECT writer, 'elsewhere', '1 1.0', 0, now() FROM messages",
    )
    assert [m.status for m in opened().messages(talk)] == ["running", "running"]
    query(
        url,
        "UPDATE writers SET seen = now() - interval '1 hour' WHERE id = (SELECT min(writer) FROM messages)",
    )
    # The server has just begun: who could not reach it before is not silent.
    assert [m.status for m in opened().messages(talk)] == ["running", "running"]
    time.sleep(1.1)
    monkeypatch.setattr(module, "_GONE_S", 1)
    query(url, "UPDATE writers SET seen = now() WHERE seen > now() - interval '10 minutes'")
    assert [m.status for m in opened().messages(talk)] == ["stopped", "running"]


def test_a_process_shows_itself_and_stops_what_was_abandoned_while_it_runs(url, opened, monkeypatch):
    monkeypatch.setattr(module, "_BEAT_S", 0.1)
    store = opened()
    talk = store.new()
    store.begin_answer(talk)
    (before,) = query(url, "SELECT seen FROM writers")
    query(
        url,
        f"""INSERT INTO writers VALUES ('dead', '{this_machine()}', '1 0.0', 0, now());
            INSERT INTO messages (conversation, role, text, status, writer, created)
            SELECT id, 'assistant', 'half', 'running', 'dead', 0 FROM conversations""",
    )
    time.sleep(0.5)
    (after,) = query(url, "SELECT seen FROM writers WHERE id <> 'dead'")
    assert after > before
    assert [(m.text, m.status) for m in store.messages(talk)] == [("", "running"), ("half", "stopped")]

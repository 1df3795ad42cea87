"""Those who signed in: who they are, that nobody has another's, what is taken away and what is deleted; on both databases."""

import contextlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assistant.assistant import Assistant
from assistant.conversations.database import Closed
from assistant.conversations.store import ConversationStore, open_store
from assistant.host.sampling import Sampling
from assistant.people import known
from assistant.people.deleting import delete_data
from assistant.people.figures import figures_of
from assistant.people.person import Person, person_of, shown
from assistant.people.taking_away import export_to
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from mattoni.paths import data_folder, people_folder, person_folder
from tests.assistant.conftest import add_bare_brick, done, png, write_adapter
from tests.assistant.test_deleting import LONG, SHORT, holds

ISSUER = "https://provider.example"


def somebody(subject: str, **claims: object) -> Person:
    return person_of({"iss": ISSUER, "sub": subject, "iat": 1_800_000_000, "name": subject, **claims})


ANNA, BERT = somebody("anna", email="anna@example.org", email_verified=True), somebody("bert")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    if request.param == "sqlite":
        return None
    address: str = request.getfixturevalue("postgres").new_database()
    monkeypatch.setenv("MATTONI_DATABASE", address)
    return address


@pytest.fixture
def opened(url: str | None) -> Iterator[Callable[[Person], ConversationStore]]:
    """Opens the store of somebody who signs in."""
    with contextlib.ExitStack() as stores:

        def store_of(person: Person) -> ConversationStore:
            known.welcome(person)
            return stores.enter_context(contextlib.closing(open_store(person.id)))

        yield store_of


@pytest.fixture
def desk(url: str | None, opened: Callable[[Person], ConversationStore], request: pytest.FixtureRequest):
    """Gives somebody the one host, with what is theirs."""
    shared: Assistant = request.getfixturevalue("assistant")

    def assistant_of(person: Person) -> Assistant:
        return shared.for_person(person_folder(person.id), opened(person))

    yield assistant_of
    shared.store.close()


def said(assistant: Assistant, question: str, *files: Attachment) -> str:
    talk = assistant.store.new()
    done(assistant.ask(question, files, None, SHORT, talk))
    return talk


def words_below(folder: Path, *words: str) -> list[str]:
    content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    return [word for word in words if word.encode() in content]


# ---------------------------------------------------------------- who somebody is


@given(st.text(min_size=1), st.text(min_size=1))
def test_whatever_a_provider_calls_somebody_their_folder_stands_below_the_one_of_people(subject, name):
    person = somebody(subject, name=name, email=name)
    assert person_folder(person.id).parent == people_folder() and len(person.id) == 32
    assert len(person.name) <= 80 and person.name == " ".join(person.name.split())
    assert somebody(subject, name="another", email="x@example.org").id == person.id


@pytest.mark.parametrize(
    "subject", ["../../etc", "/etc/passwd", "..", "a\0b", "\ud800", "é", "e\u0301", "A", "a", "anna\u202e"]
)
def test_no_two_subjects_share_a_folder(subject):
    others = {"../../etc", "/etc/passwd", "..", "a\0b", "\ud800", "é", "e\u0301", "A", "a", "anna\u202e"} - {subject}
    assert somebody(subject).id not in {somebody(other).id for other in others}
    assert somebody(subject).id != person_of({"iss": "https://other.example", "sub": subject, "iat": 1.0}).id


def test_a_name_shows_no_signs_that_hide_or_turn_round_others():
    assert shown("Anna\u202e\u200b\x1b[31m\n Rossi\ud800") == "Anna [31m Rossi"
    assert shown({"first": "Anna"}) == shown(None) == ""
    assert somebody("anna", name="\u202e", email=7).name == f"Person {ANNA.id[:6]}"
    assert len(shown("a" * 1000)) == 80


@pytest.mark.parametrize(
    ("claims", "sentence"),
    [
        ({"sub": "anna", "iat": 1}, "does not say who you are"),
        ({"iss": ISSUER, "iat": 1}, "does not say who you are"),
        ({"iss": ISSUER, "sub": "", "iat": 1}, "does not say who you are"),
        ({"iss": ISSUER, "sub": ["anna"], "iat": 1}, "does not say who you are"),
        ({"iss": ISSUER, "sub": "anna"}, "does not say when you signed in"),
        ({"iss": ISSUER, "sub": "anna", "iat": True}, "does not say when you signed in"),
    ],
)
def test_a_token_that_names_nobody_costs_one_sentence(claims, sentence):
    with pytest.raises(MattoniError, match=sentence):
        person_of(claims)


@pytest.mark.parametrize("identity", ["..", "../bricks", "", "a" * 31, "A" * 32, f"{'a' * 32}\n", "bricks"])
def test_what_is_no_identity_leads_nowhere(identity):
    with pytest.raises(MattoniError, match="is nobody's identity"):
        person_folder(identity)


def test_who_was_here_is_known_by_name_address_and_day(monkeypatch):
    for person in (ANNA, BERT):
        known.welcome(person)
    before = known.known_as(ANNA.id)
    monkeypatch.setattr("time.time", lambda: before.last_seen + 61)
    known.see(somebody("anna", name="Anna Rossi", email="anna@example.org"))
    assert [one.name for one in known.everybody()] == ["Anna Rossi", "bert"]
    assert known.known_as(ANNA.id).last_seen == before.last_seen + 61 and known.named("anna@example.org").id == ANNA.id
    assert known.named(BERT.id[:6]).name == "bert"
    with pytest.raises(MattoniError, match="Nobody here is 'carl'"):
        known.named("carl")
    known.welcome(somebody("twin", email="anna@example.org"))
    with pytest.raises(MattoniError, match="is 2 people: name one by the id"):
        known.named("anna@example.org")
    (person_folder(BERT.id) / known.RECORD).write_text("{")
    assert known.named(BERT.id[:8]).name == BERT.id  # and can still be deleted


def test_who_was_deleted_is_not_brought_back_by_a_page_that_is_open(monkeypatch):
    known.welcome(ANNA)
    now = known.known_as(ANNA.id).last_seen
    delete_data(open_store(ANNA.id))
    monkeypatch.setattr("time.time", lambda: now + 100)
    known.see(ANNA)
    assert not person_folder(ANNA.id).exists() and known.everybody() == []


# ---------------------------------------------------------------- nobody has another's


def test_two_people_have_one_host_and_nothing_else_together(desk, assistant, tmp_path):
    anna, bert = desk(ANNA), desk(BERT)
    assert anna.host is bert.host is assistant.host
    talk = said(anna, "Where is the otter?", png("red"))
    anna.add_knowledge("notes", [Attachment("otter.txt", b"The otter sleeps in the river.")])
    write_adapter(tmp_path / "skill", anna.host, seed=1)
    anna.add_skill(tmp_path / "skill", "tricks")

    assert [c.title for c in anna.store.conversations()] == ["Where is the otter?"]
    for other in (bert, assistant):
        assert other.store.conversations() == [] and other.store.conversation(talk) is None
        assert other.store.messages(talk) == [] and other.running(talk) is None
        assert not {"notes", "tricks"} & {brick.name for brick in other.bricks().usable}
        with pytest.raises(MattoniError, match="There is no brick called 'notes'"):
            other.passages("notes", "otter.txt")
        with pytest.raises(MattoniError, match="was deleted: begin a new one"):
            other.ask("And now?", conversation=talk)
    (attached,) = anna.store.messages(talk)[0].attachments
    with pytest.raises(MattoniError, match="is no longer in"):
        bert.store.content(attached.digest)
    bert.store.delete(talk)
    assert len(anna.store.messages(talk)) == 2 and anna.store.content(attached.digest)
    # A name of Anna's is free for Bert, and what he does with it is his.
    bert.add_knowledge("notes", [Attachment("fox.txt", b"The fox sleeps in the wood.")])
    bert.switch_brick("notes", False)
    bert.remove_brick("notes")
    assert anna.passages("notes", "otter.txt")[0].text == "The otter sleeps in the river."


def test_what_whoever_runs_mattoni_alone_has_is_nobodys_who_signs_in(desk, assistant):
    said(assistant, "Mine alone?")
    add_bare_brick("private")
    anna = desk(ANNA)
    assert anna.store.conversations() == [] and anna.bricks().refused == assistant.bricks().refused
    names = {brick.name for brick in anna.bricks().usable}
    assert "eyes" not in names and names < {brick.name for brick in assistant.bricks().usable}
    anna.add_knowledge("private", [Attachment("a.txt", b"A brick of that name is hers.")])
    assert "private" in {brick.name for brick in anna.bricks().usable}


def test_an_imported_host_of_a_bricks_name_is_not_a_persons_to_remove(desk):
    host = data_folder() / "hosts" / "notes"
    host.mkdir(parents=True)
    anna = desk(ANNA)
    anna.add_knowledge("notes", [Attachment("a.txt", b"The otter sleeps.")])
    anna.rename_brick("notes", "other")
    anna.rename_brick("other", "notes")
    anna.remove_brick("notes")
    assert host.is_dir()


def test_a_person_brings_no_folder_of_the_server(desk, assistant, tmp_path):
    folder = write_adapter(tmp_path / "someone" / "skill", assistant.host, seed=1)
    anna = desk(ANNA)
    with contextlib.chdir(tmp_path):
        for source in (str(folder), "someone/skill", "~/skill", str(folder / "adapter_model.safetensors")):
            with pytest.raises(MattoniError, match="name a Hub id such as"):
                anna.add_skill_named(source)
        assert assistant.add_skill_named("someone/skill").name == "skill"


def test_verdicts_of_the_gate_are_kept_with_whoevers_skill_it_is(desk, assistant, tmp_path):
    from tests.assistant.test_gate import OWN, key

    anna, bert = desk(ANNA), desk(BERT)
    for person in (anna, bert):
        write_adapter(tmp_path / person.store.folder.name, anna.host, seed=1)
        person.add_skill(tmp_path / person.store.folder.name, "mine")
    key(person_folder(ANNA.id) / "bricks" / "mine", OWN)
    anna.pass_gate("mine", anyway=True)
    assert (person_folder(ANNA.id) / "gates.json").is_file()
    assert not (data_folder() / "gates.json").exists() and not (person_folder(BERT.id) / "gates.json").exists()


# ---------------------------------------------------------------- figures, export, deletion


def test_figures_count_and_tell_no_word_of_anybodys(desk, opened):
    anna = desk(ANNA)
    note = Attachment("note.txt", b"An otter. " * 100)
    talk = said(anna, "Where is the otter?", note)
    anna.add_knowledge("otter-notes", [Attachment("otter.txt", b"The otter sleeps in the river.")])
    store = anna.store
    answer = store.begin_answer(talk)
    trace = {"bricks": [{"name": "document"}, {"name": "document"}, {"name": "otter-notes"}]}
    store.finish_answer(answer, "In the river.", "done", trace=trace)
    figures = figures_of(store)
    assert (figures.conversations, figures.messages, figures.own, figures.bricks["document"]) == (1, 3, 1, 2)
    assert figures.bytes > len(note.content) and "otter" not in repr(figures)
    empty = figures_of(opened(BERT))
    assert (empty.conversations, empty.messages, empty.own, empty.bricks) == (0, 0, 0, {})


def test_an_export_is_a_zip_of_readable_json_attachments_and_bricks(desk, tmp_path):
    anna = desk(ANNA)
    note = Attachment("../../so: «é»\u202e.txt", b"the secret-word is brick")
    talk = said(anna, "Wo ist/der Ötter?", png("red"), note)
    anna.store.keep_choices(talk, {"vision": "eyes"})
    anna.add_knowledge("notes", [Attachment("otter.txt", b"The otter sleeps in the river.")])
    (lost,) = [a for a in anna.store.messages(talk)[0].attachments if a.name == "red.png"]
    export_to(anna.store, tmp_path / "anna.zip")
    with zipfile.ZipFile(tmp_path / "anna.zip") as packed:
        names = packed.namelist()
        assert packed.testzip() is None and not any(".." in Path(name).parts or name.startswith("/") for name in names)
        (conversation,) = [name for name in names if name.startswith("conversations/")]
        text = packed.read(conversation).decode()
        told = json.loads(text)
        assert "Wo ist/der Ötter?" in text and told["choices"] == {"vision": "eyes"}  # as it was written, not escaped
        assert [m["role"] for m in told["messages"]] == ["user", "assistant"] and told["messages"][1]["trace"]["tokens"]
        sent = {
            name.split("/")[1].split(" ")[0]: packed.read(name) for name in names if name.startswith("attachments/")
        }
        assert {a["digest"][:16] for a in told["messages"][0]["attachments"]} == set(sent)
        assert set(sent.values()) == {png("red").content, note.content}
        assert {"bricks/notes/brick.yaml", "bricks/notes/passages.jsonl", "person.json"} <= set(names)
        assert not [name for name in names if "sqlite" in name]
    with pytest.raises(MattoniError, match="is there already: name a file that is not"):
        export_to(anna.store, tmp_path / "anna.zip")
    next(anna.store.folder.rglob(lost.digest)).unlink()
    export_to(anna.store, tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as packed:
        assert json.loads(packed.read("attachments/lost.json")) == [lost.digest]


def test_deletion_leaves_nothing_on_disk_in_the_database_or_in_memory(desk, assistant, url):
    anna, bert = desk(ANNA), desk(BERT)
    talk = said(anna, "Where is the secret-otter?", png("red"), Attachment("note.txt", b"the secret-word is brick"))
    kept = said(bert, "Where is the fox?", png("blue"))
    anna.add_knowledge("notes", [Attachment("otter.txt", b"The hidden-otter sleeps in the river.")])
    said(anna, "Where does the otter sleep?")
    secrets = ("secret-otter", "secret-word", "hidden-otter")
    anna.leave()
    delete_data(anna.store)
    done(assistant.ask("something else", sampling=SHORT))
    assert not person_folder(ANNA.id).exists() and words_below(data_folder(), *secrets, "anna@example.org") == []
    assert holds(assistant, *secrets, talk) == [] == holds(bert, *secrets, talk)
    if url is not None:
        with psycopg.connect(url) as connection:
            found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'mattoni_%'").fetchall()
        assert found == [(f"mattoni_{BERT.id}",)]
    assert [m.text for m in bert.store.messages(kept)][0] == "Where is the fox?"
    assert done(bert.ask("And now?", (), None, SHORT, kept)).error is None
    with pytest.raises(Closed):
        anna.store.conversations()
    for refused in (
        lambda: anna.ask("Still there?", conversation=talk),
        lambda: anna.add_knowledge("late", [Attachment("a.txt", b"late")]),
        lambda: anna.switch_brick("document", False),
    ):
        with pytest.raises(MattoniError, match="Your data was deleted: sign in again"):
            refused()
    assert not person_folder(ANNA.id).exists()


def test_deletion_ends_the_turn_that_runs_and_those_that_wait_and_lets_others_finish(desk):
    anna, bert = desk(ANNA), desk(BERT)
    talks, other = [anna.store.new() for _ in range(10)], bert.store.new()
    mine = [anna.ask("a long story", (), None, LONG, talk) for talk in talks]  # more than run at once
    his = bert.ask("a story", (), None, Sampling(temperature=1.5, max_tokens=60, seed=1), other)
    anna.leave()
    delete_data(anna.store)
    ended = [done(ticket).status for ticket in mine]
    # On a busy machine the first may have come to its end before.
    assert ended[-1] == "stopped" and set(ended) <= {"stopped", "done"}
    assert done(his).status == "done" and len(bert.store.messages(other)[-1].text) == len(his.text)
    assert not person_folder(ANNA.id).exists()


def test_a_new_beginning_after_a_deletion_is_empty(desk, opened):
    anna = desk(ANNA)
    said(anna, "Where is the otter?")
    anna.leave()
    delete_data(anna.store)
    again = opened(ANNA)
    assert again.conversations() == [] and again.folder == person_folder(ANNA.id).absolute()


def test_an_answer_that_comes_after_another_process_has_deleted_its_person_is_dropped(opened, url, caplog):
    store = opened(ANNA)
    talk = store.new()
    store.add_question(talk, "Where is the otter?")
    answer = store.begin_answer(talk)
    # What `mattoni people delete` does, in a process of its own.
    code = (
        "import sys; from assistant.conversations.store import open_store; from assistant.people.deleting import delete_data;"
        "delete_data(open_store(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, ANNA.id], check=True, env=os.environ)
    with contextlib.suppress(Closed):
        store.update_answer(answer, "In the")
        store.finish_answer(answer, "In the river.", "done")
    assert not person_folder(ANNA.id).exists()
    if url is not None:
        with pytest.raises(Closed, match="was closed or deleted"):
            store.conversations()
        store.close()  # at once: it owes nothing


# ---------------------------------------------------------------- the command line


def test_people_are_listed_exported_and_deleted_by_command(opened, mattoni, tmp_path):
    assert "Nobody has signed in yet" in mattoni("people", "list")[1]
    store = opened(ANNA)
    store.add_question(store.new(), "Where is the otter?", [Attachment("note.txt", b"the secret-word")])
    opened(BERT)
    (anna, bert) = json.loads(mattoni("people", "list", "--json")[1])["people"]
    assert (anna["name"], anna["conversations"], anna["messages"], bert["messages"]) == ("anna", 1, 1, 0)
    status, table, _ = mattoni("people", "list")
    assert status == 0 and "anna" in table and "otter" not in table
    assert mattoni("people", "export", "anna@example.org", tmp_path / "anna.zip")[0] == 0
    assert (
        "secret-word"
        in zipfile.ZipFile(tmp_path / "anna.zip")
        .read(next(n for n in zipfile.ZipFile(tmp_path / "anna.zip").namelist() if n.startswith("attachments/")))
        .decode()
    )
    for answers in (["no"], ["yes", "no"], []):
        status, _, problem = mattoni("people", "delete", ANNA.id[:8], stdin=answers)
        assert status == 1 and "Nothing was deleted" in problem and person_folder(ANNA.id).is_dir()
    assert mattoni("people", "delete", ANNA.id[:8], stdin=["yes", ANNA.id[:6]])[0] == 0
    assert not person_folder(ANNA.id).exists()
    assert mattoni("people", "delete", "bert", "--yes")[0] == 1  # no address, no id
    assert mattoni("people", "delete", BERT.id, "--yes")[0] == 0 and known.everybody() == []


def test_a_user_of_the_database_who_may_make_no_schema_is_told_what_to_grant(postgres, monkeypatch):
    from tests.assistant.test_postgres import query

    url = postgres.new_database()
    query(url, "DROP ROLE IF EXISTS visitor; CREATE ROLE visitor LOGIN PASSWORD 's3cret'")
    database = url.rpartition("/")[2]
    monkeypatch.setenv("MATTONI_DATABASE", postgres.url(database, "visitor", "s3cret"))
    with pytest.raises(MattoniError, match="GRANT CREATE ON DATABASE of that name TO that user"):
        open_store(ANNA.id)
    query(url, f"GRANT CREATE ON DATABASE {database} TO visitor")
    for person in (ANNA, BERT):
        with contextlib.closing(open_store(person.id)) as store:
            store.new("Mine")
            assert [c.title for c in store.conversations()] == ["Mine"]

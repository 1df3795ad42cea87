"""What becomes of a brick after it was made: kept up to date, renamed, packed, switched off, gone back to, removed."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import zipfile

import pytest

from assistant.bricks.knowledge import add_knowledge, drop_documents, follow, stop_watching
from assistant.bricks.watching import FolderState, WatchedFolders
from assistant.host.embedder import Embedder
from assistant.registry import Registry
from knowledge_bricks.documents import load_documents
from knowledge_bricks.sources import read_sources
from mattoni.card import read_card
from mattoni.errors import MattoniError
from mattoni.files import remove_folder
from mattoni.inputs import Attachment
from mattoni.paths import data_folder
from mattoni.versions import kept_versions, roll_back
from tests.assistant.conftest import done
from tests.assistant.test_knowledge import FILES, KILN, MORTAR, SHORT, words_on_disk


@pytest.fixture(autouse=True)
def no_shipped_bricks(monkeypatch):
    """Checking them takes longer than all that is done here."""
    for module in ("mattoni.paths", "assistant.assistant", "assistant.bricks.lifecycle"):
        monkeypatch.setattr(f"{module}.brick_folders", lambda data=None: [(data or data_folder()) / "bricks"])


class CountingEmbedder(Embedder):
    """Counts the texts that it embeds; after `dies_at` of them the machine loses its power."""

    embedded = 0
    dies_at = None

    def embed(self, texts, batch=32):
        self.embedded += len(texts)
        if self.dies_at is not None and self.embedded > self.dies_at:
            raise KeyboardInterrupt
        return super().embed(texts, batch)


@pytest.fixture
def embedder(tiny_embedder_folder):
    return CountingEmbedder(tiny_embedder_folder)


@pytest.fixture
def bricks():
    return data_folder() / "bricks"


@pytest.fixture
def add(embedder, bricks):
    def add(files, name="masonry", **options):
        return add_knowledge(name, files, bricks, embedder=embedder, read=None, **options)

    return add


@pytest.fixture
def library(tmp_path):
    """A folder of documents."""
    folder = tmp_path / "library"
    folder.mkdir()
    for file in FILES:
        (folder / file.name).write_bytes(file.content)
    return folder


def files_of(folder):
    return [
        Attachment(p.relative_to(folder).as_posix(), p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()
    ]


def texts(folder):
    return {passage.document: passage.text for passage in load_documents(folder).passages}


# Incremental


def test_an_update_reads_only_files_whose_contents_have_changed(add, embedder, bricks):
    add(FILES)
    embedder.embedded = 0
    card = add([*FILES, Attachment("lime.md", b"Lime is burnt.")], update=True)
    assert embedder.embedded == 1 and card.parts.documents == 3 and card.version == 2
    again = add(FILES, update=True)
    assert again == card and embedder.embedded == 1, "nothing changed, so nothing is written"
    assert read_sources(bricks / "masonry").keys() == {"kiln.md", "mortar.md", "lime.md"}


def test_of_a_changed_file_only_changed_passages_are_embedded(add, embedder, bricks):
    long = "\n\n".join(f"Paragraph {n} tells of brick number {n}. " + "It is red. " * 90 for n in range(5))
    add([Attachment("bricks.txt", long.encode())])
    before = embedder.embedded
    add([Attachment("bricks.txt", long.replace("brick number 3", "a tile").encode())], update=True)
    assert before == 5 and embedder.embedded == 6
    assert any("a tile" in p.text for p in load_documents(bricks / "masonry").passages)


def test_a_copy_under_another_name_is_found_once(add, bricks):
    card = add([*FILES, Attachment("copy of kiln.md", KILN.encode())])
    assert card.parts.documents == 2
    assert read_sources(bricks / "masonry")["copy of kiln.md"].copy_of == "kiln.md"


def test_after_a_kill_indexing_goes_on_and_there_is_never_half_an_index(add, embedder, bricks):
    lines = {n: " ".join(f"Brick {n} of row {m} is red." for m in range(1000)) for n in range(6)}
    files = [Attachment(f"{n}.txt", line.encode()) for n, line in lines.items()]
    embedder.dies_at = 100
    with pytest.raises(KeyboardInterrupt):
        add(files)
    assert Registry([bricks]).scan().usable == () and not (bricks / "masonry").exists()
    embedder.dies_at, embedder.embedded = None, 0
    card = add(files)
    assert embedder.embedded <= card.parts.passages - 64, "what was embedded is not embedded again"
    add(files, "again")
    made, fresh = (load_documents(bricks / name) for name in ("masonry", "again"))
    assert made.passages == fresh.passages and (made.vectors == fresh.vectors).all()
    assert not list(bricks.glob(".*")), "nothing is left of the work"


_KILLED = """
import sys
from pathlib import Path
from assistant.bricks.knowledge import add_knowledge
from assistant.host.embedder import Embedder
from mattoni.inputs import Attachment
def files():
    for n in range(400):
        print(n, flush=True)
        yield Attachment(f"{n}.txt", f"Brick {n} is red. ".encode() * 60)
add_knowledge("masonry", files(), Path(sys.argv[1]), embedder=Embedder(Path(sys.argv[2])), read=None)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_brick_and_removing_what_it_left_leaves_no_byte(
    add, embedder, bricks, tiny_embedder_folder
):
    command = [sys.executable, "-c", _KILLED, bricks, tiny_embedder_folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while int(process.stdout.readline()) < 150:
            pass
        process.send_signal(signal.SIGKILL)
    assert not (bricks / "masonry").exists() and list(bricks.glob(".masonry.*"))
    add([Attachment(f"{n}.txt", f"Brick {n} is red. ".encode() * 60) for n in range(400)])
    assert embedder.embedded <= 400 - 64
    remove_folder(bricks / "masonry")
    assert list(bricks.iterdir()) == []


# Documents that go


def test_a_document_that_is_dropped_is_in_no_file_and_no_older_version(add, bricks):
    add(FILES)
    add([Attachment("kiln.md", b"The kiln is cold.")], update=True)
    assert kept_versions(bricks / "masonry") == [1]
    card = drop_documents("masonry", ["kiln.md"], bricks)
    assert texts(bricks / "masonry") == {"mortar.md": MORTAR} and card.version == 3
    assert kept_versions(bricks / "masonry") == [] and read_sources(bricks / "masonry").keys() == {"mortar.md"}
    everything = b"".join(path.read_bytes() for path in bricks.rglob("*") if path.is_file())
    assert b"thousand degrees" not in everything and b"kiln is cold" not in everything


def test_what_cannot_be_dropped_is_said(add, bricks):
    add(FILES)
    with pytest.raises(
        MattoniError, match="'masonry' holds no document 'sand.md': `mattoni knowledge documents masonry`"
    ):
        drop_documents("masonry", ["sand.md"], bricks)
    with pytest.raises(MattoniError, match="These are all the documents of 'masonry': remove the brick itself"):
        drop_documents("masonry", ["kiln.md", "mortar.md"], bricks)
    assert read_card(bricks / "masonry").version == 1


def test_an_update_can_be_gone_back_from(add, bricks):
    add(FILES)
    add([Attachment("kiln.md", b"The kiln is cold.")], update=True)
    roll_back(bricks / "masonry")
    assert texts(bricks / "masonry")["kiln.md"] == KILN and kept_versions(bricks / "masonry") == [2]
    (brick,) = Registry([bricks]).scan().usable
    assert brick.card.version == 1


# Watched folders


def test_a_watched_folder_is_followed_file_by_file(add, embedder, bricks, library):
    add(files_of(library), watch=library)
    state, told = FolderState(), []

    def sync():
        embedder.embedded = 0
        return follow("masonry", bricks, state, embedder=embedder, read=None, passed_over=told.append)

    assert sync() is None and embedder.embedded == 0
    (library / "sand.md").write_text("Sand is sieved.")
    (library / "kiln.md").write_text("The kiln is cold.")
    (library / "empty.md").write_bytes(b"")
    assert sync().parts.documents == 3 and embedder.embedded == 2
    assert told == ["empty.md is empty: send it again."]
    assert sync() is None and told == told[:1], "what cannot be read is not tried again until it changes"
    (library / "mortar.md").unlink()
    assert sync().parts.documents == 2 and embedder.embedded == 0
    assert texts(bricks / "masonry") == {"kiln.md": "The kiln is cold.", "sand.md": "Sand is sieved."}
    everything = b"".join(path.read_bytes() for path in bricks.rglob("*") if path.is_file())
    assert b"lime" not in everything, "what was deleted in the folder is in no file"
    assert kept_versions(bricks / "masonry") == []


def test_the_copy_of_a_file_that_was_deleted_is_read_in_its_place(add, embedder, bricks, library):
    (library / "old kiln.md").write_text(KILN)
    add(files_of(library), watch=library)
    (library / "kiln.md").unlink()
    follow("masonry", bricks, FolderState(), embedder=embedder, read=None)
    assert texts(bricks / "masonry") == {"mortar.md": MORTAR, "old kiln.md": KILN}


def test_a_file_that_is_broken_for_a_while_keeps_what_it_said(add, embedder, bricks, library):
    add(files_of(library), watch=library)
    (library / "kiln.md").write_bytes(b"")
    follow("masonry", bricks, FolderState(), embedder=embedder, read=None)
    assert texts(bricks / "masonry")["kiln.md"] == KILN
    (library / "kiln.md").write_text("The kiln is cold.")
    follow("masonry", bricks, FolderState(), embedder=embedder, read=None)
    assert texts(bricks / "masonry")["kiln.md"] == "The kiln is cold."


def test_a_folder_that_is_gone_takes_nothing_away(add, embedder, bricks, library):
    add(files_of(library), watch=library)
    library.rename(library.with_name("unplugged"))
    assert follow("masonry", bricks, FolderState(), embedder=embedder, read=None) is None
    assert texts(bricks / "masonry").keys() == {"kiln.md", "mortar.md"}


def test_watching_can_be_stopped(add, embedder, bricks, library):
    add(files_of(library), watch=library)
    with pytest.raises(MattoniError, match="is what .*library holds: remove the file there, or stop watching first"):
        drop_documents("masonry", ["kiln.md"], bricks)
    assert stop_watching("masonry", bricks).parts.watch == ""
    with pytest.raises(MattoniError, match="'masonry' watches no folder: `mattoni knowledge add masonry FOLDER"):
        follow("masonry", bricks, FolderState(), embedder=embedder, read=None)


def test_the_next_message_is_answered_from_what_the_folder_holds_now(assistant, library):
    assistant.add_knowledge("masonry", files_of(library), watch=library)
    (library / "xylograph.md").write_text("The xylograph lies beneath the stairs.")
    found = done(assistant.ask("Where lies the xylograph?", sampling=SHORT)).trace.citations
    assert found[0].document == "xylograph.md"


def test_a_folder_in_which_nothing_happens_is_read_once(add, bricks, library):
    add(files_of(library), watch=library)
    synced = []
    folders = WatchedFolders(synced.append)
    usable = Registry([bricks]).scan().usable
    for _ in range(3):
        folders.look(usable)
    assert synced == ["masonry"]
    (library / "sand.md").write_text("Sand is sieved.")
    folders.look(usable)
    assert synced == ["masonry"] * 2


# Any brick


def test_a_renamed_brick_is_cited_by_its_new_name_and_forgotten_under_it(assistant):
    said = "The xylograph lies beneath the stairs."
    assistant.add_knowledge("attic", [Attachment("attic.md", said.encode())])
    assistant.add_knowledge("attic", [Attachment("door.md", b"The door is green.")], update=True)
    talk = assistant.store.new()
    done(assistant.ask("Where lies the xylograph?", sampling=SHORT, conversation=talk))
    card = assistant.rename_brick("attic", "loft")
    assert (card.name, card.title) == ("loft", "Loft")
    assert assistant.store.messages(talk)[1].trace["citations"][0]["brick"] == "loft"
    found = done(assistant.ask("Where lies the xylograph?", sampling=SHORT, conversation=talk)).trace.citations
    assert found[0].brick == "loft"
    assert roll_back(data_folder() / "bricks" / "loft") == 1
    assert assistant.bricks().get("loft").card.version == 1
    assistant.remove_brick("loft")
    assert b"beneath the stairs" not in words_on_disk()


def test_a_brick_gets_no_name_that_is_taken_or_is_none(assistant):
    assistant.add_knowledge("attic", FILES)
    with pytest.raises(MattoniError, match="There is a brick called 'eyes' already"):
        assistant.rename_brick("attic", "eyes")
    with pytest.raises(MattoniError, match="'My Attic' cannot name a brick: .* such as 'my-attic'"):
        assistant.rename_brick("attic", "My Attic")
    assert assistant.bricks().get("attic")


def test_a_packed_brick_comes_in_again_as_it_went_out(assistant, library, tmp_path):
    assistant.add_knowledge("masonry", files_of(library), watch=library)
    file = assistant.pack_brick("masonry", tmp_path / "masonry.zip")
    with zipfile.ZipFile(file) as packed:
        assert str(library).encode() not in b"".join(map(packed.read, packed.namelist())), "nobody else has that folder"
    with pytest.raises(MattoniError, match="masonry.zip is there already"):
        assistant.pack_brick("masonry", file)
    with pytest.raises(MattoniError, match="There is a brick called 'masonry' already"):
        assistant.add_brick(file)
    card = assistant.add_brick(file, "other")
    assert (card.name, card.title, card.parts.watch) == ("other", "Other", "")
    assistant.remove_brick("masonry")
    found = done(assistant.ask("What is mortar made of?", sampling=SHORT)).trace.citations
    assert [(c.brick, c.document) for c in found][0] == ("other", "mortar.md")


def test_a_packed_image_brick_comes_in_too(assistant, tmp_path):
    file = assistant.pack_brick("eyes", tmp_path / "eyes.zip")
    assert assistant.add_brick(file, "more-eyes").kind == "modality"
    assert assistant.bricks().get("more-eyes").warning is None


def repacked(file, change):
    """The zip with its files changed: name → (name, bytes)."""
    out = io.BytesIO()
    with zipfile.ZipFile(file) as packed, zipfile.ZipFile(out, "w") as fresh:
        for name in packed.namelist():
            fresh.writestr(*change(name, packed.read(name)))
    file.write_bytes(out.getvalue())
    return file


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda name, data: (name, data[:-1] + b"x" if name.endswith("jsonl") else data), "passages.jsonl is damaged"),
        (lambda name, data: (name.replace("masonry/pass", "../pass"), data), "not safe to unpack"),
        (lambda name, data: (name.replace("sources.json", "run.py"), data), "sources.json is missing"),
    ],
)
def test_a_packed_brick_that_was_changed_is_refused_and_nothing_stays(assistant, tmp_path, change, sentence):
    assistant.add_knowledge("masonry", FILES)
    file = repacked(assistant.pack_brick("masonry", tmp_path / "masonry.zip"), change)
    before = sorted(data_folder().rglob("*"))
    with pytest.raises(MattoniError, match=sentence):
        assistant.add_brick(file, "other")
    assert sorted(data_folder().rglob("*")) == before


def test_a_brick_that_is_off_takes_part_in_nothing_until_it_is_on(assistant):
    assistant.add_knowledge("masonry", FILES)
    assistant.switch_brick("masonry", is_on=False)
    assert done(assistant.ask("What is mortar made of?", sampling=SHORT)).trace.citations == []
    (refused,) = assistant.bricks().refused
    assert refused.is_off and refused.sentence == "masonry is switched off: `mattoni bricks on masonry` brings it back."
    assistant.switch_brick("masonry", is_on=True)
    assert done(assistant.ask("What is mortar made of?", sampling=SHORT)).trace.citations
    with pytest.raises(MattoniError, match="There is no brick called 'nothing'"):
        assistant.switch_brick("nothing", is_on=False)


def test_a_removed_brick_is_not_off_when_another_takes_its_name(assistant):
    assistant.add_knowledge("masonry", FILES)
    assistant.switch_brick("masonry", is_on=False)
    assistant.remove_brick("masonry")
    assistant.add_knowledge("masonry", FILES)
    assert assistant.bricks().get("masonry")


def test_the_command_line_does_all_of_it(mattoni, assistant, monkeypatch, library, tmp_path):
    for module in ("bricks", "knowledge", "opening"):
        monkeypatch.setattr(f"assistant.cli.{module}.opened", lambda *_, **__: contextlib.nullcontext(assistant))
    assert mattoni("knowledge", "add", "masonry", library, "--watch")[0] == 0
    assert mattoni("knowledge", "sync", "masonry")[1] == "masonry is as its folder is.\n"
    (library / "sand.md").write_text("Sand is sieved.")
    assert mattoni("knowledge", "sync", "masonry")[1].startswith("masonry, version 2: Answers from 3 documents")
    assert mattoni("knowledge", "sync", "masonry", "--stop")[1] == "masonry watches no folder any more.\n"
    assert mattoni("knowledge", "remove", "masonry", "sand.md")[1].startswith("masonry, version 4: Answers from 2")
    assert "kiln.md" in mattoni("knowledge", "documents", "masonry")[1]
    assert "2 documents, 2 passages, " in json.loads(mattoni("bricks", "show", "masonry", "--json")[1])["costs"]
    assert mattoni("bricks", "rename", "masonry", "walls")[1] == "masonry is called walls now.\n"
    packed = tmp_path / "walls.zip"
    assert mattoni("bricks", "export", "walls", packed)[1] == f"{packed} is all of walls: mattoni bricks add {packed}\n"
    assert mattoni("bricks", "off", "walls")[1] == "walls is off: `mattoni bricks on walls` brings it back.\n"
    assert "walls is switched off" in mattoni("bricks", "list")[2]
    assert mattoni("bricks", "on", "walls")[1] == "walls is on.\n"
    assert mattoni("bricks", "add", packed, "--name", "copy")[1] == 'copy is here: mattoni ask --knowledge copy "…"\n'
    status, _, told = mattoni("knowledge", "add", "more", library / "kiln.md", "--watch")
    assert (status, told) == (1, "--watch is for one folder: name it alone.\n")
    assert mattoni("knowledge", "remove", "walls")[1] == "walls is gone.\n"

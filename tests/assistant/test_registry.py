"""The registry: sees folders as they are now, sets damaged and foreign bricks aside, and keeps the rest."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from assistant.registry import Registry
from mattoni.card import HostIdentity, describe_files
from mattoni.errors import MattoniError

MINE = HostIdentity(model_type="llama", hidden_size=32, layers=2, vocabulary="sha256:v", fingerprint="sha256:f")


def add_brick(
    parent: Path, name: str, host: HostIdentity | None = MINE, weights: torch.Tensor | None = None, **changes
):
    folder = parent / name
    folder.mkdir(parents=True)
    save_file({"w": torch.ones(4) if weights is None else weights}, folder / "adapter_model.safetensors")
    card = {
        "schema": 1,
        "name": name,
        "kind": "task",
        "title": name,
        "summary": "A test.",
        "injects": ["low-rank"],
        "licence": "none",
        "files": {k: v.model_dump() for k, v in describe_files(folder).items()},
        **({"host": host.model_dump()} if host else {}),
        **changes,
    }
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    return folder


def names(registry: Registry, host=MINE) -> list[str]:
    return [brick.name for brick in registry.scan(host).usable]


def test_a_brick_that_comes_or_goes_is_seen_without_a_restart(tmp_path):
    registry = Registry([tmp_path])
    assert names(registry) == []
    folder = add_brick(tmp_path, "german")
    assert names(registry) == ["german"]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert names(registry) == []


def test_one_damaged_brick_is_set_aside_and_the_rest_work(tmp_path):
    add_brick(tmp_path, "good")
    (add_brick(tmp_path, "damaged") / "adapter_model.safetensors").write_bytes(b"short")
    (add_brick(tmp_path, "cardless") / "brick.yaml").unlink()
    bricks = Registry([tmp_path]).scan(MINE)
    assert [b.name for b in bricks.usable] == ["good"]
    assert {r.name: r.sentence for r in bricks.refused} == {
        "damaged": "damaged/adapter_model.safetensors has 5 bytes instead of 80: copy the brick again.",
        "cardless": "cardless/brick.yaml is missing: restore it, or remove the folder.",
    }
    with pytest.raises(MattoniError, match="The brick 'damaged' is set aside: damaged/adapter_model.safetensors has"):
        bricks.get("damaged")


def test_an_unknown_name_is_an_error_that_lists_the_valid_ones(tmp_path):
    """peft #2090: an unknown adapter must not fall back to the bare host without a word."""
    add_brick(tmp_path, "german")
    add_brick(tmp_path, "french")
    with pytest.raises(MattoniError, match=r"There is no brick called 'germn' \(installed: french, german\)"):
        Registry([tmp_path]).scan(MINE).get("germn")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (math.nan, torch.float32),
        (math.inf, torch.float32),
        (math.nan, torch.float8_e4m3fn),  # which knows no infinity
        (math.inf, torch.float8_e5m2),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, value, kind):
    add_brick(tmp_path, "broken", weights=torch.tensor([1.0, value]).to(kind))
    (refused,) = Registry([tmp_path]).scan(MINE).refused
    assert refused.sentence.startswith("broken/adapter_model.safetensors: the tensor 'w' holds NaN or infinity")


def test_a_pickle_is_refused_also_under_another_name(tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    torch.save({"w": torch.ones(1)}, folder / "adapter_model.safetensors")
    described = {k: v.model_dump() for k, v in describe_files(folder).items()}
    add_brick(tmp_path / "elsewhere", "x")
    card = yaml.safe_load((tmp_path / "elsewhere" / "x" / "brick.yaml").read_text())
    (folder / "brick.yaml").write_text(yaml.safe_dump({**card, "name": "pickled", "files": described}))
    (refused,) = [r for r in Registry([tmp_path]).scan(MINE).refused if r.name == "pickled"]
    assert (
        refused.sentence
        == "pickled/adapter_model.safetensors is not a readable safetensors file: copy the brick again."
    )


def test_a_file_that_the_card_does_not_list_is_refused(tmp_path):
    (add_brick(tmp_path, "stowaway") / "extra.bin").write_bytes(b"x")
    (refused,) = Registry([tmp_path]).scan(MINE).refused
    assert refused.sentence == "stowaway/extra.bin is not listed on the card: remove it or list it under files."


def test_same_weights_fit_same_shape_warns_and_another_shape_is_refused(tmp_path):
    add_brick(tmp_path, "exact")
    add_brick(tmp_path, "similar", host=MINE.model_copy(update={"fingerprint": "sha256:other"}))
    add_brick(tmp_path, "foreign", host=MINE.model_copy(update={"fingerprint": "sha256:o", "hidden_size": 64}))
    add_brick(tmp_path, "any-host", host=None)
    bricks = Registry([tmp_path]).scan(MINE)
    assert {b.name: b.warning for b in bricks.usable} == {
        "any-host": None,
        "exact": None,
        "similar": "similar was made for other weights of the same shape; it may answer worse on this host.",
    }
    assert bricks.refused[0].sentence == (
        "foreign was made for another host (llama, width 64, 2 layers; this is llama, width 32, 2 layers): "
        "train it for this one."
    )


def test_the_users_brick_hides_the_shipped_one(tmp_path):
    add_brick(tmp_path / "mine", "german", version=2)
    add_brick(tmp_path / "shipped", "german", version=1)
    (brick,) = Registry([tmp_path / "mine", tmp_path / "shipped"]).scan(MINE).usable
    assert brick.card.version == 2


def test_a_brick_reloaded_under_the_same_name_has_another_digest(tmp_path):
    """vLLM #42125: caches go by digest, so the new weights never meet the old ones' keys and values."""
    registry = Registry([tmp_path])
    folder = add_brick(tmp_path, "german")
    before = registry.scan(MINE).get("german").digest
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    add_brick(tmp_path, "german", weights=torch.full((4,), 2.0))
    assert registry.scan(MINE).get("german").digest != before


OTHER = MINE.model_copy(update={"fingerprint": "sha256:o", "hidden_size": 64})


def add_variant(folder: Path, other: HostIdentity, name: str) -> None:
    """Give a brick's card one more variant, a file of its own with it."""
    (folder / "variants" / name).mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.zeros(4)}, folder / "variants" / name / "adapter_model.safetensors")
    files = {k: v.model_dump() for k, v in describe_files(folder, f"variants/{name}").items()}
    variant = {"name": name, "host": other.model_dump(), "files": files, "parts": {"rank": 8}, "version": 3}
    card = yaml.safe_load((folder / "brick.yaml").read_text())
    card["variants"] = [*card.get("variants", []), variant]
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))


def test_each_host_gets_its_own_variant_of_a_brick(tmp_path):
    folder = add_brick(tmp_path, "german")
    before = Registry([tmp_path]).scan(MINE).get("german")
    add_variant(folder, OTHER, "other-0.5b")
    registry = Registry([tmp_path])
    first, second = (registry.scan(host).get("german") for host in (MINE, OTHER))
    assert (first.host_folder, second.host_folder) == (folder, folder / "variants/other-0.5b")
    assert (first.card.version, second.card.version, second.parts.rank) == (1, 3, 8)
    # What was made with the brick as it was stays good.
    assert first.digest == before.digest != second.digest
    assert first.card.variants == second.card.variants == ()
    assert [v.name for v in registry.scan().get("german").card.variants] == ["other-0.5b"]


def test_a_host_without_a_variant_is_told_the_command_that_trains_it(tmp_path):
    stages = ["python -m modality_bricks.train words.yaml", "python -m modality_bricks.train generate.yaml --host x"]
    add_variant(add_brick(tmp_path, "german", training={"command": stages}), OTHER, "other")
    third = MINE.model_copy(update={"fingerprint": "sha256:t", "hidden_size": 96})
    (refused,) = Registry([tmp_path]).scan(third).refused
    assert refused.sentence == (
        "german was made for other hosts (llama, width 32, 2 layers; llama, width 64, 2 layers; this is llama, width 96, "
        "2 layers): `python -m modality_bricks.train words.yaml generate.yaml --host NAME` adds what it needs for this one."
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"host": MINE.model_dump()}, "two variants are for the same host"),
        ({"files": {"adapter_model.safetensors": {"bytes": 80, "sha256": "0" * 64}}}, "lies outside of variants/other"),
        ({"files": {"variants/other/../../x": {"bytes": 80, "sha256": "0" * 64}}}, "leaves the brick's folder"),
        ({"name": "../other"}, "variants.0.name: String should match pattern"),
        ({"pats": {}}, "unknown key 'pats' in variants.0; did you mean 'parts'?"),
        ({"parts": {"rnk": 8}}, "unknown key 'rnk' in parts; did you mean 'rank'?"),
    ],
)
def test_mistakes_of_a_variant_get_one_sentence(tmp_path, change, sentence):
    add_variant(add_brick(tmp_path, "german"), OTHER, "other")
    card = yaml.safe_load((tmp_path / "german/brick.yaml").read_text())
    card["variants"][0] |= change
    (tmp_path / "german/brick.yaml").write_text(yaml.safe_dump(card))
    (refused,) = Registry([tmp_path]).scan(OTHER).refused
    assert sentence in refused.sentence


def test_a_damaged_file_of_a_variant_is_found(tmp_path):
    folder = add_brick(tmp_path, "german")
    add_variant(folder, OTHER, "other")
    (folder / "variants/other/adapter_model.safetensors").write_bytes(b"short")
    (refused,) = Registry([tmp_path]).scan(MINE).refused
    assert refused.sentence.startswith("german/variants/other/adapter_model.safetensors has 5 bytes instead of")

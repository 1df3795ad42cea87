"""One skill of several: peft's own logits, joined cards and keys, learned weights, and what cannot be merged."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from assistant.host.composition import compose, composed
from assistant.host.host import Host, load_host
from assistant.registry import Brick, check_brick
from mattoni.card import Routes, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.keys import load_counter_keys, load_keys, save_keys
from mattoni.methods import typed_parts
from mattoni.paths import data_folder
from task_bricks.importing import import_skill
from task_bricks.lora import read_lora
from task_bricks.merging import How, merge_factors, merge_skills, read_parts
from task_bricks.training.learned import learn_weights, rows_loss
from task_bricks.training.rows import read_rows
from tests.assistant.conftest import add_bare_brick
from tests.assistant.conftest import command_line as command_line  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(3, 40).unsqueeze(0)


@pytest.fixture(scope="module")
def host(tiny_host: Path) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


@pytest.fixture(autouse=True)
def no_shipped_bricks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking them takes longer than all that is done here."""
    monkeypatch.setattr("mattoni.paths.brick_folders", lambda data=None: [(data or data_folder()) / "bricks"])


@pytest.fixture
def sources(make_adapter) -> list[Path]:
    """Two skills of one rank, of which the second leaves some layers alone."""
    return [
        make_adapter("one", seed=1),
        make_adapter("two", seed=2, lora_alpha=4, target_modules=["q_proj", "o_proj", "down_proj"]),
    ]


@pytest.fixture
def skills(sources, host) -> list[Path]:
    return [import_skill(source, data_folder() / "bricks", None, host) for source in sources]


def change(brick: Path, **changes: object) -> None:
    card = read_card(brick).model_copy(update={"files": describe_files(brick), **changes})
    write_card(card, brick)


def parts_of(bricks: list[Path]):
    return read_parts([(brick, read_card(brick)) for brick in bricks])


def ours(host: Host, brick: Path) -> torch.Tensor:
    with torch.no_grad(), composed(host, compose(host, [read_lora(brick)])):
        return host.model(IDS).logits


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        ("cat", {"combination_type": "cat"}),
        ("linear", {"combination_type": "linear"}),
        ("ties", {"combination_type": "ties", "density": 0.5}),
        ("svd", {"combination_type": "svd", "svd_rank": 3}),
    ],
)
def test_a_merged_skill_gives_the_logits_of_pefts_own(sources, skills, host, tiny_host, method, theirs):
    weights = (0.75, -0.5)
    how = How(method, weights, rank=3 if method == "svd" else None)
    merge_skills(parts_of(skills), how, data_folder() / "bricks" / "both")
    brick = data_folder() / "bricks" / "both"
    assert isinstance(check_brick(brick), Brick)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny_host, dtype=torch.float32), sources[0], adapter_name="one"
        )
        model.load_adapter(sources[1], "two")
        # Both must name their layers alike for peft: written out, as a merge does.
        for name in ("one", "two"):
            model.peft_config[name].target_modules = set(read_lora(sources[name == "two"]).factors)
        model.base_model.add_weighted_adapter(["one", "two"], list(weights), "both", **theirs)
        model.set_adapter("both")
        expected = model.eval()(IDS).logits
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_host, dtype=torch.float32), brick)
        reloaded = again.eval()(IDS).logits
    torch.testing.assert_close(ours(host, brick), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(reloaded, expected, rtol=0, atol=1e-4)
    assert (expected - host.model(IDS).logits).abs().max() > 0.1


def test_cat_is_both_skills_at_once(skills, host):
    merge_skills(parts_of(skills), How("cat", (1.0, 0.5)), data_folder() / "bricks" / "both")
    deltas = [replace(read_lora(brick), weight=w) for brick, w in zip(skills, (1.0, 0.5), strict=True)]
    with torch.no_grad(), composed(host, compose(host, deltas)):
        expected = host.model(IDS).logits
    torch.testing.assert_close(ours(host, data_folder() / "bricks" / "both"), expected, rtol=0, atol=1e-4)
    assert read_card(data_folder() / "bricks" / "both").parts.rank == 8


def test_dare_drops_by_its_seed_and_small_skills_stay_small(skills):
    loras = [part.lora for part in parts_of(skills)]
    q = "model.layers.0.self_attn.q_proj"
    one, same, other = (merge_factors(loras, How("dare", (1, 1), 0.3, seed=seed)).factors[q] for seed in (1, 1, 2))
    assert torch.equal(one[0], same[0]) and not torch.equal(one[0], other[0])
    halves = [
        replace(lora, factors={n: (a.bfloat16(), b.bfloat16()) for n, (a, b) in lora.factors.items()}) for lora in loras
    ]
    assert merge_factors(halves, How("cat", (1, 1))).factors[q][0].dtype == torch.bfloat16


def test_its_card_names_every_licence_source_and_parent(skills):
    change(skills[0], licence="MIT", training={"data": [{"name": "a"}, {"name": "both"}]}, limits="Short.")
    change(skills[1], licence="CC-BY-SA-4.0", version=3, training={"data": [{"name": "both"}]})
    card, notes = merge_skills(parts_of(skills), How("cat", (1.0, 0.5)), data_folder() / "bricks" / "both")
    assert card.licence == "MIT And: CC-BY-SA-4.0"
    assert card.training["data"] == [{"name": "a"}, {"name": "both"}]
    assert [(p["name"], p["version"]) for p in card.training["parents"]] == [("one", 1), ("two", 3)]
    assert card.training["merged"] == {"method": "cat", "weights": [1.0, 0.5]}
    assert "nobody here has measured it. one: Short." in card.limits and card.metrics == ()
    assert card.routes is None and notes == [
        "'one' has no routing keys, so the merged skill has none: switch it on by hand."
    ]
    assert "CC-BY-SA-4.0" in (data_folder() / "bricks" / "both" / "README.md").read_text()


def test_its_keys_are_those_of_both_without_what_one_had_against_the_other(skills):
    axes = torch.eye(4)
    # The first skill's counter-keys: the second's message, and something neither is for.
    for brick, keys, counter, threshold in (
        (skills[0], axes[:1], axes[[1, 3]], 0.5),
        (skills[1], axes[1:3], axes[:1], 0.7),
    ):
        save_keys(keys, brick / "keys.safetensors", counter)
        change(brick, routes=Routes(space="text", keys="keys.safetensors", threshold=threshold))
    card, notes = merge_skills(parts_of(skills), How("cat", (1.0, 1.0)), data_folder() / "bricks" / "both")
    path = data_folder() / "bricks" / "both" / "keys.safetensors"
    assert notes == [] and card.routes is not None and card.routes.threshold == 0.7
    assert torch.equal(load_keys(path), axes[:3])
    assert torch.equal(load_counter_keys(path), axes[3:])


def typed(**parts: object):
    return typed_parts("task", {"method": "lora", **parts})


def test_what_cannot_be_one_skill_is_refused_in_a_sentence(skills, make_adapter, make_host, tmp_path, mattoni):
    merge = ["bricks", "merge"]

    def told(*arguments: str) -> str:
        status, out, err = mattoni(*merge, *arguments)
        assert status == 1 and err.count("\n") == 1 and not out
        assert not (data_folder() / "bricks" / "both").exists()
        return err

    add_bare_brick("eyes")
    wide = load_host(str(make_host(tmp_path / "wide", hidden_size=64)), device="cpu", dtype="float32")
    import_skill(make_adapter("wide", host=tmp_path / "wide"), data_folder() / "bricks", None, wide)
    small = load_host(str(make_host(tmp_path / "small")), device="cpu", dtype="float32")
    import_skill(make_adapter("small", host=tmp_path / "small", r=2), data_folder() / "bricks", None, small)
    mattoni("bricks", "list")  # takes away what loading a host printed
    assert told("one", "--out", "both") == "A merge takes two skills or more: name another one.\n"
    assert "A skill was named twice" in told("one", "two", "one", "--out", "both")
    assert "'eyes' is a modality brick (qformer) and no LoRA" in told("one", "eyes", "--out", "both")
    assert "There is no brick called 'three'" in told("one", "three", "--out", "both")
    assert "There is already a brick called 'two'" in told("one", "two", "--out", "two")
    assert "'Both!' cannot name a brick" in told("one", "two", "--out", "Both!")
    assert "'one' and 'wide' were trained on different hosts" in told("one", "wide", "--out", "both")
    assert "--weights has 3 numbers for 2 skills" in told("one", "two", "--out", "both", "--weights", "1,2,3")
    assert "--weights 1,x: write a number for each" in told("one", "two", "--out", "both", "--weights", "1,x")
    assert "--density 0: it is the share" in told("one", "two", "--out", "both", "--method", "ties", "--density", "0")
    assert "--rank is for --method svd" in told("one", "two", "--out", "both", "--rank", "2")
    assert "--rows and --method learned go together" in told("one", "two", "--out", "both", "--method", "learned")
    linear = told("one", "small", "--out", "both", "--method", "linear")
    assert "linear needs equal ranks, and they differ ('one' 4, 'small' 2): choose cat or svd." in linear
    for parts, sentence in (
        (typed(reads="message"), "reads: 'one' message, 'two' conversation: one skill cannot be both"),
        (typed(evaluator="arithmetic"), "evaluator: 'one' arithmetic, 'two' none: one skill cannot be both"),
    ):
        change(skills[0], parts=parts)
        assert sentence in told("one", "two", "--out", "both")


def test_the_command_makes_a_skill_of_two(skills, mattoni):
    status, out, err = mattoni("bricks", "merge", "one", "two", "--out", "both", "--weights", "1,0.5")
    assert status == 0, err
    assert "both is here, of rank 8" in out
    assert json.loads(mattoni("bricks", "show", "both", "--json")[1])["training"]["merged"]["weights"] == [1.0, 0.5]


def write_rows(path: Path, host: Host, lora, count: int = 6) -> Path:
    """Rows whose answers are those of a skill."""
    rows = []
    for n in range(count):
        ids = torch.tensor([host.tokenizer(f"dog number {n}")["input_ids"]])
        with torch.no_grad(), composed(host, compose(host, [lora])):
            said = host.model.generate(ids, max_new_tokens=6, do_sample=False)
        answer = host.tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip() or "dog"
        rows.append({"question": f"dog number {n}", "answers": [answer]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_learned_weights_are_no_worse_than_any_skill_alone(skills, host, tmp_path):
    parts = parts_of(skills)
    loss = rows_loss(
        host, [part.lora for part in parts], read_rows(write_rows(tmp_path / "rows.jsonl", host, parts[0].lora))
    )
    learned, again = (learn_weights(loss, 2, evaluations=25) for _ in range(2))
    assert learned == again, "nothing is drawn"
    assert learned.loss <= min(learned.bare, *learned.alone) + 0.05 * 1.5
    assert all(abs(weight) <= 1.5 for weight in learned.weights)
    assert learned.loss == pytest.approx(loss(learned.weights), abs=1e-6)


def test_a_search_finds_the_bottom_of_a_valley():
    learned = learn_weights(lambda w: (w[0] - 0.8) ** 2 + (w[1] + 0.4) ** 2, 2, evaluations=60)
    assert learned.weights == pytest.approx((0.8, -0.4), abs=0.05)
    with pytest.raises(MattoniError, match="With none of these skills the rows are answered best"):
        learn_weights(lambda w: sum(abs(x) for x in w), 2)


def test_the_command_learns_weights_on_rows(skills, host, tiny_host, tmp_path, mattoni):
    rows = write_rows(tmp_path / "rows.jsonl", host, read_lora(skills[0]), 2)
    call = [
        "bricks",
        "merge",
        "one",
        "two",
        "--out",
        "both",
        "--method",
        "learned",
        "--rows",
        rows,
        "--host",
        tiny_host,
    ]
    status, out, err = mattoni(*call)
    assert status == 0, err
    assert "loss of 2 rows: " in out and "both is here" in out
    told = read_card(data_folder() / "bricks" / "both").training["merged"]
    assert told["method"] == "cat" and told["weights learned"]["rows"] == 2

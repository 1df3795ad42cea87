"""Training that goes on from a skill: the same deltas at the start, a next version at the end, and what stops it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from assistant.host.host import load_host
from mattoni.card import read_card
from mattoni.errors import MattoniError
from mattoni.injections import LowRank
from mattoni.paths import data_folder
from task_bricks.lora import read_lora
from task_bricks.training import train as entry
from task_bricks.training.recipe import LoRASize, read_recipe
from task_bricks.training.stage import SkillModel
from task_bricks.training.start import alike, find_start, mean_of
from tests.task_bricks.test_training import make_recipe as make_recipe  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def train(make_recipe, tiny_host, tmp_path):
    """Train the recipe with changes; the brick goes among the user's own. Returns the exit status."""

    def run(work: str, *options: str, **changes: object) -> int:
        short = {"steps": 2, "warmup": 1, "decay": 1, "evaluate_every": 2}
        command = [str(make_recipe(**{**short, **changes})), "--work", str(tmp_path / work), "--host", str(tiny_host)]
        return entry.main([*command, *options])

    return run


def deltas(lora: LowRank) -> dict[str, torch.Tensor]:
    return {name: lora.scales[name] * (b.float() @ a.float()) for name, (a, b) in lora.factors.items()}


@pytest.mark.parametrize("size", [LoRASize(rank=2, alpha=4), LoRASize(rank=2, alpha=8, rslora=True)])
def test_a_continued_training_begins_with_the_deltas_of_the_skill(train, tiny_host, size):
    assert train("first") == 0
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    start = find_start("shout", host.identity)
    model = SkillModel(host.model, size, seed=3, start=start.lora).peft
    for name, delta in deltas(start.lora).items():
        layer = model.get_submodule(f"base_model.model.{name}")
        torch.testing.assert_close(layer.get_delta_weight("default"), delta, rtol=1e-5, atol=1e-6)
    model.unload()


def test_a_skill_in_eight_bits_is_continued_with_factors_as_long_as_a_training_s(train, tiny_host):
    assert train("first", lora={"rank": 2, "alpha": 4, "eight_bits": True}) == 0
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    start = find_start("shout", host.identity)
    fresh = SkillModel(host.model, LoRASize(rank=2, alpha=4), seed=3).peft
    lengths = {name: float(p.detach().norm()) for name, p in fresh.named_parameters() if "lora_A" in name}
    fresh.unload()
    model = SkillModel(host.model, LoRASize(rank=2, alpha=4), seed=3, start=start.lora).peft
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            assert 0.7 < float(parameter.detach().norm()) / lengths[name] < 1.5
    for name, delta in deltas(start.lora).items():
        layer = model.get_submodule(f"base_model.model.{name}")
        torch.testing.assert_close(layer.get_delta_weight("default"), delta, rtol=1e-5, atol=1e-6)
    model.unload()


def test_the_mean_of_two_parts_of_a_training_starts_between_them(train, tmp_path, tiny_host, capsys):
    assert train("first", "--out", str(tmp_path / "first-bricks")) == 0
    places = [str(tmp_path / f"{name}-bricks" / "shout") for name in ("first", "second")]
    assert train("second", "--start-from", places[0], "--out", str(tmp_path / "second-bricks"), seed=1) == 0
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    one, two = (find_start(place, host.identity) for place in places)
    mean = mean_of([one, two])
    for name, (a, b) in mean.lora.factors.items():
        (a1, b1), (a2, b2) = (alike(start.lora, name, one.lora.factors[name][0]) for start in (one, two))
        torch.testing.assert_close(a, (a1 + a2) / 2)
        torch.testing.assert_close(b, (b1 + b2) / 2)
    assert mean_of([one]) is one
    torch.testing.assert_close(deltas(mean_of([one, one]).lora), deltas(one.lora))
    assert train("third", start_from=places, learning_rate=1e-9) == 0, capsys.readouterr().err
    card = read_card(data_folder() / "bricks" / "shout")
    assert [parent["version"] for parent in card.training["parents"]] == [1, 2]
    assert str(tmp_path) not in (data_folder() / "bricks" / "shout" / "brick.yaml").read_text()
    assert train("fourth", start_from=places, lora={"rank": 4, "alpha": 4}) == 1
    assert "has rank 2 and the recipe 4" in capsys.readouterr().err


def test_the_next_version_says_what_it_came_from(train, tmp_path, capsys):
    brick = data_folder() / "bricks" / "shout"
    assert train("first") == 0
    first = read_lora(brick)
    assert train("second", "--start-from", "shout", seed=1, learning_rate=1e-5) == 0, capsys.readouterr().err
    card, second = read_card(brick), read_lora(brick)
    assert card.version == 2
    (parent,) = card.training["parents"]
    assert (parent["name"], parent["version"], parent["pairs_seen"]) == ("shout", 1, 6)
    assert parent["metrics"][0]["n"] == 2
    assert card.training["recipe"]["start_from"] == "shout"
    moved = max(float((second.factors[n][1] - first.factors[n][1]).abs().max()) for n in first.factors)
    assert 0 < moved < 0.01, "so low a rate moves little, from there"
    assert "It goes on from version 1 of shout." in (brick / "README.md").read_text()
    assert train("third", start_from=str(brick)) == 0
    card = read_card(brick)
    assert card.version == 3 and [parent["version"] for parent in card.training["parents"]] == [2, 1]
    assert str(tmp_path) not in (brick / "brick.yaml").read_text()


def test_a_stopped_continuation_goes_on_and_no_other_start_does(train, capsys):
    assert train("first") == 0
    assert train("second", "--start-from", "shout") == 0
    assert train("second", "--start-from", "shout") == 0, "it is finished, and written again"
    assert train("second") == 1
    assert "was made with other values of start_from" in capsys.readouterr().err


def write_plain(folder: Path, brick: Path, rename: tuple[str, str] = ("", "")) -> None:
    """A brick's LoRA as peft wrote it, without a card."""
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((brick / "adapter_config.json").read_bytes())
    tensors = load_file(brick / "adapter_model.safetensors")
    save_file({name.replace(*rename): t for name, t in tensors.items()}, folder / "adapter_model.safetensors")


def test_a_folder_that_peft_wrote_can_be_continued(train, tmp_path):
    assert train("first") == 0
    write_plain(tmp_path / "theirs", data_folder() / "bricks" / "shout")
    assert train("second", "--start-from", str(tmp_path / "theirs"), name="mine") == 0
    card = read_card(data_folder() / "bricks" / "mine")
    assert card.version == 1 and card.training["parents"][0]["name"] == "theirs"


def test_what_cannot_be_continued_is_refused_by_name(train, tmp_path, capsys):
    assert train("first") == 0
    write_plain(tmp_path / "other", data_folder() / "bricks" / "shout", (".q_proj", ".strange"))
    for number, (start, changes, sentence) in enumerate(
        [
            ("nobody", {}, "There is no brick called 'nobody'"),
            ("./nowhere", {}, "start_from: there is no folder ./nowhere"),
            ("document", {}, "start_from: 'document' is a modality brick and no skill"),
            ("shout", {"lora": {"rank": 4, "alpha": 4}}, "start_from: 'shout' has rank 2 and the recipe 4"),
            (str(tmp_path / "other"), {}, "start_from: 'other' changes 'model.layers.0.self_attn.strange', which"),
        ]
    ):
        assert train(f"no{number}", "--start-from", start, **changes) == 1
        assert sentence in capsys.readouterr().err


def test_a_skill_of_another_host_is_refused(train, tiny_host, make_recipe):
    assert train("first") == 0
    identity = load_host(str(tiny_host), device="cpu", dtype="float32").identity
    other = identity.model_copy(update={"fingerprint": "sha256:" + "0" * 64})
    with pytest.raises(MattoniError, match="was trained on other weights than this host's|made for another"):
        find_start("shout", other)


def test_an_older_recipe_depends_on_what_it_did(make_recipe):
    assert read_recipe(make_recipe()).depends_on["start_from"] is None

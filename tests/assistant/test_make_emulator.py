"""An emulator of a tiny host: its own layers are the host's, its middle learns, and what is trained on it fits the host."""

import json

import pytest
import torch

from assistant.host.composition import compose, composed
from assistant.host.host import load_host
from assistant.training.make_emulator import alternating, chosen_layers, ids_of_recipe, ids_of_texts, make_emulator
from brick_training.emulator import Emulates, read_emulates
from mattoni.card import read_card
from mattoni.errors import MattoniError
from task_bricks.lora import read_lora
from task_bricks.training import train as entry
from tests.task_bricks.test_training import make_recipe

__all__ = ["make_recipe"]
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TEXTS = [f"two men and {n} dogs run over the grass" for n in range(70)]


@pytest.fixture(scope="module")
def folders(make_host, tmp_path_factory):
    """A host of six layers and an emulator of it with four, three of them its own."""
    base = tmp_path_factory.mktemp("emulator")
    whole = make_host(base / "whole", layers=6)
    host = load_host(str(whole), device="cpu", dtype="float32")
    make_emulator(host, ids_of_texts(host, TEXTS), base / "small", base / "work", (1, 1, 2), steps=8)
    return whole, base / "small"


def test_the_layers_that_stay_are_the_first_the_last_and_some_between():
    assert chosen_layers(30, 4, 3, 8) == ((0, 1, 2, 3, 7, 13, 19, *range(22, 30)), (*range(4), *range(7, 15)))
    for sizes in ((0, 1, 2), (1, 0, 1), (1, 4, 1), (3, 1, 3)):
        with pytest.raises(MattoniError, match="no emulator of 6 layers"):
            chosen_layers(6, *sizes)


def test_its_own_layers_are_the_hosts_bit_for_bit_and_the_middle_has_learnt(folders):
    whole, small = (load_host(str(folder), device="cpu", dtype="float32") for folder in folders)
    emulates = read_emulates(str(folders[1]))
    assert emulates.host == whole.identity and len(emulates.layers) == small.identity.layers == 4
    for name, weight in small.weights.items():
        place = int(name.split(".")[2]) if ".layers." in name else None
        same = torch.equal(weight, whole.weights[emulates.at_host(name)])
        assert same or place not in (None, *emulates.own), name
    middle = [n for n in small.weights if ".layers.1." in n and n.endswith("proj.weight")]
    assert any(not torch.equal(small.weights[n], whole.weights[emulates.at_host(n)]) for n in middle)
    ids = torch.tensor([[5, 6, 7]])
    assert small.model(input_ids=ids).logits.shape == whole.model(input_ids=ids).logits.shape


def test_it_is_distilled_on_what_a_skill_will_learn_from_too(make_recipe, folders, tmp_path):
    host = load_host(str(folders[0]), device="cpu", dtype="float32")
    said = [str(host.tokenizer.decode(ids)) for ids in ids_of_recipe(host, make_recipe())]
    rows = [json.loads(line) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()]
    assert len(said) == len(rows)
    for row in rows:
        assert any(row["input"] in text and row["answers"][0] in text.split(row["input"])[1] for text in said), said


def test_as_many_texts_as_rows_take_part():
    assert alternating([[1], [2], [3]], [[4], [5]]) == [[1], [4], [2], [5]]
    assert alternating([[1], [2]], []) == [[1], [2]]


def test_a_skill_trained_on_it_is_one_of_the_whole_host(make_recipe, folders, tmp_path, capsys):
    whole, small = folders
    command = [str(make_recipe()), "--out", str(tmp_path / "bricks"), "--work", str(tmp_path / "work")]
    assert entry.main([*command, "--host", str(small)]) == 0, capsys.readouterr().err
    folder, host = tmp_path / "bricks" / "shout", load_host(str(whole), device="cpu", dtype="float32")
    card = read_card(folder)
    assert card.host == host.identity and "emulator of 4 layers, 3 of them the host's" in card.metrics[0].name
    lora = read_lora(folder)
    assert {int(name.split(".")[2]) for name in lora.factors} == {0, 4, 5}, (
        "the host's own layers, by the host's numbers"
    )
    assert set(lora.factors) < set(host.linear_shapes)
    assert set(json.loads((folder / "adapter_config.json").read_text())["target_modules"]) == set(lora.factors)
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        bare = host.model(input_ids=ids).logits
        with composed(host, compose(host, [lora])):
            assert not torch.equal(host.model(input_ids=ids).logits, bare)
    # A skill that is there is not replaced on an emulator's word.
    assert entry.main([*command, "--host", str(small)]) == 1
    assert "cannot tell which is better" in capsys.readouterr().err


def test_a_folder_that_is_no_emulator_and_one_that_cannot_be_read(folders, tmp_path):
    assert read_emulates(str(folders[0])) is None and read_emulates("builtin") is None
    (tmp_path / "emulator.json").write_text("{}")
    with pytest.raises(MattoniError, match="make the emulator anew"):
        read_emulates(str(tmp_path))
    emulates = Emulates(name="x", host=read_emulates(str(folders[1])).host, layers=(0, 4, 9), own=(0, 2))
    assert emulates.at_host("base_model.model.model.layers.2.mlp.up_proj.lora_A.weight").startswith(
        "base_model.model.model.layers.9.mlp"
    )


def test_too_few_texts_are_refused(folders, tmp_path):
    host = load_host(str(folders[0]), device="cpu", dtype="float32")
    with pytest.raises(MattoniError, match="5 texts"):
        make_emulator(host, ids_of_texts(host, TEXTS[:5]), tmp_path / "out", tmp_path / "work", (1, 1, 2), steps=1)

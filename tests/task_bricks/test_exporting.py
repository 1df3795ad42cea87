"""A skill goes out as peft's own folder and comes in again as it was."""

import json
import warnings
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from assistant.host.host import load_host
from mattoni.card import Routes, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.keys import save_keys
from mattoni.paths import data_folder
from task_bricks.exporting import export_skill
from task_bricks.importing import import_skill
from task_bricks.lora import read_lora
from tests.assistant.conftest import add_bare_brick
from tests.assistant.conftest import command_line as command_line  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(3, 40).unsqueeze(0)
SAID = {
    "plain": {},
    "rslora": {"use_rslora": True, "lora_dropout": 0.1},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 12}},
    "layers": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1], "init_lora_weights": "gaussian"},
    "activated": {"alora_invocation_tokens": [5, 6]},
    "regex": {"target_modules": r".*\.(up|down)_proj", "revision": "main"},
}


@pytest.mark.parametrize("options", SAID.values(), ids=list(SAID))
def test_what_goes_out_is_loaded_by_peft_and_comes_in_unchanged(make_adapter, tiny_host, tmp_path, options):
    source, bricks = make_adapter(**options), tmp_path / "bricks"
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    brick = import_skill(source, bricks, "mine", host)
    save_keys(torch.eye(3), brick / "keys.safetensors")
    routes = Routes(space="text", keys="keys.safetensors", threshold=0.5)
    card = read_card(brick).model_copy(update={"routes": routes, "files": describe_files(brick)})
    write_card(card, brick)
    out = export_skill(brick, read_card(brick), tmp_path / "out")

    before, after = (LoraConfig.from_pretrained(folder).to_dict() for folder in (source, out))
    assert before == after, "everything that LoraConfig said"
    with torch.no_grad(), warnings.catch_warnings():
        logits = []
        for folder in (source, out):
            model = AutoModelForCausalLM.from_pretrained(tiny_host, dtype=torch.float32)
            logits.append(PeftModel.from_pretrained(model, folder).eval()(IDS).logits)
    assert torch.equal(*logits)

    again = import_skill(out, bricks, "again", host)
    assert read_card(again) == card.model_copy(update={"name": "again"})
    assert {p.name for p in again.iterdir()} == {p.name for p in brick.iterdir()}
    for path in brick.iterdir():
        assert path.name == "brick.yaml" or path.read_bytes() == (again / path.name).read_bytes()
    assert read_lora(again).digest == read_lora(brick).digest


def test_an_imported_skill_in_anothers_names_keeps_what_its_configuration_said(make_adapter, tiny_host, tmp_path):
    """The names of layers are the host's then; the rest is as it was."""
    source = make_adapter(use_rslora=True, lora_dropout=0.25)
    (source / "adapter_model.safetensors").rename(source / "model.safetensors")
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    brick = import_skill(source / "model.safetensors", tmp_path / "bricks", "mine", host)
    config = json.loads((export_skill(brick, read_card(brick), tmp_path / "out") / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["lora_dropout"], config["r"], config["lora_alpha"]) == (True, 0.25, 4, 8)


def test_what_is_no_lora_is_refused_by_name(mattoni, make_adapter, tiny_host, tmp_path):
    add_bare_brick("eyes")
    out = tmp_path / "out"
    assert mattoni("bricks", "export", "eyes", out)[2] == (
        "'eyes' is a modality brick (qformer) and no LoRA: a file that ends in .zip takes any brick.\n"
    )
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    import_skill(make_adapter(), data_folder() / "bricks", "mine", host)
    status, told, _ = mattoni("bricks", "export", "mine", out)
    assert status == 0 and "is a PEFT LoRA" in told and (out / "adapter_config.json").is_file()
    status, _, told = mattoni("bricks", "export", "mine", out)
    assert status == 1 and told.endswith("out is there already: name a folder that is not.\n")
    assert "There is no brick called 'nobody'" in mattoni("bricks", "export", "nobody", out)[2]


def test_a_damaged_skill_does_not_go_out(make_adapter, tiny_host, tmp_path):
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    brick = import_skill(make_adapter(), tmp_path / "bricks", "mine", host)
    card = read_card(brick)
    Path(brick / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(MattoniError, match="mine/adapter_model.safetensors has 7 bytes"):
        export_skill(brick, card, tmp_path / "out")
    assert not (tmp_path / "out").exists()

"""A composed LoRA gives the logits that peft itself gives (fp32, 1e-4: the sums run in another order)."""

from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from assistant.host.composition import compose, composed
from assistant.host.host import load_host
from task_bricks.lora import in_eight_bits, read_lora, write_lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
IDS = torch.arange(3, 40).unsqueeze(0)


def ours(host_folder: Path, folders: list[Path]) -> Tensor:
    host = load_host(str(host_folder), device="cpu", dtype="float32")
    loras = [read_lora(folder) for folder in folders]
    with torch.no_grad(), composed(host, compose(host, loras)):
        return host.model(IDS).logits


def pefts(host_folder: Path, folders: list[Path]) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(host_folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, folders[0], adapter_name=folders[0].name)
    for folder in folders[1:]:
        adapted.load_adapter(folder, adapter_name=folder.name)
    adapted.base_model.set_adapter([folder.name for folder in folders])
    with torch.no_grad():
        return adapted.eval()(IDS).logits


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "down_proj": 6}, "alpha_pattern": {"v_proj": 3}},
        {"target_modules": ["q_proj", "gate_proj"], "layers_to_transform": [1]},
    ],
    ids=["plain", "rslora", "patterns", "some layers"],
)
def test_one_lora_equals_peft(tiny_host, make_adapter, options):
    folder = make_adapter(**options)
    expected = pefts(tiny_host, [folder])
    torch.testing.assert_close(ours(tiny_host, [folder]), expected, rtol=0, atol=1e-4)
    assert (expected - ours(tiny_host, [])).abs().max() > 0.1  # it was applied


def test_two_loras_at_once_equal_peft(tiny_host, make_adapter):
    folders = [make_adapter("first", seed=1), make_adapter("second", seed=2, r=2, use_rslora=True)]
    torch.testing.assert_close(ours(tiny_host, folders), pefts(tiny_host, folders), rtol=0, atol=1e-4)


def test_factors_of_eight_bits_equal_peft_and_are_near_those_of_sixteen(tiny_host, make_adapter, tmp_path):
    whole = read_lora(make_adapter(alpha_pattern={"v_proj": 3}))
    folder = tmp_path / "small"
    folder.mkdir()
    write_lora(folder, in_eight_bits(whole), None)
    small = read_lora(folder)
    for name, (a, b) in whole.factors.items():
        assert all(factor.abs().max() <= 0.5 for factor in small.factors[name])
        delta, near = (
            whole.scales[name] * (b @ a),
            small.scales[name] * (small.factors[name][1] @ small.factors[name][0]).float(),
        )
        assert (near - delta).norm() < 0.06 * delta.norm()
    torch.testing.assert_close(ours(tiny_host, [folder]), pefts(tiny_host, [folder]), rtol=0, atol=1e-4)

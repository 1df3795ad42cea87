"""Reading PEFT LoRA folders: what they mean, and every way in which they can be wrong."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mattoni.errors import MattoniError
from mattoni.injections import check_low_rank
from task_bricks.lora import read_lora

Q = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"
WEIGHTS = "adapter_model.safetensors"


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_factors_carry_the_hosts_module_names_and_their_shapes(make_adapter, shapes):
    lora = read_lora(make_adapter())
    assert set(lora.factors) == set(shapes)
    for name, (a, b) in lora.factors.items():
        assert (b.shape[0], a.shape[1]) == shapes[name]
        assert a.shape[0] == b.shape[1] == 4
    check_low_rank(lora, shapes, "tiny")


def test_the_scale_is_alpha_by_rank_or_by_its_root(make_adapter):
    assert read_lora(make_adapter("plain")).scales[Q] == 8 / 4
    assert read_lora(make_adapter("rs", use_rslora=True)).scales[Q] == 8 / math.sqrt(4)


def test_patterns_give_layers_ranks_and_alphas_of_their_own(make_adapter):
    lora = read_lora(make_adapter(rank_pattern={"q_proj": 2}, alpha_pattern={r"layers\.1\.mlp\.down_proj": 12}))
    assert lora.factors[Q][0].shape[0] == 2
    assert lora.scales[Q] == 8 / 2
    assert lora.scales[DOWN] == 12 / 4
    assert lora.scales["model.layers.0.mlp.down_proj"] == 8 / 4


def test_a_lora_on_some_layers_only_changes_those(make_adapter):
    lora = read_lora(make_adapter(target_modules=["q_proj"], layers_to_transform=[1]))
    assert set(lora.factors) == {"model.layers.1.self_attn.q_proj"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"peft_type": "IA3"}, "the PEFT type is 'IA3'"),
        ({"peft_type": None}, "the PEFT type is None"),
        ({"use_dora": True}, "uses DoRA"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"trainable_token_indices": [3]}, "uses trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "started from 'pissa'"),
        ({"r": 8}, "rank 8 but its factors have rank 4"),
        ({"r": "four"}, "must be finite numbers, not 'four'"),
        ({"lora_alpha": float("nan")}, "must be finite numbers"),
        ({"alpha_pattern": [1]}, "must map module names to numbers"),
        ({"alpha_pattern": {"(q": 1}}, "is not a valid pattern"),
        ({"alpha_pattern": {"(a+)+": 1}}, "is too complicated"),
    ],
)
def test_a_configuration_that_cannot_be_composed_is_refused_by_name(make_adapter, edit_config, changes, sentence):
    folder = make_adapter()
    edit_config(folder, **changes)
    with pytest.raises(MattoniError, match="tiny-skill/adapter_config.json") as problem:
        read_lora(folder)
    assert sentence in str(problem.value)


def test_a_missing_or_broken_configuration_is_said(make_adapter):
    folder = make_adapter()
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(MattoniError, match="cannot be read as JSON"):
        read_lora(folder)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(MattoniError, match="holds no settings"):
        read_lora(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(MattoniError, match="adapter_config.json is missing"):
        read_lora(folder)


def test_a_pickle_is_refused_by_its_name(make_adapter):
    folder = make_adapter()
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(MattoniError, match=r"adapter_model\.bin is a pickle, which can run code"):
        read_lora(folder)


class Bomb:
    """Unpickling it would be seen."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_under_another_name_is_refused_and_not_run(make_adapter, protocol):
    folder = make_adapter()
    (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb(), protocol=protocol))
    with pytest.raises(MattoniError, match="is a pickle, which can run code, under another name"):
        read_lora(folder)


def test_torchs_own_archive_under_another_name_is_refused(make_adapter):
    folder = make_adapter()
    torch.save({"x": torch.zeros(1)}, folder / WEIGHTS)
    with pytest.raises(MattoniError, match="is a pickle"):
        read_lora(folder)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_damaged(make_adapter, keep):
    folder = make_adapter()
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    with pytest.raises(MattoniError, match="is truncated or damaged"):
        read_lora(folder)


def test_no_weights_at_all(make_adapter):
    folder = make_adapter()
    (folder / WEIGHTS).unlink()
    with pytest.raises(MattoniError, match="adapter_model.safetensors is missing"):
        read_lora(folder)
    save_file({}, folder / WEIGHTS)
    with pytest.raises(MattoniError, match="holds no LoRA factors"):
        read_lora(folder)


def factor(side: str) -> str:
    return f"base_model.model.{Q}.lora_{side}.weight"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_and_infinity_are_refused_with_the_tensors_name(make_adapter, value):
    folder = make_adapter()
    change(folder, lambda tensors: tensors[factor("A")].view(-1)[3:4].fill_(value))
    with pytest.raises(MattoniError, match="q_proj.lora_A.weight' holds NaN or infinity"):
        read_lora(folder)


def test_shapes_that_do_not_fit_together(make_adapter):
    folder = make_adapter()
    change(folder, lambda tensors: tensors.update({factor("B"): torch.zeros(32, 5)}))
    with pytest.raises(MattoniError, match="do not fit together"):
        read_lora(folder)


def test_half_a_pair_integers_and_strange_tensors(make_adapter):
    for name, edit, sentence in [
        ("half", lambda t: t.pop(factor("B")), "has only lora_A"),
        ("integers", lambda t: t.update({factor("A"): t[factor("A")].int()}), "must be a plain float"),
        ("strange", lambda t: t.update({"base_model.model.lm_head.weight": torch.zeros(2)}), "no LoRA factor"),
    ]:
        folder = make_adapter(name)
        change(folder, edit)
        with pytest.raises(MattoniError, match=sentence):
            read_lora(folder)


def test_a_lora_for_another_host_does_not_fit(make_adapter, make_host, shapes, tmp_path):
    wider = make_adapter("wider", host=make_host(tmp_path / "wider-host", hidden_size=64))
    with pytest.raises(MattoniError, match="made for another host .*64 x 128 in it and 32 x 64 in the host"):
        check_low_rank(read_lora(wider), shapes, "tiny")
    deeper = make_adapter("deeper", host=make_host(tmp_path / "deeper-host", layers=3))
    with pytest.raises(MattoniError, match="'model.layers.2.* the host lacks"):
        check_low_rank(read_lora(deeper), shapes, "tiny")

"""What the tests of skills share: tiny adapters that peft itself wrote, and a tiny task."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

MakeAdapter = Callable[..., Path]


@pytest.fixture
def make_adapter(tiny_host: Path, tmp_path: Path) -> MakeAdapter:
    """Write a LoRA on the tiny host with peft, its factors random so that it changes every logit."""

    def make(name: str = "tiny-skill", seed: int = 0, host: Path | None = None, **options: object) -> Path:
        model = AutoModelForCausalLM.from_pretrained(host or tiny_host, dtype=torch.float32)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
        with warnings.catch_warnings():
            # peft 0.21 asks the model for is_gradient_checkpointing, which transformers 5.23 calls deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            adapted: PeftModel = get_peft_model(model, LoraConfig(**settings))
        torch.manual_seed(seed)
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.2)
        adapted.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def shapes(tiny_host: Path) -> dict[str, tuple[int, int]]:
    """(out, in) of the tiny host's linear layers."""
    model = AutoModelForCausalLM.from_pretrained(tiny_host)
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """Change keys of an adapter's configuration; None removes one."""

    def edit(folder: Path, **changes: object) -> None:
        path = folder / "adapter_config.json"
        config = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))

    return edit

"""Facts as a change of weights: a low-rank delta that any tool loads as a PEFT LoRA. Unlike the facts themselves it acts everywhere.

ΔW = R Kᵀ (λ C + K Kᵀ)⁻¹ on the FFN's output projection, where the columns of K are keys, of R residuals, and C is the second
moment of what enters the projection: with many facts MEMIT's update (Meng et al. 2023, arXiv:2210.07229, equation 14) at a
single layer; with one fact and λ → 0 ROME's (arXiv:2202.05262, equation 2), of rank one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from assistant.bricks.fact_solving import PREFIXES, check_host, subject_end
from assistant.host.host import Host
from knowledge_bricks.facts import Facts, Learned
from mattoni.errors import MattoniError
from mattoni.files import replace_folder, replacing, write_text
from mattoni.injections import LowRank
from mattoni.paths import shipped_models

_TOKENS = 6_000  # of text, for the second moment
_RIDGE = 0.01  # of the mean variance: so many tokens say little of 1,536 directions
MEMIT = 1.0  # weight of everything else against the facts
ROME = 1e-4


@torch.no_grad()
def second_moment(host: Host, layer: int, texts: Sequence[str] = ()) -> Tensor:
    """Mean of x xᵀ over what enters the output projection of an FFN: (intermediate, intermediate), fp32.

    texts  what the host reads; empty: the messages that came with Mattoni
    """
    total: Tensor | None = None
    count = 0
    for text in texts or _shipped_texts():
        ids = host.tokenizer(text, add_special_tokens=False, truncation=True, max_length=512).input_ids
        states = _entering(host, layer, ids)
        total = states.T @ states if total is None else total + states.T @ states
        count += len(states)
        if count >= _TOKENS:
            break
    assert total is not None
    moment = total / count
    return moment + _RIDGE * moment.diagonal().mean() * torch.eye(len(moment), device=moment.device)


def _shipped_texts() -> list[str]:
    """The messages that the router's recognisers were made of, some in a piece."""
    lines = [
        line
        for file in sorted((shipped_models() / "router").glob("*.txt"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    return ["\n".join(lines[begin::40]) for begin in range(40)]


class _Enough(Exception):
    """What was to be seen has been seen."""


def _entering(host: Host, layer: int, ids: Sequence[int]) -> Tensor:
    """(tokens, intermediate), fp32: the layers below run, and no other."""
    caught: list[Tensor] = []

    def catch(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args[0][0].float())
        raise _Enough

    hook = host.linear_layers[host.gated_layers[layer]].register_forward_pre_hook(catch)
    try:
        inner: Any = host.model.get_decoder()
        inner(input_ids=torch.tensor([list(ids)], device=host.device), use_cache=False)
    except _Enough:
        pass
    finally:
        hook.remove()
    return caught[0]


@torch.no_grad()
def as_low_rank(host: Host, facts: Facts, moment: Tensor, weight: float, name: str = "facts") -> LowRank:
    """The facts that are on as one delta of their number's rank.

    moment  of `second_moment`, at the facts' layer
    weight  λ
    """
    check_host(host)
    active = [x for x in facts.learned if x.fact.is_on]
    if not active:
        raise MattoniError("No fact is on: switch some on, or teach one.")
    keys = torch.stack([_key(host, facts.layer, x) for x in active])
    residuals = torch.stack([x.residual for x in active]).to(keys)
    # K Kᵀ + λ C is as large as the layer; solved once for all facts.
    down = torch.linalg.solve(weight * moment + keys.T @ keys, keys.T).T
    module = host.gated_layers[facts.layer]
    digest = f"{name}-{weight}-" + "-".join(str(x.fact.id) for x in active)
    return LowRank(name, digest, {module: (down.contiguous(), residuals.T.contiguous())}, {module: 1.0})


def _key(host: Host, layer: int, learned: Learned) -> Tensor:
    """The mean of what enters the projection at the subject's end, over the prefixes; not of unit length, as a weight sees it."""
    found = []
    for prefix in PREFIXES:
        ids, end = subject_end(host, prefix + learned.fact.relation, learned.fact.subject)
        found.append(_entering(host, layer, ids[: end + 1])[end])
    return torch.stack(found).mean(dim=0)


def write_peft(delta: LowRank, folder: Path, base: str) -> None:
    """Write a delta as peft does: `adapter_config.json` and `adapter_model.safetensors`. Raises MattoniError for a folder that is there."""
    if folder.exists():
        raise MattoniError(f"{folder} is there already: name a folder that is not.")
    rank = next(len(a) for a, _ in delta.factors.values())
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,  # a scale of one
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(delta.factors),
        "inference_mode": True,
    }
    tensors = {
        f"base_model.model.{module}.lora_{letter}.weight": factor.cpu().contiguous()
        for module, pair in delta.factors.items()
        for letter, factor in zip("AB", pair, strict=True)
    }

    def fill(fresh: Path) -> None:
        write_text(fresh / "adapter_config.json", json.dumps(config, indent=2))
        with replacing(fresh / "adapter_model.safetensors") as temporary:
            save_file(tensors, temporary)

    replace_folder(folder, fill)

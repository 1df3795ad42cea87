"""Reads PEFT LoRA folders into low-rank deltas. Knows nothing of hosts, nor of the forms in which adapters are handed round.

Method: LoRA (Hu et al. 2021, arXiv:2106.09685), as peft writes it: `adapter_config.json` beside
`adapter_model.safetensors`. A file may come from anybody: whatever it gets wrong is one sentence, and nothing in it
is run.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import pickles_in, sha256_of, write_text
from mattoni.injections import LowRank
from mattoni.tensors import read_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
README = "README.md"
INVOCATION = "alora_invocation_tokens"
PREFIX = "base_model.model."  # what peft puts before the host's name of a layer

Factors = dict[str, tuple[Tensor, Tensor]]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Half the bytes: a sign, four bits of exponent, three of mantissa (Micikevicius et al. 2022, arXiv:2209.05433). Expanded when read.
EIGHT_BITS = torch.float8_e4m3fn
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# peft's other methods, for a sentence; a name that is not here is told as it stands.
_OTHER_METHODS = {
    "IA3": "IA³, factors on activations",
    "VERA": "VeRA, shared random factors",
    "LOHA": "LoHa, products of two low-rank matrices",
    "LOKR": "LoKr, Kronecker products",
    "ADALORA": "AdaLoRA, ranks of which some are pruned",
    "PREFIX_TUNING": "prefix tuning, keys and values before the text",
    "PROMPT_TUNING": "prompt tuning, vectors before the text",
    "P_TUNING": "P-tuning, vectors before the text",
    "MULTITASK_PROMPT_TUNING": "prompt tuning, vectors before the text",
    "LN_TUNING": "retrained norms",
    "CARTRIDGE": "a cartridge, keys and values before the text",
}
# Hosts answer; what these tasks train is another head or another kind of model.
_OTHER_TASKS = {
    "SEQ_CLS": "to sort texts into classes",
    "TOKEN_CLS": "to label words",
    "QUESTION_ANS": "to mark answers in a text",
    "SEQ_2_SEQ_LM": "for an encoder-decoder",
}
# Options of peft that change more than ΔW = scale · B @ A on linear layers, and what they are called in a sentence.
_UNSUPPORTED = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "modules_to_save": "modules_to_save (whole retrained layers)",
    "trainable_token_indices": "trainable_token_indices (retrained word embeddings)",
    "target_parameters": "target_parameters",
    "layer_replication": "layer_replication",
    "lora_bias": "lora_bias",
    "ensure_weight_tying": "ensure_weight_tying (a LoRA on the word embeddings)",
}
# Options that leave ΔW as it is, or are read here. `tests/task_bricks` compares these lists with peft's own.
HARMLESS = frozenset(
    "alora_invocation_tokens alpha_pattern auto_mapping base_model_name_or_path bias corda_config eva_config exclude_modules fan_in_fan_out "
    "inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout "
    "lora_ga_config megatron_config megatron_core peft_type peft_version qalora_group_size r rank_pattern revision "
    "runtime_config target_modules task_type use_rslora velora_config".split()
)
# These starts leave the host's own weights as they are; PiSSA, OLoRA, CorDA, LoftQ and others subtract from them.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_PEFTS_ALPHA = 8  # where a configuration has none
MERGE = "or merge it into its host with peft's merge_and_unload() and start that folder with --host"


def card_parts(rank: int) -> dict[str, str | int | float | bool]:
    """What a skill's card says of its LoRA under `parts`."""
    return {"method": "lora", "rank": rank}


def read_lora(folder: Path, digest: str | None = None) -> LowRank:
    """Read a brick's PEFT LoRA.

    digest  stands for the folder's contents; None: computed from them

    Raises MattoniError with one sentence for everything that a file can get wrong.
    """
    config = read_config(folder)
    where = f"{folder.name}/{WEIGHTS}"
    factors = pair_factors(_by_module(_read_tensors(folder), where), where)
    scales = {name: scale_of((name,), a.shape[0], config, folder.name) for name, (a, _) in factors.items()}
    invocation = invocation_of(config, folder.name)
    return LowRank(folder.name, digest or _digest(folder), factors, scales, invocation_tokens=invocation)


def write_lora(folder: Path, lora: LowRank, base_model: str | None) -> None:
    """Write a delta into a folder as peft does; its scales become alphas."""
    ranks = {name: len(a) for name, (a, _) in lora.factors.items()}
    alphas = {name: lora.scales[name] * rank for name, rank in ranks.items()}
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "bias": "none",
        "inference_mode": True,
        "lora_dropout": 0.0,
        "target_modules": sorted(ranks),
        "r": rank,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "lora_alpha": alpha,
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
    }
    if lora.invocation_tokens:
        config[INVOCATION] = list(lora.invocation_tokens)
    tensors = {
        f"{PREFIX}{name}.lora_{side}.weight": factor.cpu().contiguous()
        for name, pair in lora.factors.items()
        for side, factor in zip("AB", pair, strict=True)
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True))


def in_eight_bits(lora: LowRank) -> LowRank:
    """The same delta with factors of eight bits, each scaled by a power of two to where those say most; `scales` take it back.

    An entry is off by at most a sixteenth of itself or a 256th of the largest.
    """
    factors, scales = {}, {}
    for name, pair in lora.factors.items():
        powers = [_power(factor) for factor in pair]
        a, b = ((factor.float() * 2.0**power).to(EIGHT_BITS) for factor, power in zip(pair, powers, strict=True))
        factors[name], scales[name] = (a, b), lora.scales[name] * 2.0 ** -sum(powers)
    return replace(lora, factors=factors, scales=scales)


def _power(factor: Tensor) -> int:
    """How often a factor is doubled for its largest entry to lie between a quarter and a half: what half precision can multiply too."""
    largest = float(factor.abs().max())
    return math.floor(math.log2(0.5 / largest)) if largest > 0 else 0


def _digest(folder: Path) -> str:
    return hashlib.sha256((sha256_of(folder / CONFIG) + sha256_of(folder / WEIGHTS)).encode()).hexdigest()


def read_config(folder: Path, title: str | None = None) -> dict[str, Any]:
    """Read and check `adapter_config.json`: a plain LoRA, with nothing in it that would be left out without a word.

    title  what sentences call the folder; None: its name
    """
    where = f"{title or folder.name}/{CONFIG}"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8-sig"))
    except FileNotFoundError as problem:
        raise MattoniError(f"{where} is missing: choose a folder that peft wrote.") from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise MattoniError(f"{where} cannot be read as JSON: copy the adapter again.") from problem
    if not isinstance(config, dict):
        raise MattoniError(f"{where} holds no settings: copy the adapter again.")
    _check_method(config, where)
    for key, title in _UNSUPPORTED.items():
        if config.get(key):
            named = f" on {', '.join(map(str, config[key]))}" if key == "modules_to_save" else ""
            raise MattoniError(
                f"{where} uses {title}{named}, which cannot be composed: train the adapter without {key}, {MERGE}."
            )
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise MattoniError(
            f"{where} started from {config['init_lora_weights']!r}, which changes the host's own weights: "
            "save the adapter with peft's path_initial_model_for_weight_conversion."
        )
    _check_unknown(config, where)
    return config


def _check_method(config: Mapping[str, Any], where: str) -> None:
    """Refuse what is no LoRA, or one of a model that does not write, by its name."""
    kind, task = config.get("peft_type"), config.get("task_type")
    if "lora_parameters" in config or "fine_tune_type" in config:
        raise MattoniError(f"{where} is that of an adapter of MLX, which is not read: train it with peft, {MERGE}.")
    if kind != "LORA":
        method = _OTHER_METHODS.get(str(kind))
        told = f"{kind!r} ({method})" if method else repr(kind)
        raise MattoniError(
            f"{where}: the PEFT type is {told}, and only 'LORA' can be used as a skill: train a LoRA on the same rows."
        )
    if task in _OTHER_TASKS:
        raise MattoniError(
            f"{where}: it was trained {_OTHER_TASKS[task]} (task_type {task}), not to write: choose one with task_type "
            "CAUSAL_LM."
        )


def _check_unknown(config: Mapping[str, Any], where: str) -> None:
    """Refuse an option of a newer peft that is switched on. Numbers and words alone switch nothing on."""
    for key, value in config.items():
        if (
            key not in HARMLESS
            and key not in _UNSUPPORTED
            and (value is True or (isinstance(value, dict | list) and value))
        ):
            raise MattoniError(
                f"{where} uses {key}, which is not known here and may change what the adapter computes: train it without, "
                "or take the key out if it does not matter."
            )


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of `adapter_model.safetensors`; a pickle is refused, whatever it is called."""
    path, where = folder / WEIGHTS, f"{folder.name}/{WEIGHTS}"
    if not path.is_file():
        pickled = pickles_in(folder)
        if pickled:
            raise MattoniError(
                f"{folder.name}/{pickled[0]} is a pickle, which can run code: `mattoni bricks add` its folder."
            )
        raise MattoniError(f"{where} is missing: choose a folder that peft wrote.")
    return read_safetensors(path, where)


def check_beginning(path: Path, where: str) -> None:
    """Raise MattoniError for what stands in the place of weights that were never fetched."""
    with path.open("rb") as file:
        begin = file.read(100).lstrip().lower()
    if begin.startswith(b"version https://git-lfs"):
        raise MattoniError(
            f"{where} only points to the weights, which Git LFS keeps: run `git lfs pull` in its folder, or bring it in by its "
            "Hub id."
        )
    if begin.startswith((b"<!doctype", b"<html")):
        raise MattoniError(
            f"{where} is a web page under the weights' name: download the file itself, or use its Hub id."
        )


def _by_module(tensors: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    """{host's module: {"A" | "B": factor}}, with nothing left over."""
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            raise MattoniError(
                f"{where} holds '{name}', which is no LoRA factor of a linear layer: it cannot be composed."
            )
        sides.setdefault(match["module"].removeprefix(PREFIX), {})[match["side"]] = tensor
    return sides


def pair_factors(sides: Mapping[str, Mapping[str, Tensor]], where: str) -> Factors:
    """The A and B of each module, checked: plain floats, finite, and shapes that belong together."""
    if not sides:
        raise MattoniError(f"{where} holds no LoRA factors: copy the adapter again.")
    factors = {}
    for module, pair in sorted(sides.items()):
        pair = {side: t.to(torch.bfloat16) if t.dtype == EIGHT_BITS else t for side, t in pair.items()}  # exactly
        for side, tensor in pair.items():
            if tensor.dtype not in _FLOATS:
                raise MattoniError(
                    f"{where}: '{module}.lora_{side}.weight' is of type {tensor.dtype}, and a factor must be a plain float: save the "
                    "adapter in bfloat16."
                )
            if not torch.isfinite(tensor).all():
                raise MattoniError(
                    f"{where}: '{module}.lora_{side}.weight' holds NaN or infinity; train or copy the adapter again."
                )
        if len(pair) != 2:
            raise MattoniError(f"{where}: '{module}' has only lora_{next(iter(pair))}; copy the adapter again.")
        a, b = pair["A"], pair["B"]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1] or 0 in (*a.shape, *b.shape):
            raise MattoniError(
                f"{where}: the factors of '{module}' do not fit together (A {tuple(a.shape)}, B {tuple(b.shape)}): "
                "A must be (rank, in) and B (out, rank)."
            )
        factors[module] = (a, b)
    return factors


def invocation_of(config: Mapping[str, Any], title: str) -> tuple[int, ...]:
    """The token ids from which on an activated LoRA acts (Greenewald et al. 2025, arXiv:2504.12397); none for all others."""
    tokens = config.get(INVOCATION)
    if tokens is None:
        return ()
    if not isinstance(tokens, list) or not tokens or not all(type(token) is int and token >= 0 for token in tokens):
        raise MattoniError(
            f"{title}/{CONFIG}: {INVOCATION} must be a list of token ids, from which on the adapter acts: copy it again."
        )
    return tuple(tokens)


def scale_of(names: tuple[str, ...], rank: int, config: Mapping[str, Any], title: str) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732), with peft's patterns.

    names  what the layer may be called in a pattern: as in the host, and as in the adapter's own file
    rank   the factors' own; a configuration without `r` leaves it to them
    """
    where = f"{title}/{CONFIG}"
    wanted = _patterned(config.get("rank_pattern"), names, config.get("r") or rank, where)
    if wanted != rank:
        raise MattoniError(
            f"{where} gives '{names[0]}' rank {wanted:g} but its factors have rank {rank}: copy it again."
        )
    alpha = config.get("lora_alpha")
    alpha = _patterned(config.get("alpha_pattern"), names, _PEFTS_ALPHA if alpha is None else alpha, where)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _patterned(pattern: object, names: tuple[str, ...], default: object, where: str) -> float:
    """A module's value by peft's rule: the first pattern that matches the end of its name, else the default."""
    if pattern is not None and not isinstance(pattern, dict):
        raise MattoniError(f"{where}: rank_pattern and alpha_pattern must map module names to numbers.")
    value = default
    for key, number in (pattern or {}).items():
        if any(_ends_with(name, key, where) for name in names):
            value = number
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MattoniError(f"{where}: r, lora_alpha and their patterns must be finite numbers, not {value!r}.")
    return float(value)


def _ends_with(module: str, key: str, where: str) -> bool:
    """peft's `get_pattern_key`: `key`, a regular expression, matches the whole name or what follows one of its dots."""
    # A stranger's expression with many or nested repeats can take for ever on a name of fifty characters.
    if len(key) > 200 or sum(key.count(c) for c in "*+{") > 3 or re.search(r"\)[*+{]", key):
        raise MattoniError(f"{where}: the pattern {key[:60]!r} is too complicated: write the modules' names.")
    try:
        return re.match(rf"(.*\.)?({key})$", module) is not None
    except re.error as problem:
        raise MattoniError(f"{where}: {key!r} is not a valid pattern ({problem}).") from problem

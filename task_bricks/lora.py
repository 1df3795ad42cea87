"""Reads PEFT LoRA folders into plain factors. Knows nothing of hosts beyond the shapes of their linear layers.

Method: LoRA (Hu et al. 2021, arXiv:2106.09685), as peft writes it: `adapter_config.json` beside
`adapter_model.safetensors`. A file may come from anybody: whatever it gets wrong is one sentence, and nothing in it
is run.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mattoni.errors import MattoniError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".pickle")

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
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
    "alora_invocation_tokens": "activated LoRA",
    "lora_bias": "lora_bias",
}
# These starts leave the host's own weights as they are; PiSSA, OLoRA, CorDA, LoftQ and others subtract from them.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, eq=False)
class LoRA:
    """ΔW = scale · B @ A for some linear layers of a host.

    factors     host's module name -> (A of (rank, in), B of (out, rank))
    scales      host's module name -> scale
    base_model  what the adapter says it was trained on, if it says so
    """

    factors: dict[str, tuple[Tensor, Tensor]]
    scales: dict[str, float]
    base_model: str | None


def read_lora(folder: Path) -> LoRA:
    """Read a PEFT LoRA folder. Raises MattoniError with one sentence for everything that a file can get wrong."""
    config = read_config(folder)
    factors = _read_factors(folder, _read_tensors(folder))
    scales = {name: _scale(name, a.shape[0], config, folder.name) for name, (a, _) in factors.items()}
    base_model = config.get("base_model_name_or_path")
    return LoRA(factors, scales, base_model if isinstance(base_model, str) and base_model else None)


def check_fits(lora: LoRA, linear_shapes: Mapping[str, tuple[int, int]]) -> None:
    """Raise MattoniError when the LoRA changes a layer that the host lacks, or has in another shape (out, in)."""
    trained_on = f" (it says it was trained on {lora.base_model})" if lora.base_model else ""
    for name, (a, b) in lora.factors.items():
        shape = linear_shapes.get(name)
        if shape is None:
            raise MattoniError(
                f"This LoRA was made for another host{trained_on}: it changes '{name}', which the host lacks."
            )
        if tuple(shape) != (b.shape[0], a.shape[1]):
            raise MattoniError(
                f"This LoRA was made for another host{trained_on}: '{name}' is {b.shape[0]} x {a.shape[1]} in it and "
                f"{shape[0]} x {shape[1]} in the host."
            )


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check `adapter_config.json`: a plain LoRA, with nothing in it that would be left out without a word."""
    where = f"{folder.name}/{CONFIG}"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise MattoniError(f"{where} is missing: choose a folder that peft wrote.") from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise MattoniError(f"{where} cannot be read as JSON: copy the adapter again.") from problem
    if not isinstance(config, dict):
        raise MattoniError(f"{where} holds no settings: copy the adapter again.")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise MattoniError(f"{where}: the PEFT type is {kind!r}, and only 'LORA' can be used as a skill.")
    for key, title in _UNSUPPORTED.items():
        if config.get(key):
            raise MattoniError(f"{where} uses {title}, which cannot be composed: train the adapter without {key}.")
    if config.get("bias", "none") != "none":
        raise MattoniError(
            f"{where} trains biases (bias: {config['bias']!r}), which cannot be composed: use bias 'none'."
        )
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise MattoniError(
            f"{where} started from {config['init_lora_weights']!r}, which changes the host's own weights: "
            "save the adapter with peft's path_initial_model_for_weight_conversion."
        )
    return config


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of `adapter_model.safetensors`; a pickle is refused, whatever it is called."""
    path, where = folder / WEIGHTS, f"{folder.name}/{WEIGHTS}"
    if not path.is_file():
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLES)
        if pickled:
            raise MattoniError(f"{folder.name}/{pickled[0]} is a pickle, which can run code: save it as safetensors.")
        raise MattoniError(f"{where} is missing: choose a folder that peft wrote.")
    with path.open("rb") as file:
        begin = file.read(9)
    # A safetensors file has "{" after eight bytes of length; a pickle begins with 0x80, torch.save's archive with "PK".
    if len(begin) == 9 and begin[8:] != b"{" and (begin[:1] == b"\x80" or begin[:2] == b"PK"):
        raise MattoniError(f"{where} is a pickle, which can run code, under another name: save it as safetensors.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as problem:
        raise MattoniError(f"{where} is truncated or damaged: copy the adapter again.") from problem


def _read_factors(folder: Path, tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Pair the A and B of each module and check them."""
    where = f"{folder.name}/{WEIGHTS}"
    sides: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            raise MattoniError(
                f"{where} holds '{name}', which is no LoRA factor of a linear layer: it cannot be composed."
            )
        if tensor.dtype not in _FLOATS:
            raise MattoniError(f"{where}: '{name}' is of type {tensor.dtype}, and a factor must be a plain float.")
        if not torch.isfinite(tensor).all():
            raise MattoniError(f"{where}: '{name}' holds NaN or infinity; train or copy the adapter again.")
        sides.setdefault(match["module"].removeprefix(_PREFIX), {})[match["side"]] = tensor
    if not sides:
        raise MattoniError(f"{where} holds no LoRA factors: copy the adapter again.")
    factors = {}
    for module, pair in sorted(sides.items()):
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


def _scale(module: str, rank: int, config: Mapping[str, Any], name: str) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732), with peft's patterns."""
    where = f"{name}/{CONFIG}"
    wanted = _patterned(config.get("rank_pattern"), module, config.get("r"), where)
    if wanted != rank:
        raise MattoniError(f"{where} gives '{module}' rank {wanted:g} but its factors have rank {rank}: copy it again.")
    alpha = _patterned(config.get("alpha_pattern"), module, config.get("lora_alpha"), where)
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _patterned(pattern: object, module: str, default: object, where: str) -> float:
    """A module's value by peft's rule: the first pattern that matches the end of its name, else the default."""
    if pattern is not None and not isinstance(pattern, dict):
        raise MattoniError(f"{where}: rank_pattern and alpha_pattern must map module names to numbers.")
    value = default
    for key, number in (pattern or {}).items():
        if _ends_with(module, key, where):
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

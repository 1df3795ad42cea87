"""Reads an adapter as it was handed round, under the host's names; refuses by name what cannot be composed for a turn."""

import math
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mattoni.archives import MOST_BYTES
from mattoni.card import HostIdentity
from mattoni.errors import MattoniError
from mattoni.files import is_pickle
from mattoni.hub import HUB_ID, cached_id
from mattoni.injections import LowRank, misfit
from mattoni.tensors import read_safetensors
from task_bricks.adapter_names import Names, same_model
from task_bricks.adapter_source import Source
from task_bricks.lora import (
    MERGE,
    PREFIX,
    WEIGHTS,
    check_beginning,
    invocation_of,
    pair_factors,
    read_config,
    scale_of,
)

_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(\.(?P<adapter>[^.]+))?\.weight")
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
# A part of a tensor's name that peft or another trainer gives to what is no factor of a linear layer.
_REFUSED = {
    "modules_to_save": "modules_to_save (whole retrained layers)",
    "original_module": "modules_to_save (whole retrained layers)",
    "lora_embedding_": "a LoRA on the word embeddings",
    "token_adapter": "trainable_token_indices (retrained word embeddings)",
    "trainable_tokens": "trainable_token_indices (retrained word embeddings)",
    "lora_magnitude_vector": "DoRA",
    "lora_E": "AdaLoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "ia3_l": "IA³",
    "vera_lambda": "VeRA",
    "prompt_embeddings": "prompt or prefix tuning",
    "lora_down": "a LoRA in the names of picture generators (kohya, diffusers)",
    "lora_up": "a LoRA in the names of picture generators (kohya, diffusers)",
    "lora_B.bias": "lora_bias",
}
# 4-bit weights are some 8 % away from those that they were made of; what is farther was trained, or is another model's.
_SAME_WEIGHT = 0.12
_SAMPLED = 1 << 20


class AdaptedHost(Protocol):
    """What an adapter is fitted to."""

    @property
    def name(self) -> str:
        """What the host is called: a catalogue's name, a Hub id, a folder's or file's name."""
        ...

    @property
    def identity(self) -> HostIdentity:
        """What a card records of it."""
        ...

    @property
    def adaptable_shapes(self) -> Mapping[str, tuple[int, int]]:
        """(out, in) of the layers that a low-rank delta may change."""
        ...

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """Every weight by name."""
        ...


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA under the host's names.

    is_plain  the files are what peft writes for this host, and can be copied as they are
    notes     what was decided on the way, in sentences
    """

    lora: LowRank
    config: Mapping[str, Any]
    base_model: str | None
    is_plain: bool
    notes: tuple[str, ...]


def read_adapter(source: Source, host: AdaptedHost) -> Adapter:
    """Read an adapter and fit it to the host. Raises MattoniError with one sentence for what cannot be composed."""
    title = source.title
    config = read_config(source.folder, title)
    base = config.get("base_model_name_or_path")
    base = base if isinstance(base, str) and base else None
    files = source.weights()
    where = f"{title}/{files[0].name}"
    tensors = {name: tensor for file in files for name, tensor in _read(file, f"{title}/{file.name}").items()}
    factors, rest = _sort(tensors, where)
    notes = [*source.notes, *_check_rest(rest, bool(factors), host, where)]
    names = _named(factors, host, _Told(title, base, host.name))
    paired = pair_factors({names[module]: sides for module, sides in factors.items()}, where)
    called = {ours: (ours, theirs.removeprefix(PREFIX)) for theirs, ours in names.items()}
    scales = {name: scale_of(called[name], a.shape[0], config, title) for name, (a, _) in paired.items()}
    lora = LowRank(title, "", paired, scales, invocation_tokens=invocation_of(config, title))
    reason = misfit(lora, host.adaptable_shapes)
    if reason:
        raise _Told(title, base, host.name).refusal(reason)
    if base and not same_model(cached_id(base) or base, host.name):
        notes.append(f"It says that it was trained on {base}; this host is {host.name}, whose layers it fits.")
    is_plain = files == [source.folder / WEIGHTS] and "r" in config and _are_plain(tensors, lora)
    return Adapter(lora, config, base, is_plain, tuple(notes))


def _are_plain(tensors: Mapping[str, Tensor], lora: LowRank) -> bool:
    """Whether a file's tensors are the LoRA's as peft writes them, and no others."""
    expected = {f"{PREFIX}{name}.lora_{side}.weight" for name in lora.factors for side in "AB"}
    return set(tensors) == expected and not any(tensor.dtype in _FP8 for tensor in tensors.values())


def peft_config(adapter: Adapter) -> dict[str, Any]:
    """`adapter_config.json` for the factors under the host's names: layers in full, and ranks and alphas of their own."""
    rslora = bool(adapter.config.get("use_rslora"))
    ranks = {name: a.shape[0] for name, (a, _) in adapter.lora.factors.items()}
    alphas = {name: adapter.lora.scales[name] * (math.sqrt(r) if rslora else r) for name, r in ranks.items()}
    alphas = {name: round(alpha, 6) for name, alpha in alphas.items()}  # 1/sqrt and back is not exact
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    return {
        **adapter.config,
        "task_type": "CAUSAL_LM",
        "auto_mapping": None,
        "target_modules": sorted(ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "r": rank,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "lora_alpha": alpha,
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
    }


def _read(path: Path, where: str) -> dict[str, Tensor]:
    check_beginning(path, where)
    return _unpickled(path, where) if is_pickle(path) else read_safetensors(path, where)


def _unpickled(path: Path, where: str) -> dict[str, Tensor]:
    """The tensors of a pickle, read by torch's reader that builds tensors and calls nothing else.

    Once, when the adapter is brought in: the brick that is written holds safetensors.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                if sum(entry.file_size for entry in packed.infolist()) > MOST_BYTES:
                    raise MattoniError(f"{where} unpacks to more than {MOST_BYTES >> 30} GB: this is no adapter.")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise MattoniError(
            f"{where} is a pickle with more than weights in it, which can run code, and was not opened: save the adapter with "
            "peft's save_pretrained(), which writes safetensors."
        ) from problem
    except MattoniError:
        raise
    except Exception as problem:  # what a damaged pickle makes torch raise can be anything
        raise MattoniError(f"{where} is a pickle that is truncated or damaged: copy the adapter again.") from problem
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise MattoniError(
            f"{where} is a pickle that holds no weights by name: name the {WEIGHTS} or .bin that peft wrote."
        )
    return {str(name): tensor for name, tensor in found.items()}


def _sort(tensors: Mapping[str, Tensor], where: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """({layer as the file names it: {"A" | "B": factor}}, what is no factor)."""
    factors: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    adapters: set[str] = set()
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(name)
        if match is None:
            rest[name] = tensor
            continue
        # Eight-bit floats have no arithmetic on a CPU; bfloat16 holds each of their values.
        tensor = tensor.to(torch.bfloat16) if tensor.dtype in _FP8 else tensor
        factors.setdefault(match["module"], {})[match["side"]] = tensor
        adapters.add(match["adapter"] or "default")
    if len(adapters) > 1:
        raise MattoniError(
            f"{where} holds {len(adapters)} adapters ({', '.join(sorted(adapters))}): save each with peft's save_pretrained() and "
            "bring in the folder of one."
        )
    return factors, rest


def _check_rest(rest: Mapping[str, Tensor], has_factors: bool, host: AdaptedHost, where: str) -> list[str]:
    """Refuse by name what stands beside the factors. Copies of the host's own weights are left out, and a note says so."""
    weights = host.weights if rest else {}
    names = Names(weights)
    copies, farthest = [], 0.0
    for name, tensor in rest.items():
        title = next((title for part, title in _REFUSED.items() if part in name), None)
        if title:
            raise MattoniError(f"{where} holds {title}, which cannot be composed: train the adapter without, {MERGE}.")
        if name.endswith("inv_freq"):
            continue
        own = names.find(name.replace(".base_layer.", "."))
        if not has_factors and own is not None:
            raise MattoniError(
                f"{where} holds whole weights and no LoRA factors: the adapter was merged into its host, so start the merged "
                "model with --host FOLDER, or bring in the adapter from before."
            )
        if own is None:
            what = "biases" if name.endswith(".bias") else f"'{name}', which is no LoRA factor of a linear layer"
            raise MattoniError(f"{where} holds {what}, which cannot be composed: train the adapter without, {MERGE}.")
        farthest = max(farthest, _distance(tensor, weights[own], own, where))
        copies.append(own)
    if not copies:
        return []
    near = f", up to {farthest:.0%} away from this host's" if farthest >= 0.005 else ""
    listed = ", ".join(copies[:2]) + (f" and {len(copies) - 2} others" if len(copies) > 2 else "")
    return [f"Copies of the host's own weights ({listed}{near}) were left out; the adapter does not train them."]


def _distance(copy: Tensor, own: Tensor, name: str, where: str) -> float:
    """How far a weight is from the host's, as a share of its length. Raises MattoniError for one that was retrained."""
    if copy.dim() == 2 and own.dim() == 2 and copy.shape[0] != own.shape[0] and copy.shape[1] == own.shape[1]:
        raise MattoniError(
            f"{where} was trained with a resized vocabulary ('{name}' has {copy.shape[0]} words and {own.shape[0]} in this "
            f"host), which cannot be composed: train the adapter without new words, {MERGE}."
        )
    distance = math.inf
    if copy.shape == own.shape:
        step = max(1, own.numel() // _SAMPLED)
        theirs, ours = (t.detach().reshape(-1)[::step].cpu().float() for t in (copy, own))
        distance = float((theirs - ours).norm() / ours.norm().clamp_min(1e-12))
    if not distance <= _SAME_WEIGHT:  # NaN too
        raise MattoniError(
            f"{where} holds '{name}' as a whole, retrained, which cannot be composed: train the adapter without, {MERGE}."
        )
    return distance


@dataclass(frozen=True)
class _Told:
    """What an adapter says that it was trained on, beside the host that it is brought to."""

    title: str
    base: str | None
    host: str

    def refusal(self, reason: str, differs: bool = True) -> MattoniError:
        """The sentence for an adapter that does not fit: never "another host" where it names this one.

        differs  the reason itself shows that the hosts differ, whatever the adapter says
        """
        base = cached_id(self.base) or self.base if self.base else None
        if base and same_model(base, self.host):
            way = "choose the adapter for this size of it" if differs else "save it again with peft's save_pretrained()"
            return MattoniError(
                f"{self.title} says that it was trained on {base}, which is this host, but {reason}: {way}."
            )
        if not differs and not (base and HUB_ID.fullmatch(base)):
            said = f"was trained on {base}, whatever that was" if base else "does not say what it was trained on"
            return MattoniError(
                f"{self.title} {said}, and {reason}: save it again with peft's save_pretrained(), or start its own host with "
                "--host."
            )
        told = f"it says it was trained on {base}; this is {self.host}" if base else f"this is {self.host}"
        return MattoniError(
            f"This LoRA was made for another host ({told}): {reason}; start that host with --host, or train it for this one."
        )


def _named(factors: Mapping[str, Any], host: AdaptedHost, told: _Told) -> dict[str, str]:
    """{layer as the file names it: the host's name}."""
    names = Names(host.adaptable_shapes)
    found: dict[str, str] = {}
    for module in factors:
        name = names.find(module)
        if name is None:
            layer = re.search(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.", module)
            deeper = layer is not None and int(layer[1]) >= host.identity.layers
            reason = f"it changes '{module.removeprefix(PREFIX)}', which the host lacks"
            raise told.refusal(f"{reason} (it has {host.identity.layers} layers)" if deeper else reason, deeper)
        if name in found.values():
            raise told.refusal(f"it changes '{name}' twice, under two names", differs=False)
        found[module] = name
    return found

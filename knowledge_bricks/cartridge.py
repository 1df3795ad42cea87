"""Cartridges as peft writes them: keys and values that stand in front of a prompt in place of a text. Knows nothing of turns.

Method: Cartridges (Eyuboglu et al. 2025, arXiv:2506.06266). A folder holds `adapter_config.json` and one tensor,
`prompt_embeddings` (positions, layers · 2 · heads · width): of each position and layer the keys of all heads, rotated for the place
where they stand, then the values. A folder may come from anybody: whatever it gets wrong is one sentence, and nothing in it is run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import pickles_in
from mattoni.tensors import read_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TENSOR = "prompt_embeddings"

Layers = tuple[tuple[Tensor, Tensor], ...]
KeyShape = tuple[int, int, int]  # layers, heads of keys, width of each

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def is_cartridge(folder: Path) -> bool:
    """Whether a folder says that it holds a cartridge of peft."""
    try:
        return _settings(folder).get("peft_type") == "CARTRIDGE"
    except MattoniError:
        return False


def read_cartridge(folder: Path, shape: KeyShape, host: str) -> Layers:
    """Keys and values per layer, each (heads, positions, width), of a folder that peft wrote.

    shape  of the host's own keys
    host   what a sentence calls it

    Raises MattoniError with one sentence for a folder that is no cartridge, is damaged, or was made for another host.
    """
    embeddings = _embeddings(folder)
    layers, heads, width = shape
    kind = _settings(folder)
    theirs = (kind.get("num_layers"), kind.get("num_attention_heads"), kind.get("token_dim"))
    if theirs != (layers, heads, heads * width) or embeddings.shape[1] != 2 * layers * heads * width:
        raise MattoniError(
            f"{folder.name} was made for another host than {host}: it holds {_told(*theirs)}, and this one has "
            f"{_told(layers, heads, heads * width)}."
        )
    return unpack(embeddings, shape)


def unpack(embeddings: Tensor, shape: KeyShape) -> Layers:
    """peft's one tensor as keys and values per layer: (positions, layers · 2 · heads · width) -> (heads, positions, width) each."""
    layers, heads, width = shape
    parts = embeddings.view(len(embeddings), 2 * layers, heads, width).permute(1, 2, 0, 3)
    return tuple((parts[2 * layer], parts[2 * layer + 1]) for layer in range(layers))


def pack(layers: Layers) -> Tensor:
    """`unpack`, the other way."""
    parts = torch.stack([part for pair in layers for part in pair])
    return parts.permute(2, 0, 1, 3).reshape(parts.shape[2], -1)


def _told(layers: object, heads: object, width: object) -> str:
    return f"keys of {layers} layers with {heads} heads, {width} numbers together"


def _settings(folder: Path) -> dict[str, Any]:
    where = f"{folder.name}/{CONFIG}"
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as problem:
        raise MattoniError(f"{where} is missing: choose a folder that peft wrote.") from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise MattoniError(f"{where} cannot be read as JSON: copy the cartridge again.") from problem
    if not isinstance(values, dict):
        raise MattoniError(f"{where} holds no settings: copy the cartridge again.")
    return values


def _embeddings(folder: Path) -> Tensor:
    """The one tensor, checked: finite floats, as many positions as the settings say."""
    settings, where = _settings(folder), f"{folder.name}/{WEIGHTS}"
    if settings.get("peft_type") != "CARTRIDGE":
        raise MattoniError(
            f"{folder.name}/{CONFIG}: the PEFT type is {settings.get('peft_type')!r} and not 'CARTRIDGE': choose another folder."
        )
    if not (folder / WEIGHTS).is_file():
        if pickled := pickles_in(folder):
            raise MattoniError(
                f"{folder.name}/{pickled[0]} is a pickle, which can run code: save it as safetensors (peft's save_pretrained does)."
            )
        raise MattoniError(f"{where} is missing: choose a folder that peft wrote.")
    tensors = read_safetensors(folder / WEIGHTS, where)
    found = tensors.get(TENSOR)
    if found is None or len(tensors) != 1:
        raise MattoniError(f"{where} must hold one tensor, '{TENSOR}', and nothing else: copy the cartridge again.")
    if found.dim() != 2 or not len(found) or found.dtype not in _FLOATS:
        raise MattoniError(f"{where}: '{TENSOR}' must be a matrix of plain floats: copy the cartridge again.")
    if not torch.isfinite(found).all():
        raise MattoniError(f"{where}: '{TENSOR}' holds NaN or infinity; train or copy the cartridge again.")
    if settings.get("num_virtual_tokens") != len(found):
        raise MattoniError(
            f"{where} holds {len(found)} positions and {CONFIG} says {settings.get('num_virtual_tokens')}: copy the cartridge again."
        )
    return found

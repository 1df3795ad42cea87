"""Gates per neuron as a file, and the factors that a strength makes of them. Knows nothing of turns, texts or hosts.

A brick holds a direction d for every neuron and the strength at which it changes nothing, `neutral`; at strength s a neuron's
activation is multiplied by 1 + (s − neutral) · d, and by nought where that is below. A function has d = 1 on its neurons and
neutral 1: the strength is their factor. What is to be turned down has d = factor − 1 and neutral 0: 0 is off, 1 as measured.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import write_bytes

GATES = "gates.safetensors"


def save_gates(directions: Tensor, layers: tuple[int, ...], folder: Path) -> None:
    """Write `gates.safetensors`: directions (layers, neurons), kept in fp16, and the layers' numbers in the host."""
    tensors = {"directions": directions.to(torch.float16).contiguous(), "layers": torch.tensor(layers)}
    write_bytes(folder / GATES, save(tensors))


def load_gates(folder: Path) -> dict[int, Tensor]:
    """Layer → directions (neurons,), of the layers where there are any. Raises MattoniError for a damaged file."""
    where = f"{folder.name}/{GATES}"
    try:
        tensors = load_file(folder / GATES)
        directions, layers = tensors["directions"].float(), tensors["layers"].tolist()
    except (OSError, SafetensorError, KeyError) as problem:
        raise MattoniError(f"{where} holds no gates or is damaged: make or copy them again.") from problem
    if directions.dim() != 2 or len(directions) != len(layers) or not torch.isfinite(directions).all():
        raise MattoniError(f"{where} must hold a row of finite numbers for each layer: make or copy the gates again.")
    return {layer: row for layer, row in zip(layers, directions, strict=True) if row.any()}


def check_gates(gates: Mapping[int, Tensor], widths: Mapping[int, int], name: str, host: str) -> None:
    """Raise MattoniError when a layer has other neurons in the host; widths: layer → neurons."""
    for layer, row in gates.items():
        if widths.get(layer) != len(row):
            has = f"{widths[layer]} there" if layer in widths else "no such layer"
            raise MattoniError(
                f"{name} was made for another host than {host}: it gates {len(row)} neurons of layer {layer}, and the host "
                f"has {has}."
            )


def factors(gates: Mapping[int, Tensor], strength: float, neutral: float) -> dict[int, Tensor]:
    """Layer → factor of every neuron at a strength; nothing at the neutral one, where the host is the bare host."""
    if strength == neutral:
        return {}
    return {layer: (1 + (strength - neutral) * row).clamp_min(0) for layer, row in gates.items()}

"""The host's matrices as decoding uses them: as they were loaded, or packed. Knows nothing of rows or bricks.

Plain matrices are the host's own modules. Packed ones are copies in a form that reads faster, chosen by what this processor
can do; the host itself stays as it is. `choose` says which and why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from assistant.host.host import Host
from mattoni.errors import MattoniError

Weights = Literal["auto", "bf16", "fp16", "int8", "int4"]
GROUP = 32  # weights that share a scale and a minimum, as in GGUF's Q4_1
# Positions in a pass up to which reading the weights is what takes the time; beyond, computing is.
_FEW = 16


@dataclass(frozen=True)
class Choice:
    """How the matrices are kept, and why."""

    weights: Literal["bf16", "fp16", "int8", "int4"]
    reason: str


def choose(host: Host, wanted: Weights, obstacle: str = "") -> Choice:
    """What is used where `wanted` is asked for; "bf16" stands for the matrices as they were loaded, of whatever type.

    obstacle  why this host's matrices cannot be packed, where the caller knows

    Raises MattoniError for a kind that this host or processor cannot have.
    """
    obstacle = obstacle or _obstacle(host)
    if wanted == "bf16":
        return Choice("bf16", "asked for")
    if wanted != "auto":
        if obstacle:
            raise MattoniError(f"--weights {wanted} is not to be had here ({obstacle}): use --weights bf16.")
        return Choice(wanted, "asked for")
    if obstacle:
        return Choice("bf16", obstacle)
    if host.dtype == torch.float32:
        return Choice("bf16", "the host was loaded in float32, to be exact")
    if not torch.cpu._is_avx512_supported():
        return Choice("fp16", "this processor has no bfloat16 arithmetic")
    if all(is_on_grid(linear.weight) for linear in list(host.linear_layers.values())[:2]):
        return Choice("int4", "the host's matrices are four-bit numbers already")
    return Choice("int8", "reading a byte a weight is faster than two")


def _obstacle(host: Host) -> str:
    """Why this host's matrices cannot be packed, or nothing."""
    if host.device.type != "cpu":
        return f"packed matrices are for the CPU, and this is {host.device.type}"
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        return "this build of torch has no kernels for packed matrices"
    if any(
        linear.weight.dtype not in (torch.bfloat16, torch.float16, torch.float32)
        for linear in host.linear_layers.values()
    ):
        return "the host's matrices are packed already"
    return ""


class Matrices(Protocol):
    """Applies linear layers and norms."""

    dtype: torch.dtype  # of activations, keys and values

    def project(self, layers: Sequence[torch.nn.Linear], inputs: Tensor) -> Sequence[Tensor]:
        """What layers give for the same inputs, (1, positions, in) -> (1, positions, out) each."""

    def norm(self, module: Any, inputs: Tensor) -> Tensor:
        """RMSNorm, as `module` does it."""


class PlainMatrices:
    """The host's own modules."""

    def __init__(self, host: Host) -> None:
        self.dtype = host.dtype

    def project(self, layers: Sequence[torch.nn.Linear], inputs: Tensor) -> Sequence[Tensor]:
        return [layer(inputs) for layer in layers]

    def norm(self, module: Any, inputs: Tensor) -> Tensor:
        normed: Tensor = module(inputs)
        return normed


Kernel = Callable[[Tensor], Tensor]


class PackedMatrices:
    """Packed copies of groups of layers that have the same inputs and are read as one matrix; the last group is the head.

    Activations, keys and values are fp32, also where a kernel takes bf16 and so rounds what it is given: on a CPU torch attends
    with one position eight times, and multiplies by a LoRA's factors five times, as fast as in bf16 (docs/experiments.md).
    """

    def __init__(self, kind: Literal["fp16", "int8", "int4"], groups: Sequence[Sequence[torch.nn.Linear]]) -> None:
        self.dtype = torch.float32
        # The head tells apart thousands of words by little: it keeps more than four bits.
        *inner, head = groups
        self._kernels = {id(group[0]): _PACK[kind](group) for group in inner}
        self._kernels[id(head[0])] = _PACK["int8" if kind == "int4" else kind](head)
        self._sizes = {id(group[0]): [int(layer.out_features) for layer in group] for group in groups}

    def project(self, layers: Sequence[torch.nn.Linear], inputs: Tensor) -> Sequence[Tensor]:
        outputs = self._kernels[id(layers[0])](inputs)
        return outputs.split(self._sizes[id(layers[0])], dim=-1) if len(layers) > 1 else [outputs]

    def norm(self, module: Any, inputs: Tensor) -> Tensor:
        weight = module.weight.to(self.dtype)
        return functional.rms_norm(inputs, weight.shape, weight, module.variance_epsilon)


def _stacked(group: Sequence[torch.nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """The group's matrices one below the other in fp32, and their biases."""
    weight = torch.cat([layer.weight for layer in group]).float()
    if all(layer.bias is None for layer in group):
        return weight, None
    biases = [torch.zeros(layer.out_features) if layer.bias is None else layer.bias.float() for layer in group]
    return weight, torch.cat(biases)


def _pack_fp16(group: Sequence[torch.nn.Linear]) -> Kernel:
    """Two bytes a weight, computed in fp32 (FBGEMM). Exact for weights that bf16 or four bits hold, but for those < 6e-8."""
    weight, bias = _stacked(group)
    packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)
    return lambda inputs: torch.ops.quantized.linear_dynamic_fp16(inputs, packed)


def _pack_int8(group: Sequence[torch.nn.Linear]) -> Kernel:
    """One byte a weight and a scale a row; inputs are rounded to bf16."""
    weight, bias = _stacked(group)
    scales = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
    codes = (weight / scales.unsqueeze(1)).round().to(torch.int8)
    scales = scales.to(torch.bfloat16)
    return _few_or_many(lambda rows: torch.ops.aten._weight_int8pack_mm(rows, codes, scales), group, bias)


def _pack_int4(group: Sequence[torch.nn.Linear]) -> Kernel:
    """Four bits a weight, and a scale and a minimum for every `GROUP` of them; inputs are rounded to bf16.

    Weights that came from GGUF's Q4_1 lie on such a grid: the codes are found again exactly. Layers whose shape the kernel
    does not take keep a byte a weight.
    """
    weight, bias = _stacked(group)
    if weight.shape[0] % 16 or weight.shape[1] % GROUP:
        return _pack_int8(group)
    codes, scale, least = _codes(weight)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.reshape(weight.shape).to(torch.int32), 1)
    # The kernel reads a weight as (code - 8) * scale + zero.
    scales = torch.stack([scale, least + 8 * scale], dim=-1).reshape(weight.shape[0], -1, 2)
    scales = scales.transpose(0, 1).contiguous().to(torch.bfloat16)
    return _few_or_many(
        lambda rows: torch.ops.aten._weight_int4pack_mm_for_cpu(rows, packed, GROUP, scales), group, bias
    )


def _codes(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(codes 0..15, scale, least weight) of each group of weights, the groups one below the other."""
    groups = weight.float().reshape(-1, GROUP)
    least, most = groups.aminmax(dim=1)
    scale = ((most - least) / 15).clamp(min=1e-12)
    return ((groups - least.unsqueeze(1)) / scale.unsqueeze(1)).round(), scale, least


def is_on_grid(weight: Tensor) -> bool:
    """Whether every group of weights takes sixteen evenly spaced values, up to what bf16 rounds: the weight
    itself, the least one, and twice the steps between the least and the largest."""
    if weight.shape[-1] % GROUP:
        return False
    codes, scale, least = _codes(weight)
    off = (codes * scale.unsqueeze(1) + least.unsqueeze(1) - weight.float().reshape(-1, GROUP)).abs()
    return bool((off <= weight.float().reshape(-1, GROUP).abs().amax(dim=1, keepdim=True) * 2**-7).all())


def _few_or_many(kernel: Kernel, group: Sequence[torch.nn.Linear], bias: Tensor | None) -> Kernel:
    """The kernel for a few positions; the layers as they were loaded for many, where computing takes longer than reading."""
    has_bf16 = torch.cpu._is_avx512_supported()

    def apply(inputs: Tensor) -> Tensor:
        if inputs.shape[1] <= _FEW:
            outputs = kernel(inputs[0].to(torch.bfloat16)).unsqueeze(0).to(inputs)
            return outputs if bias is None else outputs + bias.to(outputs)
        if has_bf16:
            return torch.cat([layer(inputs.to(layer.weight.dtype)) for layer in group], dim=-1).to(inputs)
        # Without arithmetic in bf16, turning the weights into fp32 costs less than it saves.
        weights = torch.cat([layer.weight for layer in group]).float()
        return functional.linear(inputs.float(), weights, bias).to(inputs)

    return apply


_PACK: dict[str, Callable[[Sequence[torch.nn.Linear]], Kernel]] = {
    "fp16": _pack_fp16,
    "int8": _pack_int8,
    "int4": _pack_int4,
}

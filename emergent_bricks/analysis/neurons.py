"""The neurons of a host's gated FFNs: where they are, how they are watched, how they are held. Knows nothing of texts or scores.

Neuron i of a layer is row i of the gate and up projections and column i of the down projection (Xiao et al. 2024,
arXiv:2409.02877, section 4.1; Geva et al. 2021, arXiv:2012.14913). Its activation is what reaches the down projection,
act(gate_i · x) · (up_i · x); the size of what it adds to the stream is |activation| · ‖down_i‖.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from assistant.host.host import Host
from mattoni.errors import MattoniError

# The activations of one layer, (batch, positions, neurons) → what goes on in their place; the same to leave them alone.
Change = Callable[[int, Tensor], Tensor]


def gated_ffns(host: Host) -> dict[int, torch.nn.Module]:
    """The gated FFN of each layer. Raises MattoniError naming what a host lacks."""
    modules = dict(host.model.named_modules())
    ffns = {layer: modules[name.removesuffix(".down_proj")] for layer, name in sorted(host.gated_layers.items())}
    lacking = [part for part in ("gate_proj", "up_proj") if not all(hasattr(ffn, part) for ffn in ffns.values())]
    if not ffns or lacking:
        missing = " and ".join(lacking) or "a projection called mlp.down_proj in its layers"
        raise MattoniError(
            f"{host.name} has no gated FFN (it lacks {missing}), so its neurons cannot be told apart here: choose a host "
            "built like Llama, Qwen, Mistral or Gemma."
        )
    return ffns


def neuron_shape(host: Host) -> tuple[int, int]:
    """(layers, neurons in each). Raises MattoniError where there are none, or layers of several widths."""
    widths = {ffn.down_proj.in_features for ffn in gated_ffns(host).values()}  # type: ignore[union-attr]
    if len(widths) != 1:
        raise MattoniError(f"{host.name} has FFNs of several widths, which is not supported: choose another host.")
    return len(host.gated_layers), int(widths.pop())  # type: ignore[arg-type]


def output_norms(host: Host) -> Tensor:
    """‖down_i‖ of every neuron, (layers, neurons) in fp32: what an activation of 1 adds to the stream."""
    downs: list[Any] = [ffn.down_proj for ffn in gated_ffns(host).values()]
    return torch.stack([down.weight.detach().float().norm(dim=0).cpu() for down in downs])


@contextmanager
def changed(host: Host, change: Change) -> Iterator[None]:
    """Run forward passes of the host with every layer's activations seen, and changed, by `change`; nothing of it stays."""
    layers = enumerate(gated_ffns(host).values())
    with ExitStack() as stack:
        for place, ffn in layers:
            down: Any = ffn.down_proj
            stack.callback(down.register_forward_pre_hook(_hook(place, change)).remove)
        yield


@contextmanager
def inputs_seen(host: Host) -> Iterator[Mapping[int, Tensor]]:
    """What each layer's FFN was given last, (batch, positions, width), while forward passes of the host run."""
    seen: dict[int, Tensor] = {}

    def watch(place: int) -> Any:
        def hook(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen[place] = arguments[0]

        return hook

    with ExitStack() as stack:
        for place, ffn in enumerate(gated_ffns(host).values()):
            stack.callback(ffn.register_forward_pre_hook(watch(place)).remove)
        yield seen


def _hook(place: int, change: Change) -> Any:
    def hook(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (change(place, arguments[0]), *arguments[1:])

    return hook


def turned(factors: Tensor, fill: Tensor | None = None) -> Change:
    """A change that multiplies every neuron by its factor, and holds those with factor 0 at a value of their own.

    factors  (layers, neurons)
    fill     (layers, neurons); None: nought
    """

    def change(layer: int, activations: Tensor) -> Tensor:
        row = factors[layer].to(activations)
        if fill is None:
            return activations * row
        return torch.where(row == 0, fill[layer].to(activations), activations * row)

    return change

"""The five injections and their algebra: what bricks do to one turn of the host. Knows nothing of files or routing.

A sequence injection is a part of the prompt (`assistant/host/prompt.py`). The other four are here: low-rank deltas on
linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685; several at once by concatenating ranks, which is their exact
weighted sum), keys and values in front of the sequence (prefix tuning, Li and Liang 2021, arXiv 2101.00190), a
factor per FFN neuron, and residuals that are added at an FFN where a key is met.

No state of a turn lives on the model: a composition acts inside `with composed(host, composition):` and nowhere else,
and the engine's one thread is the only one that runs the host. An adapter that stays active on the model leaks into
another person's answer (peft #804, adapters #165).
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from assistant.host.host import Host
from mattoni.card import Injection
from mattoni.errors import MattoniError
from mattoni.injections import Gate, Keyed, LowRank, Other, Prefix, check_low_rank


@dataclass(frozen=True, eq=False)
class KeyedResiduals:
    """Keys of unit length, residuals and thresholds of one FFN: (n, intermediate), (n, hidden), (n,)."""

    keys: Tensor
    residuals: Tensor
    thresholds: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes that they take."""
        return self.keys.nbytes + self.residuals.nbytes + self.thresholds.nbytes

    def add(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The outputs of the projection, (…, hidden), with the residual of the key that each input, (…, intermediate), is near.

        Where none is near, these are the very outputs that came. One matrix product for all keys, in fp32.
        """
        met, nearest = self._nearest(inputs)
        if not met.any():
            return outputs
        moved = (outputs.float() + self.residuals[nearest]).to(outputs)
        return torch.where(met.unsqueeze(-1), moved, outputs)

    def met(self, inputs: Tensor) -> Tensor:
        """Whether each input is near a key: (…, intermediate) → (…), bool."""
        return self._nearest(inputs)[0]

    def _nearest(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        cosines, nearest = (functional.normalize(inputs.float(), dim=-1) @ self.keys.T).max(dim=-1)
        return cosines >= self.thresholds[nearest], nearest


@dataclass(frozen=True, eq=False)
class Composition:
    """All injections of one turn, checked against the host and merged. `key` hashes contents, never names."""

    key: str
    deltas: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    prefix: tuple[tuple[Tensor, Tensor], ...] = ()
    gates: Mapping[str, Tensor] = field(default_factory=dict)
    keyed: Mapping[str, KeyedResiduals] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int:
        """Bytes that the merged factors take."""
        pairs = [*self.deltas.values(), *self.prefix]
        factors = sum(a.nbytes + b.nbytes for a, b in pairs)
        return factors + sum(g.nbytes for g in self.gates.values()) + sum(k.nbytes for k in self.keyed.values())

    @property
    def prefix_length(self) -> int:
        """Positions that the prefix takes in front of the prompt."""
        return self.prefix[0][0].shape[1] if self.prefix else 0

    def new_cache(self) -> DynamicCache:
        """An empty cache, or one that begins with the prefix."""
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self.prefix):
            cache.update(keys.unsqueeze(0), values.unsqueeze(0), layer)
        return cache


def compose(host: Host, injections: Sequence[Other], dtype: torch.dtype | None = None) -> Composition:
    """Check injections against what the host supports and merge those of a kind.

    dtype  what the merged factors are kept in; None: the host's own type

    Raises MattoniError naming the brick whose injection the host does not support or whose shapes differ.
    """
    needs: dict[type, Injection] = {LowRank: "low-rank", Prefix: "prefix", Gate: "gate", Keyed: "keyed"}
    for injection in injections:
        need = needs[type(injection)]
        if need not in host.supports:
            raise MattoniError(
                f"{injection.name} needs a host that supports {need} injections and {host.name} supports "
                f"{', '.join(sorted(host.supports))}: choose another host or switch the brick off."
            )
    place: dict[str, Any] = {"device": host.device, "dtype": dtype or host.dtype}
    return Composition(
        key=composition_key(host, injections),
        deltas=_concatenate(host, [i for i in injections if isinstance(i, LowRank)], place),
        prefix=_join_prefixes(host, [i for i in injections if isinstance(i, Prefix)], place),
        gates=_multiply_gates(host, [i for i in injections if isinstance(i, Gate)], place),
        keyed=_join_keyed(host, [i for i in injections if isinstance(i, Keyed)]),
    )


def composition_key(host: Host, injections: Sequence[Other]) -> str:
    """What tells compositions apart: contents and strengths, never names."""
    parts = [host.fingerprint, str(host.dtype)]
    for injection in injections:
        weight = injection.weight if isinstance(injection, LowRank) else 1.0
        parts.append(f"{type(injection).__name__}:{injection.digest}:{weight!r}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _concatenate(host: Host, loras: Sequence[LowRank], place: dict[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """One (A, B) pair per layer whose product is the exact weighted sum of all deltas.

    Σ wᵢ sᵢ Bᵢ Aᵢ = [w₁s₁B₁ … wₙsₙBₙ] @ [A₁; …; Aₙ]. Each weight is folded into the smaller of its two factors, as it is fresh
    memory that a first switch waits for, in fp32 before the cast to the host's type: a product of a number and a bf16 or fp16
    tensor is rounded once, so one that has that type already is not copied.
    """
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for lora in loras:
        check_low_rank(lora, host.adaptable_shapes, host.name)
        for name, (a, b) in lora.factors.items():
            scale = lora.weight * lora.scales[name]
            if a.numel() < b.numel():
                pair = _scaled(a, scale, place), b.to(**place)
            else:
                pair = a.to(**place), _scaled(b, scale, place)
            parts.setdefault(name, []).append(pair)
    return {
        name: pairs[0]
        if len(pairs) == 1
        else (torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1))
        for name, pairs in parts.items()
    }


def _scaled(factor: Tensor, scale: float, place: dict[str, Any]) -> Tensor:
    is_there = factor.dtype == place["dtype"] and factor.device == place["device"]
    return factor * scale if is_there else (factor.float() * scale).to(**place)


def _join_prefixes(host: Host, prefixes: Sequence[Prefix], place: dict[str, Any]) -> tuple[tuple[Tensor, Tensor], ...]:
    layers_of_host, heads, width = host.key_shape
    for prefix in prefixes:
        if len(prefix.layers) != layers_of_host:
            raise MattoniError(
                f"{prefix.name} has keys for {len(prefix.layers)} layers and {host.name} has {layers_of_host}"
                ": it was made for another host."
            )
        wrong = next((t for pair in prefix.layers for t in pair if (len(t), t.shape[-1]) != (heads, width)), None)
        if wrong is not None:
            raise MattoniError(
                f"{prefix.name} has {len(wrong)} heads of {wrong.shape[-1]} and {host.name} has {heads} of {width}"
                ": it was made for another host."
            )
    joined = []
    for layers in zip(*(prefix.layers for prefix in prefixes), strict=True):
        joined.append(
            (torch.cat([k for k, _ in layers], dim=1).to(**place), torch.cat([v for _, v in layers], dim=1).to(**place))
        )
    return tuple(joined)


def _multiply_gates(host: Host, gates: Sequence[Gate], place: dict[str, Any]) -> dict[str, Tensor]:
    merged: dict[str, Tensor] = {}
    for gate in gates:
        for layer, factors in gate.factors.items():
            name = host.gated_layers.get(layer)
            if name is None or host.linear_shapes[name][1] != len(factors):
                raise MattoniError(
                    f"{gate.name} gates layer {layer} with {len(factors)} neurons, which {host.name} does not have."
                )
            factors = factors.to(**place)
            merged[name] = merged[name] * factors if name in merged else factors
    return merged


def _join_keyed(host: Host, bricks: Sequence[Keyed]) -> dict[str, KeyedResiduals]:
    """Those of each FFN side by side."""
    parts: dict[str, list[Keyed]] = {}
    for brick in bricks:
        name = host.gated_layers.get(brick.layer)
        hidden, intermediate = host.linear_shapes[name] if name is not None else (0, 0)
        if name is None or (brick.residuals.shape[1], brick.keys.shape[1]) != (hidden, intermediate):
            raise MattoniError(
                f"{brick.name} adds {brick.residuals.shape[1]} numbers at layer {brick.layer} where {brick.keys.shape[1]} "
                f"neurons are near a key, which {host.name} does not have: it was made for another host."
            )
        if len(brick.keys):
            parts.setdefault(name, []).append(brick)
    return {
        name: KeyedResiduals(
            functional.normalize(torch.cat([part.keys for part in own]).to(host.device, torch.float32), dim=-1),
            torch.cat([part.residuals for part in own]).to(host.device, torch.float32),
            torch.cat([part.thresholds for part in own]).to(host.device, torch.float32),
        )
        for name, own in parts.items()
    }


def _add_residuals(residuals: KeyedResiduals) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return residuals.add(args[0], output)

    return hook


def _add_delta(a: Tensor, b: Tensor) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + functional.linear(functional.linear(args[0], a), b)

    return hook


def _scale_input(factors: Tensor) -> Any:
    def hook(module: torch.nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * factors, *args[1:])

    return hook


class MergedInjections:
    """Compositions used last, merged once, within a budget of bytes; from any thread."""

    def __init__(self, host: Host, dtype: torch.dtype, budget_bytes: int) -> None:
        self._host, self._dtype, self._budget = host, dtype, budget_bytes
        self._kept: OrderedDict[str, Composition] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, injections: Sequence[Other]) -> Composition:
        """The composition of these injections. Raises MattoniError as `compose` does."""
        key = composition_key(self._host, injections)
        with self._lock:
            kept = self._kept.pop(key, None)
        composition = kept or compose(self._host, injections, self._dtype)
        with self._lock:
            self._kept[key] = composition
            while sum(c.memory_bytes for c in self._kept.values()) > self._budget:
                self._kept.popitem(last=False)
        return composition

    def clear(self) -> None:
        """Let all go; what decodes keeps its own."""
        with self._lock:
            self._kept.clear()


@contextmanager
def composed(host: Host, composition: Composition) -> Iterator[None]:
    """Run forward passes of the host with the composition's deltas, gates and residuals; afterwards nothing of them is left."""
    if not composition.deltas and not composition.gates and not composition.keyed:
        yield
        return
    modules = host.adaptable_layers
    with ExitStack() as stack:
        # Gates first: a delta on the same projection must see the gated input, as a changed weight would.
        for name, factors in composition.gates.items():
            stack.callback(modules[name].register_forward_pre_hook(_scale_input(factors)).remove)
        for name, (a, b) in composition.deltas.items():
            stack.callback(modules[name].register_forward_hook(_add_delta(a, b)).remove)
        for name, residuals in composition.keyed.items():
            stack.callback(modules[name].register_forward_hook(_add_residuals(residuals)).remove)
        yield

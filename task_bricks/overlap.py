"""How two low-rank deltas meet: their angle, their directions and their signs, and the neurons that one moves. Pure, on factors.

ΔW = B A is never made as a whole. What a delta reads are the directions of its inputs (the rows of ΔW), what it writes those of its
outputs (the columns). Overlap of subspaces as in Hu et al. 2021 (arXiv:2106.09685, section 7.2): φ = ‖Uᵀ V‖² / min(r, s), the mean
squared cosine of the principal angles; 0 where they are at right angles, 1 where one holds the other.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mattoni.injections import LowRank

_ROWS = 32  # of ΔW in each layer, in whose entries signs are compared
_LARGEST = 0.8  # an entry counts where it is among the largest fifth of both, as in TIES (arXiv:2306.01708)


@dataclass(frozen=True)
class Meeting:
    """Two deltas on one layer, or on all layers together.

    cosine       of the deltas as vectors, −1 to 1
    reads        overlap of the input directions, 0 to 1; by chance max(r, s) / width
    writes       overlap of the output directions
    angle        the smallest angle between output directions, in degrees
    signs        share of opposite signs among entries that are large in both; by chance a half
    sizes        ‖ΔW‖ of both
    """

    cosine: float
    reads: float
    reads_by_chance: float
    writes: float
    writes_by_chance: float
    angle: float
    signs: float
    sizes: tuple[float, float]


def meet(one: LowRank, other: LowRank) -> tuple[Meeting | None, dict[str, Meeting]]:
    """(together, {layer: meeting}) of the layers that both change; None where there is no such layer.

    Together, the cosine is that of all layers as one vector (layers of one alone count in its size); the rest is a mean, weighted by
    the product of both sizes.
    """
    shared = [name for name in one.factors if name in other.factors]
    layers = {name: _meet(*_scaled(one, name), *_scaled(other, name)) for name in shared}
    if not layers:
        return None, {}
    cosine, sizes = angle_and_sizes(one, other)
    weights = [m.sizes[0] * m.sizes[1] for m in layers.values()]
    weights = weights if any(weights) else [1.0] * len(weights)
    total = sum(weights)

    def mean(values: Sequence[float]) -> float:
        return sum(w * v for w, v in zip(weights, values, strict=True)) / total

    found = list(layers.values())
    together = Meeting(
        cosine=cosine,
        reads=mean([m.reads for m in found]),
        reads_by_chance=mean([m.reads_by_chance for m in found]),
        writes=mean([m.writes for m in found]),
        writes_by_chance=mean([m.writes_by_chance for m in found]),
        angle=mean([m.angle for m in found]),
        signs=mean([m.signs for m in found]),
        sizes=sizes,
    )
    return together, layers


def angle_and_sizes(one: LowRank, other: LowRank) -> tuple[float, tuple[float, float]]:
    """The cosine of two deltas, all layers as one vector, and ‖ΔW‖ of both: the part of `meet` that takes no time."""
    inner = sum(_inner(*_scaled(one, n), *_scaled(other, n)) for n in one.factors if n in other.factors)
    first, second = (math.sqrt(sum(_size(*_scaled(lora, name)) ** 2 for name in lora.factors)) for lora in (one, other))
    return inner / max(first * second, 1e-30), (first, second)


def _scaled(lora: LowRank, name: str) -> tuple[Tensor, Tensor]:
    """A and B of a layer in fp32, the scale and the weight in B."""
    a, b = lora.factors[name]
    return a.float(), b.float() * (lora.scales[name] * lora.weight)


def _inner(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> float:
    """⟨B A, D C⟩ = Σ (Bᵀ D) ∘ (A Cᵀ): (r, in), (out, r), (s, in), (out, s)."""
    return float(((b.T @ d) * (a @ c.T)).sum())


def _size(a: Tensor, b: Tensor) -> float:
    return math.sqrt(max(_inner(a, b, a, b), 0.0))


def _meet(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Meeting:
    sizes = _size(a, b), _size(c, d)
    (in_a, out_b), (in_c, out_d) = _directions(a, b), _directions(c, d)
    reads, writes = (torch.linalg.svdvals(x.T @ y).clamp(max=1) for x, y in ((in_a, in_c), (out_b, out_d)))
    return Meeting(
        cosine=_inner(a, b, c, d) / max(sizes[0] * sizes[1], 1e-30),
        reads=_overlap(reads),
        reads_by_chance=max(in_a.shape[1], in_c.shape[1]) / a.shape[1],
        writes=_overlap(writes),
        writes_by_chance=max(out_b.shape[1], out_d.shape[1]) / b.shape[0],
        angle=math.degrees(math.acos(float(writes.max()))) if len(writes) else 90.0,
        signs=_signs(a, b, c, d),
        sizes=sizes,
    )


def _overlap(cosines: Tensor) -> float:
    return float(cosines.square().mean()) if len(cosines) else 0.0


def _directions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of what B A reads and writes: (in, k) and (out, k), k its true rank."""
    q_in, r_in = torch.linalg.qr(a.T)
    q_out, r_out = torch.linalg.qr(b)
    left, values, right = torch.linalg.svd(r_out @ r_in.T)
    kept = values > 1e-6 * max(float(values.max()), 1e-30)
    return q_in @ right.T[:, kept], q_out @ left[:, kept]


def _signs(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> float:
    """The share of opposite signs in some rows, spread over the layer; a half where nothing is large in both."""
    rows = torch.linspace(0, len(b) - 1, min(_ROWS, len(b))).long()
    one, other = ((y[rows] @ x).flatten().numpy() for x, y in ((a, b), (c, d)))
    large = _are_large(one) & _are_large(other)
    return float((np.sign(one[large]) != np.sign(other[large])).mean()) if large.any() else 0.5


def _are_large(entries: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which entries are among the largest fifth, zeros never. numpy's partition takes a twentieth of torch's quantile."""
    sizes = np.abs(entries)
    bound = np.partition(sizes, int(_LARGEST * len(sizes)))[int(_LARGEST * len(sizes))]
    found: NDArray[np.bool_] = (sizes >= bound) & (sizes > 0)
    return found


def moved_neurons(lora: LowRank) -> dict[int, Tensor]:
    """Layer → how far each neuron of its FFN is moved, (intermediate,): the lengths of its rows in gate's and up's ΔW and of its
    column in down's, together, as a root of squares."""
    moved: dict[int, Tensor] = {}
    for name in lora.factors:
        *path, projection = name.split(".")
        if projection not in ("gate_proj", "up_proj", "down_proj"):
            continue
        layer = next(int(step) for step in path if step.isdigit())
        a, b = _scaled(lora, name)
        # ‖row i of B A‖² = bᵢ (A Aᵀ) bᵢᵀ, and the same for columns with the sides exchanged.
        sides = (a.T, b.T @ b) if projection == "down_proj" else (b, a @ a.T)
        squares = ((sides[0] @ sides[1]) * sides[0]).sum(dim=1).clamp_min(0)
        moved[layer] = moved.get(layer, torch.zeros_like(squares)) + squares
    return {layer: squares.sqrt() for layer, squares in moved.items()}


@dataclass(frozen=True)
class Touching:
    """How far a delta moves the neurons of a function.

    neurons     of the function, in layers whose FFN the delta changes
    hit         how many of them are among as many neurons of the same layers that the delta moves most
    by_chance   how many would be, were they drawn at random
    share       of the delta's movement (squared) that falls on them
    even        their share of all neurons
    most        (layer, neuron, how far) of those that it moves most, the largest first
    """

    neurons: int
    hit: int
    by_chance: float
    share: float
    even: float
    most: tuple[tuple[int, int, float], ...]


def touches(lora: LowRank, function: Mapping[int, Tensor], shown: int = 10) -> Touching | None:
    """A delta beside a function's neurons, layer → (intermediate,), non-zero where a neuron is part of it; None without any in common."""
    moved = moved_neurons(lora)
    layers = [layer for layer in function if layer in moved and len(function[layer]) == len(moved[layer])]
    hit, expected, inside, everything, neurons, width = 0, 0.0, 0.0, 0.0, 0, 0
    found: list[tuple[int, int, float]] = []
    for layer in layers:
        ours, far = function[layer] != 0, moved[layer]
        count = int(ours.sum())
        top = torch.zeros_like(ours)
        top[far.topk(count).indices] = True
        hit += int((top & ours).sum())
        expected += count * count / len(far)
        inside += float(far[ours].square().sum())
        everything += float(far.square().sum())
        neurons, width = neurons + count, width + len(far)
        best = torch.where(ours, far, 0).topk(min(shown, count))
        found += [(layer, int(i), float(v)) for v, i in zip(best.values, best.indices, strict=True)]
    if not neurons:
        return None
    most = sorted(found, key=lambda entry: -entry[2])[:shown]
    return Touching(neurons, hit, expected, inside / max(everything, 1e-30), neurons / width, tuple(most))

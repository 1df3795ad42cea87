"""Leaving out the smallest activations of every token: how much perplexity that costs, beside as many at random.

Masking is per token and layer, by |activation| · ‖down‖, what the neuron adds to the stream (Xiao et al. 2024, arXiv:2409.02877,
section 4.1). Computing nothing for them would need kernels that skip neurons; here it is only measured what it would cost.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from assistant.host.host import Host
from emergent_bricks.analysis.neurons import Change, changed, output_norms
from emergent_bricks.analysis.perplexity import losses
from emergent_bricks.analysis.texts import Sample, tokenise

SHARES = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def smallest(share: float, norms: Tensor) -> Change:
    """Sets that share of each position's neurons to nought, the smallest outputs of a layer; norms (layers, neurons)."""

    def change(layer: int, activations: Tensor) -> Tensor:
        count = round(share * activations.shape[-1])
        sizes = activations.float().abs() * norms[layer].to(activations.device)
        places = sizes.topk(count, dim=-1, largest=False).indices if count else None
        return activations if places is None else activations.scatter(-1, places, 0.0)

    return change


def at_random(share: float, seed: int) -> Change:
    """Sets as many of each position's neurons to nought, drawn by chance."""
    generator = torch.Generator().manual_seed(seed)

    def change(layer: int, activations: Tensor) -> Tensor:
        count = round(share * activations.shape[-1])
        drawn = torch.rand(activations.shape, generator=generator).to(activations.device)
        return activations.scatter(-1, drawn.topk(count, dim=-1, largest=False).indices, 0.0) if count else activations

    return change


def masking_curve(
    host: Host, samples: Sequence[Sample], seed: int, shares: Sequence[float] = SHARES
) -> list[dict[str, float]]:
    """Perplexity over all the texts with each share masked: `share`, `perplexity`, `random`; the first row has none masked."""
    ids, _ = tokenise(host, [sample.text for sample in samples])
    norms = output_norms(host)

    def perplexity(change: Change | None) -> float:
        summed, counts = losses(host, ids, changed(host, change) if change else None)
        return float(np.exp(summed.sum() / counts.sum()))

    plain = perplexity(None)
    rows = [{"share": 0.0, "perplexity": plain, "random": plain}]
    for share in shares:
        by_size, by_chance = perplexity(smallest(share, norms)), perplexity(at_random(share, seed))
        rows.append({"share": share, "perplexity": by_size, "random": by_chance})
    return rows

"""Leaving out the smallest activations of every token: how much perplexity that costs, beside as many at random.

Masking is per token and layer, by |activation| · ‖down‖, what the neuron adds to the stream (Xiao et al. 2024, arXiv:2409.02877,
section 4.1). Computing nothing for them would need kernels that skip neurons; here it is only measured what it would cost.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from assistant.host.host import Host
from emergent_bricks.analysis.kept import Kept
from emergent_bricks.analysis.neurons import Change, changed, output_norms
from emergent_bricks.analysis.perplexity import perplexity
from emergent_bricks.analysis.texts import Sample, digest_of, tokenise

SHARES = (0.2, 0.4, 0.5, 0.6, 0.8)


def smallest(share: float, norms: Tensor) -> Change:
    """Sets that share of each position's neurons to nought, the smallest outputs of a layer; norms (layers, neurons)."""

    def change(layer: int, activations: Tensor) -> Tensor:
        count = round(share * activations.shape[-1])
        if not count:
            return activations
        sizes = activations.float().abs() * norms[layer].to(activations.device)
        # Only the count-th size is looked for: sorting takes ten times as long.
        return activations.masked_fill(sizes <= sizes.kthvalue(count, dim=-1, keepdim=True).values, 0.0)

    return change


def at_random(share: float, seed: int) -> Change:
    """Sets that share of all activations to nought, drawn by chance."""
    generator = torch.Generator().manual_seed(seed)

    def change(layer: int, activations: Tensor) -> Tensor:
        is_off = torch.rand(activations.shape, generator=generator) < share
        return activations.masked_fill(is_off.to(activations.device), 0.0)

    return change


def masking_curve(
    host: Host, samples: Sequence[Sample], seed: int, shares: Sequence[float] = SHARES, keep: Path | None = None
) -> list[dict[str, float]]:
    """Perplexity over all the texts with each share masked: `share`, `perplexity`, `random`; the first row has none masked.

    keep  a file for what is measured, so that an interrupted curve is gone on with
    """
    ids, _ = tokenise(host, [sample.text for sample in samples])
    norms = output_norms(host)

    kept = Kept(keep, f"{host.fingerprint} {host.dtype} {digest_of(samples)} {seed}") if keep is not None else None

    def measured(name: str, change: Change | None) -> float:
        def measure() -> float:
            return perplexity(host, ids, changed(host, change) if change else None)

        return float(kept.get(name, measure)) if kept is not None else measure()

    plain = measured("plain", None)
    rows = [{"share": 0.0, "perplexity": plain, "random": plain}]
    for share in shares:
        by_size = measured(f"smallest {share}", smallest(share, norms))
        rows.append(
            {"share": share, "perplexity": by_size, "random": measured(f"random {share}", at_random(share, seed))}
        )
    return rows

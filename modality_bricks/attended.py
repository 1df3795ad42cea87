"""What a Q-Former attended to: shares of its cross-attention. Knows nothing of pictures, grids or hosts."""

from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before transformers)

import torch
from torch import Tensor
from transformers import Blip2QFormerModel, InstructBlipQFormerModel


@torch.no_grad()
def attended(qformer: Blip2QFormerModel | InstructBlipQFormerModel, features: Tensor, **inputs: Tensor) -> Tensor:
    """The share of the cross-attention that each feature got, over all layers, heads and queries.

    Method: the norm-based analysis of Kobayashi et al. 2020 (arXiv:2004.10102, section 3). A weight counts by the length of
    what it carried to the query, ‖Σ_heads α f(x)‖, because much attention may go to features that say nothing. It finds
    a thing better than the weights alone, their roll-out or their gradients (docs/experiments.md).

    features  (batch, tokens, feature width)
    inputs    what the Q-Former takes besides: `query_embeds` (batch, queries, width) and, if it reads one, a question
    returns   (batch, tokens), each row sums to 1
    """
    # Of transformers' implementations only the eager one gives the weights.
    usual = qformer.config._attn_implementation
    qformer.set_attn_implementation("eager")
    try:
        read = qformer(**inputs, encoder_hidden_states=features, output_attentions=True)
    finally:
        qformer.set_attn_implementation(usual)
    layers = [layer for layer in qformer.encoder.layer if layer.has_cross_attention]
    carried = torch.stack(
        [_carried(layer, weights, features) for layer, weights in zip(layers, read.cross_attentions, strict=True)]
    ).mean(0)
    return carried / carried.sum(-1, keepdim=True)


def _carried(layer: Any, weights: Tensor, features: Tensor) -> Tensor:
    """How long a vector each feature gave to the queries of one layer, on average: (batch, tokens).

    weights  (batch, heads, queries, tokens)
    """
    inner, outer = layer.crossattention.attention, layer.crossattention.output.dense
    heads = weights.shape[1]
    values = inner.value(features).unflatten(-1, (heads, -1))  # (batch, tokens, heads, width of a head)
    given = torch.einsum("bthi,ohi->bhto", values, outer.weight.unflatten(-1, (heads, -1)))
    lengths: Tensor = torch.einsum("bhqt,bhto->bqto", weights, given).norm(dim=-1)
    return lengths.mean(1)

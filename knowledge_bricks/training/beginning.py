"""What a cartridge begins as: of a text's own keys and values those that the host looks at when it is asked about the text.

The paper takes those of the first positions (Eyuboglu et al. 2025, arXiv:2506.06266, section 5.3). Here each head of each layer keeps the
positions that some token of some lesson attends to most (as KVzip, Kim et al. 2025, arXiv:2505.23416, which repeats the text instead),
and their keys are turned to stand one behind the other. The first position, on which heads rest that look at nothing, always stays.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from assistant.host.host import Host
from assistant.host.llama_decoder import is_like_llama
from brick_training.frame import TokenIds
from knowledge_bricks.cartridge import Layers
from mattoni.errors import MattoniError

SINKS = 1  # positions that stay as they are, in training too
_PIECE = 512  # positions that are read in one pass


def check_host(host: Host) -> None:
    """Raise MattoniError where a cartridge cannot be trained for a host."""
    if not is_like_llama(host):
        raise MattoniError(
            f"{host.name} is not built like Llama, so no cartridge can be trained for it: choose another host."
        )


@torch.no_grad()
def beginning(
    host: Host,
    text: TokenIds,
    asked: Sequence[TokenIds],
    positions: int,
    progress: Callable[[int], object] = lambda done: None,
) -> Layers:
    """Keys and values per layer, each (heads, positions, width), in fp32.

    text   what they are chosen of, with what the template puts before it
    asked  prompts and answers that are read behind it; where they look is what is kept
    """
    cache = _read(host, text)
    layers, heads, _ = host.key_shape
    looked_at = torch.zeros(layers, heads, len(text))
    for number, ids in enumerate(asked):
        looked_at = torch.maximum(looked_at, _attended(host, cache, ids))
        progress(number + 1)
    looked_at[:, :, :SINKS] = 2.0  # more than any share of attention
    kept = looked_at.topk(positions, dim=-1).indices.sort(dim=-1).values
    return tuple(_kept(host, number, layer, kept[number]) for number, layer in enumerate(cache.layers))


def _read(host: Host, text: TokenIds) -> DynamicCache:
    cache = DynamicCache()
    for begin in range(0, len(text), _PIECE):
        ids = torch.tensor([text[begin : begin + _PIECE]], device=host.device)
        host.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _attended(host: Host, cache: DynamicCache, ids: TokenIds) -> Tensor:
    """The largest share of attention that any of these tokens gives each position of the text: (layers, heads, text)."""
    length, (_, heads, width) = cache.get_seq_length(), host.key_shape
    with _queries(host) as queries:
        host.model(
            input_ids=torch.tensor([ids], device=host.device), past_key_values=cache, use_cache=True, logits_to_keep=1
        )
    places = torch.arange(length, length + len(ids), device=host.device)
    largest = []
    own: list[Any] = list(cache.layers)
    for number, layer in enumerate(own):
        asks = queries[number].float().reshape(len(ids), -1, width).transpose(0, 1)
        asks = _turned(host, number, asks, places).view(heads, -1, len(ids), width)
        keys = layer.keys[0].float().unsqueeze(1)
        scores = asks @ keys.transpose(2, 3) / width**0.5
        # Shares of all that a token sees: of a head that looks at the question itself little is kept.
        is_later = torch.ones(len(ids), len(ids), dtype=torch.bool, device=host.device).triu(1)
        scores[..., length:].masked_fill_(is_later, -torch.inf)
        largest.append(scores.softmax(dim=-1)[..., :length].amax(dim=(1, 2)))
    for layer in own:
        layer.crop(-len(ids))
    return torch.stack(largest).cpu()


@contextmanager
def _queries(host: Host) -> Iterator[list[Tensor]]:
    """Catches what each layer asks for in a pass, before its positions are turned in: (1, positions, heads · width)."""
    caught: list[Tensor] = []
    model: Any = host.model
    width = host.key_shape[2]

    def hook(attention: Any) -> Any:
        def catch(module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            shaped = output.view(*output.shape[:-1], -1, width)
            caught.append((attention.q_norm(shaped) if hasattr(attention, "q_norm") else shaped).flatten(-2))

        return catch

    hooks = [layer.self_attn.q_proj.register_forward_hook(hook(layer.self_attn)) for layer in model.base_model.layers]
    try:
        yield caught
    finally:
        for one in hooks:
            one.remove()


def _turned(host: Host, layer: int, vectors: Tensor, by: Tensor) -> Tensor:
    """(heads, n, width) turned by as many positions, (n,) or (heads, n): RoFormer, Su et al. 2021, arXiv:2104.09864."""
    model: Any = host.model
    if not getattr(model.base_model.layers[layer].self_attn, "use_rope", True):
        return vectors
    rotary = model.base_model.rotary_emb
    cosines, sines = rotary(vectors, position_ids=by.reshape(1, -1))
    cosines, sines = (part.view(*by.shape, -1) / rotary.attention_scaling for part in (cosines, sines))
    first, second = vectors.chunk(2, dim=-1)
    turned: Tensor = vectors * cosines + torch.cat((-second, first), dim=-1) * sines
    return turned


def _kept(host: Host, number: int, layer: Any, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of the positions that each head keeps, (heads, positions), one behind the other."""
    places = kept.to(host.device).unsqueeze(-1).expand(-1, -1, host.key_shape[2])
    keys, values = (part[0].float().gather(1, places) for part in (layer.keys, layer.values))
    by = torch.arange(kept.shape[1], device=host.device) - kept.to(host.device)
    return _turned(host, number, keys, by), values

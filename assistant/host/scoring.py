"""How likely a host finds continuations of prompts, many at once. Knows nothing of bricks but their composition.

Prompts are run in batches of like length, padded on the right, and only the positions that are asked for go through the
layer that gives the logits.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from assistant.host.composition import Composition, KeyedResiduals, composed
from assistant.host.host import Host

_POSITIONS = 512  # in a batch


@torch.inference_mode()
def surprises(
    host: Host, prompts: Sequence[str], continuations: Sequence[Sequence[str]], composition: Composition
) -> list[tuple[float, ...]]:
    """For each prompt and each of its continuations the mean over the continuation's tokens of −ln p, in nats.

    Continuations are encoded apart from the prompt, with a space in front.
    """
    encode = host.tokenizer
    rows: list[tuple[list[int], list[int], int, int]] = []  # ids, wanted, prompt, first of its continuations
    wanted_ids = [[list(encode(f" {c}", add_special_tokens=False).input_ids) for c in own] for own in continuations]
    for n, (prompt, own) in enumerate(zip(prompts, wanted_ids, strict=True)):
        ids = list(encode(prompt, add_special_tokens=False).input_ids)
        if all(len(wanted) == 1 for wanted in own):
            rows.append((ids, [wanted[0] for wanted in own], n, -1))
        else:
            rows += [(ids + wanted[:-1], wanted, n, m) for m, wanted in enumerate(own)]
    found: list[list[float]] = [[0.0] * len(own) for own in continuations]
    rows.sort(key=lambda row: len(row[0]))
    with composed(host, composition):
        for batch in _batches(rows):
            hidden = _states(host, [ids for ids, *_ in batch])
            for states, (ids, wanted, n, m) in zip(hidden, batch, strict=True):
                if m < 0:
                    found[n] = (-_log_probabilities(host, states[len(ids) - 1 : len(ids)])[0, wanted]).tolist()
                else:
                    said = _log_probabilities(host, states[len(ids) - len(wanted) : len(ids)])
                    found[n][m] = float(-said[torch.arange(len(wanted)), wanted].mean())
    return [tuple(own) for own in found]


class _Enough(Exception):
    """What was to be seen has been seen."""


@torch.inference_mode()
def fires(host: Host, prompts: Sequence[str], module: str, residuals: KeyedResiduals) -> list[bool]:
    """Whether a key is met anywhere in each prompt. Runs the layers up to the keys' own alone."""
    met: list[bool] = []
    ids = [list(host.tokenizer(prompt, add_special_tokens=False).input_ids) for prompt in prompts]
    order = sorted(range(len(ids)), key=lambda n: len(ids[n]))

    def look(layer: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
        found = residuals.met(args[0])
        real = torch.arange(found.shape[1]) < torch.tensor([len(row) for row in batch]).unsqueeze(1)
        met.extend((found & real.to(found.device)).any(dim=1).tolist())
        raise _Enough

    hook = host.linear_layers[module].register_forward_pre_hook(look)
    try:
        for batch in _batches([(ids[n],) for n in order]):
            batch = [row for (row,) in batch]
            try:
                _states(host, batch)
            except _Enough:
                continue
    finally:
        hook.remove()
    found = [False] * len(ids)
    for place, n in enumerate(order):
        found[n] = met[place]
    return found


def _batches(rows: Sequence[Any]) -> Iterator[Any]:
    """Runs of rows, which begin with their ids, shortest first."""
    batch: list[Any] = []
    for row in rows:
        if batch and (len(batch) + 1) * len(row[0]) > _POSITIONS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _states(host: Host, batch: Sequence[Sequence[int]]) -> Tensor:
    """(rows, positions, width), after the last norm."""
    ids = torch.zeros(len(batch), max(map(len, batch)), dtype=torch.long)
    attended = torch.zeros_like(ids)
    for n, row in enumerate(batch):
        ids[n, : len(row)], attended[n, : len(row)] = torch.tensor(row), 1
    inner: Any = host.model.get_decoder()
    mask = attended.to(host.device) if not bool(attended.all()) else None
    states: Tensor = inner(input_ids=ids.to(host.device), attention_mask=mask, use_cache=False).last_hidden_state
    return states


def _log_probabilities(host: Host, states: Tensor) -> Tensor:
    head: Any = host.model.get_output_embeddings()
    return functional.log_softmax(head(states).float(), dim=-1)

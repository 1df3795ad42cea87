"""Reads passages apart, puts their keys and values side by side, and computes parts of them again. Pure, on a plain transformers host.

A prompt is a row of columns: its beginning (which every passage is read behind: the attention sink), the passages, and the tail that
asks. What a column's position is, and which columns it sees, are arguments: so one function does a fresh reading, passages that
were read before (TurboRAG, arXiv:2410.07590), CacheBlend (arXiv:2405.16444), passages at the same positions (Parallel Context
Windows, arXiv:2212.10947) and one path for each passage (Superposition Prompting, arXiv:2404.06910).
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from assistant.host.rotary import turn


@dataclass(frozen=True, eq=False)
class KeyValues:
    """Keys, turned by their positions, and values, each (layers, rows, heads, columns, width)."""

    keys: Tensor
    values: Tensor

    @property
    def columns(self) -> int:
        """How many positions they are of."""
        return int(self.keys.shape[3])

    def part(self, begin: int, end: int) -> "KeyValues":
        """The columns from `begin` to before `end`."""
        return KeyValues(self.keys[:, :, :, begin:end], self.values[:, :, :, begin:end])

    def grown(self, columns: int, front: int = 0) -> "KeyValues":
        """With so many columns of zeros more, `front` of them before its own: a copy, which may be written."""
        sides = (0, 0, front, columns - front)
        return KeyValues(*(torch.nn.functional.pad(t, sides) for t in (self.keys, self.values)))

    def moved(self, by: int, frequencies: Tensor) -> "KeyValues":
        """As if they had been read `by` positions later."""
        return KeyValues(turn(self.keys, by, frequencies), self.values)


def beside(parts: Sequence[KeyValues]) -> KeyValues:
    """The columns of all parts, in order."""
    return KeyValues(torch.cat([p.keys for p in parts], dim=3), torch.cat([p.values for p in parts], dim=3))


def together(rows: Sequence[KeyValues]) -> tuple[KeyValues, Tensor]:
    """Rows of different lengths as one batch, zeros in front of the shorter ones; and which columns are theirs, (rows, columns)."""
    most = max(row.columns for row in rows)
    grown = [row.grown(most - row.columns, most - row.columns) for row in rows]
    own = torch.stack([torch.arange(most) >= most - row.columns for row in rows])
    return KeyValues(torch.cat([g.keys for g in grown], dim=1), torch.cat([g.values for g in grown], dim=1)), own


class _Columns(DynamicLayer):
    """A layer's keys and values into which the columns that are computed are written."""

    def __init__(self, keys: Tensor, values: Tensor, columns: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers' own
        self.lazy_initialization(keys, values)
        self.keys, self.values, self._columns = keys, values, columns

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        self.keys[:, :, self._columns] = key_states
        self.values[:, :, self._columns] = value_states
        return self.keys, self.values


def compute(
    model: PreTrainedModel,
    held: KeyValues,
    ids: Tensor,
    columns: Tensor,
    positions: Tensor | None = None,
    hidden: Tensor | None = None,
    wanted: int = 1,
) -> Tensor:
    """Compute some columns of a prompt, and write their keys and values into `held`.

    ids        (rows, n) token ids of these columns
    columns    (n,) which they are, rising; each sees those before it and itself
    positions  (rows, n); None: the columns' own numbers
    hidden     (rows, columns), bool: what no column sees; None: nothing
    wanted     how many of the last columns give logits
    returns    (rows, wanted, vocabulary)
    """
    sees = columns[:, None] >= torch.arange(held.columns)
    sees = sees.expand(len(ids), -1, -1)
    if hidden is not None:
        sees = sees & ~hidden[:, None]
    mask = torch.zeros(sees.shape, dtype=held.keys.dtype).masked_fill_(~sees, torch.finfo(held.keys.dtype).min)
    if positions is None:
        positions = columns.expand(len(ids), -1)
    layers: list[Any] = [_Columns(k, v, columns) for k, v in zip(held.keys, held.values, strict=True)]
    out = model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=mask[:, None],
        past_key_values=Cache(layers=layers),
        use_cache=True,
        logits_to_keep=wanted,
    )
    logits = out.logits
    assert isinstance(logits, Tensor)
    return logits


def read(model: PreTrainedModel, ids: Sequence[int]) -> tuple[KeyValues, Tensor]:
    """A fresh reading as the host does it by itself: keys and values, and the last position's logits, (1, 1, vocabulary)."""
    out = model(input_ids=torch.tensor([ids]), use_cache=True, logits_to_keep=1)
    layers = out.past_key_values.layers
    held = KeyValues(torch.stack([layer.keys for layer in layers]), torch.stack([layer.values for layer in layers]))
    return held, out.logits


def read_behind(model: PreTrainedModel, before: KeyValues, ids: Sequence[int]) -> KeyValues:
    """The keys and values of a text that is read behind `before` (one row), without those of `before`."""
    held = before.grown(len(ids))
    compute(model, held, torch.tensor([ids]), torch.arange(before.columns, held.columns))
    return held.part(before.columns, held.columns)


def in_place(beginning: KeyValues, apart: Sequence[KeyValues], frequencies: Tensor) -> KeyValues:
    """The beginning and the passages that were read behind it, one behind the other, each turned into its place."""
    parts, done = [beginning], 0
    for passage in apart:
        parts.append(passage.moved(done, frequencies))
        done += passage.columns
    return beside(parts)


def first_of_each(beginning: int, lengths: Sequence[int], count: int) -> Tensor:
    """The columns of each passage's first `count` tokens (EPIC, arXiv:2410.15332: they mistake themselves for a sink)."""
    columns: list[int] = []
    begin = beginning
    for length in lengths:
        columns.extend(range(begin, begin + min(count, length)))
        begin += length
    return torch.tensor(columns)


def most_changed(model: PreTrainedModel, held: KeyValues, ids: Sequence[int], beginning: int, share: float) -> Tensor:
    """The columns whose values in the second layer a fresh reading changes most, rising (CacheBlend, section 4.3).

    ids    the columns' token ids; those from `beginning` on are passages
    share  of the passages' columns, how many
    """
    # The host's own first two layers: only the configuration says how many there are.
    early: Any = copy.copy(model.base_model)
    early.config = copy.copy(early.config)
    early.config.num_hidden_layers = 2
    fresh: Tensor = early(input_ids=torch.tensor([ids]), use_cache=True).past_key_values.layers[1].values
    change = (fresh[0, :, beginning:] - held.values[1, 0, :, beginning:]).float().square().sum(dim=(0, 2))
    chosen = change.topk(max(1, round(share * len(change)))).indices
    return chosen.sort().values + beginning


def path_likelihoods(
    model: PreTrainedModel, beginning: KeyValues, apart: Sequence[KeyValues], asked: Sequence[int], question: int
) -> Tensor:
    """How likely a question is behind the beginning and each passage alone, in nats: (passages,) (Superposition Prompting, 3.2).

    asked     token ids between a passage and the answer, as far as the question goes
    question  how many of the last of them are the question
    """
    paths, own = together([beside((beginning, passage)) for passage in apart])
    n = len(asked)
    held = paths.grown(n)
    hidden = torch.cat((~own, torch.zeros(len(apart), n, dtype=torch.bool)), dim=1)
    positions = own.sum(dim=1, keepdim=True) + torch.arange(n)
    ids = torch.tensor([asked]).expand(len(apart), -1)
    columns = torch.arange(paths.columns, held.columns)
    logits = compute(model, held, ids, columns, positions, hidden, wanted=question + 1)
    logs = logits[:, :-1].float().log_softmax(dim=-1)
    return logs.gather(2, ids[:, -question:, None]).sum(dim=(1, 2))


def decode(
    model: PreTrainedModel,
    rows: Sequence[KeyValues],
    positions: Sequence[int],
    logits: Tensor,
    stop: frozenset[int],
    most: int,
) -> list[list[int]]:
    """Greedy answers to prompts that were read, together.

    rows       one row each
    positions  where each answer begins
    logits     (rows, vocabulary) of the prompts' last tokens
    stop       token ids that end an answer, and are left out
    """
    batch, own = together(rows)
    held = batch.grown(most)
    hidden = torch.cat((~own, torch.zeros(len(rows), most, dtype=torch.bool)), dim=1)
    begin = torch.tensor(positions)[:, None]
    answers: list[list[int]] = [[] for _ in rows]
    going = set(range(len(rows)))
    for step in range(most):
        said = logits.argmax(dim=-1)
        for row in list(going):
            if int(said[row]) in stop:
                going.discard(row)
            else:
                answers[row].append(int(said[row]))
        if not going or step + 1 == most:
            break
        column = torch.tensor([batch.columns + step])
        seen = held.part(0, batch.columns + step + 1)
        logits = compute(model, seen, said[:, None], column, begin + step, hidden[:, : seen.columns])[:, -1]
    return answers

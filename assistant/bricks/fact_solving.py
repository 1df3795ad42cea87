"""Solves facts: for each a key and a residual at one FFN of the host, so that the host says the object after the subject.

Key k: the input of layer l's `down_proj` at the subject's last token, averaged over prefixes. Residual r: what must be added
to the output of that `down_proj` at that place, found by gradient descent with the host frozen (ROME, Meng et al. 2022,
arXiv:2202.05262, section 3.1), where nothing is written to a weight (as in GRACE, Hartvigsen et al. 2023, arXiv:2211.11031, and
NeuralDB, 2025). The prompt without any prefix has a key of its own, because the first positions of a text behave otherwise. The very
first one takes up the attention that nothing else wants and is nearly the same in every text (Xiao et al. 2023, arXiv:2309.17453): a
subject that ends there, or looks like it, would be met everywhere, and has no such key.

Nothing before the subject's last token, and no layer below l, depends on r: their states, keys and values are computed once,
and each step runs the few positions from there on, of all prompts of several facts at once.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from assistant.host.host import Host, plain_host
from assistant.host.llama_decoder import is_like_llama
from mattoni.errors import MattoniError

# What stands before a statement when it is met: nothing, other sentences, a person's message.
PREFIXES = (
    "",
    "Therefore, ",
    "I have read that ",
    "The weather was fine. ",
    "As everybody knows, ",
    "However, in the end ",
)
_IGNORED = -100


@dataclass(frozen=True)
class Statement:
    """What is to be learned: a sentence with {} for the subject, up to where the object begins."""

    template: str
    subject: str
    object: str

    @property
    def prompt(self) -> str:
        """The sentence without its object."""
        return self.template.replace("{}", self.subject, 1)


@dataclass(frozen=True)
class Settings:
    """How a fact is solved. Chosen on facts-dev; docs/facts.md has the tables."""

    layer: int
    steps: int = 25
    rate: float = 0.5
    good_enough: float = 0.05  # nats per token of the object, below which a fact is not worked on any further
    kl: float = 0.0625  # weight of what else is known of the subject
    decay: float = 0.02  # weight of the residual's length, in units of the states that it is added to
    clamp: float = 4.0  # longest residual, in the same units
    prefixes: tuple[str, ...] = PREFIXES


@dataclass(frozen=True, eq=False)
class Solved:
    """keys (n, intermediate), unit rows: averaged over prefixes, and without one (the same again where that tells nothing);
    residual (hidden,).
    """

    keys: Tensor
    residual: Tensor
    loss: float


@dataclass(frozen=True, eq=False)
class _Row:
    """A prompt of a fact: token ids, where the subject ends, and what is wanted behind it."""

    fact: int
    ids: list[int]
    end: int  # position of the subject's last token
    labels: list[int]  # for each position from `end` on the next token, or -100
    is_essence: bool = False  # "SUBJECT is a": held to what the host said before
    is_plain: bool = False  # nothing stands before the sentence


_LIKE_A_FIRST = 0.55  # cosine with a text's first token from which that might meet a key; nearly all keys are below 0.1
THRESHOLD = 0.66  # cosine from which a key is met: between a subject met again and anything else, docs/facts.md


def settings_for(host: Host) -> Settings:
    """Those of a host of any depth: the layer at the same share of it as was best for the builtin host's thirty."""
    return Settings(layer=max(0, round(4 / 30 * len(host.gated_layers))))


def check_host(host: Host) -> None:
    """Raise MattoniError where facts cannot be solved for a host."""
    if not is_like_llama(host) or not host.gated_layers:
        raise MattoniError(
            f"{host.name} is not built like Llama, so facts cannot be taught to it: choose another host."
        )


def solve(
    host: Host, statements: Sequence[Statement], settings: Settings, step: Callable[[], None] = lambda: None
) -> list[Solved]:
    """Keys and residuals of some facts, together. `step` is called after each step of all of them.

    Raises MattoniError for a host that is not built like Llama.
    """
    check_host(host)
    host = plain_host(host)
    rows = [row for n, statement in enumerate(statements) for row in _rows(host, n, statement, settings.prefixes)]
    with torch.no_grad():
        tails = _Tails.read(host, rows, settings.layer)
    residuals, losses = _descend(tails, rows, len(statements), settings, step)
    keys = [_keys(tails, rows, n) for n in range(len(statements))]
    return [Solved(k, r, loss) for k, r, loss in zip(keys, residuals, losses, strict=True)]


def _rows(host: Host, fact: int, statement: Statement, prefixes: Sequence[str]) -> list[_Row]:
    wanted = host.tokenizer(" " + statement.object, add_special_tokens=False).input_ids
    rows = []
    for prefix in prefixes:
        ids, end = subject_end(host, prefix + statement.template, statement.subject)
        if end == 0:
            continue
        labels = [_IGNORED] * (len(ids) - end - 1) + wanted
        rows.append(_Row(fact, ids + wanted[:-1], end, labels, is_plain=not prefix))
    ids, end = subject_end(host, "{} is a", statement.subject)
    if end == 0:
        ids, end = subject_end(host, "Therefore, {} is a", statement.subject)
    return [*rows, _Row(fact, ids, end, [_IGNORED] * (len(ids) - end), is_essence=True)]


def subject_end(host: Host, template: str, subject: str) -> tuple[list[int], int]:
    """Token ids of a template with its subject, and the position of the token that ends the subject."""
    before = template.index("{}")
    encoded = host.tokenizer(template.replace("{}", subject, 1), add_special_tokens=False, return_offsets_mapping=True)
    last = before + len(subject) - 1
    end = next(n for n, (begin, stop) in enumerate(encoded.offset_mapping) if begin <= last < stop)
    return list(encoded.input_ids), end


class _FixedPast:
    """Keys and values of what does not depend on the residuals, in front of those of a pass; keeps nothing."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._layers = layers

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        past_keys, past_values = self._layers[layer]
        return torch.cat([past_keys, keys], dim=2), torch.cat([past_values, values], dim=2)


@dataclass(frozen=True, eq=False)
class _Tails:
    """All rows from the subject's last token on, right-padded, as they enter the layers above l."""

    host: Host
    layer: int
    inputs: Tensor  # (rows, intermediate): of the FFN's output projection at the subject's last token
    firsts: Tensor  # (rows, intermediate): the same at each text's first token
    states: Tensor  # (rows, tail, hidden): out of layer l, without residuals
    past: _FixedPast
    mask: Tensor  # (rows, 1, tail, past + tail)
    rotary: tuple[Tensor, Tensor]
    labels: Tensor  # (rows, tail)
    lengths: Tensor  # (rows,): of the tails

    @classmethod
    def read(cls, host: Host, rows: Sequence[_Row], layer: int) -> "_Tails":
        device, model = host.device, host.model
        ids = torch.zeros(len(rows), max(len(row.ids) for row in rows), dtype=torch.long, device=device)
        attended = torch.zeros_like(ids)
        for n, row in enumerate(rows):
            ids[n, : len(row.ids)] = torch.tensor(row.ids)
            attended[n, : len(row.ids)] = 1
        caught: list[Tensor] = []
        projection = host.linear_layers[host.gated_layers[layer]]
        mine = threading.get_ident()

        def catch(module: torch.nn.Module, args: tuple[Tensor, ...]) -> None:
            # The engine's thread may run the same module at the same time.
            if threading.get_ident() == mine:
                caught.append(args[0])

        hook = projection.register_forward_pre_hook(catch)
        try:
            inner: Any = model.model
            out = inner(input_ids=ids, attention_mask=attended, use_cache=True, output_hidden_states=True)
        finally:
            hook.remove()
        ends = torch.tensor([row.end for row in rows], device=device)
        lengths = torch.tensor([len(row.ids) - row.end for row in rows], device=device)
        longest = int(lengths.max())
        every = torch.arange(len(rows), device=device)
        places = (ends.unsqueeze(1) + torch.arange(longest, device=device)).clamp(max=ids.shape[1] - 1)
        states = out.hidden_states[layer + 1][every.unsqueeze(1), places]
        before = int(ends.max())
        kept = [(c.keys[:, :, :before].clone(), c.values[:, :, :before].clone()) for c in out.past_key_values.layers]
        sees_past = torch.arange(before, device=device) < ends.unsqueeze(1)
        triangle = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        mask = torch.cat([sees_past[:, None].expand(-1, longest, -1), triangle.expand(len(rows), -1, -1)], dim=2)
        labels = torch.full((len(rows), longest), _IGNORED, device=device)
        for n, row in enumerate(rows):
            labels[n, : len(row.labels)] = torch.tensor(row.labels)
        rotary = inner.rotary_emb(states, position_ids=places)
        inputs, firsts = caught[0][every, ends].float(), caught[0][:, 0].float()
        return cls(host, layer, inputs, firsts, states, _FixedPast(kept), mask.unsqueeze(1), rotary, labels, lengths)

    def narrowed(self, rows: Tensor) -> "_Tails":
        """Those of some rows."""
        past = _FixedPast([(k[rows], v[rows]) for k, v in self.past._layers])
        rotary = (self.rotary[0][rows], self.rotary[1][rows])
        return _Tails(
            self.host, self.layer, self.inputs[rows], self.firsts[rows], self.states[rows], past, self.mask[rows], rotary,
            self.labels[rows], self.lengths[rows],
        )  # fmt: skip

    def run(self, residuals: Tensor) -> Tensor:
        """States after the last norm, (rows, tail, hidden), with (rows, hidden) added to the first position of each tail."""
        inner: Any = self.host.model.model
        first = (self.states[:, :1].float() + residuals.unsqueeze(1)).to(self.states)
        states = torch.cat([first, self.states[:, 1:]], dim=1)
        for layer in inner.layers[self.layer + 1 :]:
            states = layer(states, attention_mask=self.mask, past_key_values=self.past, position_embeddings=self.rotary)
        normed: Tensor = inner.norm(states)
        return normed

    def log_probabilities(self, states: Tensor) -> Tensor:
        """(n, hidden) → (n, vocabulary)."""
        head: Any = self.host.model.get_output_embeddings()
        return functional.log_softmax(head(states).float(), dim=-1)


def _descend(
    tails: _Tails, rows: Sequence[_Row], facts: int, settings: Settings, step: Callable[[], None]
) -> tuple[Tensor, list[float]]:
    """Residuals (facts, hidden), and the loss of each."""
    of_fact = torch.tensor([row.fact for row in rows], device=tails.states.device)
    essence = torch.tensor([row.is_essence for row in rows], device=of_fact.device)
    said = tails.narrowed(essence)
    with torch.no_grad():
        before = _essence(said, said.run(said.states.new_zeros(len(said.states), said.states.shape[2]).float()))
    sizes = torch.stack([tails.states[of_fact == n][:, 0].float().norm(dim=-1).mean() for n in range(facts)])
    residuals = torch.zeros(facts, tails.states.shape[2], device=of_fact.device, requires_grad=True)
    best = torch.full((facts,), torch.inf)
    found = residuals.detach().clone()
    optimizer = torch.optim.Adam([residuals], lr=settings.rate)
    working = torch.ones(facts, dtype=torch.bool)
    for _ in range(settings.steps + 1):
        rows_now = working[of_fact].nonzero().squeeze(1)
        part, mine, is_essence = tails.narrowed(rows_now), of_fact[rows_now], essence[rows_now]
        states = part.run(residuals[mine])
        wanted = (part.labels != _IGNORED).nonzero(as_tuple=True)
        likely = part.log_probabilities(states[wanted]).gather(1, part.labels[wanted].unsqueeze(1)).squeeze(1)
        nll = _mean_of(-likely, mine[wanted[0]], facts)
        now = part.narrowed(is_essence)
        of_now = mine[is_essence]
        kl = (before.exp()[of_now] * (before[of_now] - _essence(now, states[is_essence]))).sum(dim=1)
        loss = nll + settings.decay * (residuals.norm(dim=1) / sizes) ** 2
        loss = loss.index_add(0, of_now, settings.kl * kl)
        told = nll.detach()
        better = working & (loss.detach() < best)
        best = torch.where(better, loss.detach(), best)
        found[better] = residuals.detach()[better]
        working = working & (told >= settings.good_enough)
        step()
        if not working.any():
            break
        optimizer.zero_grad()
        loss[working].sum().backward()
        optimizer.step()
        with torch.no_grad():
            lengths = residuals.norm(dim=1, keepdim=True)
            residuals *= (settings.clamp * sizes.unsqueeze(1) / lengths.clamp(min=1e-9)).clamp(max=1.0)
    return found, best.tolist()


def _essence(tails: _Tails, states: Tensor) -> Tensor:
    """What is said after "SUBJECT is a": (rows, vocabulary), log probabilities."""
    return tails.log_probabilities(states[torch.arange(len(states)), tails.lengths - 1])


def _mean_of(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """The mean of each group: (count,)."""
    sums = values.new_zeros(count).index_add(0, groups, values)
    return sums / torch.bincount(groups, minlength=count).clamp(min=1)


def _keys(tails: _Tails, rows: Sequence[_Row], fact: int) -> Tensor:
    """One averaged over the prefixes, one without, where the fact has such a row.

    A short subject that begins a text may look as first tokens do one place further on; then that is no key either.
    """
    own = [n for n, row in enumerate(rows) if row.fact == fact and not row.is_essence]
    prefixed = [n for n in own if not rows[n].is_plain]
    mean = functional.normalize(tails.inputs[prefixed], dim=-1).mean(dim=0, keepdim=True)
    mean = functional.normalize(mean, dim=-1)
    plain = functional.normalize(tails.inputs[[n for n in own if rows[n].is_plain]], dim=-1)
    begins = functional.normalize(tails.firsts[prefixed], dim=-1)
    is_own = (plain @ begins.T).amax(dim=1) < _LIKE_A_FIRST
    return torch.cat([mean, plain[is_own], mean])[:2]

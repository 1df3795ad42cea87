"""Self-critical training: the metric of an answer as the reward of what the host says. Training only.

Rennie et al. 2017, arXiv:1612.00563; of several answers to a prompt each is judged against the mean of the others, as in
Luo 2020, arXiv:2003.09971.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import mattoni.torchvision_ops  # noqa: F401

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from brick_training.settings import RewardPlan

# Takes the captions of each picture. What it returns scores what is said of the picture with that number, and whether
# that came to its end.
CaptionMetric = Callable[[Sequence[Sequence[str]]], Callable[[int, str, bool], float]]
# Of the answer with that place among the prompts: what is said in ids, and whether it came to the end.
Reward = Callable[[int, Sequence[int], bool], float]
# Runs a pass over so many rows and positions of each: where a LoRA acts in places, it has to be told.
Passing = Callable[[int, int], AbstractContextManager[None]]


def caption_metric(captions: Sequence[Sequence[str]]) -> Callable[[int, str, bool], float]:
    """CIDEr-D against these captions; the end of a sentence counts as a word, so that half a caption earns less."""
    from mattoni.metrics import CiderD, caption_words

    metric = CiderD([[[*caption_words(text), "."] for text in texts] for texts in captions])
    return lambda picture, said, ended: metric.score(picture, [*caption_words(said), *["."] * ended])


def repeated(cache: DynamicCache, times: int, detached: bool) -> DynamicCache:
    """A cache with each of its rows `times` times in a row; detached, it passes no gradient and the first stays as it is."""
    copy = DynamicCache()
    for number, layer in enumerate(cast("list[Any]", cache.layers)):
        keys, values = (t.detach() if detached else t for t in (layer.keys, layer.values))
        copy.update(keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0), number)
    return copy


def _plainly(rows: int, positions: int) -> AbstractContextManager[None]:
    return nullcontext()


def self_critical_loss(
    host: PreTrainedModel,
    hidden: Tensor,
    cache: DynamicCache,
    reward: Reward,
    plan: RewardPlan,
    end: int,
    generator: torch.Generator,
    mask: Tensor | None = None,
    passing: Passing = _plainly,
) -> Tensor:
    """The loss whose gradient raises the reward of sampled answers to several prompts.

    hidden  (prompts, width) what the host has made of each prompt's last token
    cache   keys and values of the prompts
    end     the id that ends an answer
    mask    (prompts, tokens) bool, true where the prompts are not padding; None: nowhere they are
    """
    samples = plan.samples
    embed, head = host.get_input_embeddings(), host.get_output_embeddings()
    assert head is not None
    first = head(hidden).float().repeat_interleave(samples, 0)
    seen = None if mask is None else mask.repeat_interleave(samples, 0)

    def after(said: Tensor, before: DynamicCache) -> Tensor:
        """(rows, tokens) ids behind what the cache holds -> (rows, tokens, vocabulary)."""
        rows, count = said.shape
        seeing = {}
        if seen is not None:
            own = seen.new_ones(rows, before.get_seq_length() - seen.shape[1] + count)
            seeing = {"attention_mask": torch.cat([seen, own], 1)}
        with passing(rows, count):
            passed = host.base_model(inputs_embeds=embed(said), past_key_values=before, use_cache=True, **seeing)
        logits: Tensor = head(passed.last_hidden_state).float()
        return logits

    said = _sampled(after, repeated(cache, samples, detached=True), first.detach(), plan.new_tokens, end, generator)
    lengths = [row.index(end) if end in row else len(row) for row in said.tolist()]
    rewards = torch.tensor(
        [
            reward(row // samples, ids[:length], length < len(ids))
            for row, (ids, length) in enumerate(zip(said.tolist(), lengths, strict=True))
        ]
    ).view(-1, samples)
    others = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
    advantage = (rewards - others) / (rewards.std() + 1e-6)
    logits = first[:, None]
    if said.shape[1] > 1:
        logits = torch.cat([logits, after(said[:, :-1], repeated(cache, samples, detached=False))], dim=1)
    losses = F.cross_entropy(logits.transpose(1, 2), said, reduction="none")
    # The end counts as said, what was sampled behind it does not.
    counts = torch.arange(said.shape[1]) <= torch.tensor(lengths)[:, None]
    weights = (advantage.reshape(-1, 1) * counts / counts.sum()).to(hidden.device)
    loss: Tensor = (losses * weights).sum()
    return loss


@torch.no_grad()
def _sampled(
    after: Callable[[Tensor, DynamicCache], Tensor],
    cache: DynamicCache,
    logits: Tensor,
    new_tokens: int,
    end: int,
    generator: torch.Generator,
) -> Tensor:
    """(rows, at most new_tokens) ids drawn from the host's own distribution, behind what the cache holds."""
    said: list[Tensor] = []
    ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    while True:
        # Drawn on the CPU, so that a run is the same on every device.
        drawn = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)[:, 0].to(logits.device)
        said.append(torch.where(ended, end, drawn))
        ended |= drawn == end
        if len(said) == new_tokens or bool(ended.all()):
            return torch.stack(said, dim=1)
        logits = after(said[-1].unsqueeze(1), cache)[:, -1]

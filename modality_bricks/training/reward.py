"""Self-critical training: the metric of a caption as the reward of what the host says. Training only.

Rennie et al. 2017, arXiv:1612.00563; of several captions of a picture each is judged against the mean of the others, as in
Luo 2020, arXiv:2003.09971.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from modality_bricks.training.draws import Draw
from modality_bricks.training.readers import CAPTION_QUESTIONS
from modality_bricks.training.samples import SampleSet

# Takes the captions of each picture. What it returns scores what is said of the picture with that number, and whether
# that came to its end.
CaptionMetric = Callable[[Sequence[Sequence[str]]], Callable[[int, str, bool], float]]


class RewardPlan(BaseModel):
    """How captions are rewarded; part of a training config."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: float = 1.0  # of their loss beside that of an imitated answer
    samples: int = Field(default=4, ge=2)  # captions said of each picture
    new_tokens: PositiveInt = 20  # of each at most


class RewardedCaptions:
    """Which draws of a training set ask for a caption, and what a caption of theirs is worth."""

    def __init__(self, sources: Sequence[SampleSet], metric: CaptionMetric, plan: RewardPlan) -> None:
        self.plan, self._questions = plan, frozenset(CAPTION_QUESTIONS)
        captions = {
            (source, number): sorted({answer for question, answer in sample.turns if question in self._questions})
            for source, found in enumerate(sources)
            for number, sample in enumerate(found.samples)
            if sample.name is None and not sample.spells
        }
        self._place = {key: place for place, key in enumerate(key for key, texts in captions.items() if texts)}
        self._score = metric([captions[key] for key in self._place])

    def has(self, draw: Draw) -> bool:
        """Whether this draw asks for a caption."""
        return draw.question in self._questions and (draw.source, draw.sample) in self._place

    def reward(self, draw: Draw, text: str, ended: bool) -> float:
        """Of what was said of the draw's picture."""
        return self._score(self._place[draw.source, draw.sample], text, ended)


def repeated(cache: DynamicCache, times: int, detached: bool) -> DynamicCache:
    """A cache with each of its rows `times` times in a row; detached, it passes no gradient and the first stays as it is."""
    copy = DynamicCache()
    for number, layer in enumerate(cast("list[Any]", cache.layers)):
        keys, values = (t.detach() if detached else t for t in (layer.keys, layer.values))
        copy.update(keys.repeat_interleave(times, 0), values.repeat_interleave(times, 0), number)
    return copy


def self_critical_loss(
    host: PreTrainedModel,
    cache: DynamicCache,
    soft: Tensor,
    question: Sequence[int],
    reward: Callable[[int, Sequence[int], bool], float],
    plan: RewardPlan,
    end: int,
    generator: torch.Generator,
) -> Tensor:
    """The loss whose gradient raises the reward of sampled answers to one question about several pictures.

    cache      keys and values of what stands before the soft tokens
    soft       (pictures, queries, width)
    question   ids between the soft tokens and the answer
    reward     of the picture with that number, the ids that were said of it, and whether they came to the `end`
    """
    samples = plan.samples
    embed, head = host.get_input_embeddings(), host.get_output_embeddings()
    assert head is not None
    asked = embed(torch.tensor(question, device=soft.device)).expand(len(soft), -1, -1)
    opened = host.base_model(
        inputs_embeds=torch.cat([soft.to(asked.dtype), asked], dim=1), past_key_values=cache, use_cache=True
    )
    first = head(opened.last_hidden_state[:, -1:]).float().repeat_interleave(samples, 0)
    before = opened.past_key_values
    said = _sampled(
        host, repeated(before, samples, detached=True), first[:, 0].detach(), plan.new_tokens, end, generator
    )
    lengths = [row.index(end) if end in row else len(row) for row in said.tolist()]
    rewards = torch.tensor(
        [
            reward(row // samples, ids[:length], length < len(ids))
            for row, (ids, length) in enumerate(zip(said.tolist(), lengths, strict=True))
        ]
    ).view(-1, samples)
    others = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
    advantage = (rewards - others) / (rewards.std() + 1e-6)
    logits = first
    if said.shape[1] > 1:
        spoken = host.base_model(
            inputs_embeds=embed(said[:, :-1]), past_key_values=repeated(before, samples, detached=False), use_cache=True
        )
        logits = torch.cat([first, head(spoken.last_hidden_state).float()], dim=1)
    losses = F.cross_entropy(logits.transpose(1, 2), said, reduction="none")
    # The end counts as said, what was sampled behind it does not.
    counts = torch.arange(said.shape[1]) <= torch.tensor(lengths)[:, None]
    weights = (advantage.reshape(-1, 1) * counts / counts.sum()).to(soft.device)
    loss: Tensor = (losses * weights).sum()
    return loss


@torch.no_grad()
def _sampled(
    host: PreTrainedModel, cache: DynamicCache, logits: Tensor, new_tokens: int, end: int, generator: torch.Generator
) -> Tensor:
    """(rows, at most new_tokens) ids drawn from the host's own distribution, behind what the cache holds."""
    embed = host.get_input_embeddings()
    said: list[Tensor] = []
    ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    while True:
        # Drawn on the CPU, so that a run is the same on every device.
        drawn = torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)[:, 0].to(logits.device)
        said.append(torch.where(ended, end, drawn))
        ended |= drawn == end
        if len(said) == new_tokens or bool(ended.all()):
            return torch.stack(said, dim=1)
        logits = host(inputs_embeds=embed(said[-1]).unsqueeze(1), past_key_values=cache, use_cache=True).logits[:, -1]

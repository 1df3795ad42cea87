"""Which questions about pictures are answered by captions that are rewarded, and their loss (`brick_training/reward.py`). Training only."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from brick_training.reward import CaptionMetric, Reward, self_critical_loss
from brick_training.settings import RewardPlan
from modality_bricks.training.draws import Draw
from modality_bricks.training.readers import CAPTION_QUESTIONS
from modality_bricks.training.samples import SampleSet


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


def picture_loss(
    host: PreTrainedModel,
    cache: DynamicCache,
    soft: Tensor,
    question: Sequence[int],
    reward: Reward,
    plan: RewardPlan,
    end: int,
    generator: torch.Generator,
) -> Tensor:
    """The self-critical loss of what the host says to one question about several pictures.

    cache     keys and values of what stands before the soft tokens
    soft      (pictures, queries, width)
    question  ids between the soft tokens and the answer
    """
    asked = host.get_input_embeddings()(torch.tensor(question, device=soft.device)).expand(len(soft), -1, -1)
    opened = host.base_model(
        inputs_embeds=torch.cat([soft.to(asked.dtype), asked], dim=1), past_key_values=cache, use_cache=True
    )
    return self_critical_loss(
        host, opened.last_hidden_state[:, -1], opened.past_key_values, reward, plan, end, generator
    )

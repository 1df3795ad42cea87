"""What the queries of a stitch should say, as the host's words. Training only; knows no model."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from modality_bricks.training.readers import Sample
from modality_bricks.training.samples import SampleSet
from modality_bricks.training.words import content_vocabulary, words_of

# Queries that spell a named thing's pieces in order; the other queries are free.
NAME_SLOTS = 6


class Spelling:
    """Words and names as ids of the host's tokens."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sources: Sequence[SampleSet],
        words: int,
        skip: int,
        known: Sequence[int] | None = None,
    ) -> None:
        """Choose the `words` commonest pieces of names and content words, or take the `known` ones of a stitch."""
        self.tokenizer = tokenizer
        texts = [
            a
            for s in sources
            for sample in s.samples
            if sample.name is None and not sample.spells
            for a in {a for _, a in sample.turns}
        ]
        spelled = sorted({sample.spells for s in sources for sample in s.samples if sample.spells})
        names = sorted({sample.name for s in sources for sample in s.samples if sample.name is not None})
        self.stop = tokenizer.encode(".", add_special_tokens=False)[-1]
        ids: Counter[int] = Counter({self.stop: 10**9})
        for name in names:
            ids.update({i: 10**8 for i in self.pieces(name)})
        for sentence in spelled:
            ids.update({i: 10**8 for i in self.pieces(sentence)})
        vocabulary = content_vocabulary(texts, commonest=skip, least=min(5, max(1, len(texts) // 2000)))
        self.content = set(vocabulary)
        for rank, word in enumerate(vocabulary):
            ids.update({i: len(vocabulary) - rank for i in self.pieces(word)})
        self.ids = [i for i, _ in ids.most_common(words)] if known is None else list(known)
        self.index = {token: place for place, token in enumerate(self.ids)}

    @lru_cache(maxsize=100_000)  # noqa: B019  (one object per run)
    def pieces(self, word: str) -> tuple[int, ...]:
        """Token ids of a word inside a sentence."""
        return tuple(self.tokenizer.encode(f" {word}", add_special_tokens=False))

    @lru_cache(maxsize=200_000)  # noqa: B019
    def target(self, texts: tuple[str, ...]) -> dict[int, float]:
        """A distribution over vocabulary places: the content words of these texts."""
        counts: Counter[int] = Counter()
        for text in texts:
            for word in words_of(text):
                if word in self.content:
                    counts.update(self.index[i] for i in self.pieces(word) if i in self.index)
        total = sum(counts.values())
        return {place: n / total for place, n in counts.items()}

    def name_target(self, name: str) -> list[int]:
        """Vocabulary places of a name's pieces in order, filled up with full stops to NAME_SLOTS."""
        places = [self.index[i] for i in self.pieces(name) if i in self.index]
        return (places + [self.index[self.stop]] * NAME_SLOTS)[:NAME_SLOTS]

    def spelled_target(self, sentence: str, queries: int) -> list[int]:
        """Vocabulary places of a sentence's pieces in order, filled up with full stops to all queries."""
        places = [self.index[i] for i in self.pieces(sentence) if i in self.index]
        return (places + [self.index[self.stop]] * queries)[:queries]

    def said_of(self, sample: Sample) -> dict[int, float]:
        """A distribution over vocabulary places: the pieces of the name, or the content words of all answers."""
        if sample.name is not None:
            places = [self.index[i] for i in self.pieces(sample.name) if i in self.index]
            return {place: places.count(place) / len(places) for place in places}
        return self.target(tuple(sorted({a for _, a in sample.turns})))


def words_loss(spelling: Spelling, logits: Tensor, samples: Sequence[Sample]) -> Tensor:
    """What the queries should say, as words, of these pictures: (batch, queries, words) logits -> mean over samples.

    Two losses: the mean of the queries' softmaxes against the content words of all answers; and, for named pictures, the
    first queries against the name's pieces in order. Of a picture with a sentence to spell, all queries against its pieces.
    """
    pooled = (logits.log_softmax(-1).logsumexp(1) - np.log(logits.shape[1])).clamp(min=-30)
    target = torch.zeros_like(pooled)
    slots = torch.full(logits.shape[:2], -100, device=logits.device)
    for row, sample in enumerate(samples):
        if sample.spells:
            slots[row] = torch.tensor(spelling.spelled_target(sample.spells, logits.shape[1]))
            continue
        for place, share in spelling.said_of(sample).items():
            target[row, place] = share
        if sample.name is not None:
            slots[row, :NAME_SLOTS] = torch.tensor(spelling.name_target(sample.name))
    loss = -(target * pooled).sum() / len(samples)
    ordered = F.cross_entropy(logits.transpose(1, 2), slots, ignore_index=-100, reduction="none")
    total: Tensor = loss + (ordered.sum(1) / (slots >= 0).sum(1).clamp(min=1)).mean()
    return total

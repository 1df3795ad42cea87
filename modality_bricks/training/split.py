"""The sources of a stitch stage with the features of their pictures, and how fast a stage goes. Training only."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modality_bricks.training.draws import Draw
from modality_bricks.training.features import FeatureCache
from modality_bricks.training.samples import SampleSet


@dataclass(frozen=True)
class Pace:
    """How much a stage does."""

    batch: int
    steps: int
    steps_per_evaluation: int
    seed: int


@dataclass(frozen=True)
class Split:
    """Sources with their feature caches."""

    sources: Sequence[SampleSet]
    caches: Sequence[FeatureCache]

    def features(self, draws: Sequence[Draw]) -> Tensor:
        """(n, tokens, width), in the order of the draws."""
        out: list[Tensor | None] = [None] * len(draws)
        for source, cache in enumerate(self.caches):
            places = [i for i, d in enumerate(draws) if d.source == source]
            if places:
                found = cache.get([(draws[i].sample, draws[i].view) for i in places])
                for i, features in zip(places, found, strict=True):
                    out[i] = features
        return torch.stack([f for f in out if f is not None])

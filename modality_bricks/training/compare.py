"""Compares a trained stitch with the one of the brick that it would replace, on the same dev rows. Training only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brick_training.step import Evaluation
from modality_bricks.encoder import VisionEncoder
from modality_bricks.stitch import QFormerStitch
from modality_bricks.training.features import FeatureCache
from modality_bricks.training.generate_stage import GenerateStage
from modality_bricks.training.split import Split

RESAMPLES = 2000
Rows = Sequence[Sequence[float]]  # of each dev source the score of each row


@dataclass(frozen=True)
class Comparison:
    """Two bricks on the same rows. The interval holds 95 % of the differences, new minus old, of resampled rows."""

    new: float
    old: float
    low: float
    high: float
    rows: int

    @property
    def worse(self) -> bool:
        """Whether the new brick is worse by more than chance explains."""
        return self.high < 0

    def sentence(self) -> str:
        """In words, with both figures."""
        says = (
            "worse by more than chance explains"
            if self.worse
            else "better by more than chance explains"
            if self.low > 0
            else "no difference that so many rows can show"
        )
        return (
            f"the new brick scores {self.new:.3f} and the one that is there {self.old:.3f} on the same {self.rows} dev rows: "
            f"{says} (difference {self.new - self.old:+.3f}, 95 % of resampled rows between {self.low:+.3f} and {self.high:+.3f})"
        )


def compare(new: Rows, old: Rows, seed: int = 0) -> Comparison:
    """Paired bootstrap over rows (Efron 1979): a resample draws rows of each source, and both bricks get the same."""
    generator = np.random.default_rng(seed)
    differences = [np.asarray(a) - np.asarray(b) for a, b in zip(new, old, strict=True)]
    means = sum(d[generator.integers(0, len(d), (RESAMPLES, len(d)))].mean(axis=1) for d in differences)
    low, high = np.percentile(means, [2.5, 97.5])
    scores = [float(sum(np.mean(rows) for rows in side)) for side in (new, old)]
    return Comparison(scores[0], scores[1], float(low), float(high), sum(len(d) for d in differences))


def measure(stage: GenerateStage, encoder: VisionEncoder, stitch: QFormerStitch, cache: Path) -> Evaluation:
    """Let the host of this stage answer through another encoder and stitch, on the stage's dev rows."""
    dev = Split(stage.dev.sources, [FeatureCache(cache, source, encoder) for source in stage.dev.sources])
    return stage.dev_answers.measure(stitch.to(stage.speaker.host.device), dev)

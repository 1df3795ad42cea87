"""Which sample, view and turn each draw of a stitch stage takes: a pure function of (seed, draw number). Training only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from modality_bricks.training.samples import SampleSet

# Batches are cut from chunks that are sorted by length, so that little of a batch is padding.
BATCHES_PER_CHUNK = 16


@dataclass(frozen=True)
class Draw:
    """One sample of a batch."""

    source: int
    sample: int
    view: int
    question: str
    answer: str


class Draws:
    """An endless, repeatable stream of draws in which each source has its share and repeats only after all its samples."""

    def __init__(self, sources: Sequence[SampleSet], batch: int, seed: int) -> None:
        self.sources, self.seed, self.batch = sources, seed, batch
        self.chunk = batch * BATCHES_PER_CHUNK
        shares = np.asarray([s.share for s in sources], dtype=float)
        counts = np.floor(shares / shares.sum() * self.chunk).astype(int)
        counts[0] += self.chunk - counts.sum()
        self._owner = np.repeat(np.arange(len(sources)), counts)
        self._within = np.concatenate([np.arange(n) for n in counts])
        self._counts = counts

    def mixture(self) -> list[float]:
        """The part of all draws that each source really has."""
        return [float(count) / self.chunk for count in self._counts]

    def draw(self, number: int) -> Draw:
        """The draw of that number."""
        chunk, place = divmod(number, self.chunk)
        source = int(self._owner[place])
        nth = chunk * int(self._counts[source]) + int(self._within[place])
        samples = self.sources[source].samples
        epoch, position = divmod(nth, len(samples))
        sample = int(np.random.default_rng((self.seed, 1, source, epoch)).permutation(len(samples))[position])
        generator = np.random.default_rng((self.seed, 2, number))
        turns = samples[sample].turns
        question, answer = turns[int(generator.integers(len(turns)))]
        return Draw(source, sample, int(generator.integers(self.sources[source].views)), question, answer)

    def another_picture(self, number: int) -> Draw:
        """The draw of that number with a picture of the same source that its answer is not about."""
        draw = self.draw(number)
        count = len(self.sources[draw.source].samples)
        step = 1 + int(np.random.default_rng((self.seed, 4, number)).integers(max(1, count - 1)))
        return replace(draw, sample=(draw.sample + step) % count)

    def batch_numbers(self, step: int, length: Callable[[Draw], int] | None = None) -> list[int]:
        """The draw numbers of a step's global batch; with `length`, draws of like length share a batch."""
        chunk, place = divmod(step, BATCHES_PER_CHUNK)
        generator = np.random.default_rng((self.seed, 3, chunk))
        order = generator.permutation(self.chunk)
        if length is not None:
            lengths = np.asarray([length(self.draw(chunk * self.chunk + int(i))) for i in order])
            order = order[np.argsort(lengths, kind="stable")]
            place = int(generator.permutation(BATCHES_PER_CHUNK)[place])
        return [chunk * self.chunk + int(i) for i in order[place * self.batch : (place + 1) * self.batch]]

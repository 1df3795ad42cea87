"""Measures a stitch by what the host answers about the dev pictures, with it and with another picture's soft tokens. Training only."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from brick_training.step import Evaluation
from modality_bricks.stitch import QFormerStitch
from modality_bricks.training.features import FeatureCache, half
from modality_bricks.training.readers import Sample, wants_name
from modality_bricks.training.samples import SampleSet
from modality_bricks.training.speaker import Speaker
from modality_bricks.training.split import Split
from modality_bricks.training.words import words_of

CaptionScores = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]


class DevAnswers:
    """Asks about dev pictures and scores the answers."""

    def __init__(self, speaker: Speaker, score_captions: CaptionScores, new_tokens: int) -> None:
        """new_tokens  of each answer at most"""
        self.speaker, self.score_captions, self.new_tokens = speaker, score_captions, new_tokens

    @torch.inference_mode()
    def measure(self, stitch: QFormerStitch, dev: Split) -> Evaluation:
        """Greedy answers to "What is in the picture?" (named) and "Describe the picture." (captions) on the dev pictures.

        Pictures with a sentence to spell are asked their own questions (answered).

        Beside each figure stands the one with shuffled pictures, and how many different answers there are per picture.
        """
        stitch.eval()
        metrics: dict[str, float] = {}
        lines: list[str] = []
        rows: list[Sequence[float]] = []
        for source, cache in zip(dev.sources, dev.caches, strict=True):
            if source.samples[0].spells:
                right, others, found = self._asked(stitch, source, cache)
                rows.append(right)
                metrics |= {"answered": float(np.mean(right)), "answered shuffled": float(np.mean(others))}
                metrics |= {"answered distinct": len(set(found)) / len(found), "answered n": len(found)}
                lines += [f"{s.spells} -> {a}" for s, a in zip(source.samples[:5], found, strict=False)]
                continue
            named = source.samples[0].name is not None
            question = "What is in the picture?" if named else source.samples[0].turns[0][0]
            answers: list[str] = []
            for start in range(0, len(source.samples), 50):
                stop = min(start + 50, len(source.samples))
                answers += self._answer(stitch, cache.get([(i, 0) for i in range(start, stop)]), question)
            kind = "named" if named else "captions"
            shuffled = answers_of_others(answers)
            rows.append(self._scores(source.samples, answers))
            value, beside = (float(np.mean(r)) for r in (rows[-1], self._scores(source.samples, shuffled)))
            metrics |= {kind: value, f"{kind} shuffled": beside, f"{kind} distinct": len(set(answers)) / len(answers)}
            metrics[f"{kind} n"] = len(answers)
            lines += [f"{s.name or s.turns[0][1]} -> {a}" for s, a in zip(source.samples[:5], answers, strict=False)]
        return Evaluation({"score": sum(float(np.mean(r)) for r in rows), **metrics}, lines, rows)

    def _asked(
        self, stitch: QFormerStitch, source: SampleSet, cache: FeatureCache
    ) -> tuple[list[float], list[float], list[str]]:
        """One of its own questions about each picture: whether the answer is the row's, also with another picture's tokens."""
        right, others, found = [], [], []
        for i, sample in enumerate(source.samples):
            question, wanted = sample.turns[i % len(sample.turns)]
            mine, other = (cache.get([(k, 0)]) for k in (i, (i + len(source.samples) // 2) % len(source.samples)))
            answer, beside = (self._answer(stitch, features, question)[0] for features in (mine, other))
            right.append(float(answer.lower() == wanted.lower()))
            others.append(float(beside.lower() == wanted.lower()))
            found.append(answer)
        return right, others, found

    def _scores(self, samples: Sequence[Sample], answers: Sequence[str]) -> Sequence[float]:
        if samples[0].name is not None:
            return [float(names_it(a, s.synonyms)) for s, a in zip(samples, answers, strict=True)]
        return self.score_captions(answers, [sorted({a for _, a in s.turns}) for s in samples])

    def _answer(self, stitch: QFormerStitch, features: Tensor, question: str) -> list[str]:
        device = self.speaker.host.device
        with half(device):
            soft = stitch(features.to(device), wants_name=wants_name(question))
        return self.speaker.answer(soft, question, self.new_tokens)


def answers_of_others(answers: Sequence[str]) -> list[str]:
    """For each picture the answer to another one, drawn at random: neighbours in a folder show the same thing."""
    order = np.random.default_rng(0).permutation(len(answers))
    shuffled = list(answers)
    for mine, other in zip(order, np.roll(order, 1), strict=True):
        shuffled[mine] = answers[other]
    return shuffled


def names_it(answer: str, synonyms: Sequence[str], first: int = 12) -> bool:
    """Whether one of the synonyms stands in the first words of the answer, as whole words, in any case."""
    said = " ".join(words_of(" ".join(answer.split()[:first])))
    return any(f" {' '.join(words_of(s))} " in f" {said} " for s in synonyms)

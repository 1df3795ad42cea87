"""Finds the weights of a merge on a few rows, without gradients. The host is an argument.

Method: LoraHub (Huang et al. 2023, arXiv:2307.13269): the loss of a few examples plus an L1 term, weights within ±1.5, searched
by a method that needs no gradient. Two departures: skills are summed exactly (Σ wᵢ ΔWᵢ) where LoraHub multiplies the sums of
their factors, and the search is COBYLA (Powell 1994), which is deterministic, begun at the best of a few plain choices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import mattoni.torchvision_ops  # noqa: F401

import numpy as np
import torch
from scipy.optimize import minimize

from brick_training.frame import prompt_frame
from mattoni.errors import MattoniError
from mattoni.injections import LowRank
from task_bricks.training.rows import Example, Row
from task_bricks.training.steps import answer_loss, encode_batch

if TYPE_CHECKING:
    from assistant.host.host import Host

BOUND = 1.5
_L1 = 0.05
_BATCH = 8


@dataclass(frozen=True)
class Learned:
    """The best weights, the loss with them, with none and with each skill alone, and how often it was computed."""

    weights: tuple[float, ...]
    loss: float
    bare: float
    alone: tuple[float, ...]
    evaluations: int


def rows_loss(host: "Host", loras: Sequence[LowRank], rows: Sequence[Row]) -> Callable[[Sequence[float]], float]:
    """The mean cross-entropy per answer token of rows, as a function of the skills' weights."""
    from assistant.host.composition import compose, composed

    if any(row.images for row in rows):
        raise MattoniError("Rows with pictures cannot be learned from here: give rows of text.")
    if any(lora.invocation_tokens for lora in loras):
        raise MattoniError("Weights of activated skills cannot be learned: give --weights and --method cat.")
    frame = prompt_frame(host)
    examples = [Example(row.message, row.answers[0], is_default=True) for row in rows]
    batches = [
        encode_batch(examples[i : i + _BATCH], frame, None, host.device) for i in range(0, len(examples), _BATCH)
    ]
    tokens = [int((batch.labels[:, 1:] >= 0).sum()) for batch in batches]

    @torch.no_grad()
    def loss(weights: Sequence[float]) -> float:
        deltas = [replace(lora, weight=float(w)) for lora, w in zip(loras, weights, strict=True) if w]
        with composed(host, compose(host, deltas)):
            losses = [float(answer_loss(host.model, batch)) for batch in batches]
        return sum(value * n for value, n in zip(losses, tokens, strict=True)) / sum(tokens)

    return loss


def learn_weights(loss: Callable[[Sequence[float]], float], skills: int, evaluations: int = 40) -> Learned:
    """Search weights with the lowest loss plus 0.05 times their mean size; never worse, by that, than a skill alone."""

    def aim(weights: Sequence[float], value: float) -> float:
        return value + _L1 * float(np.abs(weights).mean())

    known: dict[tuple[float, ...], float] = {}

    def measured(weights: Sequence[float]) -> float:
        key = tuple(round(float(np.clip(w, -BOUND, BOUND)), 4) for w in weights)
        if key not in known:
            known[key] = loss(key)
        return aim(key, known[key])

    alone = [tuple(float(i == n) for i in range(skills)) for n in range(skills)]
    bare = (0.0,) * skills
    for start in (bare, *alone, (1.0 / skills,) * skills, (1.0,) * skills):
        measured(start)
    best = min(known, key=lambda w: aim(w, known[w]))
    left = max(skills + 2, evaluations - len(known))
    minimize(
        measured, best, method="COBYLA", bounds=[(-BOUND, BOUND)] * skills, options={"maxiter": left, "rhobeg": 0.4}
    )
    best = min(known, key=lambda w: aim(w, known[w]))
    if not any(best):
        raise MattoniError(
            "With none of these skills the rows are answered best: choose other skills, or rows that they are for."
        )
    return Learned(best, known[best], known[bare], tuple(known[w] for w in alone), len(known))

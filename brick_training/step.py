"""One step of training: what a stage gives, and the update. Knows nothing of runs or files."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from brick_training.learner import Learner
from brick_training.settings import LoopSettings
from mattoni.errors import MattoniError


@dataclass(frozen=True)
class Evaluation:
    """Dev metrics, a few lines that show what the model does (sample answers), and each row's score, by source."""

    metrics: dict[str, float]
    samples: list[str] = field(default_factory=list)
    rows: Sequence[Sequence[float]] = ()


class Stage(Protocol):
    """What a stage gives to the loop."""

    model: nn.Module
    steps: int
    steps_per_evaluation: int
    best_metric: str

    def rows(self, step: int) -> list[int]:
        """The global batch of a step."""

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        """Mean loss over these rows (a slice of the global batch)."""

    def evaluate(self, step: int) -> Evaluation:
        """Measure on the dev split after this step."""


def check_loss(value: float, step: int, least: float) -> None:
    """Stop with the reason when the loss says that nothing is being learned."""
    if not math.isfinite(value):
        raise MattoniError(f"The loss is {value} at step {step}: lower the learning rate or look for broken samples.")
    if step == 0 and abs(value) < least:
        raise MattoniError("The loss starts at 0: the labels are empty, or the answer is part of the input.")


def optimizer_step(
    stage: Stage,
    model: nn.Module,
    learner: Learner,
    accelerator: Accelerator,
    settings: LoopSettings,
    step: int,
    stop: Callable[[], bool],
) -> tuple[float, bool]:
    """One update on the global batch: each process takes its slice, in `accumulation` parts.

    Returns the global mean loss, and whether `stop` says so in any process: all learn it in the same step.

    Raises MattoniError before the weights are touched when loss or gradient are not finite.
    """
    rows = stage.rows(step)
    parts = accelerator.num_processes * settings.accumulation
    if len(rows) % parts:
        raise MattoniError(
            f"A global batch of {len(rows)} cannot be split over {accelerator.num_processes} processes with "
            f"{settings.accumulation} accumulation steps: choose a batch that is a multiple of {parts}."
        )
    size = len(rows) // parts
    first = accelerator.process_index * settings.accumulation
    model.train()
    total = torch.zeros((), device=accelerator.device)
    for part in range(settings.accumulation):
        mine = rows[(first + part) * size : (first + part + 1) * size]
        torch.manual_seed(hash((settings.seed, step, first + part)) % 2**31)
        with nullcontext() if part == settings.accumulation - 1 else accelerator.no_sync(model):
            loss = stage.loss(model, mine, step) / settings.accumulation
            accelerator.backward(loss)
        total += loss.detach()
    both = torch.stack([total, torch.full_like(total, float(stop()))])
    value, stopped = accelerator.reduce(both, reduction="mean").tolist()
    check_loss(value, step, settings.least_first_loss)
    norm = learner.clip(accelerator, settings.clip or math.inf)
    if not torch.isfinite(norm):
        raise MattoniError(f"The gradient is {float(norm)} at step {step}: lower the learning rate.")
    learner.step()
    return value, stopped > 0

"""How a stage is optimised, and how its learning rate runs. Plain values; knows nothing of models."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class Schedule(Protocol):
    """The learning rate over a run."""

    def factor(self, step: int, steps: int) -> float:
        """Of the peak, at a step counted from 0."""

    def may_change(self, step: int, before: int, now: int) -> bool:
        """Whether a run of `before` steps that has done `step` of them may go on as one of `now`."""


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up over the first `warmup` of the steps, then cosine to zero."""

    warmup: float

    def factor(self, step: int, steps: int) -> float:
        warm = max(1, int(steps * self.warmup))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    def may_change(self, step: int, before: int, now: int) -> bool:
        """A curve that bends anew is not the one that was begun, and still ends at zero."""
        return True


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up over `warmup` steps, a plateau, and a linear fall to nothing over the last `decay` steps.

    Method: Hu et al. 2024, MiniCPM, arXiv:2404.06395, section 4. Until the fall begins the curve does not depend on `steps`,
    so a run can be made longer or shorter while it runs and still be what its recipe says.
    """

    warmup: int
    decay: int

    def factor(self, step: int, steps: int) -> float:
        return min(1.0, (step + 1) / self.warmup, (steps - step) / self.decay)

    def may_change(self, step: int, before: int, now: int) -> bool:
        return before == now or step <= min(before, now) - self.decay


@dataclass(frozen=True)
class LoopSettings:
    """How a stage is optimised."""

    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    schedule: Schedule = Cosine(0.05)
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float | None = None
    accumulation: int = 1
    seed: int = 0
    masters: bool = False  # the model computes in its own type, and fp32 copies of what learns are updated
    checkpoint_minutes: float = 4.0
    checkpoint_steps: int | None = None  # beside the minutes, after every so many steps
    log_every: int = 20
    least_first_loss: float = 1e-6  # a run that starts below has nothing to learn


class RewardPlan(BaseModel):
    """How answers are rewarded; part of a training config."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: float = 1.0  # of their loss beside that of an imitated answer
    samples: int = Field(default=4, ge=2)  # answers said to each prompt
    new_tokens: PositiveInt = 20  # of each at most

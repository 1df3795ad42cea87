"""What a run needs to go on exactly where it stopped. Knows nothing of what is trained."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypedDict

import torch

from brick_training.learner import Learner
from brick_training.settings import Schedule
from mattoni.errors import MattoniError
from mattoni.files import replacing


class Best(TypedDict):
    """The evaluation with the highest `Stage.best_metric`."""

    value: float
    metrics: dict[str, float]
    step: int


@dataclass
class Progress:
    """How far a run is; part of each checkpoint."""

    step: int = 0  # steps done
    seconds: float = 0.0
    best: Best = field(default_factory=lambda: Best(value=-math.inf, metrics={}, step=-1))
    last: dict[str, float] = field(default_factory=dict)
    evaluated: int = 0  # steps that were done at the last evaluation
    recent: list[float] = field(default_factory=list)  # losses that no line of the log has yet


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a kill or a full disk while saving leaves the previous checkpoint."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as problem:
            # torch covers the disk's error with one of its own.
            if isinstance(problem.__context__, OSError):
                raise problem.__context__ from problem
            raise


def load_checkpoint(path: Path, learner: Learner, config: dict[str, Any], steps: int, schedule: Schedule) -> Progress:
    """Put model and optimizer where the checkpoint was. Raises MattoniError if it belongs to another run."""
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, UnpicklingError) as problem:
        raise MattoniError(f"{path} is damaged: remove {path.parent} to start anew.") from problem
    # Checkpoints from before configs were kept in them have none.
    before = saved.get("config", config)
    changed = sorted(name for name in before.keys() | config.keys() if before.get(name) != config.get(name))
    again = f"give the config another run, or remove {path.parent} to start anew"
    if not schedule.may_change(saved["step"], saved.get("steps", steps), steps):
        changed.append("steps")
    if changed:
        raise MattoniError(f"{path} was made with other values of {', '.join(changed)}: {again}.")
    try:
        learner.load(saved["model"], saved["optimizer"])
    except (RuntimeError, ValueError) as problem:
        raise MattoniError(f"{path} holds a model of another shape: {again}.") from problem
    # Older checkpoints were only ever saved behind the evaluation of their step.
    evaluated = saved.get("evaluated", saved["step"])
    return Progress(saved["step"], saved["seconds"], saved["best"], saved["last"], evaluated, saved.get("recent", []))

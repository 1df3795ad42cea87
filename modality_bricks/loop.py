"""The training loop of every stage: steps, checkpoints, exact resume, progress, curves. Knows nothing of what is trained.

All randomness of a step is a function of (seed, step), so a run that was killed goes on bit for bit from its checkpoint, and
several processes that share a global batch see the same samples as one. No loss here compares the samples of a batch with
one another, so there are no negatives to gather.
"""

import json
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, Protocol, TypedDict

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mattoni.errors import MattoniError
from mattoni.files import replacing


@dataclass(frozen=True)
class Evaluation:
    """Dev metrics, and a few lines that show what the model does (sample answers)."""

    metrics: dict[str, float]
    samples: list[str] = field(default_factory=list)


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


@dataclass(frozen=True)
class LoopSettings:
    """How a stage is optimised."""

    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    weight_decay: float
    warmup: float = 0.05
    clip: float | None = None
    accumulation: int = 1
    seed: int = 0
    checkpoint_minutes: float = 4.0
    log_every: int = 20


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up over the first `warmup` of the steps, then cosine to zero."""
    warm = max(1, int(steps * warmup))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def make_optimizer(model: nn.Module, settings: LoopSettings) -> torch.optim.Optimizer:
    """Weight decay goes on matrices and kernels only, not on norms, biases and scales."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98))


def check_loss(value: float, step: int) -> None:
    """Stop with the reason when the loss says that nothing is being learned."""
    if not math.isfinite(value):
        raise MattoniError(f"The loss is {value} at step {step}: lower the learning rate or look for broken samples.")
    if step == 0 and abs(value) < 1e-6:
        raise MattoniError("The loss starts at 0: the labels are empty, or the answer is part of the input.")


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


def draw_curve(log: Path, png: Path) -> None:
    """Loss and dev metrics over steps."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(11, 4))
    axes = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.98, wspace=0.15)
    losses = [(r["step"], r["loss"]) for r in rows if "loss" in r]
    axes[0].plot([s for s, _ in losses], [v for _, v in losses])
    axes[0].set(xlabel="step", title="training loss")
    evaluations = [r for r in rows if "metrics" in r]
    for name in [m for m in evaluations[-1]["metrics"] if not m.endswith(" n")] if evaluations else []:
        axes[1].plot([r["step"] for r in evaluations], [r["metrics"].get(name) for r in evaluations], "o-", label=name)
    axes[1].set(xlabel="step", title="dev")
    if evaluations:
        axes[1].legend(fontsize=7)
    figure.savefig(png, dpi=90)


class Log:
    """`log.jsonl` of a run: one line per record, cut back to the checkpoint on resume."""

    def __init__(self, path: Path, from_step: int) -> None:
        self.path = path
        kept = (
            [line for line in path.read_text().splitlines() if json.loads(line)["step"] < from_step]
            if path.exists()
            else []
        )
        path.write_text("".join(line + "\n" for line in kept))

    def write(self, **record: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


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


def load_checkpoint(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, config: dict[str, Any]) -> Progress:
    """Put model and optimizer where the checkpoint was. Raises MattoniError if it belongs to another run."""
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, EOFError, RuntimeError, UnpicklingError) as problem:
        raise MattoniError(f"{path} is damaged: remove {path.parent} to start anew.") from problem
    # Checkpoints from before configs were kept in them have none.
    before = saved.get("config", config)
    changed = sorted(name for name in before.keys() | config.keys() if before.get(name) != config.get(name))
    again = f"give the config another run, or remove {path.parent} to start anew"
    if changed:
        raise MattoniError(f"{path} was made with other values of {', '.join(changed)}: {again}.")
    try:
        stage.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    except (RuntimeError, ValueError) as problem:
        raise MattoniError(f"{path} holds a model of another shape: {again}.") from problem
    return Progress(saved["step"], saved["seconds"], saved["best"], saved["last"])


def train(
    stage: Stage, folder: Path, settings: LoopSettings, accelerator: Accelerator, config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run a stage to its end, from the checkpoint in `folder` if there is one.

    config  what the run depends on, by name; a checkpoint made with other values is refused

    Leaves `checkpoint.pt`, `best.pt` (model weights of the best evaluation), `log.jsonl` and `curve.png`.
    Returns the last metrics, the best metrics and the hours spent, over all resumed parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = make_optimizer(stage.model, settings)
    checkpoint = folder / "checkpoint.pt"
    progress = Progress()
    if checkpoint.exists():
        progress = load_checkpoint(checkpoint, stage, optimizer, config or {})
        finished = f": this run is finished; remove {folder} to train anew" if progress.step >= stage.steps else ""
        accelerator.print(f"resumed from {checkpoint} at step {progress.step}{finished}")
    try:
        _loop(stage, folder, settings, accelerator, config or {}, optimizer, progress)
    except KeyboardInterrupt:
        where = "the same command goes on from the last checkpoint" if checkpoint.exists() else "no checkpoint yet"
        raise MattoniError(f"Stopped after step {progress.step}: {where} in {folder}.") from None
    best = progress.best
    return {
        "last": progress.last,
        "best": best["metrics"],
        "best_step": best["step"],
        "hours": progress.seconds / 3600,
    }


def _loop(
    stage: Stage,
    folder: Path,
    settings: LoopSettings,
    accelerator: Accelerator,
    config: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Step, report, evaluate, save; `progress` is kept up to date."""
    wrapped, optimizer = accelerator.prepare(stage.model, optimizer)
    main, start = accelerator.is_main_process, progress.step
    log = Log(folder / "log.jsonl", start) if main else None
    began = saved_at = time.monotonic()
    seconds_before = progress.seconds
    recent: list[float] = []
    for step in range(start, stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(step, stage.steps, settings.warmup)
        recent.append(optimizer_step(stage, wrapped, optimizer, accelerator, settings, step))
        progress.step = done = step + 1
        progress.seconds = seconds_before + time.monotonic() - began
        last_step = done == stage.steps
        if log is not None and (done % settings.log_every == 0 or last_step):
            left = (progress.seconds - seconds_before) / (done - start) * (stage.steps - done)
            mean = sum(recent) / len(recent)
            log.write(step=step, loss=mean, lr=optimizer.param_groups[0]["lr"], seconds=round(progress.seconds, 1))
            print(
                f"step {done}/{stage.steps}  loss {mean:.4f}  {progress.seconds / 60:.1f} min, {left / 60:.1f} min left",
                flush=True,
            )
            recent.clear()
        if done % stage.steps_per_evaluation == 0 or last_step:
            if log is not None:
                _evaluate(stage, folder, log, progress, step)
            accelerator.wait_for_everyone()
        if main and (time.monotonic() - saved_at > 60 * settings.checkpoint_minutes or last_step):
            progress.seconds = seconds_before + time.monotonic() - began
            state = {"model": stage.model.state_dict(), "optimizer": optimizer.state_dict(), "config": config}
            save_checkpoint(folder / "checkpoint.pt", state | vars(progress))
            saved_at = time.monotonic()


def _evaluate(stage: Stage, folder: Path, log: Log, progress: Progress, step: int) -> None:
    """Measure, log, draw; keep the weights if they are the best so far."""
    evaluation = stage.evaluate(step)
    progress.last = evaluation.metrics
    log.write(step=step, metrics=evaluation.metrics, samples=evaluation.samples)
    print(f"step {step + 1}  dev {evaluation.metrics}", *evaluation.samples, sep="\n    ", flush=True)
    draw_curve(log.path, folder / "curve.png")
    value = evaluation.metrics[stage.best_metric]
    if value > progress.best["value"]:
        progress.best = Best(value=value, metrics=evaluation.metrics, step=step)
        save_checkpoint(folder / "best.pt", stage.model.state_dict())


def optimizer_step(
    stage: Stage,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    settings: LoopSettings,
    step: int,
) -> float:
    """One update on the global batch: each process takes its slice, in `accumulation` parts. Returns the global mean loss.

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
    value = float(accelerator.reduce(total, reduction="mean"))
    check_loss(value, step)
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
    if not torch.isfinite(norm):
        raise MattoniError(f"The gradient is {float(norm)} at step {step}: lower the learning rate.")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value

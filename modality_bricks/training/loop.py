"""The training loop of every stage: steps, checkpoints, exact resume, progress, curves. Knows nothing of what is trained.

All randomness of a step is a function of (seed, step), so a run that was killed goes on bit for bit from its checkpoint, and
several processes that share a global batch see the same samples as one. No loss here compares the samples of a batch with
one another, so there are no negatives to gather.
"""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from types import FrameType
from typing import Any, Literal, Protocol, TypedDict

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mattoni.errors import Interrupted, MattoniError
from mattoni.files import replacing, write_text
from modality_bricks.training.run_folder import BEST, CHECKPOINT, LOG, STATE, Log, read_log


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


def draw_curve(records: list[dict[str, Any]], png: Path) -> None:
    """Loss and dev metrics over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))
    axes = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.98, wspace=0.15)
    losses = [(r["step"], r["loss"]) for r in records if "loss" in r]
    axes[0].plot([s for s, _ in losses], [v for _, v in losses])
    axes[0].set(xlabel="step", title="training loss")
    evaluations = [r for r in records if "metrics" in r]
    for name in [m for m in evaluations[-1]["metrics"] if not m.endswith(" n")] if evaluations else []:
        axes[1].plot([r["step"] for r in evaluations], [r["metrics"].get(name) for r in evaluations], "o-", label=name)
    axes[1].set(xlabel="step", title="dev")
    if evaluations:
        axes[1].legend(fontsize=7)
    with replacing(png) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


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


class Stop:
    """Ctrl-C or SIGTERM. A step is not torn in two: the first signal waits for its end, a second one does not.

    Outside of a step, as in an evaluation, which changes no weight, a signal interrupts at once.
    """

    def __init__(self) -> None:
        self.signal = 0
        self.stepping = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        waits = self.stepping and not self.signal
        self.signal = number
        if not waits:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals; Python lets only the main thread do so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


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
    # Older checkpoints were only ever saved behind the evaluation of their step.
    evaluated = saved.get("evaluated", saved["step"])
    return Progress(saved["step"], saved["seconds"], saved["best"], saved["last"], evaluated, saved.get("recent", []))


def train(
    stage: Stage, folder: Path, settings: LoopSettings, accelerator: Accelerator, config: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Run a stage to its end, from the checkpoint in `folder` if there is one.

    config  what the run depends on, by name; a checkpoint made with other values is refused

    Leaves `checkpoint.pt`, `best.pt` (model weights of the best evaluation), `log.jsonl`, `state.json` and `curve.png`.
    Returns the last metrics, the best metrics and the hours spent, over all resumed parts. Raises Interrupted after
    Ctrl-C, with a checkpoint saved, and MattoniError when the disk or the device is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(stage, folder, settings, accelerator, config or {})
    try:
        with run.stop.listening():
            run.to_the_end()
    except KeyboardInterrupt:
        raise run.interrupted() from None
    except (MattoniError, OSError, torch.OutOfMemoryError) as problem:
        raise run.failed(problem) from problem
    best = run.progress.best
    return {
        "last": run.progress.last,
        "best": best["metrics"],
        "best_step": best["step"],
        "hours": run.progress.seconds / 3600,
    }


class _Run:
    """One call of `train`: its model and optimizer, and how far they are."""

    def __init__(
        self, stage: Stage, folder: Path, settings: LoopSettings, accelerator: Accelerator, config: dict[str, Any]
    ) -> None:
        self.stage, self.folder, self.settings, self.accelerator = stage, folder, settings, accelerator
        self.config, self.stop, self.progress = config, Stop(), Progress()
        self.main = accelerator.is_main_process
        optimizer = make_optimizer(stage.model, settings)
        checkpoint = folder / CHECKPOINT
        if checkpoint.exists():
            self.progress = load_checkpoint(checkpoint, stage, optimizer, config)
            finished = f": this run is finished; remove {folder} to train anew" if self._left() == 0 else ""
            accelerator.print(f"resumed from {checkpoint} at step {self.progress.step}{finished}")
        self.wrapped, self.optimizer = accelerator.prepare(stage.model, optimizer)
        self.log = Log(folder / LOG, self.progress.step) if self.main else None
        self.saved_step = self.progress.step
        self.started_at, self.seconds_before = self.progress.step, self.progress.seconds
        self.began = time.monotonic() - self.progress.seconds

    def _left(self) -> int:
        return max(0, self.stage.steps - self.progress.step)

    def _evaluation_due(self) -> bool:
        step = self.progress.step
        return step > self.progress.evaluated and (step % self.stage.steps_per_evaluation == 0 or self._left() == 0)

    def to_the_end(self) -> None:
        """Step, report, evaluate, save."""
        saved_at = time.monotonic()
        self._evaluate_if_due()  # the evaluation that the last process did not come to
        self.tell("running")
        while self._left():
            stopped = self._step()
            if self.log is not None and (self.progress.step % self.settings.log_every == 0 or not self._left()):
                self._report()
            if stopped:
                raise KeyboardInterrupt
            self._evaluate_if_due()
            if time.monotonic() - saved_at > 60 * self.settings.checkpoint_minutes or not self._left():
                self._save()
                saved_at = time.monotonic()
        self.tell("finished")

    def _step(self) -> bool:
        """One update. Returns whether any process was asked to stop."""
        step, settings = self.progress.step, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(step, self.stage.steps, settings.warmup)
        self.stop.stepping = True
        loss, stopped = optimizer_step(
            self.stage, self.wrapped, self.optimizer, self.accelerator, settings, step, lambda: self.stop.signal > 0
        )
        self.progress.step = step + 1
        self.progress.seconds = time.monotonic() - self.began
        self.progress.recent.append(loss)
        self.stop.stepping = False
        return stopped

    def _report(self) -> None:
        """A line for the log, for the terminal and for `state.json`."""
        assert self.log is not None
        done, seconds = self.progress.step, self.progress.seconds
        loss = sum(self.progress.recent) / len(self.progress.recent)
        self.progress.recent.clear()
        rate = self.optimizer.param_groups[0]["lr"]
        self.log.write(step=done - 1, loss=loss, lr=rate, seconds=round(seconds, 1))
        self.tell("running")
        left = self._seconds_left() / 60
        print(
            f"step {done}/{self.stage.steps}  loss {loss:.4f}  {seconds / 60:.1f} min, {left:.1f} min left", flush=True
        )

    def _seconds_left(self) -> float:
        """As fast as since this process began."""
        done = self.progress.step - self.started_at
        elapsed = time.monotonic() - self.began - self.seconds_before
        return elapsed / done * self._left() if done else 0.0

    def _evaluate_if_due(self) -> None:
        if self._evaluation_due():
            if self.main:
                self._evaluate()
            self.progress.evaluated = self.progress.step
            self.accelerator.wait_for_everyone()

    def _evaluate(self) -> None:
        """Measure, keep the weights if they are the best so far, log, draw."""
        assert self.log is not None
        progress, step = self.progress, self.progress.step - 1
        evaluation = self.stage.evaluate(step)
        value = evaluation.metrics[self.stage.best_metric]
        if value > progress.best["value"]:
            save_checkpoint(self.folder / BEST, self.stage.model.state_dict())
            progress.best = Best(value=value, metrics=evaluation.metrics, step=step)
        progress.last = evaluation.metrics
        self.log.write(step=step, metrics=evaluation.metrics, samples=evaluation.samples)
        print(f"step {step + 1}  dev {evaluation.metrics}", *evaluation.samples, sep="\n    ", flush=True)
        draw_curve(read_log(self.log.path), self.folder / "curve.png")

    def _save(self) -> None:
        """Write the checkpoint of this step."""
        if self.main:
            state = {
                "model": self.stage.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "config": self.config,
            }
            save_checkpoint(self.folder / CHECKPOINT, state | vars(self.progress))
        self.saved_step = self.progress.step

    def interrupted(self) -> Interrupted:
        """Save where the run is, unless a step was torn, and say how to go on."""
        number, torn = self.stop.signal or signal.SIGINT, self.stop.stepping
        if not torn and self.saved_step < self.progress.step:
            self._save()
        self.tell("stopped")
        done = f"Stopped after step {self.saved_step} of {self.stage.steps}"
        kept = "the same command goes on from there" if self.saved_step else "nothing was to be saved yet"
        return Interrupted(f"{done}, in {self.folder}: {kept}.", number)

    def failed(self, problem: Exception) -> MattoniError:
        """The problem as one sentence, in `state.json` too if that can still be written."""
        if isinstance(problem, OSError):
            sentence = (
                f"Cannot write in {self.folder} ({problem.strerror or problem}): free some space; the same command goes "
                "on from the last checkpoint."
            )
        elif isinstance(problem, torch.OutOfMemoryError):
            sentence = f"{self.accelerator.device} has too little memory for a batch: lower batch, or raise optimise.accumulation."
        else:
            sentence = str(problem)
        with suppress(MattoniError):
            self.tell("failed", sentence)
        return MattoniError(sentence)

    def tell(self, state: str, sentence: str = "") -> None:
        """Write `state.json`, from which others learn how far the run is."""
        if self.main:
            progress = self.progress
            values = {
                "state": state,
                "process": os.getpid(),
                "sentence": sentence,
                "step": progress.step,
                "steps": self.stage.steps,
                "seconds": round(progress.seconds, 1),
                "seconds_left": round(self._seconds_left(), 1),
                "best_metric": self.stage.best_metric,
                "best_step": progress.best["step"],
            }
            write_text(self.folder / STATE, json.dumps(values))


def optimizer_step(
    stage: Stage,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
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
    check_loss(value, step)
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.clip or math.inf)
    if not torch.isfinite(norm):
        raise MattoniError(f"The gradient is {float(norm)} at step {step}: lower the learning rate.")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value, stopped > 0

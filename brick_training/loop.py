"""The training loop of every stage: steps, checkpoints, exact resume, progress. Knows nothing of what is trained.

All randomness of a step is a function of (seed, step), so a run that was killed goes on bit for bit from its checkpoint, and
several processes that share a global batch see the same samples as one. No loss here compares the samples of a batch with
one another, so there are no negatives to gather.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from brick_training.checkpoint import Best, Progress, load_checkpoint, save_checkpoint
from brick_training.curve import draw_curve
from brick_training.learner import make_learner
from brick_training.run_folder import BEST, CHECKPOINT, LOG, STATE, Log, read_log
from brick_training.settings import LoopSettings
from brick_training.step import Stage, optimizer_step
from mattoni.errors import Interrupted, MattoniError
from mattoni.files import write_text


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
        self.learner = make_learner(stage.model, settings)
        checkpoint = folder / CHECKPOINT
        if checkpoint.exists():
            self.progress = load_checkpoint(checkpoint, self.learner, config, stage.steps, settings.schedule)
            finished = f": this run is finished; remove {folder} to train anew" if self._left() == 0 else ""
            accelerator.print(f"resumed from {checkpoint} at step {self.progress.step}{finished}")
        self.wrapped = self.learner.prepare(accelerator)
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
            due = self.settings.checkpoint_steps and self.progress.step % self.settings.checkpoint_steps == 0
            if due or time.monotonic() - saved_at > 60 * self.settings.checkpoint_minutes or not self._left():
                self._save()
                saved_at = time.monotonic()
        self.tell("finished")

    def _step(self) -> bool:
        """One update. Returns whether any process was asked to stop."""
        step, settings = self.progress.step, self.settings
        self.learner.set_rate(settings.learning_rate * settings.schedule.factor(step, self.stage.steps))
        self.stop.stepping = True
        loss, stopped = optimizer_step(
            self.stage, self.wrapped, self.learner, self.accelerator, settings, step, lambda: self.stop.signal > 0
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
        rate = self.learner.optimizer.param_groups[0]["lr"]
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
            save_checkpoint(self.folder / BEST, self.learner.weights())
            progress.best = Best(value=value, metrics=evaluation.metrics, step=step)
        progress.last = evaluation.metrics
        self.log.write(step=step, metrics=evaluation.metrics, samples=evaluation.samples)
        print(f"step {step + 1}  dev {evaluation.metrics}", *evaluation.samples, sep="\n    ", flush=True)
        draw_curve(read_log(self.log.path), self.folder / "curve.png")

    def _save(self) -> None:
        """Write the checkpoint of this step."""
        if self.main:
            state = {
                "model": self.learner.weights(),
                "optimizer": self.learner.optimizer.state_dict(),
                "config": self.config,
                "steps": self.stage.steps,
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

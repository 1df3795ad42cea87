"""Runs a few real steps of a stage in a temporary folder, to tell time, memory and disk before a run. Training only."""

import io
import json
import resource
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator

from brick_training.learner import make_learner
from brick_training.run_folder import STATE
from brick_training.settings import LoopSettings
from brick_training.step import Stage, optimizer_step
from mattoni.errors import MattoniError
from modality_bricks.training.encoder_stage import EncoderStage
from modality_bricks.training.features import FeatureCache, device_of
from modality_bricks.training.generate_stage import GenerateStage
from modality_bricks.training.prepare import STATISTICS
from modality_bricks.training.recipe import GenerateRecipe, StageRecipe, WordsRecipe
from modality_bricks.training.split import Split
from modality_bricks.training.tune_stage import TuneStage
from modality_bricks.training.words_stage import WordsStage

WARM_UP, MEASURED = 1, 3  # steps
EVALUATED = 50  # dev rows of each source


@dataclass(frozen=True)
class Estimate:
    """What a stage will take, beyond what is done or cached already."""

    steps: int
    done: int
    step_seconds: float
    evaluations: int
    evaluation_seconds: float
    features: int
    feature_seconds: float
    checkpoint_bytes: int
    feature_bytes: int

    @property
    def seconds(self) -> float:
        steps = (self.steps - self.done) * self.step_seconds
        return steps + self.evaluations * self.evaluation_seconds + self.features * self.feature_seconds

    def lines(self) -> list[str]:
        """In words."""
        done = f", {self.done:,} of them done" if self.done else ""
        features = f", features of {self.features:,} views {minutes(self.features * self.feature_seconds)}"
        return [
            f"time: {minutes(self.seconds)} ({self.steps:,} steps of {self.step_seconds:.2f} s{done}; evaluations: "
            f"{self.evaluations} of {self.evaluation_seconds:.1f} s{features if self.features else ''})",
            f"disk: {size(self.checkpoint_bytes + self.feature_bytes)} (checkpoints {size(self.checkpoint_bytes)}, "
            f"features {size(self.feature_bytes)})",
        ]


def minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def relocated(recipe: StageRecipe, folder: Path, runs: dict[str, Path]) -> StageRecipe:
    """The recipe with its run in `folder`; what an earlier stage has not made yet is taken from where its trial is.

    runs  the trials so far, by the runs that they stand for; grows by this one
    """
    trial = runs.setdefault(recipe.run, folder / str(len(runs)))
    changes: dict[str, object] = {"run": str(trial)}
    if isinstance(recipe, WordsRecipe | GenerateRecipe):
        changes["cache"] = str(folder / "features")
    for field in ("encoder", "start_from"):
        value = getattr(recipe, field, None)
        if isinstance(value, tuple):
            changes[field] = tuple(_relocated_path(path, runs) for path in value)
        elif value is not None:
            changes[field] = _relocated_path(value, runs)
    return recipe.model_copy(update=changes)


def _relocated_path(value: str, runs: dict[str, Path]) -> str:
    """A path of a recipe, or where the trial is that will stand for it."""
    if Path(value.removeprefix("local-dir:")).exists():
        return value
    for run, place in runs.items():
        value = value.replace(f"{run}/", f"{place}/") if f"{run}/" in value else value
        value = str(place) if value == run else value
    return value


def estimate(stage: Stage, settings: LoopSettings, accelerator: Accelerator, run: Path, cache: Path | None) -> Estimate:
    """Measure steps and an evaluation of a stage that is built in a temporary folder.

    run    where the real run is or will be
    cache  where its features are or will be
    """
    learner = make_learner(stage.model, settings)
    # Pictures of another size take another time; each size has its share of the steps.
    sizes = stage.sizes if isinstance(stage, EncoderStage) else [0] * stage.steps
    seconds, number = 0.0, 0
    for kind, steps in Counter(sizes).items():
        first = sizes.index(kind)
        times = []
        for nth in range(min(steps, WARM_UP + MEASURED)):
            step = first + nth
            if isinstance(stage, WordsStage | GenerateStage):
                stage.train.features([stage.draws.draw(n) for n in stage.rows(step)])  # timed by the caches themselves
            start = time.monotonic()
            optimizer_step(stage, stage.model, learner, accelerator, settings, step, lambda: False)
            times.append(time.monotonic() - start)
        measured = times[WARM_UP:] or times
        seconds += steps * sum(measured) / len(measured)
        number += steps
    done = steps_done(run)
    every = stage.steps_per_evaluation
    evaluations = -(-stage.steps // every) - done // every
    rows, row_seconds, row_bytes = missing_features(stage, cache)
    checkpoint = weight({"model": learner.weights(), "optimizer": learner.optimizer.state_dict()})
    best = weight(learner.weights())
    return Estimate(
        steps=stage.steps,
        done=done,
        step_seconds=seconds / number,
        evaluations=evaluations,
        evaluation_seconds=evaluation_seconds(stage),
        features=rows,
        feature_seconds=row_seconds,
        # While one is written, the one before is still there.
        checkpoint_bytes=2 * checkpoint + 2 * best,
        feature_bytes=row_bytes,
    )


def steps_done(run: Path) -> int:
    """How far the real run is."""
    state = run / STATE
    return int(json.loads(state.read_text())["step"]) if state.is_file() else 0


def weight(content: object) -> int:
    """Bytes of a checkpoint with this content."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer().nbytes


def missing_features(stage: Stage, cache: Path | None) -> tuple[int, float, int]:
    """How many views the encoder has still to see, seconds for each, and bytes for all."""
    if not isinstance(stage, WordsStage | GenerateStage) or cache is None:
        return 0, 0.0, 0
    rows, needed = 0, 0
    for found, part in zip(stage.train.caches, stage.draws.mixture(), strict=True):
        pictures = len(found.samples)
        # Each time through the data a picture is shown in a view drawn at random.
        times = part * stage.draws.batch * stage.steps / pictures
        wanted = pictures * found.views * (1 - (1 - 1 / found.views) ** times) if times >= 1 else pictures * times
        if isinstance(stage, WordsStage):
            wanted = max(wanted, min(STATISTICS, pictures))
        new = max(0, round(wanted) - found.rows_in(cache))
        rows, needed = rows + new, needed + new * found.row_bytes
    for found in stage.dev.caches:
        new = max(0, len(found.samples) - found.rows_in(cache))
        rows, needed = rows + new, needed + new * found.row_bytes
    caches = [*stage.train.caches, *stage.dev.caches]
    computed = sum(found.computed for found in caches)
    return rows, sum(found.seconds for found in caches) / max(1, computed), needed


def evaluation_seconds(stage: Stage) -> float:
    """What an evaluation takes: some rows of each source are measured, and counted for all."""
    if isinstance(stage, EncoderStage):
        data = stage.data
        stage.data = replace(data, dev_tiles=data.dev_tiles[:500], dev_labels=data.dev_labels[:500])
        taken = timed(lambda: stage.evaluate(stage.steps - 1))
        stage.data = data
        return taken * len(data.dev_tiles) / min(len(data.dev_tiles), 500)
    if isinstance(stage, TuneStage):
        whole_set = stage.data
        part = max(1, len(whole_set.dev_tiles) // 200)
        shown = {name: getattr(whole_set, name)[::part] for name in ("dev_tiles", "dev_labels", "dev_pictures")}
        stage.data = replace(whole_set, **shown)
        taken = timed(lambda: stage.evaluate(stage.steps - 1))
        stage.data = whole_set
        return taken * part
    if not isinstance(stage, WordsStage | GenerateStage):
        return timed(lambda: stage.evaluate(stage.steps - 1))
    whole = stage.dev
    sets = [replace(found, samples=found.samples[:EVALUATED]) for found in whole.sources]
    caches = [FeatureCache(c.folder, found, c.encoder) for c, found in zip(whole.caches, sets, strict=True)]
    for cache in caches:
        cache.get([(i, 0) for i in range(len(cache.samples))])
    stage.dev = Split(sets, caches)
    taken = timed(lambda: stage.evaluate(stage.steps - 1))
    stage.dev = whole
    for kept, few in zip(whole.caches, caches, strict=True):
        kept.computed, kept.seconds = kept.computed + few.computed, kept.seconds + few.seconds
    return taken * sum(len(s.samples) for s in whole.sources) / sum(len(s.samples) for s in sets)


def timed(work: Callable[[], object]) -> float:
    """Seconds that this takes."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def peak_memory(stage: Stage) -> str:
    """The most memory that the trial took so far, of the process and of its device."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    device = device_of(stage.model)
    if device.type != "cuda":
        return size(peak)
    free, total = torch.cuda.mem_get_info(device)
    return f"{size(peak)}, and {size(torch.cuda.max_memory_allocated(device))} of the device's {size(total)}"


def conclude(estimates: Sequence[Estimate], folder: Path, memory: str, price: float | None) -> list[str]:
    """All stages together, beside what this machine has. Raises MattoniError if the disk is too small."""
    seconds = sum(e.seconds for e in estimates)
    needed = sum(e.checkpoint_bytes + e.feature_bytes for e in estimates)
    there = next(place for place in (folder, *folder.resolve().parents) if place.exists())
    free, machine = shutil.disk_usage(there).free, psutil.virtual_memory()
    cost = f", cost {seconds / 3600 * price:.2f} at {price:g} an hour" if price is not None else ""
    if needed > free:
        raise MattoniError(
            f"The runs need {size(needed)} of disk and {there} has {size(free)} left: free some space first."
        )
    return [
        f"together: {minutes(seconds)} on this machine{cost}; {size(needed)} of disk ({size(free)} free); {memory} of memory "
        f"at most ({size(machine.available)} free)",
        "Nothing was written.",
    ]

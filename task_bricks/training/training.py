"""Trains a LoRA from a recipe: the loop, its checkpoints, its reports. The host comes as an argument, frozen."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from mattoni.errors import MattoniError
from mattoni.files import write_text
from task_bricks.training.checkpoint import Moments, Progress, load_checkpoint, save_checkpoint
from task_bricks.training.recipe import Recipe
from task_bricks.training.report import draw_curve, format_samples, progress_line
from task_bricks.training.rows import Example, Row, batches_from
from task_bricks.training.steps import Batch, Coder, answer_greedily, answer_loss, encode_batch, learning_rate

EVALUATION_BATCH = 20
_REPORT_EVERY = 10

Score = Callable[[Sequence[str], Sequence[Row]], float]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """The data of a run and how answers are scored."""

    rows: Sequence[Row]
    dev: Sequence[Row]
    wordings: Sequence[str]
    score: Score


class Learner:
    """A LoRA being trained. The host computes with copies in its own type; AdamW updates the fp32 weights behind them.

    That is what autocast does, without its casts of every activation (peft casts each input to the LoRA's fp32 and
    back), and the LoRA that is evaluated is the one that is saved.
    """

    def __init__(self, model: PreTrainedModel, recipe: Recipe) -> None:
        """Put fresh LoRA factors on all linear layers of a frozen host."""
        torch.manual_seed(recipe.seed)
        size = recipe.lora
        config = LoraConfig(
            r=size.rank,
            lora_alpha=size.alpha,
            use_rslora=size.rslora,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():
            # peft 0.21 asks the model for is_gradient_checkpointing, which transformers 5.23 calls deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            self.peft: PeftModel = get_peft_model(model, config, autocast_adapter_dtype=False)
        self.model = model
        named = [(name, p) for name, p in self.peft.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.copies: list[nn.Parameter] = [parameter for _, parameter in named]
        self.weights = [p.detach().float().clone() for p in self.copies]
        self.optimizer = torch.optim.AdamW(self.weights, lr=recipe.learning_rate, weight_decay=0.0)

    def update(self, loss: Tensor, rate: float) -> None:
        """One step of AdamW on the gradient of `loss`, clipped to length 1."""
        loss.backward()
        for weight, copy in zip(self.weights, self.copies, strict=True):
            assert copy.grad is not None
            weight.grad = copy.grad.float()
            copy.grad = None
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self._copy()

    @torch.no_grad()
    def _copy(self) -> None:
        for weight, copy in zip(self.weights, self.copies, strict=True):
            copy.copy_(weight)

    def moments(self) -> dict[str, Moments]:
        """The state for a checkpoint."""
        states = [self.optimizer.state[weight] for weight in self.weights]
        return {
            name: Moments(weight, state["exp_avg"], state["exp_avg_sq"])
            for name, weight, state in zip(self.names, self.weights, states, strict=True)
        }

    @torch.no_grad()
    def restore(self, moments: dict[str, Moments], step: int) -> None:
        """Take up a checkpoint's state."""
        if sorted(moments) != sorted(self.names):
            raise MattoniError("The checkpoint is of another host's layers: remove the run's folder and start again.")
        for name, weight in zip(self.names, self.weights, strict=True):
            saved = moments[name]
            weight.copy_(saved.weight)
            self.optimizer.state[weight] = {
                "step": torch.tensor(float(step)),
                "exp_avg": saved.first.to(weight),
                "exp_avg_sq": saved.second.to(weight),
            }
        self._copy()


@dataclass(frozen=True)
class Trained:
    """A finished run: the learner holds the weights that were best on the dev rows."""

    learner: Learner
    progress: Progress


def train(model: PreTrainedModel, coder: Coder, recipe: Recipe, task: Task, folder: Path, say: Say = print) -> Trained:
    """Train until the recipe's last step, from the checkpoint in `folder` if there is one.

    In `folder`: checkpoint.safetensors, best.safetensors (by the dev metric), curve.png and samples.md. Raises
    MattoniError when the loss is NaN or starts at 0; the last good checkpoint stays.
    """
    learner = Learner(model, recipe)
    progress = _resume(learner, folder / "checkpoint.safetensors", recipe, say)
    batches = _encoded(task, coder, recipe, progress.step, model.device)
    with _fast_attention(model):
        try:
            _loop(learner, coder, recipe, task, folder, progress, batches, say)
        except KeyboardInterrupt:
            if progress.step:
                _save(learner, recipe, progress, folder / "checkpoint.safetensors")
            raise MattoniError(f"Stopped at step {progress.step}: the same command goes on from there.") from None
        draw_curve(progress, recipe.metric, folder / "curve.png")
        _, best = load_checkpoint(folder / "best.safetensors", recipe)
        learner.restore(best, progress.step)
    return Trained(learner, progress)


def answers_of(
    learner: Learner, coder: Coder, rows: Sequence[Row], recipe: Recipe, with_lora: bool = True
) -> list[str]:
    """Greedy answers to rows in their default wording, by the learner or the bare host."""
    prompts = [coder.prompt(row.message, row.images) for row in rows]
    learner.peft.eval()
    with _fast_attention(learner.model):
        if with_lora:
            return answer_greedily(learner.model, coder, prompts, recipe.max_new_tokens, EVALUATION_BATCH)
        with learner.peft.disable_adapter():
            return answer_greedily(learner.model, coder, prompts, recipe.max_new_tokens, EVALUATION_BATCH)


@contextmanager
def _fast_attention(model: PreTrainedModel) -> Iterator[None]:
    """Plain attention on a CPU: its backward is eight times as fast as the fused kernel's on rows of fifty tokens."""
    before = model.config._attn_implementation
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _encoded(task: Task, coder: Coder, recipe: Recipe, first: int, device: torch.device) -> Iterator[Batch]:
    """Batches of token ids without end, from number `first` on."""
    share = recipe.wordings.default_share if recipe.wordings else 1.0
    examples: Iterator[list[Example]] = batches_from(
        task.rows, task.wordings, share, recipe.batch_size, recipe.seed, first
    )
    for batch in examples:
        yield encode_batch(batch, coder, device)


def _resume(learner: Learner, path: Path, recipe: Recipe, say: Say) -> Progress:
    """Take up the checkpoint if there is one."""
    if not path.is_file():
        return Progress()
    progress, moments = load_checkpoint(path, recipe)
    learner.restore(moments, progress.step)
    say(f"going on from step {progress.step}")
    return progress


def _loop(
    learner: Learner,
    coder: Coder,
    recipe: Recipe,
    task: Task,
    folder: Path,
    progress: Progress,
    batches: Iterator[Batch],
    say: Say,
) -> None:
    """Step, report, evaluate, save; `progress` is kept up to date."""
    started = time.monotonic() - progress.seconds
    while progress.step < recipe.steps:
        learner.peft.train()
        loss = answer_loss(learner.model, next(batches))
        _check_loss(loss, progress.step, folder)
        rate = learning_rate(progress.step, recipe.steps, recipe.warmup, recipe.decay, recipe.learning_rate)
        learner.update(loss, rate)
        progress.step += 1
        progress.losses.append(round(loss.item(), 4))
        progress.seconds = time.monotonic() - started
        last = progress.step == recipe.steps
        if progress.step % _REPORT_EVERY == 0 or last:
            say(progress_line(progress, recipe.steps))
        if progress.step % recipe.evaluate_every == 0 or last:
            _evaluate(learner, coder, recipe, task, folder, progress, say)
        if progress.step % recipe.checkpoint_every == 0 or last:
            _save(learner, recipe, progress, folder / "checkpoint.safetensors")


def _check_loss(loss: Tensor, step: int, folder: Path) -> None:
    """Stop a run that cannot come to anything, with the reason."""
    if not torch.isfinite(loss):
        raise MattoniError(
            f"The loss is {loss.item()} at step {step}: lower learning_rate; the last checkpoint is in {folder}."
        )
    if step == 0 and loss.item() < 1e-4:
        raise MattoniError(
            "The loss starts at 0, so there is nothing to learn: check that answers are not in the messages."
        )


def _evaluate(
    learner: Learner, coder: Coder, recipe: Recipe, task: Task, folder: Path, progress: Progress, say: Say
) -> None:
    """Score the first dev rows, keep the best weights, draw the curve, write sample answers."""
    rows = task.dev[: recipe.quick_dev_rows]
    answers = answers_of(learner, coder, rows, recipe)
    score = task.score(answers, rows)
    progress.scores.append((progress.step, score))
    if score > progress.best:
        progress.best = score
        _save(learner, recipe, progress, folder / "best.safetensors")
    draw_curve(progress, recipe.metric, folder / "curve.png")
    write_text(folder / "samples.md", format_samples(progress.step, rows, answers))
    say(f"step {progress.step}: {recipe.metric} {score:.2f} on {len(rows)} dev rows")


def _save(learner: Learner, recipe: Recipe, progress: Progress, path: Path) -> None:
    save_checkpoint(path, recipe, progress, learner.moments())

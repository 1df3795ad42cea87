"""What a skill gives to the training loop: batches, losses and dev scores of a LoRA. The host comes as an argument, frozen."""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from brick_training.frame import PromptFrame
from brick_training.reward import caption_metric
from brick_training.settings import LoopSettings, RewardPlan, WarmupStableDecay
from brick_training.step import Evaluation
from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.injections import LowRank
from task_bricks.evaluators import EVALUATORS
from task_bricks.training.readme import format_samples
from task_bricks.training.recipe import LoRASize, Recipe
from task_bricks.training.rows import Batches, Example, Row
from task_bricks.training.start import give_factors
from task_bricks.training.steps import (
    Batch,
    Eyes,
    Prompts,
    answer_greedily,
    answer_loss,
    encode_batch,
    encode_prompt,
    padded,
    rewarded_loss,
)

EVALUATION_BATCH = 20
SAMPLES = "samples.md"
_OTHER = "other"

Score = Callable[[Sequence[str], Sequence[Row]], float]
RowScores = Callable[[Sequence[str], Sequence[Row]], Sequence[float]]


@dataclass(frozen=True)
class Task:
    """The data of a run and how answers are scored."""

    rows: Sequence[Row]
    dev: Sequence[Row]
    wordings: Sequence[str]
    score: Score
    row_scores: RowScores

    def told(self, words: str) -> "Task":
        """The same, with what a turn writes between a text and what is asked of it."""
        rows, dev = ([replace(row, told=words) for row in part] for part in (self.rows, self.dev))
        return replace(self, rows=rows, dev=dev)


class SkillModel(nn.Module):
    """A frozen host with LoRA factors on all of its linear layers, in the host's own type: fresh ones, or a skill's.

    places      the layers that get factors; None: all
    invocation  the tokens from which on it acts, where it is activated; none: everywhere
    """

    def __init__(
        self,
        host: PreTrainedModel,
        size: LoRASize,
        seed: int,
        start: LowRank | None = None,
        places: Sequence[int] | None = None,
        invocation: Sequence[int] = (),
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        config = LoraConfig(
            r=size.rank,
            lora_alpha=size.alpha,
            use_rslora=size.rslora,
            target_modules="all-linear"
            if places is None and not size.modules
            else _linear_in(host, places, size.modules),
            task_type="CAUSAL_LM",
            alora_invocation_tokens=list(invocation) or None,
        )
        with warnings.catch_warnings():
            # peft 0.21 asks the model for is_gradient_checkpointing, which transformers 5.23 calls deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            self.peft: PeftModel = get_peft_model(host, config, autocast_adapter_dtype=False)
        if start is not None:
            give_factors(self.peft, start)

    @property
    def host(self) -> PreTrainedModel:
        """The host, its linear layers wrapped."""
        host = self.peft.base_model.model
        assert isinstance(host, PreTrainedModel)
        return host

    @property
    def invocation(self) -> tuple[int, ...]:
        """The tokens from which on the active adapter acts; none: it acts everywhere."""
        return tuple(getattr(self.peft.active_peft_config, "alora_invocation_tokens", None) or ())

    @contextmanager
    def acting(self, counts: Sequence[int]) -> Iterator[None]:
        """Run passes with an activated LoRA on so many of each row's last positions."""
        base: Any = self.peft.base_model
        # The only way by which peft lets a pass over a part of a model, as the shared prefix is, say so.
        with base._enable_peft_forward_hooks(alora_offsets=list(counts) or None):
            yield

    def forward(self, batch: Batch | Prompts, loss: Callable[..., Tensor] = answer_loss) -> Tensor:
        """Mean cross-entropy per answer token, or another loss of the host on a batch."""
        return loss(self.host, batch, self.acting)


def learning_places(layers: int, top: int | None, among: Sequence[int] | None) -> Sequence[int] | None:
    """Which of a host's layers get factors: the last `top` of those that may; None: all.

    Raises MattoniError where that is none.
    """
    if top is None:
        return among
    places = [place for place in (range(layers) if among is None else among) if place >= layers - top]
    if top > layers or not places:
        raise MattoniError(f"lora.top is {top}, and the host has {layers} layers: choose fewer.")
    return places


def _linear_in(host: PreTrainedModel, places: Sequence[int] | None, names: Sequence[str]) -> list[str]:
    """Where the linear layers of some names, or all, lie in some of a host's layers, or all. Raises MattoniError for an unknown name."""
    linear = [name for name, module in host.named_modules() if isinstance(module, nn.Linear) and ".layers." in name]
    known = {name.rpartition(".")[2] for name in linear}
    if unknown := sorted(set(names) - known):
        raise MattoniError(
            f"lora.modules names {', '.join(unknown)}, which the host lacks: choose of {', '.join(sorted(known))}."
        )
    within = None if places is None else tuple(f".layers.{place}." for place in places)
    return [
        name
        for name in linear
        if (within is None or any(part in name for part in within)) and (not names or name.rpartition(".")[2] in names)
    ]


class SkillStage:
    """Trains a LoRA on the rows of a task. The best weights are those with the best score of the first dev rows."""

    def __init__(
        self,
        host: PreTrainedModel,
        frame: PromptFrame,
        eyes: Eyes | None,
        recipe: Recipe,
        task: Task,
        folder: Path,
        start: LowRank | None = None,
        places: Sequence[int] | None = None,
    ) -> None:
        """folder  where sample answers are written
        start   the skill whose training goes on
        places  the layers that learn; None: all
        """
        invocation = frame.invocation() if recipe.lora.activated else ()
        places = learning_places(host.config.get_text_config().num_hidden_layers, recipe.lora.top, places)
        self.skill = SkillModel(host, recipe.lora, recipe.seed, start, places, invocation)
        self.model: nn.Module = self.skill
        self.frame, self.eyes, self.recipe, self.task, self.folder = frame, eyes, recipe, task, folder
        self.steps, self.steps_per_evaluation = recipe.steps, recipe.evaluate_every
        self.best_metric = recipe.metric
        self._place = {row.id: place for place, row in enumerate(task.rows)}
        self._worth = caption_metric([row.answers for row in task.rows]) if recipe.reward is not None else None
        self.batches = Batches(task.rows, task.wordings, recipe.default_share, recipe.batch_size, recipe.seed)

    def rows(self, step: int) -> list[int]:
        return list(range(len(self.batches[step])))

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        examples = [self.batches[step][row] for row in rows]
        if self.recipe.reward is not None:
            return self._rewarded(model, examples, self.recipe.reward, step, rows[0])
        batch = encode_batch(examples, self.frame, self.eyes, self.skill.host.device, self.skill.invocation)
        loss: Tensor = model(batch)
        return loss

    def _rewarded(
        self, model: nn.Module, examples: Sequence[Example], plan: RewardPlan, step: int, first: int
    ) -> Tensor:
        """The loss of what the skill says itself, judged by its metric."""
        worth, frame = self._worth, self.frame
        assert worth is not None
        prompts = [encode_prompt(example.message, example.images, frame, self.eyes) for example in examples]

        def reward(place: int, ids: Sequence[int], ended: bool) -> float:
            return worth(self._place[examples[place].row], frame.text(ids), ended)

        batch = padded(prompts, frame.end, self.skill.host.device, self.skill.invocation)
        generator = torch.Generator().manual_seed(random.Random(f"{self.recipe.seed}/{step}/{first}").getrandbits(63))
        loss: Tensor = model(
            batch, partial(rewarded_loss, reward=reward, plan=plan, end=frame.end, generator=generator)
        )
        return loss

    def evaluate(self, step: int) -> Evaluation:
        """Greedy answers to the first dev rows, also written down beside what was wanted."""
        rows = self.task.dev[: self.recipe.quick_dev_rows]
        answers = self.answers(rows)
        write_text(self.folder / SAMPLES, format_samples(step + 1, rows, answers))
        shown = [f"{row.answers[0]} -> {answer}" for row, answer in zip(rows[:3], answers, strict=False)]
        metrics = {self.best_metric: self.task.score(answers, rows), f"{self.best_metric} n": float(len(rows))}
        return Evaluation(metrics, shown)

    def answers(self, rows: Sequence[Row], with_lora: bool = True) -> list[str]:
        """Greedy answers to rows in their default wording, by the skill or the bare host."""
        prompts = [encode_prompt(row.message, row.images, self.frame, self.eyes) for row in rows]
        self.skill.eval()
        answered = partial(
            answer_greedily, self.skill.host, self.frame, prompts, self.recipe.max_new_tokens, EVALUATION_BATCH
        )
        if with_lora:
            said = answered(self.skill.invocation, self.skill.acting)
            evaluator = self.recipe.evaluator
            return [answer + EVALUATORS[evaluator](answer).text for answer in said] if evaluator else said
        with self.skill.peft.disable_adapter():
            return answered()

    def answers_of(self, folder: Path, rows: Sequence[Row]) -> list[str]:
        """Greedy answers by the LoRA of another folder, whatever its rank; this one is in its place again afterwards."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.skill.peft.load_adapter(str(folder), _OTHER, autocast_adapter_dtype=False)
        self.skill.peft.set_adapter(_OTHER)
        try:
            return self.answers(rows)
        finally:
            self.skill.peft.set_adapter("default")
            self.skill.peft.delete_adapter(_OTHER)


def settings_of(recipe: Recipe) -> LoopSettings:
    """How the loop optimises a skill: AdamW on fp32 masters, gradients clipped to length 1."""
    return LoopSettings(
        optimizer="adamw",
        learning_rate=recipe.learning_rate,
        weight_decay=0.0,
        schedule=WarmupStableDecay(recipe.warmup, recipe.decay),
        betas=(0.9, 0.999),
        clip=1.0,
        seed=recipe.seed,
        masters=True,
        checkpoint_steps=recipe.checkpoint_every,
        log_every=10,
        least_first_loss=1e-4 if recipe.reward is None else 0.0,  # of what earns nothing the loss is 0
    )


@contextmanager
def fast_attention(model: PreTrainedModel) -> Iterator[None]:
    """Plain attention on a CPU: its backward is eight times as fast as the fused kernel's on rows of fifty tokens."""
    before = model.config._attn_implementation
    if model.device.type == "cpu":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)

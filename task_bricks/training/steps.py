"""The steps of LoRA training: encode, loss, generate. The model is an argument; no state."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import mattoni.torchvision_ops  # noqa: F401

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig, PreTrainedModel

from brick_training.frame import SOFT, PromptFrame
from brick_training.reward import Reward, self_critical_loss
from brick_training.settings import RewardPlan
from mattoni.errors import MattoniError
from mattoni.injections import last_place
from task_bricks.training.rows import Example

IGNORED = -100

Eyes = Callable[[Path], Tensor]  # a picture's file -> its soft tokens, (n, width)
# Of each row, on how many of a pass's last positions the LoRA acts (peft's `alora_offsets`); none: on all.
Acting = Callable[[Sequence[int]], AbstractContextManager[None]]


def _everywhere(counts: Sequence[int]) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt: token ids, and the soft tokens, (n, width), that stand where the ids are `SOFT`; None where none does."""

    ids: list[int]
    soft: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Examples that share a prefix.

    prefix   (1, shared) token ids that all rows begin with
    ids      (batch, tokens) the rest of each row, padded on the right
    mask     (batch, tokens) bool, true where `ids` is not padding
    labels   (batch, tokens), `IGNORED` outside of answers
    soft     (n, width) what stands where `ids` is `SOFT`, row by row; None where it nowhere is
    begins   of each row the position, counted from the prefix's first, from which on an activated LoRA acts; none: there is none
    """

    prefix: Tensor
    ids: Tensor
    mask: Tensor
    labels: Tensor
    soft: Tensor | None = None
    begins: tuple[int, ...] = ()


def encode_prompt(message: str, images: Sequence[Path], frame: PromptFrame, eyes: Eyes | None) -> Encoded:
    """A user's message and its pictures as the whole prompt, up to where the answer begins."""
    if not images:
        return Encoded(list(frame.prompt(message, ())))
    assert eyes is not None
    seen = [eyes(path) for path in images]
    return Encoded(list(frame.prompt(message, tuple(len(vectors) for vectors in seen))), torch.cat(seen))


def begin_of(prompt: Sequence[int], invocation: Sequence[int]) -> int:
    """Where the invocation tokens stand last in a prompt. Raises MattoniError where they do not."""
    place = last_place(prompt, invocation)
    if place is None:
        raise MattoniError("A prompt of training lacks the invocation tokens: train without lora.activated.")
    return place


def offsets(begins: Sequence[int], end: int) -> list[int]:
    """What peft calls `alora_offsets`: how many of the positions before `end`, counted back from it, each row's LoRA acts on."""
    return [max(0, end - begin) for begin in begins]


def encode_batch(
    examples: Sequence[Example],
    frame: PromptFrame,
    eyes: Eyes | None,
    device: torch.device,
    invocation: Sequence[int] = (),
) -> Batch:
    """Encode examples, labels on the answer and its end only, and split off the longest prefix that all rows share.

    invocation  the tokens from which on the LoRA acts that is trained; none: it acts everywhere
    """
    encoded = [encode_prompt(example.message, example.images, frame, eyes) for example in examples]
    prompts = [prompt.ids for prompt in encoded]
    answers = [list(frame.answer(example.answer)) for example in examples]
    shared = _shared_length(prompts)
    width = max(len(p) - shared + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(examples), width), frame.end)
    mask = torch.zeros(len(examples), width, dtype=torch.bool)
    labels = torch.full((len(examples), width), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        rest = prompt[shared:]
        end = len(rest) + len(answer)
        ids[row, :end] = torch.tensor(rest + answer)
        labels[row, len(rest) : end] = torch.tensor(answer)
        mask[row, :end] = True
    prefix = torch.tensor([prompts[0][:shared]], dtype=torch.long)
    begins = tuple(begin_of(prompt, invocation) for prompt in prompts) if invocation else ()
    return Batch(
        prefix.to(device), ids.to(device), mask.to(device), labels.to(device), _soft_of(encoded, device), begins
    )


def _soft_of(prompts: Sequence[Encoded], device: torch.device) -> Tensor | None:
    """The soft tokens of several prompts, (n, width), in their order."""
    found = [prompt.soft for prompt in prompts if prompt.soft is not None]
    return torch.cat(found).to(device) if found else None


def _inputs(model: PreTrainedModel, ids: Tensor, soft: Tensor | None) -> dict[str, Tensor]:
    """The arguments of the forward pass: ids (batch, tokens), or embeddings where soft tokens are among them."""
    if soft is None:
        return {"input_ids": ids}
    embeddings = model.get_input_embeddings()(ids.clamp(min=0))
    embeddings[ids == SOFT] = soft.to(embeddings)
    return {"inputs_embeds": embeddings}


def _shared_length(prompts: Sequence[list[int]]) -> int:
    """Length of the longest common prefix without soft tokens; each prompt keeps at least its last token."""
    limit = min(map(len, prompts)) - 1
    first = prompts[0]
    for position in range(limit):
        if first[position] == SOFT or any(prompt[position] != first[position] for prompt in prompts):
            return position
    return limit


def answer_loss(model: PreTrainedModel, batch: Batch, acting: Acting = _everywhere) -> Tensor:
    """Mean cross-entropy per answer token.

    The shared prefix is computed once and its keys and values are repeated for the rows, with gradients flowing back
    into it; logits are computed at answer positions only. Both are exact, and together make a step about 1.7x faster.

    acting  runs a pass with an activated LoRA on the positions that are given, of which a batch's `begins` tell
    """
    rows, device = batch.ids.shape[0], batch.ids.device
    shared = batch.prefix.shape[1]
    cache = DynamicCache(config=model.config)
    # A prefix that all rows share cannot be read differently by them: what acts in it begins at the same place.
    with acting(offsets(batch.begins[:1], shared)):
        model.model(batch.prefix, past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(rows)
    mask = torch.cat([torch.ones(rows, shared, dtype=torch.bool, device=device), batch.mask], dim=1)
    inputs = _inputs(model, batch.ids, batch.soft)
    with acting(offsets(batch.begins, shared + batch.ids.shape[1])):
        hidden = model.model(**inputs, past_key_values=cache, attention_mask=mask, use_cache=True).last_hidden_state
    targets = batch.labels[:, 1:]
    counted = targets != IGNORED
    logits = model.lm_head(hidden[:, :-1][counted])
    return functional.cross_entropy(logits.float(), targets[counted])


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts that are answered together, padded on the left.

    ids   (prompts, tokens)
    mask  (prompts, tokens) bool, true where `ids` is not padding
    soft  (n, width) what stands where `ids` is `SOFT`, row by row; None where it nowhere is
    acts  on how many of each row's last positions an activated LoRA acts; none: there is none
    """

    ids: Tensor
    mask: Tensor
    soft: Tensor | None
    acts: tuple[int, ...]


def padded(encoded: Sequence[Encoded], end: int, device: torch.device, invocation: Sequence[int] = ()) -> Prompts:
    """Prompts as one batch, padded with `end`."""
    prompts = [prompt.ids for prompt in encoded]
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), end)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = True
    # Counted from the end, as the padding stands in front; a pass over one more token is all of it behind the begin.
    acts = tuple(len(prompt) - begin_of(prompt, invocation) for prompt in prompts) if invocation else ()
    return Prompts(ids.to(device), mask.to(device), _soft_of(encoded, device), acts)


def rewarded_loss(
    model: PreTrainedModel,
    prompts: Prompts,
    acting: Acting,
    reward: Reward,
    plan: RewardPlan,
    end: int,
    generator: torch.Generator,
) -> Tensor:
    """The loss whose gradient raises the reward of what the model says to these prompts (`brick_training/reward.py`)."""

    def passing(rows: int, positions: int) -> AbstractContextManager[None]:
        return acting([positions] * rows if prompts.acts else [])

    with acting(prompts.acts):
        opened = model.model(
            **_inputs(model, prompts.ids, prompts.soft),
            attention_mask=prompts.mask,
            past_key_values=DynamicCache(config=model.config),
            use_cache=True,
        )
    return plan.weight * self_critical_loss(
        model,
        opened.last_hidden_state[:, -1],
        opened.past_key_values,
        reward,
        plan,
        end,
        generator,
        prompts.mask,
        passing,
    )


@torch.no_grad()
def answer_greedily(
    model: PreTrainedModel,
    frame: PromptFrame,
    encoded: Sequence[Encoded],
    max_new_tokens: int,
    batch_size: int,
    invocation: Sequence[int] = (),
    acting: Acting = _everywhere,
) -> list[str]:
    """Greedy answers to prompts, in their order; those of like length are decoded together, padded on the left.

    invocation, acting  of an activated LoRA, as for `encode_batch` and `answer_loss`
    """
    prompts = [prompt.ids for prompt in encoded]
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = padded([encoded[i] for i in chosen], frame.end, model.device, invocation)
        width = batch.ids.shape[1]
        settings = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=frame.end, pad_token_id=frame.end
        )
        # transformers types it as an attribute of any kind.
        generate = cast(Callable[..., Tensor], model.generate)
        inputs = _inputs(model, batch.ids, batch.soft)
        with acting(batch.acts):
            out = generate(**inputs, attention_mask=batch.mask.long(), generation_config=settings)
        # Behind embeddings, only what is new is given back.
        for i, row in zip(chosen, out[:, width if "input_ids" in inputs else 0 :].tolist(), strict=True):
            end = row.index(frame.end) if frame.end in row else len(row)
            answers[i] = frame.text(row[:end]).strip()
    return answers

"""What a cartridge gives to the training loop: its keys and values, and how far they are from the host that sees the passage."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from assistant.host.host import Host
from brick_training.frame import TokenIds
from brick_training.settings import Cosine, LoopSettings
from brick_training.step import Evaluation
from knowledge_bricks.cartridge import Layers
from knowledge_bricks.training.beginning import SINKS
from knowledge_bricks.training.self_study import Lesson

METRIC = "closeness"
_HELD_OUT = 10  # every so many-th lesson is not learned from


class CartridgeModel(nn.Module):
    """Keys and values in front of a frozen host, of which all but the first position learn.

    first  (layers, 2, heads, SINKS, width): stay
    rest   (layers, 2, heads, positions - SINKS, width): learn
    """

    first: Tensor

    def __init__(self, host: Host, layers: Layers) -> None:
        super().__init__()
        # In a tuple, so that the host's weights are none of this module's.
        self._host = (host,)
        both = torch.stack([torch.stack(pair) for pair in layers]).to(host.device, host.dtype)
        self.register_buffer("first", both[:, :, :, :SINKS].clone())
        self.rest = nn.Parameter(both[:, :, :, SINKS:].clone())

    @property
    def layers(self) -> Layers:
        """Keys and values per layer, each (heads, positions, width)."""
        both = torch.cat([self.first, self.rest], dim=3)
        return tuple((pair[0], pair[1]) for pair in both)

    def forward(self, prompts: Sequence[TokenIds], lessons: Sequence[Lesson]) -> Tensor:
        """Mean cross-entropy with the probabilities that the host gave the likeliest tokens while it saw the passage."""
        (host,) = self._host
        rows = [(*prompt, *lesson.answer) for prompt, lesson in zip(prompts, lessons, strict=True)]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long, device=host.device)
        is_read = torch.zeros_like(ids)
        for n, row in enumerate(rows):
            ids[n, : len(row)] = torch.tensor(row)
            is_read[n, : len(row)] = 1
        cache = DynamicCache()
        for number, (keys, values) in enumerate(self.layers):
            cache.update(keys.expand(len(rows), -1, -1, -1), values.expand(len(rows), -1, -1, -1), number)
        in_front = is_read.new_ones(len(rows), cache.get_seq_length())
        inner: Any = host.model.base_model
        states = inner(
            input_ids=ids, attention_mask=torch.cat([in_front, is_read], dim=1), past_key_values=cache, use_cache=True
        ).last_hidden_state
        # The logits of the answers alone: the head is a fifth of the smallest host.
        said = torch.cat(
            [states[n, len(p) - 1 : len(row) - 1] for n, (p, row) in enumerate(zip(prompts, rows, strict=True))]
        )
        head: Any = host.model.get_output_embeddings()
        found: Tensor = head(said).float().log_softmax(dim=-1)
        likeliest = torch.cat([lesson.likeliest for lesson in lessons]).to(host.device)
        wanted = torch.cat([lesson.log_probabilities for lesson in lessons]).to(host.device).exp()
        return -(wanted * found.gather(1, likeliest)).sum(dim=-1).mean()


class CartridgeStage:
    """Teaches a cartridge a text's lessons. The best weights are those nearest to the held-out ones."""

    best_metric = METRIC

    def __init__(
        self, model: CartridgeModel, prompts: Sequence[TokenIds], lessons: Sequence[Lesson], steps: int, batch: int
    ) -> None:
        """prompts  each lesson's message as a turn with the cartridge has it."""
        self.model: nn.Module = model
        self.steps, self.steps_per_evaluation = steps, max(1, steps // 4)
        self._prompts, self._lessons, self._batch = prompts, lessons, batch
        held_out = range(_HELD_OUT - 1, len(lessons), _HELD_OUT)
        self._held_out = list(held_out)[:32] or [0]
        self._learned = [n for n in range(len(lessons)) if n not in held_out]

    def rows(self, step: int) -> list[int]:
        """The lessons of a step: each once before any comes again."""
        flat = range(step * self._batch, (step + 1) * self._batch)
        return [self._learned[self._order(n // len(self._learned))[n % len(self._learned)]] for n in flat]

    def _order(self, epoch: int) -> list[int]:
        return torch.randperm(len(self._learned), generator=torch.Generator().manual_seed(epoch)).tolist()

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        loss: Tensor = model([self._prompts[n] for n in rows], [self._lessons[n] for n in rows])
        return loss

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """How near the held-out lessons are: the negative loss."""
        parts = [self._held_out[at : at + self._batch] for at in range(0, len(self._held_out), self._batch)]
        losses = [float(self.loss(self.model, part, step)) * len(part) for part in parts]
        return Evaluation({METRIC: -sum(losses) / len(self._held_out)})


def settings(rate: float) -> LoopSettings:
    """AdamW on fp32 masters of what the host computes in its own type."""
    return LoopSettings(
        optimizer="adamw",
        learning_rate=rate,
        weight_decay=0.0,
        schedule=Cosine(0.05),
        betas=(0.9, 0.99),
        clip=1.0,
        masters=True,
        checkpoint_minutes=2.0,
        log_every=5,
    )

"""From a prompt and a composition to tokens: prefill, cache reuse, sampling, stopping. Knows nothing of bricks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import DynamicCache, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from assistant.host.composition import Composition, composed
from assistant.host.host import Host
from assistant.host.prompt import Prompt

# A prompt is read in pieces of this many positions, so that a stop is heard while a long one is read.
_CHUNK = 1024


class Sampling(BaseModel):
    """How the next token is drawn. Temperature 0, the default, takes the likeliest one: what stands in a document has
    one right answer, and the second-likeliest word of a small host seldom is it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float = Field(default=0.0, ge=0, le=5)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1, le=32768)
    seed: int | None = Field(default=None, ge=0, lt=2**63)


@dataclass
class KeyValues:
    """Keys and values of a conversation's prompt so far, with what they were computed from."""

    composition: str
    keys: list[int | tuple[str, int]]
    cache: DynamicCache

    @property
    def memory_bytes(self) -> int:
        """Bytes that the keys and values take."""
        # A layer that has read nothing yet has neither.
        held = [getattr(layer, name, None) for layer in self.cache.layers for name in ("keys", "values")]
        return sum(t.nbytes for t in held if isinstance(t, Tensor))


def common_prefix(old: list[int | tuple[str, int]], new: list[int | tuple[str, int]]) -> int:
    """Length of the longest common beginning."""
    return next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))


class Generation:
    """One answer: iterate for token ids. Afterwards `reused`, `finished` and `memory` say how it went.

    finished  "end" (the host ended), "length" (max_tokens or the context), "stopped" (by the caller)
    memory    keys and values of the prompt and the answer, for the conversation's next turn
    """

    def __init__(
        self,
        host: Host,
        prompt: Prompt,
        composition: Composition,
        sampling: Sampling,
        seed: int,
        memory: KeyValues | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._host, self._prompt, self._composition, self._stopped = host, prompt, composition, stopped
        self._choose = sampler(sampling, seed, host.device)
        keys = prompt.keys
        usable = memory is not None and memory.composition == composition.key
        # The last position is always computed: its logits begin the answer.
        self.reused = min(common_prefix(memory.keys, keys), len(keys) - 1) if usable and memory is not None else 0
        if memory is not None and self.reused:
            surplus = memory.cache.get_seq_length() - composition.prefix_length - self.reused
            if surplus:
                memory.cache.crop(-surplus)
            self.memory = KeyValues(composition.key, keys[: self.reused], memory.cache)
        else:
            self.memory = KeyValues(composition.key, [], composition.new_cache())
        room = host.context - composition.prefix_length - len(keys)
        self._budget = min(sampling.max_tokens, room)
        self.finished = "length"

    def __iter__(self) -> Iterator[int]:
        with torch.inference_mode(), composed(self._host, self._composition):
            logits = self._read_prompt()
            for _ in range(self._budget if logits is not None else 0):
                if self._stopped():
                    self.finished = "stopped"
                    return
                assert logits is not None
                token = self._choose(logits)
                if token in self._host.stop_ids:
                    self.finished = "end"
                    return
                yield token
                logits = self._step(token)

    def _read_prompt(self) -> Tensor | None:
        """Logits after the prompt, or None when stopped while it was read."""
        inputs = self._prompt.inputs(self._host, self.reused)
        keys = self._prompt.keys
        (name, values), logits = next(iter(inputs.items())), None
        for piece in values.split(_CHUNK, dim=1):
            if self._stopped():
                self.finished = "stopped"
                return None
            logits = self._forward({name: piece})
            done = len(self.memory.keys)
            self.memory.keys.extend(keys[done : done + piece.shape[1]])
        return logits

    def _step(self, token: int) -> Tensor:
        logits = self._forward({"input_ids": torch.tensor([[token]], device=self._host.device)})
        self.memory.keys.append(token)
        return logits

    def _forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Last position's logits, (vocabulary,)."""
        out: Any = self._host.model(**inputs, past_key_values=self.memory.cache, use_cache=True, logits_to_keep=1)
        logits: Tensor = out.logits[0, -1]
        return logits


def sampler(sampling: Sampling, seed: int, device: torch.device) -> Callable[[Tensor], int]:
    """A function from logits (vocabulary,) to a token id; equal seeds draw equal tokens."""
    if sampling.temperature == 0:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator(device).manual_seed(seed)
    warp = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature), TopPLogitsWarper(sampling.top_p)])

    def choose(logits: Tensor) -> int:
        # transformers asks for torch.LongTensor and FloatTensor, which are no types of what torch's functions return.
        scores = warp(torch.empty(1, 0, dtype=torch.long), logits.float().unsqueeze(0))  # type: ignore[arg-type]
        return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=generator))

    return choose


class TextStream:
    """Turns token ids into text as they come; a character that spans tokens appears when it is whole."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._pending: list[int] = []
        self._shown = 0
        self.ids: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes, maybe none."""
        self.ids.append(token)
        self._pending.append(token)
        text = self._decode(self._pending)
        if text.endswith("\ufffd"):
            return ""
        new, self._shown = text[self._shown :], len(text)
        # Decoding starts anew at line ends, so that its cost does not grow with the answer.
        if text.endswith("\n"):
            self._pending, self._shown = [], 0
        return new

    def rest(self) -> str:
        """What was held back at the end."""
        return self._decode(self._pending)[self._shown :]

"""One answer at a time through transformers: what the engine that batches is compared with."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from assistant.host.composition import Composition, composed
from assistant.host.host import Host
from assistant.host.prompt import Prompt
from assistant.host.sampling import Sampling, sampler

# A prompt is read in pieces of this many positions, so that a stop is heard while a long one is read.
_CHUNK = 1024


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
            said: list[int] = []
            for _ in range(self._budget if logits is not None else 0):
                if self._stopped():
                    self.finished = "stopped"
                    return
                assert logits is not None
                token = self._choose(logits, said)
                if token in self._host.stop_ids:
                    self.finished = "end"
                    return
                said.append(token)
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

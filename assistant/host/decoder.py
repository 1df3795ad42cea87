"""Forward passes of the host over rows of several answers at once, each with its own composition, keys and values.

A decoder knows nothing of prompts, sampling or conversations. There are two: `LlamaDecoder` reads all rows in one pass, and
`TransformersDecoder` runs any model that transformers does, row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from assistant.host.composition import Composition, composed
from assistant.host.host import Host


class KeyValues(Protocol):
    """Keys and values of what a row has read so far, a prefix in front included."""

    @property
    def length(self) -> int:
        """Positions that were read."""

    @property
    def memory_bytes(self) -> int:
        """Bytes that they take."""

    def crop(self, length: int) -> None:
        """Forget all positions from `length` on."""

    def trim(self) -> None:
        """Give back memory that no position uses."""

    def copy(self, length: int) -> "KeyValues":
        """Those of the first `length` positions once more, in memory of their own."""


@dataclass(frozen=True, eq=False)
class Read:
    """What one row reads in a pass: token ids (1, n) or, where soft tokens are among them, embeddings (1, n, width)."""

    key_values: KeyValues
    composition: Composition
    values: Tensor

    @property
    def inputs(self) -> dict[str, Tensor]:
        """As the host's forward takes it."""
        return {"input_ids" if self.values.dim() == 2 else "inputs_embeds": self.values}


class Decoder(Protocol):
    """Runs the host. A pass that raises leaves the keys and values of its rows as they were."""

    dtype: torch.dtype  # of keys, values and merged injections
    moves: bool  # whether what was read at one place can be put at another

    def new_key_values(self, composition: Composition) -> KeyValues:
        """Those of a row that has read nothing but the composition's prefix."""

    def forward(self, reads: Sequence[Read]) -> Tensor:
        """Read, and return each row's logits after its last position: (rows, vocabulary)."""

    def taken(self, key_values: KeyValues, begin: int) -> Tensor:
        """Keys and values of the positions from `begin` on, once more: (2, layers, kv heads, n, head width)."""

    def put(self, key_values: KeyValues, taken: Tensor, by: int) -> None:
        """Append what was taken `by` positions before this place, its keys turned, as if it had been read here."""


class _DynamicKeyValues:
    """A `DynamicCache` of one row."""

    def __init__(self, cache: DynamicCache) -> None:
        self.cache = cache

    @property
    def _layers(self) -> list[DynamicLayer]:
        return [layer for layer in self.cache.layers if isinstance(layer, DynamicLayer)]

    @property
    def length(self) -> int:
        return int(self.cache.get_seq_length())

    @property
    def memory_bytes(self) -> int:
        # A layer that has read nothing yet has neither.
        held = [tensor for layer in self._layers for tensor in (layer.keys, layer.values) if tensor is not None]
        return sum(tensor.nbytes for tensor in held)

    def crop(self, length: int) -> None:
        # Layer by layer, as a pass that failed may have left some longer than others.
        for layer in self._layers:
            layer.crop(min(0, length - layer.get_seq_length()))

    def trim(self) -> None:
        for layer in self._layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys.contiguous(), layer.values.contiguous()

    def copy(self, length: int) -> "_DynamicKeyValues":
        cache = DynamicCache()
        for index, layer in enumerate(self._layers):
            if layer.keys is not None and layer.values is not None:
                cache.update(layer.keys[:, :, :length].clone(), layer.values[:, :, :length].clone(), index)
        return _DynamicKeyValues(cache)


class TransformersDecoder:
    """Any causal language model, through its own forward. Rows are read one after the other."""

    moves = False

    def __init__(self, host: Host) -> None:
        self._host, self.dtype = host, host.dtype

    def new_key_values(self, composition: Composition) -> KeyValues:
        return _DynamicKeyValues(composition.new_cache())

    def forward(self, reads: Sequence[Read]) -> Tensor:
        return torch.stack([self._read(read) for read in reads])

    def taken(self, key_values: KeyValues, begin: int) -> Tensor:
        raise NotImplementedError

    def put(self, key_values: KeyValues, taken: Tensor, by: int) -> None:
        raise NotImplementedError

    def _read(self, read: Read) -> Tensor:
        assert isinstance(read.key_values, _DynamicKeyValues)
        before = read.key_values.length
        try:
            with composed(self._host, read.composition):
                out: Any = self._host.model(
                    **read.inputs, past_key_values=read.key_values.cache, use_cache=True, logits_to_keep=1
                )
        except BaseException:
            read.key_values.crop(before)
            raise
        logits: Tensor = out.logits[0, -1]
        return logits

"""Decoding for hosts that are built like Llama: all rows' new positions lie one after the other in one pass.

No row is padded: the linear layers see (1, positions of all rows, width), and attention runs row by row on the keys and
values of that row, so that rows of any length, some reading a prompt and some one token, share a pass (as in Orca, Yu et
al. 2022, "selective batching"). Each row's own composition acts on its slice alone. The arithmetic is that of transformers'
modelling code, operation by operation; `tests/assistant/test_decoder.py` holds it to the same bits.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from assistant.host.composition import Composition
from assistant.host.decoder import KeyValues, Read
from assistant.host.host import Host
from assistant.host.matrices import Matrices, PackedMatrices, PlainMatrices
from assistant.host.mix import Groups, JoinedDeltas, JoinedMix, Mix, SliceMix, Span, StackedDeltas, StackedMix
from assistant.host.rotary import FIXED, frequencies_of, turn

MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})
_GROWTH = 256  # positions
_Deltas = TypeVar("_Deltas", JoinedDeltas, StackedDeltas)


def is_like_llama(host: Host) -> bool:
    """Whether `LlamaDecoder` runs this host: RMSNorm, rotary positions, full attention by torch's own kernel, SwiGLU."""
    config = host.model.config
    rotary = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in MODEL_TYPES
        and rotary.get("rope_type") in FIXED
        and all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or [])
        and (config.model_type == "qwen2" or not getattr(config, "sliding_window", None))
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and len({parameter.device for parameter in host.model.parameters()}) == 1
    )


class RowKeyValues:
    """Keys and values of one row: a buffer (2, layers, kv heads, capacity, head width) that grows."""

    def __init__(self, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.length = 0
        self._set(torch.empty(2, layers, heads, 0, width, dtype=dtype, device=device))

    @property
    def memory_bytes(self) -> int:
        return self._buffer.nbytes

    @property
    def capacity(self) -> int:
        """Positions that the buffer holds."""
        return self._buffer.shape[3]

    def crop(self, length: int) -> None:
        self.length = min(self.length, length)

    def trim(self) -> None:
        if self.length < self.capacity:
            self._set(self._buffer[:, :, :, : self.length].clone())

    def copy(self, length: int) -> "RowKeyValues":
        _, layers, heads, _, width = self._buffer.shape
        row = RowKeyValues(layers, heads, width, self._buffer.dtype, self._buffer.device)
        row._set(self._buffer[:, :, :, :length].clone())
        row.length = length
        return row

    def part(self, begin: int) -> Tensor:
        """A copy of those from `begin` on, (2, layers, kv heads, n, head width)."""
        return self._buffer[:, :, :, begin : self.length].clone()

    def append(self, part: Tensor) -> None:
        """Put such a part behind the others."""
        count = part.shape[3]
        self.reserve(count)
        self._buffer[:, :, :, self.length : self.length + count] = part
        self.length += count

    def reserve(self, positions: int) -> None:
        """Make room for that many more."""
        needed = self.length + positions
        if needed > self.capacity:
            larger = max(needed, self.capacity + self.capacity // 4) + _GROWTH
            kinds, layers, heads, _, width = self._buffer.shape
            buffer = self._buffer.new_empty(kinds, layers, heads, larger, width)
            buffer[:, :, :, : self.length] = self._buffer[:, :, :, : self.length]
            self._set(buffer)

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put those of new positions, (1, kv heads, n, head width), behind the others and return all; `length` stays."""
        count = keys.shape[2]
        own_keys, own_values = self._layers[layer]
        own_keys.narrow(2, self.length, count).copy_(keys)
        own_values.narrow(2, self.length, count).copy_(values)
        return own_keys.narrow(2, 0, self.length + count), own_values.narrow(2, 0, self.length + count)

    def _set(self, buffer: Tensor) -> None:
        self._buffer = buffer
        self._layers = [(keys.unsqueeze(0), values.unsqueeze(0)) for keys, values in zip(*buffer, strict=True)]


class LlamaDecoder:
    """Runs a host for which `is_like_llama` holds."""

    moves = True

    def __init__(self, host: Host, weights: Literal["bf16", "fp16", "int8", "int4"] = "bf16") -> None:
        self._host = host
        model: Any = host.model
        self._inner, self._head = model.model, model.lm_head
        self._matrices: Matrices = (
            PlainMatrices(host) if weights == "bf16" else PackedMatrices(weights, [*self._groups(), (self._head,)])
        )
        self.dtype = self._matrices.dtype
        self._is_plain = weights == "bf16"
        self._deltas: JoinedDeltas | StackedDeltas | None = None
        config = model.config
        self._heads, self._kv_heads = config.num_attention_heads, config.num_key_value_heads
        self._head_width = int(getattr(config, "head_dim", None) or config.hidden_size // self._heads)
        self._frequencies = frequencies_of(host.model)
        # Some hosts have layers without positions, whose keys are the same everywhere.
        self._turns = torch.tensor([getattr(layer.self_attn, "use_rope", True) for layer in self._inner.layers])
        self._names = {id(module): name for name, module in host.adaptable_layers.items()}

    def new_key_values(self, composition: Composition) -> KeyValues:
        layers = len(self._inner.layers)
        row = RowKeyValues(layers, self._kv_heads, self._head_width, self.dtype, self._host.device)
        if composition.prefix:
            row.reserve(composition.prefix_length)
            for layer, (keys, values) in enumerate(composition.prefix):
                row.extend(layer, keys.unsqueeze(0), values.unsqueeze(0))
            row.length = composition.prefix_length
        return row

    def forward(self, reads: Sequence[Read]) -> Tensor:
        # Rows of one composition lie side by side, so that its deltas are computed once for all of them.
        order = sorted(range(len(reads)), key=lambda row: reads[row].composition.key)
        logits = self._pass([reads[row] for row in order])
        return logits[[order.index(row) for row in range(len(reads))]] if len(reads) > 1 else logits

    def taken(self, key_values: KeyValues, begin: int) -> Tensor:
        assert isinstance(key_values, RowKeyValues)
        return key_values.part(begin)

    def put(self, key_values: KeyValues, taken: Tensor, by: int) -> None:
        assert isinstance(key_values, RowKeyValues)
        keys, values = taken.to(self._host.device, self.dtype)
        turns = self._turns.to(keys.device)[:, None, None, None]
        keys = torch.where(turns, turn(keys, by, self._frequencies), keys)
        key_values.append(torch.stack((keys, values)))

    def _pass(self, reads: Sequence[Read]) -> Tensor:
        rows, spans = self._lay_out(reads)
        mix, of_last = self._mixes([read.composition for read in reads], spans)
        hidden = torch.cat([self._embed(read) for read in reads], dim=1)
        places = [torch.arange(r.length, r.length + len(s)) for r, s in zip(rows, spans, strict=True)]
        rotary = self._inner.rotary_emb(hidden, position_ids=torch.cat(places).unsqueeze(0).to(hidden.device))
        masks = [self._mask(r.length, len(s)) for r, s in zip(rows, spans, strict=True)]
        for index, layer in enumerate(self._inner.layers):
            normed = self._matrices.norm(layer.input_layernorm, hidden)
            hidden = hidden + self._attend(index, layer.self_attn, normed, rotary, rows, spans, masks, mix)
            normed = self._matrices.norm(layer.post_attention_layernorm, hidden)
            hidden = hidden + self._feed_forward(layer.mlp, normed, mix)
        # Of one row a slice, not a copy: torch multiplies the two in ways that differ in the last bit.
        ends = [span.end - 1 for span in spans] if len(spans) > 1 else slice(-1, None)
        last = self._matrices.norm(self._inner.norm, hidden)[:, ends]
        logits = self._project((self._head,), last, of_last)[0][0]
        for row, span in zip(rows, spans, strict=True):
            row.length += len(span)
        return logits

    def _groups(self) -> Iterator[tuple[torch.nn.Linear, ...]]:
        """The linear layers, those side by side that have the same inputs."""
        for layer in self._inner.layers:
            attention, mlp = layer.self_attn, layer.mlp
            yield attention.q_proj, attention.k_proj, attention.v_proj
            yield (attention.o_proj,)
            yield mlp.gate_proj, mlp.up_proj
            yield (mlp.down_proj,)

    def _lay_out(self, reads: Sequence[Read]) -> tuple[list[RowKeyValues], list[Span]]:
        """The rows with room for what they read, and where that lies in the pass."""
        rows: list[RowKeyValues] = []
        spans: list[Span] = []
        for read in reads:
            assert isinstance(read.key_values, RowKeyValues)
            begin = spans[-1].end if spans else 0
            spans.append(Span(begin, begin + read.values.shape[1]))
            read.key_values.reserve(len(spans[-1]))
            rows.append(read.key_values)
        return rows, spans

    def _mixes(self, compositions: Sequence[Composition], spans: Sequence[Span]) -> tuple[Mix, Mix]:
        """What the compositions do to all positions, and to the last of each row."""
        groups = _grouped(compositions, spans)
        of_last = _grouped(compositions, [Span(row, row + 1) for row in range(len(spans))])
        positions = spans[-1].end
        slices = SliceMix(groups, positions)
        single = len(groups) == 1
        # One row as it was loaded is computed as a hook would; what reads long pieces gains nothing from joining.
        if single and self._is_plain or not single and positions > len(spans):
            return slices, SliceMix(of_last, len(spans))
        own = [composition for _, composition in groups]
        if 1 < len(groups) == len(spans) == positions:
            mix_of_rows = StackedMix(self._factors(StackedDeltas, own), slices)
            return mix_of_rows, mix_of_rows
        joined = self._factors(JoinedDeltas, own)
        owners = [owner for owner, (span, _) in enumerate(groups) for _ in range(len(span))]
        mix = JoinedMix(joined, owners, slices)
        return mix, mix

    def _factors(self, kind: type[_Deltas], compositions: list[Composition]) -> _Deltas:
        """Their factors side by side or one upon the other; the last pass's are kept, as the next has the same rows mostly."""
        kept = self._deltas
        if isinstance(kept, kind) and [c.key for c in kept.compositions] == [c.key for c in compositions]:
            return kept
        self._deltas = made = kind(compositions)
        return made

    def _embed(self, read: Read) -> Tensor:
        return (self._host.embed(read.values) if read.values.dim() == 2 else read.values).to(self.dtype)

    def _mask(self, past: int, count: int) -> Tensor | None:
        """What new positions see, (count, past + count), where neither all nor the plain triangle."""
        if count == 1 or past == 0:
            return None
        return torch.ones(count, past + count, dtype=torch.bool, device=self._host.device).tril(past)

    def _project(self, layers: Sequence[torch.nn.Linear], inputs: Tensor, mix: Mix) -> Sequence[Tensor]:
        names = [self._names[id(layer)] for layer in layers]
        inputs = mix.gate(names[0], inputs)
        return mix.add(names, inputs, self._matrices.project(layers, inputs))

    def _attend(
        self,
        index: int,
        attention: Any,
        inputs: Tensor,
        rotary: tuple[Tensor, Tensor],
        rows: Sequence[RowKeyValues],
        spans: Sequence[Span],
        masks: Sequence[Tensor | None],
        mix: Mix,
    ) -> Tensor:
        """(1, positions, width) -> the same: each row attends to its own past and itself."""
        shape = (1, inputs.shape[1], -1, self._head_width)
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        queries, keys, values = (outputs.view(shape) for outputs in self._project(layers, inputs, mix))
        if hasattr(attention, "q_norm"):
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        queries, keys, values = queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)
        if getattr(attention, "use_rope", True):
            queries, keys = _rotate(queries, *rotary), _rotate(keys, *rotary)
        attended = []
        for row, span, mask in zip(rows, spans, masks, strict=True):
            own = slice(span.begin, span.end)
            all_keys, all_values = row.extend(index, keys[:, :, own], values[:, :, own])
            attended.append(self._attend_row(queries[:, :, own], all_keys, all_values, mask, attention.scaling))
        joined = torch.cat(attended, dim=2) if len(attended) > 1 else attended[0]
        flat = joined.transpose(1, 2).contiguous().reshape(1, inputs.shape[1], -1)
        return self._project((attention.o_proj,), flat, mix)[0]

    def _attend_row(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        """As transformers' `sdpa_attention_forward` calls torch's kernel, so that the bits are the same."""
        if mask is not None:
            times = self._heads // self._kv_heads
            keys, values = keys.repeat_interleave(times, dim=1), values.repeat_interleave(times, dim=1)
        return functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            scale=scale,
            is_causal=mask is None and queries.shape[2] > 1,
            enable_gqa=mask is None and self._heads != self._kv_heads,
        )

    def _feed_forward(self, mlp: Any, inputs: Tensor, mix: Mix) -> Tensor:
        gate, up = self._project((mlp.gate_proj, mlp.up_proj), inputs, mix)
        return self._project((mlp.down_proj,), mlp.act_fn(gate) * up, mix)[0]


def _grouped(compositions: Sequence[Composition], spans: Sequence[Span]) -> Groups:
    """Each composition with what it acts on; rows of one composition lie side by side."""
    groups: list[tuple[Span, Composition]] = []
    for composition, span in zip(compositions, spans, strict=True):
        if groups and groups[-1][1].key == composition.key:
            groups[-1] = (Span(groups[-1][0].begin, span.end), composition)
        else:
            groups.append((span, composition))
    return groups


def _rotate(vectors: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """(1, heads, positions, head width), turned by (1, positions, head width): RoFormer, Su et al. 2021, arXiv:2104.09864."""
    cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
    first, second = vectors.chunk(2, dim=-1)
    return (vectors * cosines) + (torch.cat((-second, first), dim=-1) * sines)

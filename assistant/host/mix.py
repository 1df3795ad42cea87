"""What the compositions of a pass do to its linear layers: gates on inputs, low-rank deltas and keyed residuals on outputs.

`SliceMix` goes from composition to composition, each on its rows' slice, with the operations of a hook on one row alone.
`StackedMix` multiplies each row by its own in one batched product, where each row has one position and a composition that no other
has, as in decoding. `JoinedMix` multiplies once for all of them: the factors of the compositions lie side by side, and what a row is not to have
is set to nought in between (exact, as a sum over ranks is; S-LoRA, Sheng et al. 2023, arXiv:2311.03285, has kernels for it).
Gates and residuals, which few rows have, go slice by slice in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from assistant.host.composition import Composition


@dataclass(frozen=True)
class Span:
    """Where a row's, or a group of rows', positions lie in a pass."""

    begin: int
    end: int

    def __len__(self) -> int:
        return self.end - self.begin


class Mix(Protocol):
    """The gates, deltas and residuals of a pass."""

    def gate(self, name: str, inputs: Tensor) -> Tensor:
        """The inputs of a layer, (1, positions, in), with the neurons of the rows that have a gate there scaled."""

    def add(self, names: Sequence[str], inputs: Tensor, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs of layers with the same inputs, (1, positions, out) each, with the rows' own deltas and residuals."""


Groups = Sequence[tuple[Span, Composition]]


class SliceMix:
    """One composition after the other, each on its slice."""

    def __init__(self, groups: Groups, positions: int) -> None:
        self._deltas = [(span, c.deltas) for span, c in groups if c.deltas]
        self._gates = [(span, c.gates) for span, c in groups if c.gates]
        self._keyed = [(span, c.keyed) for span, c in groups if c.keyed]
        self._positions = positions

    def gate(self, name: str, inputs: Tensor) -> Tensor:
        for span, gates in self._gates:
            if (factors := gates.get(name)) is not None:
                inputs = self._join(inputs, span, inputs[:, span.begin : span.end] * factors)
        return inputs

    def add(self, names: Sequence[str], inputs: Tensor, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if not self._deltas:
            return self.add_residuals(names, inputs, outputs)
        added = [self._add(name, inputs, output) for name, output in zip(names, outputs, strict=True)]
        return self.add_residuals(names, inputs, added)

    def add_residuals(self, names: Sequence[str], inputs: Tensor, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The outputs with the residuals of the keys that each row's own positions are near."""
        for span, keyed in self._keyed:
            # An FFN's output projection shares its inputs with no other layer.
            if (residuals := keyed.get(names[0])) is not None:
                own = slice(span.begin, span.end)
                part = outputs[0][:, own]
                moved = residuals.add(inputs[:, own], part)
                if moved is not part:
                    outputs = [self._join(outputs[0], span, moved)]
        return outputs

    def _add(self, name: str, inputs: Tensor, outputs: Tensor) -> Tensor:
        for span, deltas in self._deltas:
            if (pair := deltas.get(name)) is not None:
                own = functional.linear(functional.linear(inputs[:, span.begin : span.end], pair[0]), pair[1])
                outputs = self._join(outputs, span, outputs[:, span.begin : span.end] + own)
        return outputs

    def _join(self, whole: Tensor, span: Span, part: Tensor) -> Tensor:
        if len(span) == self._positions:
            return part
        return torch.cat([whole[:, : span.begin], part, whole[:, span.end :]], dim=1)


@dataclass(frozen=True)
class _Joined:
    """Factors of layers with the same inputs: A of all compositions and layers, and for each layer B of all compositions."""

    a: Tensor  # (ranks of all layers, in)
    ups: tuple[Tensor, ...]  # (ranks, out) each
    ranks: tuple[tuple[int, ...], ...]  # of each layer, by composition


class JoinedDeltas:
    """The factors of some compositions side by side, made once for each group of layers."""

    def __init__(self, compositions: Sequence[Composition]) -> None:
        self.compositions = compositions
        self._joined: dict[str, _Joined | None] = {}

    def of(self, names: Sequence[str]) -> _Joined | None:
        """Those of a group of layers; None where no composition changes any."""
        if names[0] not in self._joined:
            self._joined[names[0]] = self._join(names)
        return self._joined[names[0]]

    def _join(self, names: Sequence[str]) -> _Joined | None:
        pairs = [[c.deltas[name] for c in self.compositions if name in c.deltas] for name in names]
        downs = [a for of_name in pairs for a, _ in of_name]
        if not downs:
            return None
        ups = tuple(
            torch.cat([b for _, b in of_name], dim=1).T.contiguous() if of_name else downs[0].new_zeros(0, 0)
            for of_name in pairs
        )
        ranks = tuple(tuple(len(c.deltas[n][0]) if n in c.deltas else 0 for c in self.compositions) for n in names)
        return _Joined(torch.cat(downs), ups, ranks)


@dataclass(frozen=True)
class _Stacked:
    """Factors of layers with the same inputs, composition by composition."""

    a: Tensor  # (compositions, in, ranks of all layers)
    ups: tuple[Tensor, ...]  # (compositions, ranks, out) each


class StackedDeltas:
    """The factors of some compositions one upon the other, made once for each group of layers."""

    def __init__(self, compositions: Sequence[Composition]) -> None:
        self.compositions = compositions
        self._stacked: dict[str, _Stacked | None] = {}

    def of(self, names: Sequence[str]) -> _Stacked | None:
        """Those of a group of layers; None where no composition changes any."""
        if names[0] not in self._stacked:
            self._stacked[names[0]] = self._stack(names)
        return self._stacked[names[0]]

    def _stack(self, names: Sequence[str]) -> _Stacked | None:
        found = [pair for name in names for c in self.compositions if (pair := c.deltas.get(name)) is not None]
        if not found:
            return None
        downs, ups = [], []
        for name in names:
            pairs = [c.deltas.get(name) for c in self.compositions]
            # Ranks that a composition lacks are nought: what they add is exactly nothing.
            rank = max((len(pair[0]) for pair in pairs if pair is not None), default=0)
            wide, high = found[0][0].shape[1], max((pair[1].shape[0] for pair in pairs if pair is not None), default=0)
            down, up = found[0][0].new_zeros(len(pairs), wide, rank), found[0][0].new_zeros(len(pairs), rank, high)
            for place, pair in enumerate(pairs):
                if pair is not None:
                    down[place, :, : len(pair[0])] = pair[0].T
                    up[place, : len(pair[0])] = pair[1].T
            downs.append(down)
            ups.append(up)
        return _Stacked(torch.cat(downs, dim=2), tuple(ups))


class StackedMix:
    """One position and one composition a row: (rows,) products of their own in one call."""

    def __init__(self, stacked: StackedDeltas, gates: SliceMix) -> None:
        self._stacked, self._gates = stacked, gates

    def gate(self, name: str, inputs: Tensor) -> Tensor:
        return self._gates.gate(name, inputs)

    def add(self, names: Sequence[str], inputs: Tensor, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        stacked = self._stacked.of(names)
        if stacked is None:
            return outputs
        down = torch.bmm(inputs.transpose(0, 1), stacked.a)
        parts = down.split([up.shape[1] for up in stacked.ups], dim=2)
        return [
            torch.baddbmm(output.transpose(0, 1), part, up).transpose(0, 1) if up.numel() else output
            for output, part, up in zip(outputs, parts, stacked.ups, strict=True)
        ]


class JoinedMix:
    """All compositions of a pass at once. Each position has one of them: (positions,) says which."""

    def __init__(self, joined: JoinedDeltas, owners: Sequence[int], slices: SliceMix) -> None:
        self._joined, self._slices = joined, slices
        self._owners = torch.tensor(owners)
        self._masks: dict[tuple[tuple[int, ...], ...], Tensor] = {}

    def gate(self, name: str, inputs: Tensor) -> Tensor:
        return self._slices.gate(name, inputs)

    def add(self, names: Sequence[str], inputs: Tensor, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return self._slices.add_residuals(names, inputs, self._add(names, inputs, outputs))

    def _add(self, names: Sequence[str], inputs: Tensor, outputs: Sequence[Tensor]) -> Sequence[Tensor]:
        joined = self._joined.of(names)
        if joined is None:
            return outputs
        down = functional.linear(inputs[0], joined.a)
        if len(self._joined.compositions) > 1:
            down = down * self._mask(joined.ranks, down)
        parts = down.split([sum(ranks) for ranks in joined.ranks], dim=1)
        return [
            torch.addmm(output[0], part, up).unsqueeze(0) if up.numel() else output
            for output, part, up in zip(outputs, parts, joined.ups, strict=True)
        ]

    def _mask(self, ranks: tuple[tuple[int, ...], ...], like: Tensor) -> Tensor:
        """(positions, ranks of all layers): 1 where the rank is of the position's composition."""
        if ranks not in self._masks:
            of_rank = torch.cat([torch.arange(len(of)).repeat_interleave(torch.tensor(of)) for of in ranks])
            mine = self._owners.unsqueeze(1) == of_rank.unsqueeze(0)
            self._masks[ranks] = mine.to(like)
        return self._masks[ranks]

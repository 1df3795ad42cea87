"""Records the FFN activations of a host over texts in one pass, streamed to disk. Knows nothing of functions or scores.

Memory does not depend on the number of texts: of each text one line of `means.f32` is written (the mean absolute activation of
every neuron over its positions), and sums over all texts are held in tables of fixed size. An interrupted recording goes on
after its last block; one of other texts or another host in the same folder is begun anew.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from assistant.host.host import Host
from emergent_bricks.analysis.neurons import changed, neuron_shape, output_norms
from emergent_bricks.analysis.texts import batches, tokenise
from mattoni.errors import MattoniError
from mattoni.files import replacing, write_text

BINS = 50  # of magnitudes divided by the largest of their token and layer
_EVERY = 8  # of the positions, so many are in the histograms once
_BLOCK = 64  # texts between two writings
_FORM = 1  # of the files; another number begins anew


@dataclass(frozen=True, eq=False)
class Recording:
    """What a host did on some texts.

    means        (texts, layers, neurons), fp32, on disk: mean |activation| over a text's positions but the first
    activations  (layers, BINS): neurons of every eighth position by |activation| / largest of the position and layer
    outputs      (layers, BINS): the same of |activation| · ‖down‖
    sums         (layers, neurons): activations with their sign, summed over positions
    positions    how many were seen
    cut          texts that were longer than what is read of one
    """

    means: np.ndarray
    activations: np.ndarray
    outputs: np.ndarray
    sums: np.ndarray
    positions: int
    cut: int

    @property
    def average(self) -> Tensor:
        """The mean activation of every neuron, (layers, neurons)."""
        return torch.tensor(self.sums / max(1, self.positions), dtype=torch.float32)


@dataclass
class _Sums:
    """What is summed over positions."""

    layers: int
    neurons: int
    activations: np.ndarray = field(init=False)
    outputs: np.ndarray = field(init=False)
    sums: np.ndarray = field(init=False)
    positions: int = 0

    def __post_init__(self) -> None:
        self.activations, self.outputs = np.zeros((2, self.layers, BINS), dtype=np.int64)
        self.sums = np.zeros((self.layers, self.neurons))

    def add(self, layer: int, activations: Tensor, sizes: Tensor, is_counted: Tensor, norms: Tensor) -> None:
        """Activations and their sizes of one layer, (positions, neurons), and which positions count, (positions,)."""
        self.sums[layer] += (is_counted.float() @ activations).double().cpu().numpy()
        # Histograms cost more than the host itself: one position in eight says as much about millions of neurons.
        some = sizes[is_counted.nonzero().squeeze(1)[::_EVERY]]
        self.activations[layer] += _histogram(some)
        self.outputs[layer] += _histogram(some * norms)
        if layer == 0:
            self.positions += int(is_counted.sum())


def _histogram(sizes: Tensor) -> np.ndarray:
    """Neurons by their size as a share of the position's largest, (BINS,)."""
    share = sizes / sizes.amax(dim=1, keepdim=True).clamp_min(1e-30)
    return torch.histc(share, BINS, 0.0, 1.0).cpu().numpy().astype(np.int64)


def record(
    host: Host,
    texts: Sequence[str],
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Recording:
    """Read the texts once and keep what their neurons did in `folder`.

    Raises MattoniError for a host without gated FFNs, and where the folder cannot be written.
    """
    ids, cut = tokenise(host, texts)
    layers, neurons = neuron_shape(host)
    norms = output_norms(host).to(host.device)
    stamp = {"form": _FORM, "host": host.fingerprint, "dtype": str(host.dtype), "ids": _digest(ids)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sums, done = _resume(folder, stamp, _Sums(layers, neurons))
        shape = (len(ids), layers, neurons)
        means = np.memmap(folder / "means.f32", np.float32, "r+" if done else "w+", shape=shape)
    except OSError as problem:
        raise MattoniError(f"Cannot record in {folder} ({problem.strerror}): choose another folder.") from problem
    while done < len(ids):
        progress(done, len(ids))
        block = ids[done : done + _BLOCK]
        _record_block(host, block, means[done : done + len(block)], sums, norms)
        means.flush()
        done += len(block)
        _keep(folder, stamp, sums, done)
    progress(done, len(ids))
    return Recording(means, sums.activations, sums.outputs, sums.sums, sums.positions, cut)


def _record_block(host: Host, ids: Sequence[Sequence[int]], means: np.ndarray, sums: _Sums, norms: Tensor) -> None:
    with torch.inference_mode():
        for batch in batches(host, ids):
            # The first position draws activations of its own whatever stands there (Sun et al. 2024, arXiv:2402.17762).
            counted = batch.is_text.clone()
            if counted.shape[1] > 1:
                counted[:, 0] = batch.is_text.sum(dim=1) == 1
            weights = counted.float() / counted.sum(dim=1, keepdim=True)

            def watch(
                layer: int,
                activations: Tensor,
                rows: Sequence[int] = batch.rows,
                counted: Tensor = counted,
                weights: Tensor = weights,
            ) -> Tensor:
                seen = activations.float()
                sizes = seen.abs()
                means[list(rows), layer] = torch.bmm(weights.unsqueeze(1), sizes).squeeze(1).cpu().numpy()
                sums.add(layer, seen.flatten(0, 1), sizes.flatten(0, 1), counted.flatten(), norms[layer])
                return activations

            with changed(host, watch):
                host.model.base_model(input_ids=batch.ids, attention_mask=batch.is_text.long(), use_cache=False)


def _digest(ids: Sequence[Sequence[int]]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _resume(folder: Path, stamp: dict[str, object], fresh: _Sums) -> tuple[_Sums, int]:
    """The sums and the number of texts that an interrupted recording of the same left; nothing of another."""
    try:
        kept = json.loads((folder / "recording.json").read_text())
        if {key: kept.get(key) for key in stamp} != stamp:
            return fresh, 0
        # Named by the count, so that sums and count always belong together.
        tables = np.load(folder / f"sums-{kept['done']}.npz")
        (folder / "means.f32").stat()
    except (OSError, ValueError, KeyError, AttributeError):
        return fresh, 0
    fresh.activations, fresh.outputs, fresh.sums = tables["activations"], tables["outputs"], tables["sums"]
    fresh.positions = int(tables["positions"])
    return fresh, int(kept["done"])


def _keep(folder: Path, stamp: dict[str, object], sums: _Sums, done: int) -> None:
    with replacing(folder / f"sums-{done}.npz") as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            activations=sums.activations,
            outputs=sums.outputs,
            sums=sums.sums,
            positions=np.array(sums.positions),
        )
    write_text(folder / "recording.json", json.dumps({**stamp, "done": done}))
    for older in folder.glob("sums-*.npz"):
        if older.name != f"sums-{done}.npz":
            os.unlink(older)

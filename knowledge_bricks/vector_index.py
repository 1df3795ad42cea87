"""Nearest vectors by inner product: exact for few, an inverted file for many. Knows nothing of passages.

From `LARGE` vectors on, an inverted file (Sivic & Zisserman 2003; Jégou et al. 2011, as FAISS has it): the vectors lie in cells around
k-means centres, and only the cells whose centres are nearest to a question are looked at. Kept are the centres and each vector's cell, as
plain numbers: FAISS's own files are not meant to be read from strangers.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import write_bytes

CELLS = "cells.safetensors"
LARGE = 50_000  # vectors of 384 numbers, which one thread compares exactly in some 5 ms
_TRAINED_ON = 64  # vectors a cell, for its centre
_ROUNDS = 10  # of k-means
_LOOKED_AT = 64  # cells a search
_SEED = 0

Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Cells:
    """Where vectors lie: the centres, (cells, width), and the cell of each vector, (vectors,)."""

    centres: Vectors
    of: NDArray[np.int64]


def make_cells(vectors: Vectors) -> Cells:
    """Put unit rows, (vectors, width), into cells: four times the root of their number, a power of two."""
    count, width = vectors.shape
    number = min(count, 2 ** round(math.log2(4 * math.sqrt(count))))
    kmeans = faiss.Kmeans(
        width,
        number,
        niter=_ROUNDS,
        seed=_SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAINED_ON,
    )
    kmeans.train(vectors)
    centres: Any = kmeans.centroids
    return Cells(centres, kmeans.index.search(vectors, 1)[1][:, 0])


def write_cells(cells: Cells, folder: Path) -> None:
    """Keep them in a folder."""
    tensors = {"centres": torch.from_numpy(cells.centres).contiguous(), "cells": torch.from_numpy(cells.of).int()}
    write_bytes(folder / CELLS, save(tensors))


def read_cells(folder: Path, vectors: Vectors | Tensor) -> Cells | None:
    """Those that are kept for these vectors; None where none are. Raises MattoniError where they are damaged or others'."""
    path = folder / CELLS
    if not path.is_file():
        return None
    try:
        held = load(path.read_bytes())
        cells = Cells(held["centres"].float().numpy(), held["cells"].long().numpy())
    except (OSError, SafetensorError, KeyError) as problem:
        raise MattoniError(f"{folder.name}/{CELLS} is damaged: add these documents again.") from problem
    fits = (
        cells.centres.ndim == 2 and cells.centres.shape[1] == vectors.shape[1] and cells.of.shape == vectors.shape[:1]
    )
    if not fits or cells.of.min() < 0 or cells.of.max() >= len(cells.centres) or not np.isfinite(cells.centres).all():
        raise MattoniError(f"{folder.name}/{CELLS} belongs to other documents: add these documents again.")
    return cells


class VectorIndex:
    """Finds the nearest of some vectors."""

    def __init__(self, vectors: Vectors, cells: Cells | None = None) -> None:
        """vectors  (vectors, width), unit rows; `cells` where they were put into some, else few are compared one by one."""
        count, width = vectors.shape
        centres = faiss.IndexFlatIP(width)
        if cells is None and count < LARGE:
            self._index: Any = centres
            self._index.add(vectors)
            return
        cells = cells or make_cells(vectors)
        centres.add(cells.centres)
        # Half precision tells among neighbours well enough: whoever asks scores what is found by the vectors themselves.
        self._index = faiss.IndexIVFScalarQuantizer(
            centres, width, len(cells.centres), faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        self._centres = centres  # which FAISS does not keep alive
        self._index.is_trained = True
        self._index.nprobe = min(_LOOKED_AT, len(cells.centres))
        of = np.ascontiguousarray(cells.of)
        self._index.add_core(count, faiss.swig_ptr(vectors), None, faiss.swig_ptr(of))

    def nearest(self, vector: Vectors, count: int) -> NDArray[np.int64]:
        """The places of the `count` nearest to a vector, (width,), best first; fewer where its cells hold fewer."""
        found: NDArray[np.int64] = self._index.search(vector[None], count)[1][0]
        return found[found >= 0]

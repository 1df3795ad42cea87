"""Reads the picture packs into arrays. Training only; knows nothing of encoders, stitches or hosts.

A pack is a tar: tile sheets (`KEY.webp` + `KEY.cls`, 10 x 10 tiles of 64 x 64 pixels) or single pictures
(`KEY.webp` + `KEY.json` with `captions`).
"""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mattoni.errors import MattoniError

TILE = 64
TILES_PER_ROW = 10

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def pack_files(path: Path) -> dict[str, bytes]:
    """The members of a .tar or .tar.gz by name."""
    try:
        with tarfile.open(path) as archive:
            members = [m for m in archive.getmembers() if m.isfile()]
            return {m.name: file.read() for m in members if (file := archive.extractfile(m)) is not None}
    except (OSError, tarfile.TarError) as problem:
        raise MattoniError(f"Cannot read the pack {path} ({problem}): check the path and the file.") from problem


def sheet_tiles(paths: Sequence[Path]) -> tuple[Pixels, Labels]:
    """All tiles of the sheets: pixels (n, 64, 64, 3) and class indices (n,), in the order of the packs."""
    tiles: list[Pixels] = []
    labels: list[int] = []
    for path in paths:
        files = pack_files(path)
        for name in files:
            if not name.endswith(".webp"):
                continue
            classes = [int(y) for y in files[name[:-4] + "cls"].split()]
            sheet = np.asarray(Image.open(io.BytesIO(files[name])).convert("RGB"))
            grid = sheet.reshape(TILES_PER_ROW, TILE, TILES_PER_ROW, TILE, 3).transpose(0, 2, 1, 3, 4)
            tiles.append(grid.reshape(-1, TILE, TILE, 3)[: len(classes)])
            labels.extend(classes)
    return np.concatenate(tiles), np.asarray(labels)


def captioned_pictures(path: Path) -> Iterator[tuple[str, Image.Image, list[str]]]:
    """Name, picture and captions of each picture of a caption pack."""
    files = pack_files(path)
    for name in files:
        if name.endswith(".webp"):
            extra: dict[str, Any] = json.loads(files.get(name[:-4] + "json", b"{}"))
            yield name[:-5], Image.open(io.BytesIO(files[name])).convert("RGB"), list(extra.get("captions", []))


def crops_as_tiles(pictures: Sequence[Image.Image], crops: int, size: int, seed: int) -> Pixels:
    """The whole picture and `crops - 1` random squares of it, each as a tile: (n, crops, size, size, 3).

    A square's side is 50 to 85 % of the shorter side.
    """
    generator = np.random.default_rng(seed)
    out = np.empty((len(pictures), crops, size, size, 3), np.uint8)
    for i, picture in enumerate(pictures):
        out[i, 0] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
        for k in range(1, crops):
            side = int(min(picture.size) * generator.uniform(0.5, 0.85))
            left = int(generator.integers(picture.width - side + 1))
            top = int(generator.integers(picture.height - side + 1))
            box = (left, top, left + side, top + side)
            out[i, k] = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))
    return out

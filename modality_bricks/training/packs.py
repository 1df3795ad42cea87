"""Reads the picture packs into arrays. Training only; knows nothing of encoders, stitches or hosts.

A pack is a tar: tile sheets (`KEY.webp` + `KEY.cls`, 10 x 10 tiles of 64 x 64 pixels) or single pictures
(`KEY.webp` + `KEY.json` with `captions`).
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from brick_training.pictures import is_systems
from mattoni.errors import MattoniError
from modality_bricks.training.readers import BadRow, Report, passing, picture_of, refuse

TILE = 64
TILES_PER_ROW = 10

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def pack_files(path: Path) -> dict[str, bytes]:
    """The members of a .tar or .tar.gz by name."""
    try:
        with tarfile.open(path) as archive:
            members = [m for m in archive.getmembers() if m.isfile() and not is_systems(PurePosixPath(m.name))]
            return {m.name: file.read() for m in members if (file := archive.extractfile(m)) is not None}
    except (OSError, tarfile.TarError) as problem:
        raise MattoniError(f"Cannot read the pack {path} ({problem}): check the path and the file.") from problem


def sheet_tiles(paths: Sequence[Path], report: Report = refuse) -> tuple[Pixels, Labels]:
    """All tiles of the sheets: pixels (n, 64, 64, 3) and class indices (n,), in the order of the packs."""
    tiles: list[Pixels] = [np.empty((0, TILE, TILE, 3), np.uint8)]
    labels: list[int] = []
    for path in paths:
        files = pack_files(path)
        for name in files:
            if not name.endswith(".webp"):
                continue
            where = f"sheet {name} of {path.name}"
            with passing(report):
                sheet, classes = np.asarray(picture_of(files[name], where)()), files.get(name[:-4] + "cls", b"").split()
                if sheet.shape[1] != TILES_PER_ROW * TILE or sheet.shape[0] % TILE:
                    raise BadRow("form", where, f" is no sheet of {TILES_PER_ROW} tiles of {TILE} pixels a row.")
                grid = (
                    sheet.reshape(-1, TILE, TILES_PER_ROW, TILE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, TILE, TILE, 3)
                )
                if not 0 < len(classes) <= len(grid):
                    raise BadRow(
                        "unknown label", where, f" has {len(grid)} tiles and {len(classes)} labels in its .cls."
                    )
                tiles.append(grid[: len(classes)])
                labels.extend(int(y) for y in classes)
    return np.concatenate(tiles), np.asarray(labels, np.int64)


def captioned_pictures(path: Path, report: Report = refuse) -> Iterator[tuple[str, Image.Image, list[str]]]:
    """Name, picture and captions of each picture of a caption pack."""
    files = pack_files(path)
    for name in files:
        if name.endswith(".webp"):
            extra: dict[str, Any] = json.loads(files.get(name[:-4] + "json", b"{}"))
            with passing(report):
                picture = picture_of(files[name], f"{name[:-5]} of {path.name}")()
                yield name[:-5], picture, list(extra.get("captions", []))


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

"""What a stitch learns from: pictures with names, captions or conversations. Training only; knows no host and no encoder."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from mattoni.errors import MattoniError
from modality_bricks.instructions import with_instructions
from modality_bricks.packs import captioned_pictures, sheet_tiles
from modality_bricks.readers import (
    Sample,
    captioned_sample,
    json_lines,
    json_list,
    named_sample,
    read_folder,
    read_parquet,
    read_rows,
    read_shard,
)


class Source(BaseModel):
    """One entry of `data` in a training config; paths are relative to MATTONI_DATA or to the config's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["tiles", "captions", "folder", "llava", "jsonl", "parquet", "webdataset"]
    files: tuple[str, ...]
    classes: str | None = None  # tiles: JSON list of {index, names, short}
    images: str | None = None  # llava, jsonl: the folder of the pictures
    share: float = 1.0  # of the samples of a batch
    views: int = 1  # cached variants per picture: as it is, mirrored, then crops
    limit: int | None = None
    instructions: bool = False  # also yes or no, colour, how many, where; for training only


@dataclass(frozen=True)
class SampleSet:
    """All samples of one source; `origin` stands for the files that they come from."""

    origin: str
    samples: Sequence[Sample]
    share: float
    views: int


def name_of_class(entry: dict[str, Any]) -> str:
    """The everyday name where it holds a synonym of the class, else the first synonym."""
    short, names = str(entry["short"]), [str(n) for n in entry["names"]]
    return short if any(n.lower() in short.lower() for n in names) else names[0]


def read_source(source: Source, find: Callable[[str], Path], seed: int = 0) -> SampleSet:
    """Read one source. `find` turns a path of the config into a real one."""
    paths = [find(name) for name in source.files]
    images = find(source.images) if source.images else None
    match source.format:
        case "tiles":
            if source.classes is None:
                raise MattoniError("data: a source of format tiles needs classes, the JSON file with the names.")
            samples = _tiles(paths, json.loads(find(source.classes).read_text(encoding="utf-8")))
        case "captions":
            samples = [captioned_sample(n, p, c) for path in paths for n, p, c in captioned_pictures(path)]
        case "folder":
            samples = [s for path in paths for s in read_folder(path)]
        case "llava":
            samples = [s for path in paths for s in read_rows(json_list(path), images or path.parent)]
        case "jsonl":
            samples = [s for path in paths for s in read_rows(json_lines(path), images or path.parent)]
        case "parquet":
            samples = [s for path in paths for s in read_parquet(path)]
        case "webdataset":
            samples = [s for path in paths for s in read_shard(path)]
    if source.limit is not None and source.limit < len(samples):
        keep = np.random.default_rng(seed).permutation(len(samples))[: source.limit]
        samples = [samples[i] for i in sorted(keep)]
    if source.instructions:
        samples = with_instructions(samples, seed)
    if not samples:
        raise MattoniError(
            f"data: {', '.join(source.files)} holds no samples of format {source.format}: check the format."
        )
    pictures = [images / sample.key for sample in samples] if images else []
    return SampleSet(origin_of([*paths, *pictures]), samples, source.share, source.views)


def origin_of(paths: Sequence[Path]) -> str:
    """A digest of which files these are, folders with all that is in them: path, size and time of the last change."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            state = file.stat()
            digest.update(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _tiles(paths: Sequence[Path], classes: list[dict[str, Any]]) -> list[Sample]:
    pixels, labels = sheet_tiles(paths)
    names = [name_of_class(c) for c in classes]
    synonyms = [tuple(str(n) for n in c["names"]) for c in classes]

    def opener(i: int) -> Callable[[], Image.Image]:
        return lambda: Image.fromarray(pixels[i])

    return [named_sample(str(i), opener(i), names[y], synonyms[y]) for i, y in enumerate(labels)]

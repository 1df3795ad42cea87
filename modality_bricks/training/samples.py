"""What a stitch learns from: pictures with names, captions or conversations. Training only; knows no host and no encoder."""

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from mattoni.errors import MattoniError
from mattoni.lines import read_text
from modality_bricks.training.instructions import with_instructions
from modality_bricks.training.packs import captioned_pictures, sheet_tiles
from modality_bricks.training.readers import (
    BadRow,
    Report,
    Sample,
    captioned_sample,
    named_sample,
    passing,
    read_folder,
    read_parquet,
    read_rows,
    read_shard,
    refuse,
    rows_of,
)
from modality_bricks.training.words import words_of


class Source(BaseModel):
    """One entry of `data` in a training config; paths are relative to MATTONI_DATA or to the config's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["tiles", "captions", "folder", "llava", "jsonl", "parquet", "webdataset"]
    files: tuple[str, ...]
    classes: str | None = None  # the names that labels may have, a JSON list; tiles need it
    images: str | None = None  # llava, jsonl: the folder of the pictures
    share: PositiveFloat = 1.0  # of the samples of a batch
    views: PositiveInt = 1  # cached variants per picture: as it is, mirrored, then crops
    blur: PositiveInt | None = (
        None  # mirrored views are first made this small: how sharp a picture is tells nothing then
    )
    limit: PositiveInt | None = None
    captions: PositiveInt | None = None  # of each picture only so many, those that have most in common with the others
    instructions: bool = False  # also yes or no, colour, how many, where; for training only


@dataclass(frozen=True)
class SampleSet:
    """All samples of one source; `origin` stands for the files that they come from."""

    origin: str
    samples: Sequence[Sample]
    share: float
    views: int
    blur: int | None = None


@dataclass(frozen=True)
class ThingClass:
    """A thing that pictures may be of: what it is called, and all that counts as its name."""

    name: str
    synonyms: tuple[str, ...]


def read_classes(path: Path) -> list[ThingClass]:
    """A JSON list of names, or of {names, short}, in the order of the labels' numbers."""
    try:
        entries = json.loads(read_text(path))
        if not isinstance(entries, list):
            raise TypeError("not a list")
        return [_class_of(entry) for entry in entries]
    except (ValueError, TypeError, KeyError) as problem:
        raise MattoniError(
            f"data: {path.name} is no list of classes: it must be a JSON list of names, or of objects with names and short."
        ) from problem


def _class_of(entry: str | dict[str, Any]) -> ThingClass:
    if isinstance(entry, str):
        return ThingClass(entry, (entry,))
    short, names = str(entry["short"]), tuple(str(n) for n in entry["names"])
    # The everyday name where it holds a synonym of the class, else the first synonym.
    return ThingClass(short if any(n.lower() in short.lower() for n in names) else names[0], names)


def read_source(source: Source, find: Callable[[str], Path], seed: int = 0, report: Report = refuse) -> SampleSet:
    """Read one source. `find` turns a path of the config into a real one, `report` hears of each bad row."""
    paths = [find(name) for name in source.files]
    images = find(source.images) if source.images else None
    classes = read_classes(find(source.classes)) if source.classes else None
    match source.format:
        case "tiles":
            if classes is None:
                raise MattoniError("data: a source of format tiles needs classes, the JSON file with the names.")
            samples = _tiles(paths, classes, report)
        case "captions":
            samples = list(_captioned(paths, source.captions, report))
        case "folder":
            samples = [s for path in paths for s in read_folder(path, report)]
        case "llava" | "jsonl":
            samples = [s for path in paths for s in read_rows(rows_of(path, report), images or path.parent, report)]
        case "parquet":
            samples = [s for path in paths for s in read_parquet(path, report)]
        case "webdataset":
            samples = [s for path in paths for s in read_shard(path, report)]
    if classes is not None and source.format != "tiles":
        samples = list(_of_classes(samples, classes, Path(source.classes or "").name, report))
    if source.limit is not None and source.limit < len(samples):
        keep = np.random.default_rng(seed).permutation(len(samples))[: source.limit]
        samples = [samples[i] for i in sorted(keep)]
    if source.instructions:
        samples = with_instructions(samples, seed)
    if not samples:
        raise MattoniError(
            f"data: {', '.join(source.files)} holds no rows of format {source.format} to learn from: check file and format."
        )
    pictures = [images / sample.key for sample in samples] if images else []
    return SampleSet(origin_of([*paths, *pictures]), samples, source.share, source.views, source.blur)


def origin_of(paths: Sequence[Path]) -> str:
    """A digest of which files these are, folders with all that is in them: path, size and time of the last change."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            state = file.stat()
            digest.update(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _tiles(paths: Sequence[Path], classes: Sequence[ThingClass], report: Report) -> list[Sample]:
    pixels, labels = sheet_tiles(paths, report)

    def opener(i: int) -> Callable[[], Image.Image]:
        return lambda: Image.fromarray(pixels[i])

    samples = []
    for i, label in enumerate(labels):
        where = f"tile {i + 1} of {', '.join(path.name for path in paths)}"
        with passing(report):
            if not 0 <= label < len(classes):
                raise BadRow("unknown label", where, f" has the label {label}, and there are {len(classes)} classes.")
            samples.append(named_sample(str(i), opener(i), classes[label].name, classes[label].synonyms, where))
    return samples


def _captioned(paths: Sequence[Path], most: int | None, report: Report) -> Iterator[Sample]:
    seen: dict[str, str] = {}
    for path in paths:
        for name, picture, captions in captioned_pictures(path, report):
            where = f"{name} of {path.name}"
            with passing(report):
                if name in seen:
                    raise BadRow("duplicate id", where, f" is in {seen[name]} too: give each picture its own name.")
                seen[name] = path.name
                yield captioned_sample(name, picture, alike(captions, most) if most else captions, where)


def alike(captions: Sequence[str], most: int) -> list[str]:
    """The captions that share most words with the picture's others, as a consensus would (Vedantam et al. 2015, CIDEr)."""
    said = [set(words_of(caption)) for caption in captions]

    def shared(i: int) -> float:
        others = [words for k, words in enumerate(said) if k != i]
        return sum(len(said[i] & words) / max(1, len(said[i] | words)) for words in others)

    return [captions[i] for i in sorted(range(len(captions)), key=shared, reverse=True)[:most]]


def _of_classes(
    samples: Sequence[Sample], classes: Sequence[ThingClass], file: str, report: Report
) -> Iterator[Sample]:
    """Samples with a name of the list, with the synonyms from there, and those without a name as they are."""
    known = {name.casefold(): c for c in classes for name in (c.name, *c.synonyms)}
    for sample in samples:
        with passing(report):
            if sample.name is None:
                yield sample
            elif (found := known.get(sample.name.casefold())) is not None:
                yield named_sample(sample.key, sample.open, found.name, found.synonyms, sample.where)
            else:
                near = difflib.get_close_matches(sample.name.casefold(), known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else "correct it, or add it to the list."
                says = f" has the label '{sample.name}', which is not in {file}: {hint}"
                raise BadRow("unknown label", sample.where, says)

"""What a stitch learns from: pictures with names, captions or conversations. Training only; knows no host and no encoder."""

import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from mattoni.errors import MattoniError
from modality_bricks.packs import captioned_pictures, sheet_tiles

PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
NAME_QUESTIONS = (
    "What is in the picture?",
    "What is in the picture?",
    "What is in this picture?",
    "What is this?",
    "What do you see in the picture?",
    "What does this image show?",
    "What is in the photo?",
    "Name the main object in the picture.",
)
CAPTION_QUESTIONS = (
    "Describe the picture.",
    "Describe this image in one sentence.",
    "Describe this photo.",
    "What is happening in the picture?",
    "What does the picture show?",
    "Write a caption for this image.",
    "What is in the picture?",
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


@dataclass(frozen=True)
class Sample:
    """One picture and what may be said about it."""

    key: str  # names the picture within its source
    open: Callable[[], Image.Image]
    turns: tuple[tuple[str, str], ...]  # (question, answer); one is drawn each time
    name: str | None = None  # of the thing on it, if it is a named picture
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class SampleSet:
    """All samples of one source."""

    samples: Sequence[Sample]
    share: float
    views: int


def answer_for(name: str) -> str:
    """A class name as a sentence: "An African elephant.", "Binoculars." """
    plural = name.endswith("s") and not name.endswith(("ss", "us")) or name == "mashed potato"
    if plural:
        return f"{name[0].upper()}{name[1:]}."
    return f"{'An' if name[0].lower() in 'aeiou' or name.startswith('hour') else 'A'} {name}."


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
            samples = [_captioned(n, p, c) for path in paths for n, p, c in captioned_pictures(path)]
        case "folder":
            samples = [s for path in paths for s in _folder(path)]
        case "llava":
            samples = [s for path in paths for s in _rows(_json_list(path), images or path.parent)]
        case "jsonl":
            samples = [s for path in paths for s in _rows(_json_lines(path), images or path.parent)]
        case "parquet":
            samples = [s for path in paths for s in _parquet(path)]
        case "webdataset":
            samples = [s for path in paths for s in _webdataset(path)]
    if source.limit is not None and source.limit < len(samples):
        keep = np.random.default_rng(seed).permutation(len(samples))[: source.limit]
        samples = [samples[i] for i in sorted(keep)]
    if not samples:
        raise MattoniError(
            f"data: {', '.join(source.files)} holds no samples of format {source.format}: check the format."
        )
    return SampleSet(samples, source.share, source.views)


def named_sample(key: str, opening: Callable[[], Image.Image], name: str, synonyms: Sequence[str] = ()) -> Sample:
    """A picture of one thing."""
    turns = tuple((question, answer_for(name)) for question in NAME_QUESTIONS)
    return Sample(key, opening, turns, name, tuple(synonyms) or (name,))


def _captioned(key: str, picture: Image.Image, captions: Sequence[str]) -> Sample:
    clean = [tidy_caption(c) for c in captions]
    turns = tuple((q, c) for q in CAPTION_QUESTIONS for c in clean)
    return Sample(key, lambda: picture, turns)


def tidy_caption(caption: str) -> str:
    """ "a dog runs ." -> "A dog runs." """
    text = " ".join(caption.split()).rstrip(" .").replace(" ,", ",").replace(" 's", "'s").replace('"', "")
    return f"{text[:1].upper()}{text[1:]}."


def _tiles(paths: Sequence[Path], classes: list[dict[str, Any]]) -> list[Sample]:
    pixels, labels = sheet_tiles(paths)
    names = [name_of_class(c) for c in classes]
    synonyms = [tuple(str(n) for n in c["names"]) for c in classes]

    def opener(i: int) -> Callable[[], Image.Image]:
        return lambda: Image.fromarray(pixels[i])

    return [named_sample(str(i), opener(i), names[y], synonyms[y]) for i, y in enumerate(labels)]


def _folder(path: Path) -> list[Sample]:
    """Pictures in sub-folders named after what they show, or beside a `.txt` of captions, one a line."""
    samples = []
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS):
        text, key = file.with_suffix(".txt"), file.relative_to(path).as_posix()
        if text.is_file():
            lines = [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
            samples.append(
                Sample(key, _opens(file), tuple((q, tidy_caption(c)) for q in CAPTION_QUESTIONS for c in lines))
            )
        elif file.parent != path:
            samples.append(named_sample(key, _opens(file), file.parent.name.replace("_", " ")))
        else:
            raise MattoniError(
                f"data: {file.name} has no name: put it in a folder named after what it shows, or add {text.name}."
            )
    return samples


def _opens(file: Path) -> Callable[[], Image.Image]:
    return lambda: Image.open(file).convert("RGB")


def _opens_bytes(content: bytes) -> Callable[[], Image.Image]:
    return lambda: Image.open(io.BytesIO(content)).convert("RGB")


def _json_list(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise MattoniError(f"data: {path.name} is not JSON ({problem}): check the file.") from problem
    if not isinstance(rows, list):
        raise MattoniError(f"data: {path.name} must be a JSON list of conversations, as LLaVA's files are.")
    return rows


def _json_lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as problem:
                raise MattoniError(
                    f"data: line {number} of {path.name} is not JSON ({problem}): correct it."
                ) from problem
    return rows


def turns_of(row: dict[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    """Question and answer pairs of a row: LLaVA's `conversations`, or `question` with `answer`/`answers`, or `caption`/`captions`."""
    if "conversations" in row:
        said = [(str(m["from"]), str(m["value"]).replace("<image>", "").strip()) for m in row["conversations"]]
        pairs = zip(said, said[1:], strict=False)
        return tuple((q, a) for (who, q), (whom, a) in pairs if who == "human" and whom == "gpt")
    if "question" in row:
        answers = row.get("answers") or [row.get("answer")]
        return tuple((str(row["question"]), str(a)) for a in answers if a is not None)
    captions = row.get("captions") or ([row["caption"]] if "caption" in row else [])
    if not captions:
        raise MattoniError(f"data: {where} has no conversations, question or captions: add one of them.")
    return tuple((q, tidy_caption(str(c))) for q in CAPTION_QUESTIONS for c in captions)


def _rows(rows: list[dict[str, Any]], images: Path) -> list[Sample]:
    """Rows that name a picture file; several rows of one picture become one sample."""
    turns: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for number, row in enumerate(rows, start=1):
        if "image" not in row:
            raise MattoniError(f"data: row {number} names no image: add the key 'image'.")
        turns[str(row["image"])].extend(turns_of(row, f"row {number}"))
    samples = []
    for name, pairs in turns.items():
        file = images / name
        if not file.is_file():
            raise MattoniError(f"data: there is no picture {name} in {images}: set images to their folder.")
        samples.append(Sample(name, _opens(file), tuple(pairs)))
    return samples


def _parquet(path: Path) -> list[Sample]:
    """A table with `image` (bytes, or Hugging Face's {bytes, path}) and the columns of a JSONL row."""
    from pyarrow import parquet

    samples = []
    for number, row in enumerate(parquet.read_table(path).to_pylist(), start=1):
        image = row.pop("image")
        content = image["bytes"] if isinstance(image, dict) else image
        row = {name: value for name, value in row.items() if value is not None}
        samples.append(
            Sample(f"{path.name}#{number}", _opens_bytes(content), turns_of(row, f"row {number} of {path.name}"))
        )
    return samples


def _webdataset(path: Path) -> list[Sample]:
    """A shard whose members share a key: a picture with `.json` (a row), `.txt` (captions) or `.cls.txt`/`.name` (a name)."""
    groups: dict[str, dict[str, bytes]] = defaultdict(dict)
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                folder, _, base = member.name.rpartition("/")
                key, _, ending = base.partition(".")
                groups[f"{folder}/{key}"][ending] = file.read()
    samples = []
    for key, parts in groups.items():
        picture = next((v for ending, v in parts.items() if f".{ending}" in PICTURE_ENDINGS), None)
        if picture is None:
            raise MattoniError(
                f"data: {key} of {path.name} has no picture: add one of {', '.join(sorted(PICTURE_ENDINGS))}."
            )
        if "name" in parts:
            samples.append(named_sample(key, _opens_bytes(picture), parts["name"].decode().strip()))
            continue
        row = (
            json.loads(parts["json"]) if "json" in parts else {"captions": parts.get("txt", b"").decode().splitlines()}
        )
        samples.append(Sample(key, _opens_bytes(picture), turns_of(row, key)))
    return samples

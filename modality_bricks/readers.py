"""Reads samples from folders, LLaVA JSON, JSON lines, parquet and WebDataset shards. A bad row is named in one sentence.

Training only. A row is a mapping with `conversations` (LLaVA), `question` with `answer` or `answers`, `caption` or `captions`,
or `name` (of the thing on the picture); in files of rows also `image`, and if it likes an `id`, and `spells` beside turns.
"""

import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from mattoni.errors import MattoniError

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
Row = dict[str, Any]
Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sample:
    """One picture and what may be said about it."""

    key: str  # names the picture within its source
    open: Callable[[], Image.Image]
    turns: Turns  # (question, answer); one is drawn each time
    name: str | None = None  # of the thing on it, if it is a named picture
    synonyms: tuple[str, ...] = ()
    spells: str = ""  # what the soft tokens say in words, one after the other, before they learn more than words


def answer_for(name: str) -> str:
    """A class name as a sentence: "An African elephant.", "Binoculars." """
    plural = name.endswith("s") and not name.endswith(("ss", "us")) or name == "mashed potato"
    if plural:
        return f"{name[0].upper()}{name[1:]}."
    return f"{'An' if name[0].lower() in 'aeiou' or name.startswith('hour') else 'A'} {name}."


def named_sample(key: str, opening: Callable[[], Image.Image], name: str, synonyms: Sequence[str] = ()) -> Sample:
    """A picture of one thing."""
    turns = tuple((question, answer_for(name)) for question in NAME_QUESTIONS)
    return Sample(key, opening, turns, name, tuple(synonyms) or (name,))


def captioned_sample(key: str, picture: Image.Image, captions: Sequence[str]) -> Sample:
    """A picture with what was written of it."""
    return Sample(key, lambda: picture, _captions(captions, key))


def tidy_caption(caption: str) -> str:
    """ "a dog runs ." -> "A dog runs." """
    text = " ".join(caption.split()).rstrip(" .").replace(" ,", ",").replace(" 's", "'s").replace('"', "")
    return f"{text[:1].upper()}{text[1:]}."


def _captions(captions: Iterable[str], where: str) -> Turns:
    tidy = [tidy_caption(caption) for caption in captions if caption.strip()]
    if not tidy:
        raise MattoniError(f"data: {where} has no caption, so there is nothing to learn from it: add one or remove it.")
    return tuple((question, caption) for question in CAPTION_QUESTIONS for caption in tidy)


def turns_of(row: Row, where: str) -> Turns:
    """Question and answer pairs of a row without a name. Raises MattoniError where there are none."""
    if "conversations" in row:
        try:
            said = [(str(m["from"]), str(m["value"]).replace("<image>", "").strip()) for m in row["conversations"]]
        except (TypeError, KeyError) as problem:
            raise MattoniError(f"data: {where}: each message of conversations needs from and value.") from problem
        pairs = zip(said, said[1:], strict=False)
        turns = [(q, a) for (who, q), (whom, a) in pairs if who == "human" and whom == "gpt"]
        if not turns:
            raise MattoniError(f"data: {where} has no message of human that gpt answers: correct its conversations.")
    elif "question" in row:
        answers = row.get("answers") or [row.get("answer")]
        turns = [(str(row["question"]), str(answer).strip()) for answer in answers if answer is not None]
    elif "captions" in row or "caption" in row:
        captions = row.get("captions") or [row.get("caption") or ""]
        return _captions(map(str, captions), where)
    else:
        raise MattoniError(f"data: {where} has no conversations, question, captions or name: add one of them.")
    if not turns or not all(answer for _, answer in turns):
        raise MattoniError(f"data: {where} has an empty answer, so its label mask would be empty: fill or remove it.")
    return tuple(turns)


def picture_of(source: Path | bytes, where: str) -> Callable[[], Image.Image]:
    """Opens a picture as the assistant does: upright, RGB, on white where it is transparent."""

    def opened() -> Image.Image:
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as file:
                picture = ImageOps.exif_transpose(file)
                if picture.has_transparency_data:
                    picture = picture.convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
                return picture.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
            raise MattoniError(
                f"data: {where}: its picture cannot be opened: replace it or remove the row."
            ) from problem

    return opened


def _sample(key: str, picture: Path | bytes, rows: Sequence[tuple[str, Row]]) -> Sample:
    """One picture with all rows about it, each with the words for where it stands."""
    where, first = rows[0]
    named = next((row["name"] for _, row in rows if row.get("name")), None)
    opening = picture_of(picture, where)
    if named is not None:
        return named_sample(key, opening, str(named).strip())
    spells = next((str(row["spells"]) for _, row in rows if row.get("spells")), "")
    return Sample(key, opening, tuple(turn for place, row in rows for turn in turns_of(row, place)), spells=spells)


# Folders


def read_folder(path: Path) -> list[Sample]:
    """Pictures in sub-folders named after what they show, or beside a `.txt` of captions, one a line."""
    samples = []
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS):
        text, key = file.with_suffix(".txt"), file.relative_to(path).as_posix()
        opening = picture_of(file, key)
        if text.is_file():
            lines = _text(text).splitlines()
            samples.append(Sample(key, opening, _captions(lines, text.relative_to(path).as_posix())))
        elif file.parent != path:
            samples.append(named_sample(key, opening, file.parent.name.replace("_", " ")))
        else:
            raise MattoniError(
                f"data: {file.name} has no name: put it in a folder named after what it shows, or add {text.name}."
            )
    return samples


# Files of rows: (where, row)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise MattoniError(f"data: {path.name} cannot be read as UTF-8 text: check the file.") from problem


def json_list(path: Path) -> list[tuple[str, Row]]:
    """The conversations of a LLaVA file."""
    try:
        rows = json.loads(_text(path))
    except ValueError as problem:
        raise MattoniError(f"data: {path.name} is not JSON ({problem}): check the file.") from problem
    if not isinstance(rows, list):
        raise MattoniError(f"data: {path.name} must be a JSON list of conversations, as LLaVA's files are.")
    return [(f"row {number} of {path.name}", row) for number, row in enumerate(rows, start=1)]


def json_lines(path: Path) -> list[tuple[str, Row]]:
    """The rows of a file with one JSON object a line; empty lines are passed over."""
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            try:
                rows.append((f"line {number} of {path.name}", json.loads(line)))
            except ValueError as problem:
                raise MattoniError(
                    f"data: line {number} of {path.name} is not JSON ({problem}): correct it."
                ) from problem
    return rows


def read_rows(rows: Sequence[tuple[str, Row]], images: Path) -> list[Sample]:
    """Rows that name a picture file; several rows of one picture become one sample."""
    about: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    seen: dict[str, tuple[str, str]] = {}
    for where, row in rows:
        if not isinstance(row, dict) or not row.get("image"):
            raise MattoniError(f"data: {where} names no image: add the key 'image'.")
        name = str(row["image"])
        # LLaVA's files say several things of one picture under one id; one id for two pictures is a mistake.
        if "id" in row:
            other, before = seen.setdefault(str(row["id"]), (name, where))
            if other != name:
                raise MattoniError(
                    f"data: {where} has the id '{row['id']}' of {before}, which is about another picture: "
                    "give each its own."
                )
        if not (images / name).is_file():
            raise MattoniError(f"data: {where}: there is no picture {name} in {images}: set images to their folder.")
        about[name].append((where, row))
    return [_sample(name, images / name, said) for name, said in about.items()]


def read_parquet(path: Path) -> list[Sample]:
    """A table with `image` (bytes, or Hugging Face's {bytes, path}) and the columns of a row."""
    from pyarrow import ArrowInvalid, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ArrowInvalid) as problem:
        raise MattoniError(f"data: {path.name} is not a parquet file or is damaged: check the file.") from problem
    samples = []
    for number, row in enumerate(rows, start=1):
        where, image = f"row {number} of {path.name}", row.get("image")
        content = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise MattoniError(f"data: {where} has no picture: the column 'image' must hold its bytes.")
        said = {name: value for name, value in row.items() if value is not None}
        samples.append(_sample(f"{path.name}#{number}", content, [(where, said)]))
    return samples


def read_shard(path: Path) -> list[Sample]:
    """A WebDataset shard whose members share a key: a picture with `.json` (a row), `.txt` (captions) or `.name`."""
    groups: dict[str, dict[str, bytes]] = defaultdict(dict)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    folder, _, base = member.name.rpartition("/")
                    key, _, ending = base.partition(".")
                    group = groups[f"{folder}/{key}".lstrip("/")]
                    if ending in group:
                        raise MattoniError(f"data: {path.name} holds {member.name} twice: give each its own key.")
                    group[ending] = file.read()
    except (OSError, tarfile.TarError) as problem:
        raise MattoniError(f"data: {path.name} is not a tar file or is damaged: check the file.") from problem
    return [_shard_sample(key, parts, f"{key} of {path.name}") for key, parts in groups.items()]


def _shard_sample(key: str, parts: dict[str, bytes], where: str) -> Sample:
    picture = next((content for ending, content in parts.items() if f".{ending.lower()}" in PICTURE_ENDINGS), None)
    if picture is None:
        raise MattoniError(f"data: {where} has no picture: add one of {', '.join(sorted(PICTURE_ENDINGS))}.")
    try:
        if "json" in parts:
            row = json.loads(parts["json"])
        elif "name" in parts:
            row = {"name": parts["name"].decode().strip()}
        else:
            row = {"captions": parts.get("txt", b"").decode().splitlines() or [""]}
    except ValueError as problem:
        raise MattoniError(f"data: the text of {where} is not JSON or not UTF-8: correct it.") from problem
    return _sample(key, picture, [(where, row)])

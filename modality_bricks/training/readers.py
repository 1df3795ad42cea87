"""Reads samples from folders, LLaVA JSON, JSON lines, parquet and WebDataset shards. A bad row is named in one sentence.

Training only. A row is a mapping with `conversations` (LLaVA), `question` with `answer` or `answers`, `caption` or `captions`,
or `name` (of the thing on the picture); in files of rows also `image`, and if it likes an `id`, and `spells` beside turns.
"""

import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from mattoni.errors import MattoniError

PICTURE_ENDINGS = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
# The first of each are the wordings that a user is likeliest to write, so they come up more often. Those that
# assistant/other_wordings.json measures with are held out.
NAME_QUESTIONS = (
    *["What is in the picture?"] * 4,
    *["What is in this picture?", "What is this?", "What do you see in the picture?"] * 2,
    "What does this image show?",
    "What is in the photo?",
    "Name the main object in the picture.",
    "What is that?",
    "what is this thing",
    "Tell me what it is.",
    "What can you see?",
    "Which object does the photo show?",
    "Do you recognise this?",
    "I took this picture. What is in it?",
    "What is this thing called?",
    "Please identify the object.",
    "what do you see",
    "Say what this is.",
    "Could you name the thing in the image?",
    "What is pictured?",
    "This is a photo of what?",
)
CAPTION_QUESTIONS = (
    *["Describe the picture.", "Describe this image in one sentence.", "Describe this photo."] * 2,
    "What is happening in the picture?",
    "What does the picture show?",
    "Write a caption for this image.",
    "What is in the picture?",
    "Describe the scene.",
    "describe this image",
    "Please write a sentence about the picture.",
    "Tell me what you see.",
    "What do you see in the photo?",
    "Could you describe the image for me?",
    "Briefly, what is happening?",
    "What is this photo about?",
    "A short caption, please.",
    "Who or what is in the picture, and what are they doing?",
    "what happens in this photo",
    "Say what is in the image.",
)
Row = dict[str, Any]
Turns = tuple[tuple[str, str], ...]
Kind = Literal["form", "no picture", "not opened", "duplicate id", "no answer", "unknown label"]


class BadRow(MattoniError):
    """Nothing can be learned from a row; `where` names it. A caller may pass it over and go on."""

    def __init__(self, kind: Kind, where: str, sentence: str) -> None:
        super().__init__(f"data: {where}{sentence}")
        self.kind, self.where = kind, where


Report = Callable[[BadRow], None]


def refuse(bad: BadRow) -> None:
    """Report a bad row by raising it."""
    raise bad


@contextmanager
def passing(report: Report) -> Iterator[None]:
    """Hand a bad row to `report`, which may raise it, and go on behind the block."""
    try:
        yield
    except BadRow as bad:
        report(bad)


@dataclass(frozen=True)
class Sample:
    """One picture and what may be said about it."""

    key: str  # names the picture within its source
    open: Callable[[], Image.Image]
    turns: Turns  # (question, answer); one is drawn each time
    name: str | None = None  # of the thing on it, if it is a named picture
    synonyms: tuple[str, ...] = ()
    spells: str = ""  # what the soft tokens say in words, one after the other, before they learn more than words
    where: str = ""  # in words, for a sentence about it


def answer_for(name: str) -> str:
    """A class name as a sentence: "An African elephant.", "Binoculars." """
    plural = name.endswith("s") and not name.endswith(("ss", "us")) or name == "mashed potato"
    if plural:
        return f"{name[0].upper()}{name[1:]}."
    return f"{'An' if name[0].lower() in 'aeiou' or name.startswith('hour') else 'A'} {name}."


def named_sample(
    key: str, opening: Callable[[], Image.Image], name: str, synonyms: Sequence[str] = (), where: str = ""
) -> Sample:
    """A picture of one thing."""
    turns = tuple((question, answer_for(name)) for question in NAME_QUESTIONS)
    return Sample(key, opening, turns, name, tuple(synonyms) or (name,), where=where or key)


def captioned_sample(key: str, picture: Image.Image, captions: Sequence[str], where: str = "") -> Sample:
    """A picture with what was written of it."""
    return Sample(key, lambda: picture, _captions(captions, where or key), where=where or key)


def tidy_caption(caption: str) -> str:
    """ "a dog runs ." -> "A dog runs." """
    text = " ".join(caption.split()).rstrip(" .").replace(" ,", ",").replace(" 's", "'s").replace('"', "")
    return f"{text[:1].upper()}{text[1:]}."


def _captions(captions: Iterable[str], where: str) -> Turns:
    tidy = [tidy_caption(caption) for caption in captions if caption.strip()]
    if not tidy:
        raise BadRow("no answer", where, " has no caption, so there is nothing to learn from it: add one or remove it.")
    return tuple((question, caption) for question in CAPTION_QUESTIONS for caption in tidy)


def turns_of(row: Row, where: str) -> Turns:
    """Question and answer pairs of a row without a name. Raises MattoniError where there are none."""
    if "conversations" in row:
        try:
            said = [(str(m["from"]), str(m["value"]).replace("<image>", "").strip()) for m in row["conversations"]]
        except (TypeError, KeyError) as problem:
            raise BadRow("form", where, ": each message of conversations needs from and value.") from problem
        pairs = zip(said, said[1:], strict=False)
        turns = [(q, a) for (who, q), (whom, a) in pairs if who == "human" and whom == "gpt"]
        if not turns:
            raise BadRow("form", where, " has no message of human that gpt answers: correct its conversations.")
    elif "question" in row:
        answers = row.get("answers") or [row.get("answer")]
        turns = [(str(row["question"]), str(answer).strip()) for answer in answers if answer is not None]
    elif "captions" in row or "caption" in row:
        captions = row.get("captions") or [row.get("caption") or ""]
        return _captions(map(str, captions), where)
    else:
        raise BadRow("form", where, " has no conversations, question, captions or name: add one of them.")
    if not turns or not all(answer for _, answer in turns):
        raise BadRow("no answer", where, " has an empty answer, so its label mask would be empty: fill or remove it.")
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
            raise BadRow(
                "not opened", where, ": its picture cannot be opened: replace it or remove the row."
            ) from problem

    return opened


def _samples(key: str, picture: Path | bytes, rows: Sequence[tuple[str, Row]], report: Report) -> list[Sample]:
    """One picture with all rows about it, each with the words for where it stands; none if all of them are bad."""
    opening, where = picture_of(picture, rows[0][0]), rows[0][0]
    named = next((row["name"] for _, row in rows if row.get("name")), None)
    if named is not None:
        return [named_sample(key, opening, str(named).strip(), where=where)]
    turns: list[tuple[str, str]] = []
    for place, row in rows:
        with passing(report):
            turns += turns_of(row, place)
    spells = next((str(row["spells"]) for _, row in rows if row.get("spells")), "")
    return [Sample(key, opening, tuple(turns), spells=spells, where=where)] if turns else []


# Folders


def read_folder(path: Path, report: Report = refuse) -> list[Sample]:
    """Pictures in sub-folders named after what they show, or beside a `.txt` of captions, one a line."""
    samples = []
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURE_ENDINGS):
        text, key = file.with_suffix(".txt"), file.relative_to(path).as_posix()
        opening = picture_of(file, key)
        with passing(report):
            if text.is_file():
                turns = _captions(_text(text).splitlines(), text.relative_to(path).as_posix())
                samples.append(Sample(key, opening, turns, where=key))
            elif file.parent != path:
                samples.append(named_sample(key, opening, file.parent.name.replace("_", " ")))
            else:
                advice = f" has no name: put it in a folder named after what it shows, or add {text.name}."
                raise BadRow("no answer", file.name, advice)
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


def json_lines(path: Path, report: Report = refuse) -> list[tuple[str, Row]]:
    """The rows of a file with one JSON object a line; empty lines are passed over."""
    rows = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            where = f"line {number} of {path.name}"
            with passing(report):
                try:
                    rows.append((where, json.loads(line)))
                except ValueError as problem:
                    raise BadRow("form", where, f" is not JSON ({problem}): correct it.") from problem
    return rows


def read_rows(rows: Sequence[tuple[str, Row]], images: Path, report: Report = refuse) -> list[Sample]:
    """Rows that name a picture file; several rows of one picture become one sample."""
    about: dict[str, list[tuple[str, Row]]] = defaultdict(list)
    seen: dict[str, tuple[str, str]] = {}
    for where, row in rows:
        with passing(report):
            name = picture_name(where, row, images)
            # LLaVA's files say several things of one picture under one id; one id for two pictures is a mistake.
            if "id" in row:
                other, before = seen.setdefault(str(row["id"]), (name, where))
                if other != name:
                    says = f" has the id '{row['id']}' of {before}, which is about another picture: give each its own."
                    raise BadRow("duplicate id", where, says)
            about[name].append((where, row))
    return [sample for name, said in about.items() for sample in _samples(name, images / name, said, report)]


def picture_name(where: str, row: object, images: Path) -> str:
    """What `image` says, if there is such a file."""
    if not isinstance(row, dict) or not row.get("image"):
        raise BadRow("no picture", where, " names no image: add the key 'image'.")
    name = str(row["image"])
    if not (images / name).is_file():
        raise BadRow("no picture", where, f": there is no picture {name} in {images}: set images to their folder.")
    return name


def read_parquet(path: Path, report: Report = refuse) -> list[Sample]:
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
        with passing(report):
            if not isinstance(content, bytes):
                raise BadRow("no picture", where, " has no picture: the column 'image' must hold its bytes.")
            said = {name: value for name, value in row.items() if value is not None}
            samples += _samples(f"{path.name}#{number}", content, [(where, said)], report)
    return samples


def read_shard(path: Path, report: Report = refuse) -> list[Sample]:
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
                        where = f"{member.name} of {path.name}"
                        report(BadRow("duplicate id", where, " is there twice: give each its own key."))
                    group.setdefault(ending, file.read())
    except (OSError, tarfile.TarError) as problem:
        raise MattoniError(f"data: {path.name} is not a tar file or is damaged: check the file.") from problem
    samples = []
    for key, parts in groups.items():
        with passing(report):
            samples += _shard_samples(key, parts, f"{key} of {path.name}", report)
    return samples


def _shard_samples(key: str, parts: dict[str, bytes], where: str, report: Report) -> list[Sample]:
    picture = next((content for ending, content in parts.items() if f".{ending.lower()}" in PICTURE_ENDINGS), None)
    if picture is None:
        raise BadRow("no picture", where, f" has no picture: add one of {', '.join(sorted(PICTURE_ENDINGS))}.")
    try:
        if "json" in parts:
            row = json.loads(parts["json"])
        elif "name" in parts:
            row = {"name": parts["name"].decode().strip()}
        else:
            row = {"captions": parts.get("txt", b"").decode().splitlines() or [""]}
    except ValueError as problem:
        raise BadRow("form", where, ": its text is not JSON or not UTF-8: correct it.") from problem
    return _samples(key, picture, [(where, row)], report)

"""Reads samples, pictures or recordings, from folders, LLaVA JSON, JSON lines, parquet and WebDataset shards. A bad row is named in one sentence.

Training only. A row is a mapping with `conversations` (LLaVA) or `messages` (Qwen), `question` with `answer` or `answers`,
`caption` or `captions`, or `name` (of the thing on the picture); in files of rows also `image` or `images`, or `audio` (a recording,
which is learned from as the picture of its sound), and if it likes an `id`, and `spells` beside turns. A talk without a picture is passed over.
"""

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeGuard

from PIL import Image

from brick_training.pictures import (
    PICTURE_ENDINGS,
    SOUND_ENDINGS,
    PictureFolder,
    is_systems,
    open_picture,
    open_sound,
)
from brick_training.talks import exchanges, has_talk, talk_of
from mattoni.errors import MattoniError
from mattoni.lines import decode, json_rows
from modality_bricks.spectrogram import sound_picture

CAPTION_ENDINGS = (".txt", ".caption")
_ENDINGS = PICTURE_ENDINGS | SOUND_ENDINGS
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
SOUND_QUESTIONS = (
    *["What is this sound?", "What do you hear?"] * 3,
    *["What is to be heard?", "What is in the recording?", "What makes this sound?"] * 2,
    "Which sound is this?",
    "Name the sound.",
    "What can be heard in this recording?",
    "what is that noise",
    "Do you recognise this sound?",
    "Tell me what it sounds like.",
)
Row = dict[str, Any]
Turns = tuple[tuple[str, str], ...]
Kind = Literal[
    "form",
    "no picture",
    "missing picture",
    "several pictures",
    "not opened",
    "duplicate id",
    "no answer",
    "unknown label",
    "only text",
    "other file",
    "system file",
    "older charset",
]
# What is no mistake of anybody's: a person hears of it, and the run goes on.
TOLD: frozenset[Kind] = frozenset({"only text", "other file", "system file", "older charset"})


class BadRow(MattoniError):
    """Nothing can be learned from a row; `where` names it. A caller may pass it over and go on."""

    def __init__(self, kind: Kind, where: str, sentence: str, tried: str = "") -> None:
        """tried  the path where something was looked for, in words"""
        super().__init__(f"data: {where}{sentence}")
        self.kind, self.where, self.tried = kind, where, tried


Report = Callable[[BadRow], None]


def refuse(bad: BadRow) -> None:
    """Report a bad row by raising it."""
    if bad.kind not in TOLD:
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
    key: str,
    opening: Callable[[], Image.Image],
    name: str,
    synonyms: Sequence[str] = (),
    where: str = "",
    questions: Sequence[str] = NAME_QUESTIONS,
) -> Sample:
    """A picture of one thing, or a recording of it."""
    turns = tuple((question, answer_for(name)) for question in questions)
    return Sample(key, opening, turns, name, tuple(synonyms) or (name,), where=where or key)


def wants_name(question: str) -> bool:
    """Whether a question of training asks what a thing is called; at run time a recogniser tells (`assistant.turn.recogniser`)."""
    return question in NAME_QUESTIONS


def captioned_sample(key: str, picture: Image.Image, captions: Sequence[str], where: str = "") -> Sample:
    """A picture with what was written of it."""
    return Sample(key, lambda: picture, _captions(captions, where or key), where=where or key)


def tidy_caption(caption: str) -> str:
    """ "a dog runs ." -> "A dog runs." """
    text = " ".join(caption.split()).rstrip(" .").replace(" ,", ",").replace(" 's", "'s").replace('"', "")
    return f"{text[:1].upper()}{text[1:]}."


def _captions(captions: Iterable[str], where: str, questions: Sequence[str] = CAPTION_QUESTIONS) -> Turns:
    tidy = [tidy_caption(caption) for caption in captions if caption.strip()]
    if not tidy:
        raise BadRow("no answer", where, " has no caption, so there is nothing to learn from it: add one or remove it.")
    return tuple((question, caption) for question in questions for caption in tidy)


def is_sound(source: Path | bytes) -> TypeGuard[Path]:
    """Whether a file is a recording, by its name; what has no name is a picture."""
    return isinstance(source, Path) and source.suffix.lower() in SOUND_ENDINGS


def turns_of(row: Row, where: str, questions: Sequence[str] = CAPTION_QUESTIONS) -> Turns:
    """Question and answer pairs of a row without a name. Raises MattoniError where there are none.

    questions  what a caption is the answer to
    """
    if has_talk(row):
        try:
            turns = exchanges(talk_of(row))
        except ValueError as problem:
            raise BadRow("form", where, f": {problem}.") from problem
        if not turns:
            says = " has no message of human that gpt answers (or of user that assistant answers): correct its conversations."
            raise BadRow("form", where, says)
    elif "question" in row:
        given = _listed(row.get("answers")) or _listed(row.get("answer"))
        turns = [(str(row["question"]), str(answer).strip()) for answer in given]
    elif row.get("captions") is not None or "caption" in row:
        return _captions(map(str, _listed(row.get("captions")) or _listed(row.get("caption"))), where, questions)
    else:
        raise BadRow("form", where, " has no conversations, question, captions or name: add one of them.")
    if not turns or not all(answer for _, answer in turns):
        raise BadRow("no answer", where, " has an empty answer, so its label mask would be empty: fill or remove it.")
    return tuple(turns)


def _listed(value: Any) -> list[Any]:
    """One value or several, without those that are missing; of VQA's answers, which are mappings, the words."""
    values = value if isinstance(value, list | tuple) else [value]
    return [v.get("answer") if isinstance(v, dict) else v for v in values if v is not None]


def picture_of(source: Path | bytes, where: str) -> Callable[[], Image.Image]:
    """Opens a picture as the assistant does; a recording's file as the picture of its sound."""

    def opened() -> Image.Image:
        what = "recording" if is_sound(source) else "picture"
        try:
            if is_sound(source):
                return sound_picture(open_sound(source).blocks())
            return open_picture(source, where)
        except MattoniError as problem:
            reason = str(problem).rstrip(".")
            advice = f": its {what} cannot be opened: replace it or remove the row ({reason})."
            raise BadRow("not opened", where, advice) from problem

    return opened


def _samples(key: str, picture: Path | bytes, rows: Sequence[tuple[str, Row]], report: Report) -> list[Sample]:
    """One picture with all rows about it, each with the words for where it stands; none if all of them are bad."""
    opening, where = picture_of(picture, rows[0][0]), rows[0][0]
    names, captions = _questions_on(picture)
    named = next((row["name"] for _, row in rows if row.get("name")), None)
    if named is not None:
        return [named_sample(key, opening, str(named).strip(), where=where, questions=names)]
    turns: list[tuple[str, str]] = []
    for place, row in rows:
        with passing(report):
            turns += turns_of(row, place, captions)
    spells = next((str(row["spells"]) for _, row in rows if row.get("spells")), "")
    return [Sample(key, opening, tuple(turns), spells=spells, where=where)] if turns else []


def _questions_on(source: Path | bytes) -> tuple[Sequence[str], Sequence[str]]:
    """What its name and what a caption of it is the answer to."""
    return (SOUND_QUESTIONS, SOUND_QUESTIONS) if is_sound(source) else (NAME_QUESTIONS, CAPTION_QUESTIONS)


# Folders


def read_folder(path: Path, report: Report = refuse) -> list[Sample]:
    """Pictures, or recordings, in sub-folders named after what they show, or beside their captions, one a line.

    The captions of `a.jpg` are in `a.txt`, `a.jpg.txt`, `a.caption` or `a.jpg.caption`.
    """
    own = []
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        if is_systems(relative := file.relative_to(path)):
            report(BadRow("system file", relative.as_posix(), " belongs to an operating system."))
        else:
            own.append(file)
    pictures = [file for file in own if file.suffix.lower() in _ENDINGS]
    texts = {str(file).casefold(): file for file in own if file.suffix.lower() in CAPTION_ENDINGS}
    read: set[Path] = set()
    samples = []
    for file in pictures:
        key = file.relative_to(path).as_posix()
        captions = next((texts[name] for name in _caption_names(file) if name in texts), None)
        with passing(report):
            if captions is not None:
                read.add(captions)
                samples.append(_captioned_file(path, file, captions, report))
            elif file.parent == path or (thing := thing_of(file.relative_to(path))) is None:
                advice = f" has no name: put it in a folder named after what it shows, or add {file.stem}.txt."
                raise BadRow("no answer", key, advice)
            else:
                samples.append(named_sample(key, picture_of(file, key), thing, questions=_questions_on(file)[0]))
    for file in own:
        if file not in read and file.suffix.lower() not in _ENDINGS:
            where = file.relative_to(path).as_posix()
            report(BadRow("other file", where, " is neither a picture or recording nor the captions of one."))
    return samples


def _caption_names(picture: Path) -> list[str]:
    """Where a picture's captions may be, in any case of letters."""
    stems = (str(picture.with_suffix("")), str(picture))
    return [f"{stem}{ending}".casefold() for ending in CAPTION_ENDINGS for stem in stems]


def _captioned_file(path: Path, picture: Path, captions: Path, report: Report) -> Sample:
    """A picture of a folder with the lines of a file beside it."""
    key, where = picture.relative_to(path).as_posix(), captions.relative_to(path).as_posix()
    turns = _captions(caption_lines(captions.read_bytes(), where, report), where, _questions_on(picture)[1])
    return Sample(key, picture_of(picture, key), turns, where=key)


def caption_lines(content: bytes, where: str, report: Report = refuse) -> list[str]:
    """Lines of captions. What is not UTF-8 is read as Windows-1252, and `report` hears of it."""
    try:
        text = decode(content)
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        shown = " ".join(text.split())[:60]
        report(BadRow("older charset", f"{where}: '{shown}'", " is not UTF-8 and was read as Windows-1252."))
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


_DATE = re.compile(
    r"(?:19|20)\d\d(?:[-_. ]?(?:0?[1-9]|1[0-2])(?:[-_. ]?(?:0?[1-9]|[12]\d|3[01]))?)?(?:[-_. T].*)?"
    r"|(?:0?[1-9]|[12]\d|3[01])[-_. ](?:0?[1-9]|1[0-2])[-_. ](?:19|20)\d\d"
)
_PART_OF_DATE = re.compile(r"(?:0?[1-9]|[12]\d|3[01])(?:[-_. ]?[^\W\d_]+)?")
_HOLDS_PICTURES = {"images", "image", "imgs", "img", "pictures", "pics", "photos", "jpg", "jpeg", "png"}


def thing_of(picture: Path) -> str | None:
    """What a picture's folders say that it shows: the nearest that is no date and does not only say that it holds pictures.

    picture  path below the folder of all pictures

    None where there are only dates.
    """
    named: list[str] = []
    dated = False
    for part in picture.parts[:-1]:
        dated = _DATE.fullmatch(part) is not None or (dated and _PART_OF_DATE.fullmatch(part) is not None)
        if not dated:
            named.append(part)
    things = [part for part in named if part.lower() not in _HOLDS_PICTURES] or named
    return things[-1].replace("_", " ") if things else None


# Files of rows: (where, row)


def rows_of(path: Path, report: Report = refuse) -> list[tuple[str, Row]]:
    """The rows of a file with one JSON object a line, or with one list of them, as LLaVA's are; empty lines are passed over."""

    def bad(number: int, why: str) -> None:
        report(BadRow("form", f"line {number} of {path.name}", f" is not JSON ({why}): correct it."))

    return [(f"{unit} {number} of {path.name}", row) for number, unit, row in json_rows(path, bad)]


def read_rows(rows: Sequence[tuple[str, Row]], images: Path, report: Report = refuse) -> list[Sample]:
    """Rows that name a picture file; several rows of one picture become one sample. Talks without a picture are passed over."""
    folder = PictureFolder(images)
    about: dict[Path, list[tuple[str, Row]]] = defaultdict(list)
    seen: dict[str, tuple[Path, str]] = {}
    for where, row in rows:
        with passing(report):
            file = picture_file(where, row, folder)
            # LLaVA's files say several things of one picture under one id; one id for two pictures is a mistake.
            if row.get("id") is not None:
                other, before = seen.setdefault(str(row["id"]), (file, where))
                if other != file:
                    says = f" has the id '{row['id']}' of {before}, which is about another picture: give each its own."
                    raise BadRow("duplicate id", where, says)
            about[file].append((where, row))
    return [sample for file, said in about.items() for sample in _samples(_key(file, images), file, said, report)]


def _key(file: Path, images: Path) -> str:
    """A picture's name within its folder, or its path where it lies elsewhere."""
    return file.relative_to(images).as_posix() if file.is_relative_to(images) else str(file)


def picture_file(where: str, row: object, folder: PictureFolder) -> Path:
    """The picture that a row names. Raises MattoniError where it names none, several, or one that is not there."""
    if not isinstance(row, dict):
        raise BadRow("form", where, " is no JSON object: correct it.")
    names = pictures_named(row)
    if not names:
        if has_talk(row) and not _shows(row):
            raise BadRow("only text", where, " is a talk without a picture.")
        raise BadRow("no picture", where, " names no image: add the key 'image'.")
    if len(names) > 1:
        says = f" names {len(names)} pictures, and an image brick learns from one at a time: split or remove it."
        raise BadRow("several pictures", where, says)
    if re.match(r"https?://|data:", names[0]):
        says = f": the picture {names[0][:80]} is not on this machine: fetch it first and name the file."
        raise BadRow("missing picture", where, says)
    found = folder.find(names[0])
    if found is None:
        tried = f"{folder.tried(names[0])} was tried"
        says = (
            f": there is no picture {names[0]} in {folder.folder} ({tried}): set images to the folder of the pictures."
        )
        raise BadRow("missing picture", where, says, tried)
    return found


def pictures_named(row: Row) -> list[str]:
    """What a row calls its pictures, under `image`, `images` (a recording: `audio`) or among the words of its talk."""
    given = [str(name) for key in ("image", "images", "audio") for name in _listed(row.get(key)) if str(name).strip()]
    if given or not has_talk(row):
        return given
    try:
        return [name for said in talk_of(row) for name in said.pictures]
    except ValueError:
        return []


def _shows(row: Row) -> bool:
    """Whether a picture stands among the words of a talk. A talk that cannot be read is told as such, not as one of text."""
    try:
        return any(said.shows for said in talk_of(row))
    except ValueError:
        return True


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
                if is_systems(PurePosixPath(member.name)):
                    report(BadRow("system file", f"{member.name} of {path.name}", " belongs to an operating system."))
                elif file is not None:
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
    picture = next(
        (
            content
            for ending, content in parts.items()
            if PurePosixPath(f"x.{ending.lower()}").suffix in PICTURE_ENDINGS
        ),
        None,
    )
    if picture is None:
        raise BadRow("no picture", where, f" has no picture: add one of {', '.join(sorted(PICTURE_ENDINGS))}.")
    text = next((content for ending, content in parts.items() if f".{ending}".endswith(CAPTION_ENDINGS)), b"")
    try:
        if "json" in parts:
            row = json.loads(parts["json"])
        elif "name" in parts:
            row = {"name": decode(parts["name"]).strip()}
        else:
            row = {"captions": caption_lines(text, where, report) or [""]}
    except ValueError as problem:
        raise BadRow("form", where, ": its text is not JSON or not UTF-8: correct it.") from problem
    return _samples(key, picture, [(where, row)], report)

"""Rows of a task: read, checked, worded as messages, and cut into batches. Knows nothing of models or of what is on pictures."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from brick_training.pictures import PictureFolder
from brick_training.talks import exchanges, has_talk, talk_of
from mattoni.errors import MattoniError
from mattoni.lines import read_text
from task_bricks.training.tables import rows_of

# How an instruction and its text are joined: mostly a blank line, as at run time, now and then as people type.
JOINERS = ("\n\n", "\n\n", "\n\n", "\n\n", "\n", " ")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One example of a task: an instruction and what it is to be carried out on, a question about pictures or about a text."""

    id: str
    instruction: str  # empty where the input is the whole message
    input: str
    answers: tuple[str, ...]
    images: tuple[Path, ...] = ()
    text: str = ""  # what several rows ask about; a turn shows it before the message
    told: str = ""  # what a turn writes between the text and the message

    @property
    def message(self) -> str:
        """What the user says, in the row's own words."""
        message = f"{self.instruction}\n\n{self.input}" if self.instruction else self.input
        return f"{self.text.strip()}\n\n{self.told}{message}" if self.text else message


@dataclass(frozen=True)
class Example:
    """One training example: what the user says, what the assistant should answer."""

    message: str
    answer: str
    is_default: bool
    images: tuple[Path, ...] = ()
    row: str = ""  # the id of the row that it is made of


def read_rows(path: Path, say: Say | None = None) -> list[Row]:
    """Read rows from a file of JSON lines, of one JSON list, or a CSV or TSV (or `.gz` of them). A bad row is named by its number.

    A row has `answers`, and `instruction` with `input`, or `question`; `instruction`, `input` and `output` as Alpaca's;
    `prompt` and `completion`; or a talk, ShareGPT's `conversations` or OpenAI's `messages`, of which the first exchange is
    taken. `id` may be anything, or missing; `images` are paths from the file's folder. `text` stands before a `question` that is
    asked of it.

    say  hears what was left out
    """
    if not path.is_file():
        raise MattoniError(f"{path.name}: there is no such file in {path.parent}; check the recipe and MATTONI_DATA.")
    pictures = PictureFolder(path.parent)
    rows: list[Row] = []
    seen: dict[str, int] = {}
    left_out: Counter[str] = Counter()
    for number, _, value in rows_of(path, "write it again as JSONL."):
        row = _parse_row(value, pictures, number, f"{path.name}, row {number}", left_out)
        if row.id in seen:
            raise MattoniError(f"{path.name}, row {number}: id {row.id!r} was used in row {seen[row.id]}.")
        seen[row.id] = number
        rows.append(row)
    if not rows:
        raise MattoniError(f"{path.name} holds no rows.")
    for what, count in left_out.items():
        if say is not None and count:
            say(f"{path.name}: {count} of {len(rows)} rows have {what}.")
    return rows


def _parse_row(value: object, pictures: PictureFolder, number: int, where: str, left_out: Counter[str]) -> Row:
    """One value of a file as a `Row`; what of it is not learned from is counted."""
    if not isinstance(value, dict):
        raise MattoniError(f"{where}: a row is a JSON object, this is a {type(value).__name__}.")
    instruction, said, answers = _talked(value, where, left_out) if has_talk(value) else _asked(value, where)
    if not answers or not all(answers):
        raise MattoniError(f"{where}: 'answers' must be a list of at least one text that is not empty.")
    images = []
    for name in _texts(value, "images") or _texts(value, "image"):
        found = pictures.find(name)
        if found is None:
            raise MattoniError(f"{where}: there is no picture {name} ({pictures.tried(name)} was tried).")
        images.append(found)
    # Beside numbers that other rows have as their id, that of a row without one must not be one of them.
    name = _text(value, "id") or f"row {number}"
    return Row(
        name, instruction, said, tuple(answers), tuple(images), _text(value, "text") if "question" in value else ""
    )


def _talked(value: dict[str, Any], where: str, left_out: Counter[str]) -> tuple[str, str, list[str]]:
    """Instruction (none), message and answer of the first exchange of a talk."""
    try:
        talk = talk_of(value)
    except ValueError as problem:
        raise MattoniError(f"{where}: {problem}.") from problem
    pairs = exchanges(talk)
    if not pairs or not pairs[0][0]:
        raise MattoniError(f"{where}: this talk has no message of a user that an assistant answers.")
    left_out["a message of the system, which is left out: a skill is asked without one"] += any(
        said.role == "system" for said in talk
    )
    left_out["more than one exchange, of which the first is learned from"] += len(pairs) > 1
    question, answer = pairs[0]
    return "", question, [answer]


def _asked(value: dict[str, Any], where: str) -> tuple[str, str, list[str]]:
    """Instruction (empty where the input is the whole message), input and answers of a row that is no talk."""
    answers = next((found for key in _ANSWERS if (found := _texts(value, key))), [])
    for key in ("question", "prompt"):
        if key in value:
            return "", _needed(value, key, where), answers
    instruction = _needed(value, "instruction", where)
    if "answers" not in value and not _text(value, "input"):
        return "", instruction, answers  # Alpaca's, where nothing is to be worked on
    return instruction, _needed(value, "input", where), answers


_ANSWERS = ("answers", "answer", "output", "completion", "response")


def _needed(value: dict[str, Any], key: str, where: str) -> str:
    if not (text := _text(value, key)):
        raise MattoniError(f"{where}: {key!r} is missing or empty.")
    return text


def _text(value: dict[str, Any], key: str) -> str:
    """A text or a number as text, as it stands; empty where there is none or it is blank."""
    found = value.get(key)
    text = str(found) if isinstance(found, str | int | float) else ""
    return text if text.strip() else ""


def _texts(value: dict[str, Any], key: str) -> list[str]:
    """One text or several; what is no text is empty."""
    found = value.get(key)
    if isinstance(found, list):
        return [_text({key: entry}, key) for entry in found]
    return [_text(value, key)] if found is not None else []


def read_wordings(path: Path, task: str) -> list[str]:
    """The wordings of a task's instruction whose split is `train`; those of other splits are never returned."""
    try:
        entries = json.loads(read_text(path))[task]
        wordings = [entry["text"] for entry in entries if entry["split"] == "train"]
    except (KeyError, TypeError, json.JSONDecodeError) as problem:
        raise MattoniError(f"{path.name}: no list of wordings for {task!r} could be read ({problem}).") from problem
    if not wordings:
        raise MattoniError(f"{path.name}: {task!r} has no wording with split 'train'.")
    return wordings


def word_message(row: Row, wordings: Sequence[str], default_share: float, rng: random.Random) -> Example:
    """Word a row as a person might: its own instruction and a blank line, or another wording before or after it."""
    if not wordings or rng.random() < default_share:
        return Example(row.message, row.answers[0], is_default=True, images=row.images, row=row.id)
    wording, joiner = rng.choice(wordings), rng.choice(JOINERS)
    parts = (wording, row.input) if rng.random() < 0.5 else (row.input, wording)
    return Example(joiner.join(parts), row.answers[0], is_default=False, images=row.images, row=row.id)


def epoch_batches(
    rows: Sequence[Row], wordings: Sequence[str], default_share: float, batch_size: int, seed: int, epoch: int
) -> Iterator[list[Example]]:
    """Cut one epoch into batches of like length, in an order that depends on `seed` and `epoch` alone.

    Rows are shuffled, worded, and sorted within pools of 50 batches: default wordings together (their batches share a
    longer prompt prefix, which is computed once), then by length (little padding). A pool's batches are shuffled. Rows that ask
    about one text have batches of their own, for the same reason.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(rows)
    rng.shuffle(order)
    if any(row.text for row in order):
        yield from _batches_of_texts(order, batch_size, rng)
        return
    pool_size = 50 * batch_size
    for start in range(0, len(order), pool_size):
        pool = [word_message(row, wordings, default_share, rng) for row in order[start : start + pool_size]]
        pool.sort(key=lambda example: (example.is_default, len(example.message) + len(example.answer)))
        batches = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        rng.shuffle(batches)
        yield from batches


def _batches_of_texts(rows: Sequence[Row], batch_size: int, rng: random.Random) -> Iterator[list[Example]]:
    by_text: dict[str, list[Example]] = {}
    for row in rows:
        by_text.setdefault(row.text or row.id, []).append(word_message(row, (), 1.0, rng))
    batches = [about[i : i + batch_size] for about in by_text.values() for i in range(0, len(about), batch_size)]
    rng.shuffle(batches)
    yield from batches


class Batches:
    """Batches by number, epoch after epoch without end: what a run that was stopped needs to go on where it was."""

    def __init__(
        self, rows: Sequence[Row], wordings: Sequence[str], default_share: float, batch_size: int, seed: int
    ) -> None:
        self._cut = partial(epoch_batches, rows, wordings, default_share, batch_size, seed)
        self._epoch, self._batches = 0, list(self._cut(0))
        self._per_epoch = len(self._batches)  # as many in every epoch

    def __getitem__(self, number: int) -> list[Example]:
        epoch, place = divmod(number, self._per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, list(self._cut(epoch))
        return self._batches[place]

"""Rows of a task: read, checked, worded as messages, and cut into batches. Knows nothing of models or of what is on pictures."""

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mattoni.errors import MattoniError

# How an instruction and its text are joined: mostly a blank line, as at run time, now and then as people type.
JOINERS = ("\n\n", "\n\n", "\n\n", "\n\n", "\n", " ")


@dataclass(frozen=True)
class Row:
    """One example of a task: an instruction and what it is to be carried out on, or a question about pictures."""

    id: str
    instruction: str  # empty where the input is the whole message
    input: str
    answers: tuple[str, ...]
    images: tuple[Path, ...] = ()

    @property
    def message(self) -> str:
        """What the user says, in the row's own words."""
        return f"{self.instruction}\n\n{self.input}" if self.instruction else self.input


@dataclass(frozen=True)
class Example:
    """One training example: what the user says, what the assistant should answer."""

    message: str
    answer: str
    is_default: bool
    images: tuple[Path, ...] = ()


def read_rows(path: Path) -> list[Row]:
    """Read rows from a JSONL file (or `.gz`): `id`, `answers`, and `instruction` with `input`, or `question`.

    `images` are paths from the file's folder. A bad row is named by its number.
    """
    if not path.is_file():
        raise MattoniError(f"{path.name}: there is no such file in {path.parent}; check the recipe and MATTONI_DATA.")
    opener = gzip.open if path.suffix == ".gz" else open
    rows: list[Row] = []
    seen: dict[str, int] = {}
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = _parse_row(line, path.parent, f"{path.name}, row {number}")
                if row.id in seen:
                    raise MattoniError(f"{path.name}, row {number}: id {row.id!r} was used in row {seen[row.id]}.")
                seen[row.id] = number
                rows.append(row)
    except (OSError, EOFError, UnicodeDecodeError) as problem:
        raise MattoniError(f"{path.name} cannot be read ({problem}): write it again as JSONL.") from problem
    if not rows:
        raise MattoniError(f"{path.name} holds no rows.")
    return rows


def _parse_row(line: str, folder: Path, where: str) -> Row:
    """One line of JSON as a `Row`."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as problem:
        raise MattoniError(f"{where}: this is not JSON ({problem.msg}).") from problem
    if not isinstance(value, dict):
        raise MattoniError(f"{where}: a row is a JSON object, this is a {type(value).__name__}.")
    asked = ("question",) if "question" in value else ("instruction", "input")
    for key in ("id", *asked):
        if not isinstance(value.get(key), str) or not value[key].strip():
            raise MattoniError(f"{where}: {key!r} is missing or empty.")
    answers = value.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise MattoniError(f"{where}: 'answers' must be a list of at least one text that is not empty.")
    names = value.get("images", [])
    if not isinstance(names, list) or not all(isinstance(name, str) and (folder / name).is_file() for name in names):
        raise MattoniError(f"{where}: 'images' must be a list of pictures that lie beside the file.")
    instruction, said = ("", value["question"]) if "question" in value else (value["instruction"], value["input"])
    return Row(value["id"], instruction, said, tuple(answers), tuple(folder / name for name in names))


def read_wordings(path: Path, task: str) -> list[str]:
    """The wordings of a task's instruction whose split is `train`; those of other splits are never returned."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))[task]
        wordings = [entry["text"] for entry in entries if entry["split"] == "train"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as problem:
        raise MattoniError(f"{path.name}: no list of wordings for {task!r} could be read ({problem}).") from problem
    if not wordings:
        raise MattoniError(f"{path.name}: {task!r} has no wording with split 'train'.")
    return wordings


def word_message(row: Row, wordings: Sequence[str], default_share: float, rng: random.Random) -> Example:
    """Word a row as a person might: its own instruction and a blank line, or another wording before or after it."""
    if not wordings or rng.random() < default_share:
        return Example(row.message, row.answers[0], is_default=True, images=row.images)
    wording, joiner = rng.choice(wordings), rng.choice(JOINERS)
    parts = (wording, row.input) if rng.random() < 0.5 else (row.input, wording)
    return Example(joiner.join(parts), row.answers[0], is_default=False, images=row.images)


def epoch_batches(
    rows: Sequence[Row], wordings: Sequence[str], default_share: float, batch_size: int, seed: int, epoch: int
) -> Iterator[list[Example]]:
    """Cut one epoch into batches of like length, in an order that depends on `seed` and `epoch` alone.

    Rows are shuffled, worded, and sorted within pools of 50 batches: default wordings together (their batches share a
    longer prompt prefix, which is computed once), then by length (little padding). A pool's batches are shuffled.
    """
    rng = random.Random(f"{seed}/{epoch}")
    order = list(rows)
    rng.shuffle(order)
    pool_size = 50 * batch_size
    for start in range(0, len(order), pool_size):
        pool = [word_message(row, wordings, default_share, rng) for row in order[start : start + pool_size]]
        pool.sort(key=lambda example: (example.is_default, len(example.message) + len(example.answer)))
        batches = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        rng.shuffle(batches)
        yield from batches


def batches_from(
    rows: Sequence[Row], wordings: Sequence[str], default_share: float, batch_size: int, seed: int, first: int
) -> Iterator[list[Example]]:
    """Batches without end, starting with number `first`: what a resumed run needs to go on where it stopped."""
    per_epoch = -(-len(rows) // batch_size)
    epoch, skip = divmod(first, per_epoch)
    while True:
        for number, batch in enumerate(epoch_batches(rows, wordings, default_share, batch_size, seed, epoch)):
            if number >= skip:
                yield batch
        epoch, skip = epoch + 1, 0

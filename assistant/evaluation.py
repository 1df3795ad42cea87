"""Asks the assistant every row of a file and scores the answers. Knows how a row is checked, not how metrics work."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from assistant.look import Attachment
from assistant.metrics import METRICS, Metric, Scored, score
from mattoni.errors import MattoniError
from mattoni.files import write_text


class Row(BaseModel):
    """One line of a rows' file. Further keys (where a row came from, say) are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, coerce_numbers_to_str=True)
    id: str
    question: str | None = None
    instruction: str | None = None
    input: str | None = None
    image: str | None = None
    images: tuple[str, ...] = ()
    file: str | None = None
    answers: tuple[str, ...] = Field(min_length=1)
    metric: Metric
    words: PositiveInt | None = None  # only the first words of the answer count

    @model_validator(mode="after")
    def _asks_one_thing(self) -> "Row":
        if (self.question is None) == (self.instruction is None):
            raise ValueError("give either 'question', or 'instruction' and 'input'")
        if self.question is not None and self.input is not None:
            raise ValueError("'input' belongs to 'instruction'; join it to the question")
        if self.image is not None and self.images:
            raise ValueError("give either 'image' or 'images'")
        if not all(answer.strip() for answer in self.answers):
            raise ValueError("an answer is empty")
        return self

    @property
    def message(self) -> str:
        """What the user says: the question, or the instruction, a blank line and the input."""
        return self.question if self.question is not None else "\n\n".join(filter(None, (self.instruction, self.input)))

    @property
    def pictures(self) -> tuple[str, ...]:
        """The pictures' paths, relative to the rows' file."""
        return (self.image,) if self.image is not None else self.images


@dataclass(frozen=True)
class Reply:
    """What the assistant said to one row. With an `error`, one sentence, the answer so far is scored all the same."""

    answer: str
    trace: Mapping[str, Any]
    error: str | None = None


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """Read and check a rows' file, or its first `limit` rows. Errors name the row by its number, counted from 1."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise MattoniError(f"{path} cannot be read ({reason}): name a file of JSON lines.") from problem
    rows: list[Row] = []
    numbers: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if limit is not None and len(rows) >= limit:
            break
        where = f"{path.name}, row {number}"
        row = _parse_row(line, where)
        if row.id in numbers:
            raise MattoniError(f"{where}: the id '{row.id}' is that of row {numbers[row.id]}; make it unique.")
        for name in (*row.pictures, *filter(None, [row.file])):
            if not (path.parent / name).is_file():
                raise MattoniError(f"{where}: there is no file '{name}' beside the rows' file.")
        numbers[row.id] = number
        rows.append(row)
    if not rows:
        raise MattoniError(f"{path.name} holds no rows: write one JSON object per line.")
    return rows


def _parse_row(line: str, where: str) -> Row:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as problem:
        raise MattoniError(f"{where}: this is not JSON ({problem.msg}); write one object per line.") from problem
    if not isinstance(values, dict):
        raise MattoniError(f"{where}: this is not a JSON object; write one object per line.")
    try:
        return Row.model_validate(values)
    except ValidationError as problem:
        error = problem.errors()[0]
        key = ".".join(map(str, error["loc"]))
        if key == "metric" and error["type"] != "missing":
            raise MattoniError(
                f"{where}: no metric is called '{error['input']}' (known: {', '.join(METRICS)})."
            ) from problem
        if error["type"] == "missing":
            raise MattoniError(f"{where}: '{key}' is missing; add it.") from problem
        place = f"{key}: " if key else ""
        raise MattoniError(f"{where}: {place}{error['msg'].removeprefix('Value error, ')}.") from problem


def shuffled_pictures(rows: Sequence[Row], seed: int = 0) -> list[Row]:
    """Rows with each picture replaced by another one of the file: the baseline of an assistant that does not look.

    One cycle over all distinct pictures, so none keeps its place. Raises MattoniError with fewer than two of them.
    """
    names = sorted({name for row in rows for name in row.pictures})
    if len(names) < 2:
        raise MattoniError("Pictures can be shuffled only when the rows have at least two different ones.")
    random.Random(seed).shuffle(names)
    other = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [
        row.model_copy(update={"image": None, "images": tuple(other[name] for name in row.pictures)})
        if row.pictures
        else row
        for row in rows
    ]


def attachments_of(row: Row, folder: Path) -> tuple[Attachment, ...]:
    """The row's pictures and file as a user would send them. Their names say nothing of what they show."""
    sent = [(name, f"picture{n}" if len(row.pictures) > 1 else "picture") for n, name in enumerate(row.pictures, 1)]
    sent += [(row.file, "document")] if row.file else []
    # A file called beehive.webp would tell the answer.
    return tuple(Attachment(stem + Path(name).suffix, (folder / name).read_bytes()) for name, stem in sent)


def replies(
    rows: Sequence[Row], folder: Path, ask: Callable[[str, tuple[Attachment, ...]], Reply]
) -> Iterator[tuple[Row, Reply]]:
    """Ask the rows one after the other, each as the first message of a conversation of its own."""
    for row in rows:
        yield row, ask(row.message, attachments_of(row, folder))


def report(asked: Sequence[tuple[Row, Reply]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores with n and a 95 % interval per metric, and one line per row: id, answer, score, trace."""
    scores: dict[str, Any] = {}
    row_scores: dict[str, float] = {}
    for metric in METRICS:
        of_metric = [(row, reply) for row, reply in asked if row.metric == metric]
        if not of_metric:
            continue
        result = score(metric, [Scored(reply.answer, row.answers, row.words) for row, reply in of_metric])
        row_scores |= {row.id: value for (row, _), value in zip(of_metric, result.rows, strict=True)}
        scores[metric] = {
            "score": round(result.value, 4),
            "n": len(of_metric),
            "low": round(result.low, 4),
            "high": round(result.high, 4),
        }
    notices = Counter(notice["code"] for _, reply in asked for notice in reply.trace.get("notices", ()))
    bricks = Counter(brick["name"] for _, reply in asked for brick in reply.trace.get("bricks", ()))
    summary = {
        "n": len(asked),
        "scores": scores,
        "distinct_answers": len({reply.answer for _, reply in asked}),
        "bricks": dict(bricks),
        "notices": dict(notices),
        "failed": sum(reply.error is not None for _, reply in asked),
    }
    lines = [
        {"id": row.id, "answer": reply.answer, "score": round(row_scores[row.id], 4), "trace": dict(reply.trace)}
        | ({"error": reply.error} if reply.error is not None else {})
        for row, reply in asked
    ]
    return summary, lines


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, as a whole file or none."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

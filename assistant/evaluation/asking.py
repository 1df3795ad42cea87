"""Asks the assistant every row of a file and scores the answers. Knows how a row is checked, not how metrics work."""

import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, field_validator, model_validator

from assistant.evaluation.looping import goes_round
from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.inputs import Attachment
from mattoni.lines import json_rows, read_text
from mattoni.metrics import METRICS, Metric, Scored, score
from mattoni.paths import shipped_models

if TYPE_CHECKING:  # a bad row must not wait for torch to be named
    from assistant.assistant import Assistant
    from assistant.host.host import Host
    from assistant.host.sampling import Sampling
    from assistant.turn.route import Choices


class Earlier(BaseModel):
    """A message of the same conversation that is asked before the row's own; its answer is not scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    question: str
    image: str | None = None
    file: str | None = None
    audio: str | None = None


class Said(BaseModel):
    """A message of a conversation that was held before the row's own, as chat files have it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    role: Literal["user", "assistant"]
    content: str
    image: str | None = None


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
    audio: str | None = None  # a recording; without a question it is the question
    answers: tuple[str, ...] = ()  # without them, and without a metric, the row is asked and not scored
    metric: Metric | None = None
    words: PositiveInt | None = None  # only the first words of the answer count
    names: (
        str | tuple[str, ...]
    ) = ()  # of `named`: all that could be named, or a JSON file of them beside the rows' file
    before: tuple[Earlier, ...] = ()  # the earliest first; one alone may stand without brackets
    history: tuple[Said, ...] = ()  # as `before`, with the answers that were given: nothing of it is asked again

    @field_validator("before", mode="before")
    @classmethod
    def _one_or_several(cls, before: Any) -> Any:
        return (before,) if isinstance(before, dict | Earlier) else before

    @model_validator(mode="after")
    def _asks_one_thing(self) -> "Row":
        is_spoken = self.audio is not None and self.instruction is None
        if not is_spoken and (self.question is None) == (self.instruction is None):
            raise ValueError("give either 'question', or 'instruction' and 'input'")
        if self.metric == "wer" and self.audio is None:
            raise ValueError("'wer' compares what was heard with the answers: give 'audio'")
        if self.question is not None and self.input is not None:
            raise ValueError("'input' belongs to 'instruction'; join it to the question")
        if self.image is not None and self.images:
            raise ValueError("give either 'image' or 'images'")
        if self.before and self.history:
            raise ValueError("give either 'before' or 'history'")
        for place, said in enumerate(self.history):
            if said.role != ("user", "assistant")[place % 2]:
                raise ValueError("'history' begins with a user's message, and an assistant's follows each")
            if said.image is not None and said.role == "assistant":
                raise ValueError("an image in 'history' belongs to a user's message")
        if len(self.history) % 2:
            raise ValueError("'history' ends with an assistant's message; the row's own follows it")
        if (self.metric is None) != (not self.answers):
            raise ValueError("'answers' and 'metric' need each other")
        if (self.metric == "named") != bool(self.names):
            raise ValueError("'names' and the metric 'named' need each other")
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

    @property
    def asked(self) -> Hashable:
        """What tells this row from others in a file of replies, worded otherwise or shuffled too."""
        return self.id, self.message, self.pictures


@dataclass(frozen=True)
class Reply:
    """What the assistant said to one row. With an `error`, one sentence, the answer so far is scored all the same."""

    answer: str
    trace: Mapping[str, Any]
    error: str | None = None

    @property
    def heard(self) -> str:
        """What was understood of the recordings."""
        return "\n".join(found["text"] for found in self.trace.get("heard", ()))


def read_rows(path: Path, limit: int | None = None) -> list[Row]:
    """Read and check a rows' file, or its first `limit` rows. Errors name the row by its number, counted from 1."""
    rows: list[Row] = []
    numbers: dict[str, int] = {}
    for number, _, value in islice(json_rows(path, advice="name a file of JSON lines."), limit):
        where = f"{path.name}, row {number}"
        row = _parse_row(value, where)
        if row.id in numbers:
            raise MattoniError(f"{where}: the id '{row.id}' is that of row {numbers[row.id]}; make it unique.")
        listed = row.names if isinstance(row.names, str) else None
        earlier = [name for message in row.before for name in (message.image, message.file, message.audio)]
        earlier += [said.image for said in row.history]
        for name in (*row.pictures, *filter(None, [row.file, row.audio, listed, *earlier])):
            if not (path.parent / name).is_file():
                raise MattoniError(f"{where}: there is no file '{name}' beside the rows' file.")
        if listed is not None:
            row = row.model_copy(update={"names": _names(path.parent / listed)})
        numbers[row.id] = number
        rows.append(row)
    if not rows:
        raise MattoniError(f"{path.name} holds no rows: write one JSON object per line.")
    return rows


@lru_cache
def _names(path: Path) -> tuple[str, ...]:
    """A JSON list of names."""
    try:
        names = json.loads(read_text(path))
    except ValueError as problem:
        raise MattoniError(f"{path.name} is no JSON list of names ({problem}): write it anew.") from problem
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MattoniError(f"{path.name} is no JSON list of names: write it anew.")
    return tuple(names)


def _parse_row(values: object, where: str) -> Row:
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


def attachments_of(row: Row | Earlier | Said, folder: Path) -> tuple[Attachment, ...]:
    """The pictures and the file of a row, or of a message before it, as a user would send them.

    Their names say nothing of what they show.
    """
    pictures = row.pictures if isinstance(row, Row) else tuple(filter(None, [row.image]))
    sent = [(name, f"picture{n}" if len(pictures) > 1 else "picture") for n, name in enumerate(pictures, 1)]
    file = None if isinstance(row, Said) else row.file
    sent += [(file, "document")] if file else []
    audio = None if isinstance(row, Said) else row.audio
    sent += [(audio, "recording")] if audio else []
    # A file called beehive.webp would tell the answer.
    return tuple(Attachment(stem + Path(name).suffix, (folder / name).read_bytes()) for name, stem in sent)


class Message(NamedTuple):
    """What a user sends, and the answer that it was given; None: the assistant is asked."""

    text: str
    attachments: tuple[Attachment, ...] = ()
    answer: str | None = None


def messages_of(row: Row, folder: Path) -> tuple[Message, ...]:
    """What a user sends for the row, one after the other: the row's own message is the last."""
    earlier = [Message(message.question, attachments_of(message, folder)) for message in row.before]
    held = zip(row.history[::2], row.history[1::2], strict=True)
    earlier += [Message(asked.content, attachments_of(asked, folder), answered.content) for asked, answered in held]
    return (*earlier, Message(row.message, attachments_of(row, folder)))


def replies(
    rows: Sequence[Row], folder: Path, ask: Callable[[tuple[Message, ...]], Reply], at_once: int = 1
) -> Iterator[tuple[Row, Reply]]:
    """Ask the rows, each in a conversation of its own, so many at once; in their order."""
    with ThreadPoolExecutor(at_once) as pool:
        yield from zip(rows, pool.map(lambda row: ask(messages_of(row, folder)), rows), strict=True)


def kept_replies(path: Path) -> dict[Hashable, Reply]:
    """The replies of a file that `reply_and_keep` writes, by `Row.asked`; a line that a stop cut short is taken out."""
    lines: list[dict[str, Any]] = []
    if path.is_file():
        lines = [row.value for row in json_rows(path, lambda number, why: None)]
        write_lines(path, lines)
    return {
        (line["id"], line["message"], tuple(line["pictures"])): Reply(line["answer"], line["trace"], line["error"])
        for line in lines
    }


def reply_and_keep(
    rows: Sequence[Row],
    folder: Path,
    ask: Callable[[tuple[Message, ...]], Reply],
    path: Path,
    at_once: int = 1,
) -> dict[Hashable, Reply]:
    """As `replies`, by `Row.asked`, each appended to the file as it comes, so that a run can be stopped and gone on with."""
    said: dict[Hashable, Reply] = {}
    with path.open("a", encoding="utf-8") as file:
        for row, reply in replies(rows, folder, ask, at_once):
            line = {"id": row.id, "message": row.message, "pictures": row.pictures, **asdict(reply)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            said[row.asked] = reply
    return said


def ask_missing(
    rows: Sequence[Row],
    folder: Path,
    ask: Callable[[tuple[Message, ...]], Reply],
    path: Path,
    at_once: int = 1,
) -> list[dict[str, Any]]:
    """The lines of `report` for the rows; those that have a reply in the file are not asked again."""
    said = kept_replies(path)
    missing = [row for row in rows if row.asked not in said]
    print(f"{path.name}: {len(missing)} of {len(rows)} to ask", file=sys.stderr, flush=True)
    said |= reply_and_keep(missing, folder, ask, path, at_once)
    return report([(row, said[row.asked]) for row in rows])[1]


def shipped_assistant(folder: Path, host: "Host | str" = "builtin") -> "Assistant":
    """An assistant with the shipped bricks alone, whose own bricks and conversations live in `folder`.

    What a user has added would change what is measured. A host may serve several.
    """
    from assistant.assistant import Assistant
    from assistant.bricks.settle import lends_to
    from assistant.conversations.store import ConversationStore
    from assistant.host.host import load_host
    from assistant.registry import Registry

    own = folder / "bricks"
    loaded = load_host(host) if isinstance(host, str) else host
    registry = Registry([own, shipped_models() / "bricks"])
    return Assistant(loaded, registry, ConversationStore(folder), own, lends=lends_to(loaded))


def asking(assistant: "Assistant", choices: "Choices", sampling: "Sampling") -> Callable[[tuple[Message, ...]], Reply]:
    """What sends a row's messages to the assistant and waits. A conversation of several is deleted afterwards."""

    def ask(messages: tuple[Message, ...]) -> Reply:
        conversation = assistant.store.new() if len(messages) > 1 else None
        try:
            for message in messages:
                if message.answer is not None:
                    assert conversation is not None
                    _hold(assistant, conversation, message, choices, sampling)
                    continue
                ticket = assistant.ask(message.text, message.attachments, choices, sampling, conversation)
                ticket.wait()
        finally:
            if conversation is not None:
                assistant.store.delete(conversation)
        return Reply(ticket.text, ticket.trace.to_json() if ticket.trace is not None else {}, ticket.error)

    return ask


def _hold(
    assistant: "Assistant", conversation: str, message: Message, choices: "Choices", sampling: "Sampling"
) -> None:
    """Put an exchange into a conversation as it was held. A picture is looked at as in a turn; what is said then is dropped."""
    store = assistant.store
    assert message.answer is not None
    if message.attachments:
        one_token = sampling.model_copy(update={"max_tokens": 1})
        assistant.ask(message.text, message.attachments, choices, one_token, conversation).wait()
        answer = store.messages(conversation)[-1].id
    else:
        store.add_question(conversation, message.text)
        answer = store.begin_answer(conversation)
    store.finish_answer(answer, message.answer, "done")


def report(asked: Sequence[tuple[Row, Reply]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores with n and a 95 % interval per metric, and one line per row: id, answer, score, trace.

    Rows without a metric have no score; of `wer` what was heard is scored, whatever was answered. `looping` counts the answers that go round in circles.
    """
    scores: dict[str, Any] = {}
    row_scores: dict[str, float | None] = {row.id: None for row, _ in asked}
    for metric in METRICS:
        of_metric = [(row, reply) for row, reply in asked if row.metric == metric]
        if not of_metric:
            continue
        result = score(
            metric,
            [
                Scored(reply.heard if metric == "wer" else reply.answer, row.answers, row.words, tuple(row.names))
                for row, reply in of_metric
            ],
        )
        row_scores |= {row.id: round(value, 4) for (row, _), value in zip(of_metric, result.rows, strict=True)}
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
        "looping": sum(goes_round(reply.answer) for _, reply in asked),
        "parameters_used": _mean_share([reply.trace.get("parameters", {}) for _, reply in asked]),
        "distinct_answers": len({reply.answer for _, reply in asked}),
        "bricks": dict(bricks),
        "notices": dict(notices),
        "failed": sum(reply.error is not None for _, reply in asked),
    }
    lines = [
        {"id": row.id, "answer": reply.answer, "score": row_scores[row.id], "trace": dict(reply.trace)}
        | ({"error": reply.error} if reply.error is not None else {})
        for row, reply in asked
    ]
    return summary, lines


def _mean_share(counted: Sequence[Mapping[str, int]]) -> float | None:
    """The mean part of all parameters that took part; None where no turn asked the host."""
    shares = [(c["host"] + c["bricks"]) / (c["host"] + c["installed"]) for c in counted if c]
    return round(sum(shares) / len(shares), 4) if shares else None


def write_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, as a whole file or none."""
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

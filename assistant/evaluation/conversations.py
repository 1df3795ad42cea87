"""Holds scripted conversations and says what went wrong: `python -m assistant.evaluation.conversations [FILE …] [--out OUT]`

A conversation is a YAML file (`Conversation`): what is sent turn by turn, which bricks must take part and which must not, which
attachment the answer is about, what is right to say where one thing is, and what must be told. Without a FILE, those of
`tests/conversations`. Greedy, in a home of its own, with the shipped bricks and what the conversation adds. Prints one JSON
object; OUT keeps it too.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from assistant.assistant import Assistant
from assistant.evaluation.asking import Reply, shipped_assistant
from assistant.evaluation.looping import goes_round
from assistant.evaluation.sent import Sent, telling_words
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from mattoni.errors import MattoniError, run_command
from mattoni.files import write_text
from mattoni.inputs import Attachment
from mattoni.metrics import Metric, Scored, score

# What a turn may only tell when it is expected to: the question was not answered, or not from all that was sent.
_TOLD_ONLY_IF_EXPECTED = ("no-picture", "no-document", "refused", "gone")
_STRAYED = "about: more is said of"
_WRITTEN = Path(__file__).resolve().parents[2] / "tests" / "conversations"


class Turn(BaseModel):
    """A message and what is expected of its turn.

    bricks, without  must take part, must not; nor must a skill that `bricks` does not name
    about            the attachment that the answer is about, of this message or an earlier one: its words say so, or it is
                     word for word what is answered about that attachment alone
    answers, metric  as in a row; at least half of the metric's best is right
    told, untold     each found, or not found, in the code or the sentence of a notice
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    say: str = ""
    attach: tuple[str, ...] = ()
    vision: str | None = None
    switched_on: tuple[str, ...] = ()
    switched_off: tuple[str, ...] = ()
    bricks: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    about: str | None = None
    answers: tuple[str, ...] = ()
    metric: Metric | None = None
    words: PositiveInt | None = None
    told: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _sends_and_expects(self) -> "Turn":
        if not (self.say.strip() or self.attach):
            raise ValueError("it sends nothing: give 'say' or 'attach'")
        if not (self.bricks or self.without):
            raise ValueError("give 'bricks' that must take part or, in 'without', some that must not")
        if (self.metric is None) != (not self.answers):
            raise ValueError("'answers' and 'metric' need each other")
        return self

    @property
    def choices(self) -> Choices:
        switched = dict.fromkeys(self.switched_on, Choice("on")) | dict.fromkeys(self.switched_off, Choice("off"))
        return Choices(vision=self.vision, bricks=switched)


class Conversation(BaseModel):
    """Turns, the attachments that they send by name, and knowledge bricks that are made of attachments before."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str
    attachments: dict[str, Sent] = Field(default_factory=dict)
    knowledge: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    turns: tuple[Turn, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_what_it_has(self) -> "Conversation":
        used = {name for turn in self.turns for name in (*turn.attach, *filter(None, [turn.about]))}
        used |= {name for names in self.knowledge.values() for name in names}
        if missing := sorted(used - set(self.attachments)):
            raise ValueError(f"there is no attachment '{missing[0]}'")
        if unused := sorted(set(self.attachments) - used):
            raise ValueError(f"the attachment '{unused[0]}' is never sent")
        sent: set[str] = set()
        for number, turn in enumerate(self.turns, 1):
            sent |= set(turn.attach)
            if turn.about is not None and turn.about not in sent:
                raise ValueError(f"turn {number} is about '{turn.about}', which was not sent until then")
        return self


@dataclass(frozen=True)
class Held:
    """What was said in one turn; each fault is a sentence that begins with its kind."""

    say: str
    answer: str
    bricks: tuple[str, ...]
    notices: tuple[str, ...]
    faults: tuple[str, ...]


def read_conversation(path: Path) -> Conversation:
    """Read and check a conversation. Raises MattoniError with one sentence."""
    try:
        return Conversation.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise MattoniError(f"{path} cannot be read ({problem.strerror}): check the path.") from problem
    except yaml.YAMLError as problem:
        raise MattoniError(f"{path.name} is no YAML ({' '.join(str(problem).split())}): mend it.") from problem
    except ValidationError as problem:
        error = problem.errors()[0]
        place = ".".join(str(key + 1 if isinstance(key, int) else key) for key in error["loc"])
        raise MattoniError(
            f"{path.name}: {place + ': ' if place else ''}{error['msg'].removeprefix('Value error, ')}."
        ) from problem


def hold(conversation: Conversation, folder: Path, assistant: Assistant, max_tokens: int = 64) -> list[Held]:
    """Say it turn by turn to the assistant, greedily. What is added for it, knowledge and conversation, is removed after."""
    files = {name: sent.attachment(name, folder) for name, sent in conversation.attachments.items()}
    words = {name: sent.words for name, sent in conversation.attachments.items()}
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens, seed=0)
    for brick, names in conversation.knowledge.items():
        assistant.add_knowledge(brick, [files[name] for name in names])
    talk = assistant.store.new()
    known = [name for names in conversation.knowledge.values() for name in names]
    held = []
    try:
        sent: list[str] = []
        for turn in conversation.turns:
            sent += turn.attach
            ticket = assistant.ask(turn.say, [files[name] for name in turn.attach], turn.choices, sampling, talk)
            ticket.wait()
            trace = ticket.trace.to_json() if ticket.trace is not None else {}
            reply = Reply(ticket.text, trace, ticket.error)
            found = faults(turn, reply, {name: words[name] for name in (*known, *sent)})
            if any(fault.startswith(_STRAYED) for fault in found):
                alone = _said_alone(turn, files, assistant, sampling)
                found = [fault for fault in found if not fault.startswith(_STRAYED) or reply.answer != alone]
            held.append(
                Held(
                    turn.say,
                    reply.answer,
                    bricks_of(reply),
                    tuple(f"{notice['code']}: {notice['text']}" for notice in trace.get("notices", ())),
                    tuple(found),
                )
            )
    finally:
        assistant.store.delete(talk)
        for brick in conversation.knowledge:
            assistant.remove_brick(brick)
    return held


def _said_alone(turn: Turn, files: dict[str, Attachment], assistant: Assistant, sampling: Sampling) -> str:
    """What is answered about the attachment that a turn is about, in a conversation that holds nothing else."""
    assert turn.about is not None
    talk = assistant.store.new()
    try:
        ticket = assistant.ask(turn.say, [files[turn.about]], turn.choices, sampling, talk)
        ticket.wait()
        return ticket.text
    finally:
        assistant.store.delete(talk)


def bricks_of(reply: Reply) -> tuple[str, ...]:
    """The bricks that took part, each once."""
    return tuple(dict.fromkeys(brick["name"] for brick in reply.trace.get("bricks", ())))


def faults(turn: Turn, reply: Reply, words: dict[str, set[str]]) -> list[str]:
    """What is not as expected. `words`: what one may say of each attachment that was sent so far, and of each that is known."""
    found = [f"error: {reply.error}"] if reply.error is not None else []
    used = bricks_of(reply)
    found += [f"brick: {name} did not take part" for name in turn.bricks if name not in used]
    skills = [brick["name"] for brick in reply.trace.get("bricks", ()) if brick["kind"] == "task"]
    strangers = dict.fromkeys(name for name in used if name in turn.without or name in skills)
    found += [f"brick: {name} took part" for name in strangers if name not in turn.bricks]
    if turn.about is not None:
        found += _strayed(turn, reply.answer, words)
    if turn.metric is not None:
        value = score(turn.metric, [Scored(reply.answer, turn.answers, turn.words)]).value
        found += [f"answer: none of {', '.join(turn.answers)}"] if value < 0.5 else []
    told = [(notice["code"], notice["text"]) for notice in reply.trace.get("notices", ())]
    found += [f"notice: nothing is told of '{wanted}'" for wanted in turn.told if not _tells(told, wanted)]
    found += [f"notice: '{unwanted}' is told" for unwanted in turn.untold if _tells(told, unwanted)]
    for code, text in told:
        if code in _TOLD_ONLY_IF_EXPECTED and not any(_tells([(code, text)], wanted) for wanted in turn.told):
            found.append(f"notice: {text}")
    return found + (["loop: the answer goes round in circles"] if goes_round(reply.answer) else [])


def _tells(told: Sequence[tuple[str, str]], wanted: str) -> bool:
    return any(wanted == code or wanted.casefold() in text.casefold() for code, text in told)


def _strayed(turn: Turn, answer: str, words: dict[str, set[str]]) -> list[str]:
    """Other attachments of which the answer says more than of the one that it is about.

    Words that the message holds, or that suit both, tell nothing.
    """
    assert turn.about is not None
    said, own = telling_words(answer) - telling_words(turn.say), words[turn.about]
    if not answer.strip():
        return ["about: there is no answer"]
    found = []
    for name, others in words.items():
        strange, right = said & (others - own), said & (own - others)
        if len(strange) > len(right):
            found.append(f"{_STRAYED} {name} ({', '.join(sorted(strange))}) than of {turn.about}")
    return found


def summary(held: dict[str, tuple[Conversation, list[Held]]], skipped: dict[str, str]) -> dict[str, Any]:
    """Shares over all turns, and each conversation's own."""
    turns = [
        (turn, said)
        for conversation, told in held.values()
        for turn, said in zip(conversation.turns, told, strict=True)
    ]

    def share(kind: str, of: Sequence[tuple[Turn, Held]]) -> dict[str, Any]:
        right = sum(not any(fault.startswith(f"{kind}:") for fault in said.faults) for _, said in of)
        return {"right": right, "n": len(of), "share": round(right / len(of), 4) if of else None}

    return {
        "turns": len(turns),
        "right brick": share("brick", turns),
        "right attachment": share("about", [(turn, said) for turn, said in turns if turn.about is not None]),
        "right answer": share("answer", [(turn, said) for turn, said in turns if turn.metric is not None]),
        "right notices": share("notice", turns),
        "looping": sum(goes_round(said.answer) for _, said in turns),
        "skipped": skipped,
        "conversations": {
            name: {"title": conversation.title, "turns": [asdict(said) for said in told]}
            for name, (conversation, told) in held.items()
        },
    }


def main() -> None:
    """Command line of `python -m assistant.evaluation.conversations`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.evaluation.conversations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, help="keep what is printed in this file too")
    parser.add_argument("--host", default="builtin")
    parser.add_argument("--max-tokens", type=int, default=64)
    given = parser.parse_args()
    paths = given.files or sorted(_WRITTEN.glob("*.yaml"))
    read = {path.stem: (path, read_conversation(path)) for path in paths}
    if not read:
        raise MattoniError(f"There are no conversations in {_WRITTEN}: name some files.")
    held, skipped = {}, {}
    with tempfile.TemporaryDirectory() as home, closing(shipped_assistant(Path(home), given.host)) as assistant:
        for name, (path, conversation) in read.items():
            print(name, file=sys.stderr, flush=True)
            try:
                held[name] = conversation, hold(conversation, path.parent, assistant, given.max_tokens)
            except MattoniError as problem:
                skipped[name] = str(problem)
    printed = json.dumps(summary(held, skipped), indent=1, ensure_ascii=False)
    if given.out is not None:
        write_text(given.out, printed + "\n")
    print(printed)


if __name__ == "__main__":
    run_command(main)

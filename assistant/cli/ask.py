"""`mattoni ask` and `mattoni chat`."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.cli.given import given_paths, is_path, split_line
from assistant.cli.opening import check_names, opened
from assistant.cli.options import (
    AsJson,
    Audio,
    Device,
    Dtype,
    Files,
    Gates,
    HeatMaps,
    HostName,
    Images,
    Knowledge,
    MaxTokens,
    MinusOne,
    NoBricks,
    Quantise,
    Seed,
    Skills,
    Temperature,
    TopP,
    Vision,
    WeightsKind,
    choices_of,
    read_attachments,
    sampling_of,
)
from assistant.cli.terminal import explain, finish, printable, read_line, show_table, stream, trace_of
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from assistant.assistant import Assistant
    from assistant.host.sampling import Sampling
    from assistant.turn.route import Choices
    from assistant.turn.ticket import Ticket
    from mattoni.inputs import Attachment

CHAT_HELP = (
    "/image FILE, /file FILE, or a file dropped here: send with the next question.  "
    "/audio FILE: a recording that is the question.  "
    "/trace: how the last answer came about.  /new  /quit"
)
NOTHING_ASKED = "Nothing was asked yet."

app = typer.Typer()


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask; may be left out with --audio.")] = "",
    image: Images = None,
    file: Files = None,
    audio: Audio = None,
    vision: Vision = None,
    skill: Skills = None,
    knowledge: Knowledge = None,
    gate: Gates = None,
    no_bricks: NoBricks = False,
    as_json: AsJson = False,
    minus_one: MinusOne = False,
    heat_maps: HeatMaps = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 0.9,
    max_tokens: MaxTokens = 512,
    seed: Seed = None,
    host: HostName = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
    weights: WeightsKind = "auto",
) -> None:
    """Ask one question and print the answer as it comes."""
    if minus_one and heat_maps is not None:
        raise MattoniError("--minus-one asks several times and --explain shows one answer: give one of the two.")
    if heat_maps is not None and (not image or heat_maps.suffix.lower() != ".png"):
        raise MattoniError(
            "--explain shows where a brick looked: give a picture with --image and a name ending in .png."
        )
    choices = choices_of(vision, skill, knowledge, no_bricks, gate)
    if not question.strip() and not audio:
        raise typer.BadParameter(
            'Nothing is asked: write a question, such as mattoni ask "What is a brick?", or give --audio.'
        )
    attachments = read_attachments([*(image or ()), *(file or ()), *(audio or ())])
    check_names(choices)
    sampling = sampling_of(temperature, top_p, max_tokens, seed)
    with opened(host, device, dtype, quantise, give_way=True, weights=weights) as assistant:
        if minus_one:
            _without_each(assistant, question, attachments, choices, sampling, as_json)
            return
        ticket = assistant.ask(question, attachments, choices, sampling)
        if as_json:
            finish(ticket)
            print(json.dumps({"answer": ticket.text, "trace": trace_of(ticket)}, ensure_ascii=False))
        else:
            stream(ticket)
            explain(ticket)
        if heat_maps is not None:
            from assistant.turn.heat_map import save_heat_maps

            assert ticket.trace is not None  # a turn that failed has raised
            save_heat_maps(ticket.trace, attachments, heat_maps)


def _without_each(
    assistant: "Assistant",
    question: str,
    attachments: "Sequence[Attachment]",
    choices: "Choices",
    sampling: "Sampling",
    as_json: bool,
) -> None:
    """Print the answer, and a table of the same turn without each of its bricks."""

    def told(brick: str) -> None:
        print(printable(f"without {brick} …" if brick else "answering …"), file=sys.stderr)

    found = assistant.minus_one(question, attachments, choices, sampling, told)
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
        return
    print(printable(found.answer))
    for notice in found.trace.notices:
        print(printable(f"! {notice.text}"), file=sys.stderr)
    cells = [
        [one.brick, one.kind, one.answer, "yes" if one.is_changed else "no", _signed(one.moved)]
        for one in found.without
    ]
    show_table(["without", "kind", "answer", "changed", "ln p of the answer, a token"], cells)


def _signed(nats: float | None) -> str:
    return "not asked" if nats is None else f"{nats:+.2f}"


@app.command()
def chat(
    audio: Audio = None,
    vision: Vision = None,
    skill: Skills = None,
    knowledge: Knowledge = None,
    gate: Gates = None,
    no_bricks: NoBricks = False,
    temperature: Temperature = 0.0,
    top_p: TopP = 0.9,
    max_tokens: MaxTokens = 512,
    seed: Seed = None,
    host: HostName = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
    weights: WeightsKind = "auto",
) -> None:
    """Talk in the terminal. Ctrl-C stops an answer, Ctrl-D ends; the page shows the conversation too."""
    choices = choices_of(vision, skill, knowledge, no_bricks, gate)
    check_names(choices)
    sampling = sampling_of(temperature, top_p, max_tokens, seed)
    spoken = read_attachments(audio or ())
    with opened(host, device, dtype, quantise, give_way=True, weights=weights) as assistant:
        print(CHAT_HELP)
        talk = _Talk(assistant, choices, sampling)
        if spoken:
            talk.say(spoken)
        while (line := read_line()) is not None and line != "/quit":
            try:
                talk.take(line)
            except MattoniError as problem:
                # The conversation goes on after a mistake.
                print(printable(str(problem)), file=sys.stderr)


class _Talk:
    """A conversation in the terminal: what waits for the next question, and how the last answer came about."""

    def __init__(self, assistant: "Assistant", choices: "Choices", sampling: "Sampling") -> None:
        self._assistant, self._choices, self._sampling = assistant, choices, sampling
        self._begin()

    def take(self, line: str) -> None:
        """Do what a line says: a command, files that were dropped on the terminal, a question, or both of these."""
        command, *rest = line.split(maxsplit=1)
        if command in ("/image", "/file"):
            self._attach(given_paths(rest[0]) if rest else [], command)
        elif command == "/audio":
            self.say(read_attachments(_named(given_paths(rest[0]) if rest else [], command)))
        elif command == "/new":
            self._begin()
        elif command == "/trace":
            print(json.dumps(trace_of(self._last), indent=1, ensure_ascii=False) if self._last else NOTHING_ASKED)
        else:
            files, question = split_line(line)
            if not files and line.startswith("/"):
                if not is_path(line):
                    print(CHAT_HELP)
                    return
                files, question = given_paths(line), ""
            if files:
                self._attach(files, command)
            if question:
                self._ask(question)

    def _begin(self) -> None:
        self._conversation: str | None = None
        self._waiting: list[Attachment] = []
        self._last: Ticket | None = None

    def _attach(self, paths: Sequence[Path], command: str) -> None:
        attachments = read_attachments(_named(paths, command))
        self._waiting += attachments
        names = ", ".join(attachment.name for attachment in attachments)
        print(printable(f"{names} {'goes' if len(attachments) == 1 else 'go'} with the next question."))

    def say(self, recordings: "Sequence[Attachment]") -> None:
        """Ask what is said in these."""
        self._waiting += recordings
        self._ask("")

    def _ask(self, question: str) -> None:
        self._conversation = self._conversation or self._assistant.store.new()
        ticket = self._assistant.ask(question, self._waiting, self._choices, self._sampling, self._conversation)
        self._last, self._waiting = ticket, []
        stream(ticket)
        explain(ticket)


def _named(paths: Sequence[Path], command: str) -> Sequence[Path]:
    """The paths, of which there must be one at least."""
    if not paths:
        example = "memo.wav" if command == "/audio" else "photo.jpg"
        raise MattoniError(f"{command} needs a file: {command} {example}, or drop one on the terminal.")
    return paths

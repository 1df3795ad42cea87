"""`mattoni ask` and `mattoni chat`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.cli.opening import check_names, opened
from assistant.cli.options import (
    AsJson,
    Device,
    Dtype,
    Files,
    HeatMaps,
    HostName,
    Images,
    Knowledge,
    MaxTokens,
    NoBricks,
    Quantise,
    Seed,
    Skills,
    Temperature,
    TopP,
    Vision,
    choices_of,
    read_attachments,
    sampling_of,
)
from assistant.cli.terminal import explain, finish, printable, read_line, stream, trace_of
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from assistant.host.engine import Ticket
    from mattoni.inputs import Attachment

CHAT_HELP = (
    "/image FILE, /file FILE: send with the next question.  /trace: how the last answer came about.  /new  /quit"
)

app = typer.Typer()


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    image: Images = None,
    file: Files = None,
    vision: Vision = None,
    skill: Skills = None,
    knowledge: Knowledge = None,
    no_bricks: NoBricks = False,
    as_json: AsJson = False,
    heat_maps: HeatMaps = None,
    temperature: Temperature = 0.0,
    top_p: TopP = 0.9,
    max_tokens: MaxTokens = 512,
    seed: Seed = None,
    host: HostName = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
) -> None:
    """Ask one question and print the answer as it comes."""
    if heat_maps is not None and (not image or heat_maps.suffix.lower() != ".png"):
        raise MattoniError(
            "--explain shows where a brick looked: give a picture with --image and a name ending in .png."
        )
    choices = choices_of(vision, skill, knowledge, no_bricks)
    attachments = read_attachments([*(image or ()), *(file or ())])
    check_names(choices)
    sampling = sampling_of(temperature, top_p, max_tokens, seed)
    with opened(host, device, dtype, quantise, give_way=True) as assistant:
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


@app.command()
def chat(
    vision: Vision = None,
    skill: Skills = None,
    knowledge: Knowledge = None,
    no_bricks: NoBricks = False,
    temperature: Temperature = 0.0,
    top_p: TopP = 0.9,
    max_tokens: MaxTokens = 512,
    seed: Seed = None,
    host: HostName = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
) -> None:
    """Talk in the terminal. Ctrl-C stops an answer, Ctrl-D ends; the page shows the conversation too."""
    choices = choices_of(vision, skill, knowledge, no_bricks)
    check_names(choices)
    sampling = sampling_of(temperature, top_p, max_tokens, seed)
    with opened(host, device, dtype, quantise, give_way=True) as assistant:
        print(CHAT_HELP)
        conversation: str | None = None
        waiting: list[Attachment] = []
        last: Ticket | None = None
        while (line := read_line()) is not None:
            command, _, rest = line.partition(" ")
            try:
                if command == "/quit":
                    break
                elif command == "/new":
                    conversation, waiting, last = None, [], None
                elif command in ("/image", "/file"):
                    waiting += read_attachments([Path(rest.strip()).expanduser()])
                    print(f"{waiting[-1].name} goes with the next question.")
                elif command == "/trace":
                    print(
                        json.dumps(trace_of(last), indent=1, ensure_ascii=False) if last else "Nothing was asked yet."
                    )
                elif command.startswith("/"):
                    print(CHAT_HELP)
                else:
                    conversation = conversation or assistant.store.new()
                    last = assistant.ask(line, waiting, choices, sampling, conversation)
                    waiting = []
                    stream(last)
                    explain(last)
            except MattoniError as problem:
                # The conversation goes on after a mistake.
                print(printable(str(problem)), file=sys.stderr)

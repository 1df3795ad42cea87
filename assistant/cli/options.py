"""What the options of several commands are called, and what their values mean. Knows nothing of the commands."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from assistant.bricks.folders import read_attachment
from assistant.cli.given import given_path
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from assistant.host.sampling import Sampling
    from assistant.turn.route import Choices
    from mattoni.inputs import Attachment

Images = Annotated[list[str] | None, typer.Option("--image", help="A picture to send; may be repeated.")]
Files = Annotated[list[str] | None, typer.Option("--file", help="A document to send (PDF, text, HTML); repeatable.")]
Audio = Annotated[
    list[str] | None,
    typer.Option("--audio", help="A recording to send; repeatable. Without a question it is the question."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MinusOne = Annotated[
    bool,
    typer.Option("--minus-one", help="Answer once more without each brick that took part, and compare."),
]
HeatMaps = Annotated[
    Path | None, typer.Option("--explain", help="Write a PNG: what of the pictures the brick's stitch attended to.")
]

_BRICKS = "Bricks (left alone, the router chooses)"
Vision = Annotated[str | None, typer.Option(help="The image brick for every picture.", rich_help_panel=_BRICKS)]
Skills = Annotated[
    list[str] | None,
    typer.Option(
        "--skill", help="Switch a skill on: NAME or NAME=STRENGTH; 0 is off. Repeatable.", rich_help_panel=_BRICKS
    ),
]
Knowledge = Annotated[
    list[str] | None,
    typer.Option("--knowledge", help="Look things up in this brick. Repeatable.", rich_help_panel=_BRICKS),
]
Gates = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        help="Turn a function of the host: NAME=FACTOR, 0 is off, 1 as it is, 2 doubled. Repeatable.",
        rich_help_panel=_BRICKS,
    ),
]
NoBricks = Annotated[
    bool,
    typer.Option("--no-bricks", help="The host alone, but for the bricks that are named.", rich_help_panel=_BRICKS),
]

_GENERATION = "Generation"
Temperature = Annotated[float, typer.Option(min=0, help="0: always the likeliest word.", rich_help_panel=_GENERATION)]
TopP = Annotated[
    float,
    typer.Option(
        min=0.01, max=1, help="Draw among the likeliest words that make up this share.", rich_help_panel=_GENERATION
    ),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="The longest answer, in tokens.", rich_help_panel=_GENERATION)]
Seed = Annotated[int | None, typer.Option(min=0, help="Same seed, same answer.", rich_help_panel=_GENERATION)]

_ENGINE = "Engine"
EngineName = Annotated[
    str,
    typer.Option("--engine", help="What decodes: local, or vllm (docs/serving.md).", rich_help_panel=_ENGINE),
]
EngineUrl = Annotated[
    str, typer.Option("--url", help="Where vLLM runs: http://127.0.0.1:8000.", rich_help_panel=_ENGINE)
]
NoFallback = Annotated[
    bool,
    typer.Option(
        "--no-fallback",
        help="Refuse what vLLM cannot decode; else the local engine does it, and says so.",
        rich_help_panel=_ENGINE,
    ),
]

_HOST = "Host"
HostName = Annotated[
    str,
    typer.Option(
        "--host",
        envvar="MATTONI_HOST",
        help="The language model: auto, builtin (the smallest), a catalogue name, Hub id, folder or GGUF file.",
        rich_help_panel=_HOST,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps.", rich_help_panel=_HOST)]
Dtype = Annotated[str, typer.Option(help="auto (bfloat16), bfloat16, float16, float32.", rich_help_panel=_HOST)]
Quantise = Annotated[
    Literal["4bit"] | None, typer.Option(help="4bit: a quarter of the memory, on CUDA only.", rich_help_panel=_HOST)
]
WeightsKind = Annotated[
    Literal["auto", "bf16", "fp16", "int8", "int4"],
    typer.Option(
        "--weights",
        envvar="MATTONI_WEIGHTS",
        help="How the host's weights are read on a CPU: auto (what is fastest here and loses nothing that was measured), or "
        "bf16 (as they are).",
        rich_help_panel=_HOST,
    ),
]


def is_address(text: str) -> bool:
    """Whether a network address was given where a model is wanted; many servers take one as `--host`."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return text == "localhost"
    return True


def refuse_address(host: str) -> None:
    """Raise MattoniError where `--host` was given a network address, as other servers take it."""
    if is_address(host):
        raise MattoniError(f"--host names the language model: to listen on {host}, use --address {host}.")


def choices_of(
    vision: str | None,
    skills: Sequence[str] | None,
    knowledge: Sequence[str] | None,
    no_bricks: bool,
    gates: Sequence[str] | None = None,
) -> "Choices":
    """What the options `--vision`, `--skill`, `--knowledge`, `--gate` and `--no-bricks` say together."""
    from assistant.turn.route import Choice, Choices

    bricks = {name: Choice("on") for name in knowledge or ()}
    for text in skills or ():
        name, given, value = text.partition("=")
        try:
            strength = float(value) if given else 1.0
        except ValueError:
            raise MattoniError(f"--skill {text}: '{value}' is no number; write it as {name}=0.8.") from None
        bricks[name] = Choice("on", strength) if strength else Choice("off")
    bricks |= {name: Choice("on", factor) for name, factor in map(_gate, gates or ())}
    if not no_bricks:
        return Choices(vision=vision, bricks=bricks)
    if vision:
        bricks.setdefault(vision, Choice("on"))
    return Choices(vision=vision, bricks=bricks, others="off") if bricks else Choices(no_bricks=True)


def _gate(text: str) -> tuple[str, float]:
    """NAME=FACTOR as a brick and how far it is turned."""
    name, _, value = text.partition("=")
    try:
        factor = float(value)
    except ValueError:
        raise MattoniError(f"--gate {text}: say how far to turn it, as in {name}=0; 0 is off and 1 as it is.") from None
    if not 0 <= factor <= 2:
        raise MattoniError(f"--gate {text}: a factor goes from 0 (off) over 1 (as it is) to 2 (doubled).")
    return name, factor


def sampling_of(temperature: float, top_p: float, max_tokens: int, seed: int | None) -> "Sampling":
    """The generation options. Raises MattoniError where one is out of range."""
    from pydantic import ValidationError

    from assistant.host.sampling import Sampling

    try:
        return Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    except ValidationError as problem:
        error = problem.errors()[0]
        option = str(error["loc"][0]).replace("_", "-")
        raise MattoniError(f"--{option} {error['input']}: {error['msg'].lower()}.") from problem


def read_attachments(given: Sequence[str | Path]) -> "list[Attachment]":
    """The files' names and bytes, however their paths are written; what is in them is for `assistant.turn.look` to say.

    Raises MattoniError for a folder, an address, and what cannot be read.
    """
    return [read_attachment(path if isinstance(path, Path) else given_path(path)) for path in given]

"""The command `mattoni`. Forwards to the assistant, prints what comes back; decides nothing itself.

Everything heavy is imported inside the command that needs it: `mattoni --help` must not wait for torch.
"""

import ipaddress
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import mattoni
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from rich.table import Table

    from assistant.assistant import Assistant
    from assistant.engine import Ticket
    from assistant.generation import Sampling
    from assistant.look import Attachment
    from assistant.route import Choices

HELP = "A multimodal assistant built of bricks: one frozen language model, and parts that are composed for one turn."
CHAT_HELP = (
    "/image FILE, /file FILE: send with the next question.  /trace: how the last answer came about.  /new  /quit"
)

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models_app = typer.Typer(help="Hosts and embedders: list them, fetch them.", no_args_is_help=True)
bricks_app = typer.Typer(help="Bricks: list, show, check, add and remove them.", no_args_is_help=True)
knowledge_app = typer.Typer(help="Documents that the assistant looks things up in.", no_args_is_help=True)
train_app = typer.Typer(help="Train a brick.", no_args_is_help=True)
bench_app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)
for name, group in (
    ("models", models_app),
    ("bricks", bricks_app),
    ("knowledge", knowledge_app),
    ("train", train_app),
    ("bench", bench_app),
):
    app.add_typer(group, name=name)

Images = Annotated[list[Path] | None, typer.Option("--image", help="A picture to send; may be repeated.")]
Files = Annotated[list[Path] | None, typer.Option("--file", help="A document to send (PDF, text, HTML); repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
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
NoBricks = Annotated[bool, typer.Option("--no-bricks", help="The host alone.", rich_help_panel=_BRICKS)]

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

_HOST = "Host"
HostName = Annotated[
    str,
    typer.Option(
        "--host", help="The language model: a catalogue name, Hub id, folder or GGUF file.", rich_help_panel=_HOST
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N, mps.", rich_help_panel=_HOST)]
Dtype = Annotated[str, typer.Option(help="auto (bfloat16), bfloat16, float16, float32.", rich_help_panel=_HOST)]
Quantise = Annotated[
    Literal["4bit"] | None, typer.Option(help="4bit: a quarter of the memory, on CUDA only.", rich_help_panel=_HOST)
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Options for every command."""
    if version:
        print(f"mattoni {mattoni.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line: 0 it worked, 1 it did not (one sentence says why), 2 it was called wrongly, 130 Ctrl-C."""
    # `--debug` counts wherever it stands; typer itself would want it before the command.
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if not debug:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app(arguments or ["--help"])
    except MattoniError as problem:
        if debug:
            traceback.print_exc()
        print(printable(str(problem)), file=sys.stderr)
        sys.exit(problem.exit_code)
    except Exception as problem:
        # Nobody should have to read a stack trace to learn that something of ours is broken.
        if debug:
            raise
        sentence = f"Something inside went wrong ({type(problem).__name__}): add --debug to see where, and report it."
        print(sentence, file=sys.stderr)
        sys.exit(1)


def printable(text: str) -> str:
    """Text without the control characters that could take a terminal over; line breaks and tabs stay."""
    return "".join(c for c in text if c in "\n\t" or (c >= " " and not "\x7f" <= c <= "\x9f"))


# Asking


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
    host: HostName = "builtin",
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
    with opened(host, device, dtype, quantise) as assistant:
        ticket = assistant.ask(question, attachments, choices, sampling)
        if as_json:
            finish(ticket)
            print(json.dumps({"answer": ticket.text, "trace": trace_of(ticket)}, ensure_ascii=False))
        else:
            stream(ticket)
            explain(ticket)
        if heat_maps is not None:
            from assistant.heat_map import save_heat_maps

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
    host: HostName = "builtin",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
) -> None:
    """Talk in the terminal. Ctrl-C stops an answer, Ctrl-D ends; the page shows the conversation too."""
    choices = choices_of(vision, skill, knowledge, no_bricks)
    check_names(choices)
    sampling = sampling_of(temperature, top_p, max_tokens, seed)
    with opened(host, device, dtype, quantise) as assistant:
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


@app.command()
def ui(
    address: Annotated[
        str, typer.Option(help="Where to listen. 0.0.0.0 lets other machines in; they share the conversations.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="If it is taken, the next free one.")] = 8501,
    host: HostName = "builtin",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
) -> None:
    """Serve the chat page for a browser, on this machine only unless --address says otherwise."""
    if is_address(host):
        raise MattoniError(f"--host names the language model: to listen on {host}, use --address {host}.")
    # Named, not imported: the page stands above this package, and only whoever starts it needs to know it.
    import_module("ui.launch").launch(address, port, host, device, dtype, quantise)


def is_address(text: str) -> bool:
    """Whether a network address was given where a model is wanted; many servers take one as `--host`."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return text == "localhost"
    return True


def choices_of(
    vision: str | None, skills: Sequence[str] | None, knowledge: Sequence[str] | None, no_bricks: bool
) -> "Choices":
    """What the options `--vision`, `--skill`, `--knowledge` and `--no-bricks` say together."""
    from assistant.route import Choice, Choices

    if no_bricks and (vision or skills or knowledge):
        raise MattoniError("--no-bricks leaves nothing to choose: leave out --vision, --skill and --knowledge.")
    bricks = {name: Choice("on") for name in knowledge or ()}
    for text in skills or ():
        name, given, value = text.partition("=")
        try:
            strength = float(value) if given else 1.0
        except ValueError:
            raise MattoniError(f"--skill {text}: '{value}' is no number; write it as {name}=0.8.") from None
        bricks[name] = Choice("on", strength) if strength else Choice("off")
    return Choices(vision=vision, bricks=bricks, no_bricks=no_bricks)


def check_names(choices: "Choices") -> None:
    """Raise MattoniError when a brick of that name is not there: before a host is loaded."""
    bricks = scanned()
    for name in choices.names:
        bricks.get(name)


def sampling_of(temperature: float, top_p: float, max_tokens: int, seed: int | None) -> "Sampling":
    """The generation options. Raises MattoniError where one is out of range."""
    from pydantic import ValidationError

    from assistant.generation import Sampling

    try:
        return Sampling(temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    except ValidationError as problem:
        error = problem.errors()[0]
        option = str(error["loc"][0]).replace("_", "-")
        raise MattoniError(f"--{option} {error['input']}: {error['msg'].lower()}.") from problem


def read_attachments(paths: Sequence[Path]) -> "list[Attachment]":
    """The files' names and bytes; what is in them is for `assistant.look` to say."""
    from assistant.look import Attachment

    attachments = []
    for path in paths:
        try:
            attachments.append(Attachment(path.name, path.read_bytes()))
        except OSError as problem:
            raise MattoniError(f"{path} cannot be read ({problem.strerror}): check the path.") from problem
    return attachments


@contextmanager
def opened(
    host: str = "builtin", device: str = "auto", dtype: str = "auto", quantise: Literal["4bit"] | None = None
) -> "Iterator[Assistant]":
    """The assistant, ready to be asked; closed in the end."""
    from rich.console import Console

    with Console(stderr=True).status("Loading the host …"):
        from transformers.utils import logging

        from assistant.assistant import Assistant

        logging.disable_progress_bar()
        assistant = Assistant.open(host, device, dtype, quantise)
    try:
        yield assistant
    finally:
        assistant.close()


def stream(ticket: "Ticket") -> None:
    """Print the answer as it comes. Ctrl-C stops the answer, and what was said stays."""
    shown = 0
    try:
        for piece in ticket.changes():
            print(printable(piece), end="", flush=True)
            shown += len(piece)
    except KeyboardInterrupt:
        ticket.stop()
        ticket.wait()
    print(printable(ticket.text[shown:]))
    finish(ticket)


def finish(ticket: "Ticket") -> None:
    """Wait for the end. Raises MattoniError with the ticket's sentence when the turn failed."""
    try:
        ticket.wait()
    except KeyboardInterrupt:
        ticket.stop()
        ticket.wait()
    if ticket.error is not None:
        raise MattoniError(ticket.error)


def trace_of(ticket: "Ticket") -> dict[str, Any]:
    """The turn's trace as plain values."""
    return ticket.trace.to_json() if ticket.trace is not None else {}


def explain(ticket: "Ticket") -> None:
    """Which bricks answered and why, and what the user should know: on stderr, so that an answer can be piped."""
    trace = ticket.trace
    if trace is None:
        return
    for notice in trace.notices:
        print(printable(f"! {notice.text}"), file=sys.stderr)
    for brick in trace.bricks:
        print(printable(f"  [{brick.name}] {brick.reason}"), file=sys.stderr)
    for number, citation in enumerate(trace.citations, 1):
        print(printable(f"  ({number}) {citation.document}, {citation.place}"), file=sys.stderr)


def read_line() -> str | None:
    """The next line that is not empty; None at the end of the input. Ctrl-C begins a new line."""
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return None
        except KeyboardInterrupt:
            print("\n/quit or Ctrl-D ends.")
            continue
        if line:
            return line


# Models and bricks


@models_app.command("list")
def models_list(as_json: AsJson = False) -> None:
    """The hosts and embedders of the catalogue. Any Hub id, folder or GGUF file works as a host too."""
    from assistant.catalogue import catalogue, imported_hosts, is_fetched

    rows = [{"name": n, **e.model_dump(mode="json"), "fetched": is_fetched(n)} for n, e in catalogue().items()]
    rows += [
        {"name": n, "use": "host", "summary": f"Of {i.source}, with its brick.", "licence": i.licence, "fetched": True}
        for n, i in imported_hosts().items()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    cells = [[r["name"], r["use"], "here" if r["fetched"] else "", r["licence"], r["summary"]] for r in rows]
    show_table(["name", "use", "fetched", "licence", "what"], cells)


@models_app.command("pull")
def models_pull(
    names: Annotated[list[str] | None, typer.Argument(help="Default: what the assistant needs.")] = None,
) -> None:
    """Fetch models into the cache and verify them; what is there already is left alone, without the network."""
    from assistant.catalogue import BUILTIN_EMBEDDER, BUILTIN_HOST, fetch, is_fetched

    for name in names or (BUILTIN_HOST, BUILTIN_EMBEDDER):
        already = is_fetched(name)
        folder = fetch(name)
        print(f"{name} is {'already in' if already else 'now in'} {folder}")


@bricks_app.command("list")
def bricks_list(as_json: AsJson = False) -> None:
    """Every brick, the refused ones with the reason."""
    bricks = scanned()
    if as_json:
        usable = [brick.card.model_dump(mode="json", by_alias=True) for brick in bricks.usable]
        refused = [{"name": r.name, "reason": r.sentence} for r in bricks.refused]
        print(json.dumps({"bricks": usable, "refused": refused}, ensure_ascii=False))
        return
    cells = [
        [b.name, str(b.card.version), b.card.kind, ", ".join(b.card.injects), b.card.summary] for b in bricks.usable
    ]
    show_table(["name", "version", "kind", "injects", "what"], cells)
    for refused in bricks.refused:
        print(printable(f"set aside: {refused.sentence}"), file=sys.stderr)


@bricks_app.command("show")
def bricks_show(name: str, as_json: AsJson = False) -> None:
    """A brick's card: what it is, was trained on and scored, and what it cannot do."""
    import yaml

    brick = scanned().get(name)
    values = brick.card.model_dump(mode="json", by_alias=True, exclude_none=True)
    if as_json:
        print(json.dumps(values, ensure_ascii=False))
    else:
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100), end="")
        print(f"folder: {brick.folder}\ndigest: {brick.digest}")


@bricks_app.command("check")
def bricks_check(
    name: Annotated[str | None, typer.Argument(help="Default: all of them.")] = None, host: HostName = "builtin"
) -> None:
    """Verify cards, digests and weights, and the fit to a host. Exit status 1 when one is damaged."""
    from assistant.host import load_host

    bricks = scanned(load_host(host))
    if name is not None:
        brick = bricks.get(name)
        print(f"{brick.name}: {brick.warning or 'good'}")
        return
    for brick in bricks.usable:
        print(f"{brick.name}: {brick.warning or 'good'}")
    damaged = {refused.name for refused in scanned().refused}
    for refused in bricks.refused:
        if refused.name not in damaged:
            print(refused.sentence)
    if damaged:
        raise MattoniError("\n".join(refused.sentence for refused in bricks.refused if refused.name in damaged))


@bricks_app.command("add")
def bricks_add(
    source: Annotated[str, typer.Argument(help="A PEFT LoRA: a folder, a zip, or a Hub id.")],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    host: HostName = "builtin",
) -> None:
    """Bring in a skill that was trained elsewhere."""
    with opened(host) as assistant:
        card = assistant.add_skill(source, name)
    print(f'{card.name} is here: mattoni ask --skill {card.name} "…"')


@bricks_app.command("import")
def bricks_import(
    source: Annotated[
        str, typer.Argument(help="A BLIP-2, InstructBLIP or LLaVA-1.5 checkpoint: a folder or a Hub id.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call the host and the brick.")] = None,
) -> None:
    """Make a host and an image brick of a vision-language checkpoint in the format of transformers."""
    from transformers.utils import logging

    from assistant.importing import import_checkpoint
    from mattoni.paths import data_folder, hosts_folder

    logging.disable_progress_bar()
    imported = import_checkpoint(source, data_folder() / "bricks", hosts_folder(), scanned(), name)
    print(
        f"{imported.card.name} is here, a host and its image brick; in bfloat16 both take "
        f"{2 * imported.parameters / 1e9:.1f} GB of memory.\n"
        f'mattoni ask --host {imported.card.name} --image photo.jpg "What is in the picture?"'
    )


@bricks_app.command("examples")
def bricks_examples(
    name: Annotated[str, typer.Argument(help="An image brick of yours.")],
    pictures: Annotated[list[Path], typer.Argument(help="Pictures it is for, or folders of them; about 20.")],
) -> None:
    """Let the router find an image brick by example pictures: keys are made, nothing is trained."""
    from assistant.examples import add_examples
    from modality_bricks.glance import Glance

    files = [
        file
        for path in pictures
        for file in (sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".") if path.is_dir() else [path])
    ]
    # Read one by one: many photos are large.
    attachments = (attachment for file in files for attachment in read_attachments([file]))
    print(printable(add_examples(name, attachments, scanned(), Glance.load()).sentence))


@bricks_app.command("remove")
def bricks_remove(name: str) -> None:
    """Delete a brick of yours with every byte. Those that came with Mattoni stay."""
    remove(name)


def scanned(host: Any = None) -> Any:
    """The bricks as they are now, fitted to a host or, without one, whatever their host."""
    from assistant.registry import Registry
    from mattoni.paths import brick_folders

    return Registry(brick_folders()).scan(host)


def remove(name: str) -> None:
    with opened() as assistant:
        assistant.remove_brick(name)
    print(f"{name} is gone.")


# Knowledge


@knowledge_app.command("add")
def knowledge_add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    files: Annotated[list[Path], typer.Argument(help="Text, Markdown, HTML or PDF.")],
    update: Annotated[
        bool, typer.Option("--update", help="Replace these files in the brick, or add them to it.")
    ] = False,
) -> None:
    """Make a knowledge brick from documents, or update one."""
    attachments = read_attachments(files)
    with opened() as assistant:
        card = assistant.add_knowledge(name, attachments, update)
    print(f"{card.name}, version {card.version}: {card.summary}")


@knowledge_app.command("list")
def knowledge_list() -> None:
    """The knowledge bricks."""
    cells = [[b.name, str(b.card.version), b.card.summary] for b in scanned().usable if b.card.kind == "knowledge"]
    show_table(["name", "version", "what"], cells)


@knowledge_app.command("remove")
def knowledge_remove(name: str) -> None:
    """Delete a knowledge brick with every byte."""
    if scanned().get(name).card.kind != "knowledge":
        raise MattoniError(f"'{name}' is no knowledge brick: use `mattoni bricks remove {name}`.")
    remove(name)


# Training


_FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@train_app.command("modality", context_settings=_FORWARD, add_help_option=False)
def train_modality(context: typer.Context) -> None:
    """Train an image brick from configs; --dry-run tells first what it takes (--help lists the options)."""
    from modality_bricks.train import main

    main(context.args)


@train_app.command("watch", context_settings=_FORWARD, add_help_option=False)
def train_watch(context: typer.Context) -> None:
    """Show training runs on a page of this machine, running or not (--help lists its options)."""
    from modality_bricks.watch import main

    main(context.args)


@train_app.command("task", context_settings=_FORWARD, add_help_option=False)
def train_task(context: typer.Context) -> None:
    """Train a skill from a recipe: `python -m task_bricks.train` (--help lists its options)."""
    from task_bricks.train import main

    raise typer.Exit(main(context.args))


# Measuring


@app.command("eval")
def evaluate(
    rows: Annotated[Path, typer.Argument(help="JSON lines: id, question, answers, metric and, if any, image.")],
    vision: Vision = None,
    skill: Skills = None,
    knowledge: Knowledge = None,
    no_bricks: NoBricks = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    out: Annotated[Path | None, typer.Option(help="Keep a line per row: id, answer, score, trace.")] = None,
    shuffle_images: Annotated[
        bool, typer.Option("--shuffle-images", help="Give each row another one's picture.")
    ] = False,
    max_tokens: MaxTokens = 128,
    host: HostName = "builtin",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
) -> None:
    """Ask every row of a file, greedily, and print the scores as one JSON object."""
    from assistant.evaluation import asking, read_rows, replies, report, shuffled_pictures, write_lines

    choices = choices_of(vision, skill, knowledge, no_bricks)
    asked_rows = read_rows(rows, limit)
    check_names(choices)
    sampling = sampling_of(0.0, 1.0, max_tokens, 0)
    if shuffle_images:
        asked_rows = shuffled_pictures(asked_rows)
    start = time.monotonic()
    with opened(host, device, dtype, quantise) as assistant:
        ask_row = asking(assistant, choices, sampling)
        asked = list(with_progress(replies(asked_rows, rows.parent, ask_row), len(asked_rows)))
    summary, lines = report(asked)
    if out is not None:
        write_lines(out, lines)
    trace = asked[0][1].trace
    run = {"host": trace.get("host"), "device": trace.get("device"), "shuffled": shuffle_images}
    print(json.dumps(summary | run | {"seconds": round(time.monotonic() - start, 1)}, ensure_ascii=False))


@bench_app.command("turn")
def bench_turn(device: Device = "auto", host: HostName = "builtin") -> None:
    """Measure a turn: the way of a picture, decoding, the second turn, memory. Prints one JSON object."""
    from assistant.bench import bench_turn as measure

    print(json.dumps(measure(host, device), indent=1))


def with_progress(items: Iterator[Any], total: int) -> Iterator[Any]:
    """Pass items on and show on stderr how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings, as wide as the terminal."""
    from rich import box
    from rich.console import Console
    from rich.text import Text

    table = new_table(headings, box.SIMPLE_HEAD)
    for row in rows:
        # Text, not str: a card's words are no markup.
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console().print(table)


def new_table(headings: Sequence[str], style: Any) -> "Table":
    from rich.table import Table

    table = Table(box=style, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading == "name")
    return table


if __name__ == "__main__":
    main()

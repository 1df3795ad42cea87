"""The command `mattoni`. Forwards to the assistant, prints what comes back; decides nothing itself.

A module per group of commands. Everything heavy is imported inside the command that needs it: `mattoni --help` must not
wait for torch. What starts a front end is added by that front end (`ui/command.py`, `server/command.py`).
"""

import os
import sys
import traceback
from typing import Annotated

import typer

import mattoni
from assistant.cli import (
    ask,
    bricks,
    cartridge,
    facts,
    graph,
    knowledge,
    measure,
    models,
    operations,
    people,
    train,
    xray,
)
from assistant.cli.terminal import printable
from mattoni.errors import MattoniError

HELP = "A multimodal assistant built of bricks: one frozen language model, and parts that are composed for one turn."

app = typer.Typer(help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
for commands in (ask.app, measure.app, xray.app):
    app.add_typer(commands)
bricks.app.add_typer(operations.app)
for name, group in (
    ("models", models.app),
    ("bricks", bricks.app),
    ("knowledge", knowledge.app),
    ("facts", facts.app),
    ("graph", graph.app),
    ("cartridge", cartridge.app),
    ("people", people.app),
    ("train", train.app),
    ("bench", measure.bench_app),
):
    app.add_typer(group, name=name)


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

"""`mattoni knowledge`: documents that the assistant looks things up in."""

from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.opening import opened, remove, scanned
from assistant.cli.options import read_attachments
from assistant.cli.terminal import show_table
from mattoni.errors import MattoniError

app = typer.Typer(help="Documents that the assistant looks things up in.", no_args_is_help=True)


@app.command("add")
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


@app.command("list")
def knowledge_list() -> None:
    """The knowledge bricks."""
    cells = [[b.name, str(b.card.version), b.card.summary] for b in scanned().usable if b.card.kind == "knowledge"]
    show_table(["name", "version", "what"], cells)


@app.command("remove")
def knowledge_remove(name: str) -> None:
    """Delete a knowledge brick with every byte."""
    if scanned().get(name).card.kind != "knowledge":
        raise MattoniError(f"'{name}' is no knowledge brick: use `mattoni bricks remove {name}`.")
    remove(name)

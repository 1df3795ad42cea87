"""`mattoni graph`: triples that the assistant looks things up in."""

from typing import Annotated

import typer

from assistant.cli.given import given_path

app = typer.Typer(help="Graphs of things and how they are related.", no_args_is_help=True)


@app.command("add")
def graph_add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    file: Annotated[str, typer.Argument(help="TSV or CSV: head, relation, tail on each line.")],
    update: Annotated[bool, typer.Option("--update", help="Replace the graph of that name.")] = False,
) -> None:
    """Make a knowledge brick of triples. A relation `alias` gives a head another name. `knowledge list` and `remove` have it too."""
    from assistant.bricks.graph import add_graph
    from mattoni.paths import data_folder

    card = add_graph(name, given_path(file), data_folder() / "bricks", update)
    print(f"{card.name}, version {card.version}: {card.summary}")


@app.callback()
def graph() -> None:
    """So that `add` keeps its name while it is the only one."""

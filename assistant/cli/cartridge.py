"""`mattoni cartridge`: a text as keys and values that stand in front of a prompt."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.given import given_path
from assistant.cli.options import Device, HostName
from assistant.cli.terminal import printable

app = typer.Typer(help="Texts as keys and values in front of the prompt.", no_args_is_help=True)


@app.command("train")
def cartridge_train(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    file: Annotated[str, typer.Argument(help="A plain text, as long as the host can read at once.")],
    positions: Annotated[
        int | None, typer.Option(min=2, help="Of keys and values. Default: a tenth of the text's tokens.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Of training, eight lessons each.")] = 200,
    work: Annotated[Path | None, typer.Option(help="Folder for what is done so far; default: in the cache.")] = None,
    host: HostName = "builtin",
    device: Device = "auto",
) -> None:
    """Let the host study a text and keep what it learned. Stop it at any time: the same command goes on."""
    from assistant.bricks.lifecycle import check_free
    from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
    from assistant.host.embedder import Embedder
    from assistant.host.host import load_plain_host
    from knowledge_bricks.training.train import train_cartridge
    from mattoni.paths import data_folder

    path, bricks = given_path(file), data_folder() / "bricks"
    check_free(name, bricks)  # before a host is loaded
    card = train_cartridge(
        name,
        path,
        bricks,
        load_plain_host(host, device),
        Embedder(fetch(BUILTIN_EMBEDDER)).embed,
        positions=positions,
        steps=steps,
        work=work,
        tell=lambda line: print(printable(line), file=sys.stderr, flush=True),
    )
    print(f'{card.name} is here: {card.summary} mattoni ask --knowledge {card.name} "…"')


@app.callback()
def cartridge() -> None:
    """So that `train` keeps its name while it is the only one."""

"""The command `mattoni ui`, and the command line with it. Knows nothing of other commands."""

from pathlib import Path
from typing import Annotated

import typer

from assistant.cli import app, main
from assistant.cli.options import (
    Device,
    Dtype,
    EngineName,
    EngineUrl,
    HostName,
    NoFallback,
    Quantise,
    WeightsKind,
    refuse_address,
)
from assistant.host.engine_choice import EngineChoice

__all__ = ["app", "main"]


@app.command()
def ui(
    address: Annotated[
        str,
        typer.Option(
            help="Where to listen. 0.0.0.0 lets other machines in; they share the conversations, unless people sign in."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="If it is taken, the next free one.")] = 8501,
    secrets: Annotated[
        Path | None,
        typer.Option(help="A secrets.toml with [auth]: people sign in, each with data of their own (docs/serving.md)."),
    ] = None,
    host: HostName = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
    weights: WeightsKind = "auto",
    engine: EngineName = "local",
    url: EngineUrl = "",
    no_fallback: NoFallback = False,
) -> None:
    """Serve the chat page for a browser, on this machine only unless --address says otherwise."""
    refuse_address(host)
    from ui.launch import launch

    launch(address, port, host, device, dtype, quantise, weights, EngineChoice(engine, url, not no_fallback), secrets)


if __name__ == "__main__":
    main()

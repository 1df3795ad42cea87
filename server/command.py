"""The command `mattoni serve`. Everything heavy is imported inside it."""

from pathlib import Path
from typing import Annotated

import typer

from assistant.cli import app
from assistant.cli.options import Device, Dtype, HostName, Quantise, WeightsKind, refuse_address
from mattoni.errors import MattoniError


@app.command()
def serve(
    address: Annotated[
        str, typer.Option(help="Where to listen. 0.0.0.0 lets other machines in: give them keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="A YAML file of keys, users and their limits (docs/serving.md).")
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch pictures by address, from the open internet only.")
    ] = False,
    most_megabytes: Annotated[int, typer.Option("--max-body", min=1, help="The largest body, in MB.")] = 100,
    engine: Annotated[str, typer.Option(help="What decodes: local.")] = "local",
    host: HostName = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
    weights: WeightsKind = "auto",
) -> None:
    """Serve OpenAI's API for programs, on this machine only unless --address says otherwise."""
    refuse_address(host)
    if engine != "local":
        raise MattoniError(f"--engine {engine}: there is no such engine yet; leave it out, or write --engine local.")
    from assistant.cli.opening import opened
    from server.launch import launch, listening, settings_of

    # Before the host is loaded, which takes seconds: what can be refused at once is.
    settings = settings_of(keys, allow_urls, most_megabytes)
    listener = listening(address, port)
    with listener, opened(host, device, dtype, quantise, give_way=True, weights=weights) as assistant:
        launch(assistant, settings, listener)

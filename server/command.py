"""The command `mattoni serve`. Everything heavy is imported inside it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from assistant.cli import app
from assistant.cli.measure import bench_app
from assistant.cli.options import (
    AsJson,
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
from mattoni.errors import MattoniError

Replicas = Annotated[
    str,
    typer.Option(
        help="In how many processes the local engine decodes, as 2, or how few and how many, as 1-4; needs mattoni[ray]."
    ),
]


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
    engine: EngineName = "local",
    url: EngineUrl = "",
    no_fallback: NoFallback = False,
    replicas: Replicas = "",
    host: HostName = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
    weights: WeightsKind = "auto",
) -> None:
    """Serve OpenAI's API for programs, on this machine only unless --address says otherwise."""
    refuse_address(host)
    choice = EngineChoice(engine, url, not no_fallback, replicas)
    from assistant.cli.opening import opened
    from server.launch import launch, listening, settings_of

    # Before the host is loaded, which takes seconds: what can be refused at once is.
    settings = settings_of(keys, allow_urls, most_megabytes)
    listener = listening(address, port)
    with listener, opened(host, device, dtype, quantise, True, weights, choice) as assistant:
        launch(assistant, settings, listener)


@bench_app.command("serve")
def bench(
    url: Annotated[str, typer.Option(help="A server that runs already; without it one is started.")] = "",
    key: Annotated[str, typer.Option(help="A key of it.", envvar="MATTONI_KEY")] = "",
    turns: Annotated[int, typer.Option(min=1, help="How many in all.")] = 200,
    clients: Annotated[int, typer.Option(min=1, max=1000, help="How many ask at once.")] = 50,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 32,
    plain: Annotated[
        bool,
        typer.Option("--plain", help="Texts for the bare host alone: then --url may be any server of OpenAI's API."),
    ] = False,
    replicas: Replicas = "",
    host: HostName = "builtin",
    device: Device = "auto",
    dtype: Dtype = "auto",
    quantise: Quantise = None,
    weights: WeightsKind = "auto",
    as_json: AsJson = True,
) -> None:
    """Measure a server under load: seconds to the first words and to the end, errors, answers that are another's. Prints one
    JSON object."""
    if url and replicas:
        raise MattoniError(
            f"--replicas {replicas} are of a server that is started here, and --url names one that runs."
        )
    choice = EngineChoice(replicas=replicas)
    from assistant.cli.opening import opened
    from server.bench import bench_serve, served

    if url:
        told = bench_serve(url, turns, clients, max_tokens, key, plain)
    else:
        with (
            opened(host, device, dtype, quantise, weights=weights, engine=choice) as assistant,
            served(assistant) as here,
        ):
            told = bench_serve(here, turns, clients, max_tokens, plain=plain)
    print(json.dumps(told, indent=1))

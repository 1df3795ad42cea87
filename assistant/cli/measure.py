"""`mattoni eval` and `mattoni bench`."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.opening import check_names, opened
from assistant.cli.options import (
    AsJson,
    Device,
    Dtype,
    Gates,
    HostName,
    Knowledge,
    MaxTokens,
    NoBricks,
    Quantise,
    Skills,
    Vision,
    WeightsKind,
    choices_of,
    sampling_of,
)
from assistant.cli.terminal import with_progress

app = typer.Typer()
bench_app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)


@app.command("eval")
def evaluate(
    rows: Annotated[
        Path, typer.Argument(help="JSON lines: id, question, answers, metric and, if any, image or audio.")
    ],
    vision: Vision = None,
    skill: Skills = None,
    knowledge: Knowledge = None,
    gate: Gates = None,
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
    weights: WeightsKind = "auto",
) -> None:
    """Ask every row of a file, greedily, and print the scores as one JSON object."""
    from assistant.evaluation.asking import asking, read_rows, replies, report, shuffled_pictures, write_lines

    choices = choices_of(vision, skill, knowledge, no_bricks, gate)
    asked_rows = read_rows(rows, limit)
    check_names(choices)
    sampling = sampling_of(0.0, 1.0, max_tokens, 0)
    if shuffle_images:
        asked_rows = shuffled_pictures(asked_rows)
    start = time.monotonic()
    with opened(host, device, dtype, quantise, weights=weights) as assistant:
        ask_row = asking(assistant, choices, sampling)
        asked = list(with_progress(replies(asked_rows, rows.parent, ask_row), len(asked_rows)))
    summary, lines = report(asked)
    if out is not None:
        write_lines(out, lines)
    trace = asked[0][1].trace
    run = {"host": trace.get("host"), "device": trace.get("device"), "shuffled": shuffle_images}
    print(json.dumps(summary | run | {"seconds": round(time.monotonic() - start, 1)}, ensure_ascii=False))


@bench_app.command("turn")
def bench_turn(
    device: Device = "auto", host: HostName = "builtin", weights: WeightsKind = "auto", as_json: AsJson = True
) -> None:
    """Measure a turn: the way of a picture, decoding, the second turn, memory, and the same turns by plain `generate` and, with
    the extra `bench`, by llama.cpp. Prints one JSON object."""
    from assistant.evaluation.bench import bench_turn as measure

    print(json.dumps(measure(host, device, weights), indent=1))


@bench_app.command("batch")
def bench_batch(
    device: Device = "auto", host: HostName = "builtin", weights: WeightsKind = "auto", as_json: AsJson = True
) -> None:
    """Measure conversations decoded together, each with skills of its own. Prints one JSON object."""
    from assistant.evaluation.bench_batch import bench_batch as measure

    print(json.dumps(measure(host, device, weights), indent=1))


@bench_app.command("switch")
def bench_switch(
    device: Device = "auto", host: HostName = "builtin", weights: WeightsKind = "auto", as_json: AsJson = True
) -> None:
    """Measure the first token after a change of skill behind a thousand tokens of history, the change itself, and the route
    among ten thousand skills. Prints one JSON object."""
    from assistant.evaluation.bench_switch import bench_switch as measure

    print(json.dumps(measure(host, device, weights), indent=1))

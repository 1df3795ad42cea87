"""`mattoni xray`: what the neurons of a host do, and bricks made of them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.options import Device, Dtype, HostName
from mattoni.errors import MattoniError

app = typer.Typer()

_BRICK = "brick"


@app.command()
def xray(
    host: Annotated[str, typer.Argument(help="The host to look into, as for --host; or `brick` to make a brick.")],
    name: Annotated[str | None, typer.Argument(help="After `brick`: what the brick is called.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="JSON lines with `function` and `text`; for a brick, texts of its function.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="For a brick: texts that it is not for.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder for report.json, tables and figures.")] = None,
    bricks: Annotated[Path | None, typer.Option(help="Write a brick of every function into this folder too.")] = None,
    find: Annotated[int, typer.Option(min=6, help="Texts of each function on which neurons are looked for.")] = 60,
    held_out: Annotated[int, typer.Option(min=4, help="Texts of each function on which all is measured.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same numbers.")] = 0,
    of: HostName = "builtin",
    device: Device = "auto",
    dtype: Dtype = "auto",
) -> None:
    """Look inside a host: `mattoni xray HOST --texts ROWS.jsonl --out FOLDER`.

    Or make a brick of its neurons: `mattoni xray brick NAME --texts FOR.jsonl --against OTHERS.jsonl`.
    """
    if texts is None:
        raise MattoniError("There are no texts to look at: name a file of JSON lines with --texts.")
    if host == _BRICK:
        if name is None or against is None:
            raise MattoniError(
                "A brick needs a name and texts it is not for: mattoni xray brick NAME --texts FOR.jsonl --against OTHERS.jsonl."
            )
        _make_brick(name, texts, against, seed, of, device, dtype)
        return
    if name is not None or against is not None or out is None:
        raise MattoniError(
            "Looking into a host takes --texts and --out: mattoni xray HOST --texts ROWS.jsonl --out FOLDER."
        )
    sizes = (find, held_out)
    _look_inside(host, texts, out, bricks, sizes, seed, device, dtype)


def _look_inside(
    host: str,
    texts: Path,
    out: Path,
    bricks: Path | None,
    texts_of_each: tuple[int, int],
    seed: int,
    device: str,
    dtype: str,
) -> None:
    from rich.console import Console

    from emergent_bricks.analysis.files import write_xray
    from emergent_bricks.analysis.texts import read_samples, split_samples
    from emergent_bricks.analysis.xray import Sizes
    from emergent_bricks.analysis.xray import xray as look_inside

    find, held_out = texts_of_each
    sizes = Sizes(find, held_out, masked=min(Sizes.masked, held_out // 2))
    # What is wrong with the texts is said before a host is loaded.
    split = split_samples(read_samples(texts), seed, sizes.find, sizes.held_out)
    with Console(stderr=True).status("Loading the host …") as status:
        from assistant.host.host import load_plain_host

        loaded = load_plain_host(host, device, dtype)
        folder = out / "recorded"
        found = look_inside(loaded, split, folder, seed, sizes, lambda what, d, n: status.update(_said(what, d, n)))
        if bricks is not None:
            from emergent_bricks.analysis.make_brick import make_bricks

            command = f"mattoni xray {host} --texts {texts.name} --out {out.name} --bricks {bricks.name} --seed {seed}"
            make_bricks(loaded, split, found, folder, bricks, seed, command)
    files = write_xray(found, out)
    sparsity = found.report["sparsity"]
    print(
        json.dumps(
            {
                "host": loaded.name,
                **{key: round(sparsity[key], 4) for key in ("activation_below_0.2", "output_below_0.2")},
                "best_score": {name: round(row["best"], 3) for name, row in found.report["score"].items()},
                "files": [str(path) for path in files],
            }
        )
    )


def _said(what: str, done: int, of: int) -> str:
    return f"{what}: {done} of {of}" if of else f"{what} ({done} done)"


def _make_brick(name: str, texts: Path, against: Path, seed: int, host: str, device: str, dtype: str) -> None:
    from rich.console import Console

    from emergent_bricks.analysis.make_brick import check_texts, make_brick
    from mattoni.card import check_name
    from mattoni.paths import data_folder

    check_name(name)
    split = check_texts(name, texts, against, seed)
    with Console(stderr=True).status("Loading the host …") as status:
        from assistant.host.host import load_plain_host

        loaded = load_plain_host(host, device, dtype)
        command = f"mattoni xray brick {name} --texts {texts.name} --against {against.name} --seed {seed}"
        card = make_brick(
            name,
            loaded,
            split,
            data_folder() / "bricks",
            seed,
            command,
            lambda what, d, n: status.update(_said(what, d, n)),
        )
    metrics = {metric.name: metric.value for metric in card.metrics}
    print(json.dumps({"brick": name, "neurons": card.parts.model_dump()["neurons"], **metrics}))

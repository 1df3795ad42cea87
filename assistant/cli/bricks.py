"""`mattoni bricks`: list, show, check, add and remove them. What is done with skills is in `operations.py`."""

import json
import sys
from typing import Annotated

import typer

from assistant.cli.given import given_path
from assistant.cli.opening import opened, remove, scanned
from assistant.cli.options import AsJson, HostName, read_attachments
from assistant.cli.terminal import printable, show_table
from mattoni.errors import MattoniError

app = typer.Typer(help="Bricks: list, show, check, add and remove them.", no_args_is_help=True)


@app.command("list")
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


@app.command("show")
def bricks_show(name: str, as_json: AsJson = False) -> None:
    """A brick's card: what it is, for which hosts, was trained on and scored, and what it cannot do."""
    import yaml

    from assistant.bricks.lifecycle import costs
    from assistant.bricks.variants import hosts_of

    brick = scanned().get(name)
    values = brick.card.model_dump(mode="json", by_alias=True, exclude_none=True)
    hosts = hosts_of(brick.card)
    if as_json:
        print(json.dumps({**values, "hosts": hosts.versions, "costs": costs(brick)}, ensure_ascii=False))
    else:
        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100), end="")
        print(f"folder: {brick.folder}\ndigest: {brick.digest}\ncosts: {costs(brick)}")
        for sentence in hosts.sentences:
            print(printable(sentence))


@app.command("check")
def bricks_check(
    name: Annotated[str | None, typer.Argument(help="Default: all of them.")] = None, host: HostName = "builtin"
) -> None:
    """Verify cards, digests and weights, and the fit to a host. Exit status 1 when one is damaged."""
    with opened(host) as assistant:
        bricks = assistant.bricks()
    if name is not None:
        brick = bricks.get(name)
        print(f"{brick.name}: {brick.warning or 'good'}")
        return
    for brick in bricks.usable:
        print(f"{brick.name}: {brick.warning or 'good'}")
    damaged = {refused.name for refused in scanned().refused if not refused.is_off}
    for refused in bricks.refused:
        if refused.name not in damaged:
            print(refused.sentence)
    if damaged:
        raise MattoniError("\n".join(refused.sentence for refused in bricks.refused if refused.name in damaged))


@app.command("add")
def bricks_add(
    source: Annotated[
        str,
        typer.Argument(
            help="A PEFT LoRA: a folder, a .zip or .tar.gz, or a Hub id; the folder of a PEFT cartridge; or a brick that was "
            "exported as one file."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="What to call it.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a skill of yours of that name; it is kept as an older version.")
    ] = False,
    host: HostName = "builtin",
) -> None:
    """Bring in a skill or a cartridge that was trained elsewhere, or a brick of any kind that was exported as one file."""
    with opened(host) as assistant:
        card = assistant.add_brick(source, name, replace)
    for note in card.notes:
        print(printable(note), file=sys.stderr)
    option = "skill" if card.kind == "task" else "knowledge" if card.kind == "knowledge" else ""
    print(f"{card.name} is here" + (f': mattoni ask --{option} {card.name} "…"' if option else "."))


@app.command("import")
def bricks_import(
    source: Annotated[
        str, typer.Argument(help="A BLIP-2, InstructBLIP or LLaVA-1.5 checkpoint: a folder or a Hub id.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call the host and the brick.")] = None,
) -> None:
    """Make a host and an image brick of a vision-language checkpoint in the format of transformers."""
    from transformers.utils import logging

    from assistant.bricks.importing import import_checkpoint
    from mattoni.paths import data_folder, hosts_folder

    logging.disable_progress_bar()
    imported = import_checkpoint(source, data_folder() / "bricks", hosts_folder(), scanned(), name)
    print(
        f"{imported.card.name} is here, a host and its image brick; in bfloat16 both take "
        f"{2 * imported.parameters / 1e9:.1f} GB of memory.\n"
        f'mattoni ask --host {imported.card.name} --image photo.jpg "What is in the picture?"'
    )


@app.command("examples")
def bricks_examples(
    name: Annotated[str, typer.Argument(help="An image brick of yours.")],
    pictures: Annotated[list[str], typer.Argument(help="Pictures it is for, or folders of them; about 20.")],
) -> None:
    """Let the router find an image brick by example pictures: keys are made, nothing is trained."""
    from assistant.bricks.examples import add_examples
    from modality_bricks.glance import Glance

    files = [
        file
        for path in map(given_path, pictures)
        for file in (sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".") if path.is_dir() else [path])
    ]
    # Read one by one: many photos are large.
    attachments = (attachment for file in files for attachment in read_attachments([file]))
    print(printable(add_examples(name, attachments, scanned(), Glance.load()).sentence))


@app.command("rename")
def bricks_rename(name: str, new: Annotated[str, typer.Argument(help="What to call it from now on.")]) -> None:
    """Give a brick of yours another name, its older versions and what cites it too."""
    with opened() as assistant:
        card = assistant.rename_brick(name, new)
    print(f"{name} is called {card.name} now.")


@app.command("off")
def bricks_off(name: str) -> None:
    """Switch a brick off in all conversations; nothing of it is deleted."""
    from assistant.registry import switch
    from mattoni.paths import data_folder

    scanned().get(name)
    switch(data_folder() / "bricks", name, is_on=False)
    print(f"{name} is off: `mattoni bricks on {name}` brings it back.")


@app.command("on")
def bricks_on(name: str) -> None:
    """Switch a brick on that was switched off."""
    from assistant.registry import switch
    from mattoni.paths import data_folder

    switch(data_folder() / "bricks", name, is_on=True)
    print(f"{scanned().get(name).name} is on.")


@app.command("remove")
def bricks_remove(name: str) -> None:
    """Delete a brick of yours with every byte. Those that came with Mattoni stay."""
    remove(name)

"""`mattoni bricks export`: what is done with skills that are here. Part of the group `bricks`."""

from pathlib import Path
from typing import Annotated

import typer

from assistant.cli.opening import scanned

app = typer.Typer()


@app.command("export")
def bricks_export(
    name: Annotated[str, typer.Argument(help="A skill.")],
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
) -> None:
    """Write a skill as a PEFT LoRA that other tools load, and that `bricks add` takes again as it was."""
    from task_bricks.exporting import export_skill

    brick = scanned().get(name)
    export_skill(brick.folder, brick.card, folder.expanduser())
    print(f'{folder} is a PEFT LoRA: PeftModel.from_pretrained(host, "{folder}") loads it.')

"""`mattoni people`: those who signed in on the page, what is theirs to take away, and to have deleted."""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from assistant.cli.options import AsJson
from assistant.cli.terminal import printable, show_table
from mattoni.errors import MattoniError

if TYPE_CHECKING:
    from assistant.people.known import Known

app = typer.Typer(no_args_is_help=True, help="Those who signed in on the page: how much they use, export, deletion.")

Who = Annotated[str, typer.Argument(help="An id that `people list` shows, its first six signs or more, or an address.")]


@app.command("list")
def people_list(as_json: AsJson = False) -> None:
    """Who has signed in, and how much they use. No word of what they said."""
    from dataclasses import asdict

    from assistant.conversations.store import open_store
    from assistant.people.figures import figures_of
    from assistant.people.known import everybody

    told = []
    for known in everybody():
        with closing(open_store(known.id)) as store:
            told.append(known.model_dump() | asdict(figures_of(store)))
    if as_json:
        print(json.dumps({"people": told}, ensure_ascii=False))
        return
    if not told:
        print("Nobody has signed in yet: docs/serving.md says how people do.")
        return
    show_table(
        ["id", "name", "address", "conversations", "messages", "MB", "bricks", "own", "last seen"],
        [
            [
                one["id"][:12],
                one["name"],
                one["email"],
                str(one["conversations"]),
                str(one["messages"]),
                f"{one['bytes'] / 1e6:.1f}",
                ", ".join(f"{name} {count}" for name, count in one["bricks"].items()),
                str(one["own"]),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(one["last_seen"])),
            ]
            for one in told
        ],
    )


@app.command("export")
def people_export(who: Who, file: Annotated[Path, typer.Argument(help="A new file that ends in .zip.")]) -> None:
    """Write all that is somebody's as one zip: conversations as JSON, attachments, bricks of their own."""
    from assistant.conversations.store import open_store
    from assistant.people.known import named
    from assistant.people.taking_away import export_to

    known = named(who)
    with closing(open_store(known.id)) as store:
        export_to(store, file.expanduser())
    print(printable(f"{file} is all that is {known.name}'s."))


@app.command("delete")
def people_delete(
    who: Who, yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for scripts.")] = False
) -> None:
    """Delete all that is somebody's for good: conversations, attachments, bricks, trainings. Asks twice."""
    from assistant.conversations.store import open_store
    from assistant.people.deleting import delete_data
    from assistant.people.known import named
    from brick_training.background import end_all
    from mattoni.paths import person_folder

    known = named(who)
    if not yes:
        _ask_twice(known)
    end_all(person_folder(known.id) / "training")
    delete_data(open_store(known.id))
    print(printable(f"All that was {known.name}'s is gone."))


def _ask_twice(known: "Known") -> None:
    """Raise MattoniError unless somebody says so twice."""
    shown = printable(f"{known.name} <{known.email}> ({known.id[:12]})")
    if _answered(f"Delete all that is {shown}'s? Write yes: ") != "yes":
        raise MattoniError("Nothing was deleted: write yes, or give --yes.")
    if _answered(f"It cannot be brought back. Write {known.id[:6]}: ") != known.id[:6]:
        raise MattoniError(f"Nothing was deleted: write {known.id[:6]}, or give --yes.")


def _answered(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:
        return ""

"""What can be done with any brick of the user's: rename it, pack it into one file, unpack it. Knows no kind of brick."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assistant.registry import Brick, Refused, check_brick
from mattoni.archives import unpack
from mattoni.card import CARD, BrickCard, check_files, check_name, parse_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import remove_folder, replace_folder, replacing
from mattoni.paths import brick_folders, data_around, hosts_folder
from mattoni.versions import VERSIONS, kept_versions

README = "README.md"
SUFFIX = ".zip"

Publish = Callable[[Callable[[], None]], object]


def check_free(name: str, folder: Path) -> None:
    """Raise MattoniError for what cannot name a brick or names one that is there."""
    check_name(name)
    if any((parent / name).exists() for parent in (folder, *brick_folders(data_around(folder)))):
        raise MattoniError(f"There is a brick called '{name}' already: choose another name, or remove that one first.")


def rename_brick(brick: Path, name: str, publish: Publish) -> BrickCard:
    """Give a brick of the user's another name, its older versions too. Raises MattoniError; then nothing has changed."""
    check_free(name, brick.parent)
    old = parse_card((brick / CARD).read_text(encoding="utf-8"), f"{brick.name}/{CARD}")
    if old.kind == "knowledge" and old.parts.method == "facts":
        raise MattoniError("What was taught has no other name than 'facts'.")
    if (hosts_folder(data_around(brick.parent)) / brick.name).is_dir():
        raise MattoniError(f"'{brick.name}' came with a host of its name: import it again with --name.")
    target = brick.parent / name

    def fill(fresh: Path) -> None:
        shutil.copytree(brick, fresh, dirs_exist_ok=True)
        for place in (fresh, *(fresh / VERSIONS / str(number) for number in kept_versions(fresh))):
            card = parse_card((place / CARD).read_text(encoding="utf-8"), f"{brick.name}/{CARD}")
            write_card(_called(card, name), place)

    def swap(put: Callable[[], None]) -> None:
        put()
        remove_folder(brick)

    replace_folder(target, fill, lambda put: publish(lambda: swap(put)))
    return _checked(target).card


def _called(card: BrickCard, name: str) -> BrickCard:
    titled = card.title == _title(card.name)  # nobody chose it
    return card.model_copy(update={"name": name, "title": _title(name) if titled else card.title})


def _title(name: str) -> str:
    return name.replace("-", " ").capitalize()


def renamed_in_trace(trace: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """A stored trace that cites a brick by its new name, so that what it cites is found when the brick is removed."""
    citations = [{**c, "brick": new} if c["brick"] == old else c for c in trace.get("citations", ())]
    return {**trace, "citations": citations} if citations else trace


def pack_brick(brick: Brick, target: Path) -> Path:
    """Write a brick as one file: its card and what the card lists, all its variants; older versions stay here.

    Raises MattoniError when the file is there, the brick is damaged, or the disk is full.
    """
    if target.exists():
        raise MattoniError(f"{target} is there already: name a file that is not.")
    check_files(brick.card, brick.folder)
    card = brick.card.model_copy(update={"parts": brick.card.parts.given_away})
    with tempfile.TemporaryDirectory() as scratch, replacing(target) as fresh:
        write_card(card, Path(scratch))
        with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as packed:
            packed.write(Path(scratch) / CARD, f"{card.name}/{CARD}")
            for name in sorted({*card.all_files, *([README] if (brick.folder / README).is_file() else [])}):
                packed.write(brick.folder / name, f"{card.name}/{name}")
    return target


def is_packed(source: Path) -> bool:
    """Whether a file is a brick that was packed, and no skill as other tools have it."""
    if not source.is_file() or not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as packed:
        return any(name.count("/") == 1 and name.endswith(f"/{CARD}") for name in packed.namelist())


def unpack_brick(source: Path, folder: Path, name: str | None, publish: Publish) -> BrickCard:
    """Bring in a packed brick, under its own name or another; all of it or nothing.

    Every file is checked as those of any brick: digests, no pickles, no NaN, nothing that the card does not list.

    Raises MattoniError when it is damaged or unsafe, or the name is taken.
    """
    with tempfile.TemporaryDirectory(prefix="mattoni-unpack-") as scratch:
        unpack(source, Path(scratch), lambda path: len(path.parts) > 1)
        cards = sorted(Path(scratch).glob(f"*/{CARD}"))
        if len(cards) != 1:
            raise MattoniError(f"{source.name} holds {len(cards)} bricks and not one: pack one again.")
        found = _checked(cards[0].parent)
        chosen = name or found.name
        check_free(chosen, folder)

        def fill(fresh: Path) -> None:
            shutil.copytree(found.folder, fresh, dirs_exist_ok=True)
            write_card(_called(found.card.model_copy(update={"parts": found.card.parts.given_away}), chosen), fresh)

        replace_folder(folder / chosen, fill, publish)
    return _checked(folder / chosen).card


def _checked(folder: Path) -> Brick:
    found = check_brick(folder)
    if isinstance(found, Refused):
        raise MattoniError(found.sentence)
    return found


def costs(brick: Brick) -> str:
    """What a brick takes: bytes on disk with its older versions, and what its kind holds and a turn pays; in words."""
    size = sum(path.stat().st_size for path in brick.folder.rglob("*") if path.is_file())
    disk = f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{max(1, round(size / 1e3))} KB"
    older = len(kept_versions(brick.folder))
    kept = [f"with {older} older version{'s' if older > 1 else ''}"] if older else []
    return ", ".join([*brick.parts.costs, " ".join([disk, *kept])])

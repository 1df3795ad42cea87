"""Older versions of a brick, kept in its own folder under `versions/N`. Knows nothing of what a brick does."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mattoni.card import CARD, check_files, parse_card, read_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder
from mattoni.paths import data_folder

VERSIONS = "versions"
KEPT = 3  # older versions; an adapter of the builtin host takes 10 MB


def kept_versions(brick: Path) -> list[int]:
    """The numbers of a brick's older versions, in order."""
    folder = brick / VERSIONS
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdigit() and (path / CARD).is_file())


def next_version(brick: Path) -> int:
    """One above every version that was there."""
    now = [read_card(brick).version] if (brick / CARD).is_file() else []
    return max([*now, *kept_versions(brick)], default=0) + 1


def replace_brick(
    target: Path, fill: Callable[[Path], None], publish: Callable[[Callable[[], None]], object] = lambda swap: swap()
) -> None:
    """As `replace_folder`. In the user's own folder what was there is kept as an older version, the last three of them."""
    keeps = target.resolve().is_relative_to(data_folder().resolve()) and (target / CARD).is_file()

    def with_older(fresh: Path) -> None:
        fill(fresh)
        if keeps:
            _keep(target, fresh, leave_out=None)

    replace_folder(target, with_older, publish)


def roll_back(
    brick: Path,
    to: int | None = None,
    publish: Callable[[Callable[[], None]], object] = lambda swap: swap(),
) -> int:
    """Put an older version in the place of the one that is there, which is kept in its turn. Returns its number.

    to  None: the newest of those before the one that is there

    Raises MattoniError when there is no such version, or it is damaged.
    """
    now, kept = read_card(brick).version, kept_versions(brick)
    wanted = max((number for number in kept if number < now), default=None) if to is None else to
    if wanted is None or wanted not in kept:
        there = f"kept are {', '.join(map(str, kept))}, and {now} is in use" if kept else f"only {now} is here"
        which = "no earlier version" if to is None else f"no version {to}"
        raise MattoniError(f"There is {which} of '{brick.name}' to go back to: {there}.")
    older = brick / VERSIONS / str(wanted)
    # The folder's name is its number, so the card is read as text.
    card = parse_card((older / CARD).read_text(encoding="utf-8"), f"{brick.name}/{VERSIONS}/{wanted}/{CARD}")
    check_files(card, older)

    def fill(fresh: Path) -> None:
        shutil.copytree(older, fresh, dirs_exist_ok=True)
        _keep(brick, fresh, leave_out=wanted)

    replace_folder(brick, fill, publish)
    return wanted


def _keep(brick: Path, fresh: Path, leave_out: int | None) -> None:
    """Copy a brick and its older versions into `fresh/versions`: the newest of them, `leave_out` left out."""
    sources = {number: brick / VERSIONS / str(number) for number in kept_versions(brick)}
    sources[read_card(brick).version] = brick
    for number in sorted(sources.keys() - {leave_out})[-KEPT:]:
        shutil.copytree(
            sources[number],
            fresh / VERSIONS / str(number),
            ignore=shutil.ignore_patterns(VERSIONS),
            copy_function=_link,
        )


def _link(source: str, target: str) -> None:
    """A second name for a file, which costs no disk: a brick's files are replaced and never written into."""
    try:
        os.link(source, target)
    except OSError:  # another disk, or one that knows no links
        shutil.copy2(source, target)

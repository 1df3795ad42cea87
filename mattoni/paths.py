"""Where things live on this machine. `MATTONI_HOME` moves data and cache, `MATTONI_DATA` names the training data.

A data folder holds conversations, attachments and bricks of one person. There is one for whoever runs Mattoni alone, and below it
one for each person who signed in; what is called `data` here is one of them, and None the first.
"""

import os
import re
from pathlib import Path

import platformdirs

from mattoni.errors import MattoniError


def data_folder() -> Path:
    """Conversations, attachments and the user's own bricks."""
    home = os.environ.get("MATTONI_HOME")
    return Path(home) / "data" if home else Path(platformdirs.user_data_dir("mattoni"))


def people_folder() -> Path:
    """The data folders of those who signed in."""
    return data_folder() / "people"


def person_folder(identity: str) -> Path:
    """The data folder of one of them. Raises MattoniError for what is no identity, and could lead anywhere."""
    if not re.fullmatch(r"[0-9a-f]{32}", identity):
        raise MattoniError(f"'{identity[:40]}' is nobody's identity: `mattoni people list` shows them.")
    return people_folder() / identity


def cache_folder() -> Path:
    """Hosts, embedders and features: everything here can be made or fetched again."""
    home = os.environ.get("MATTONI_HOME")
    return Path(home) / "cache" if home else Path(platformdirs.user_cache_dir("mattoni"))


def model_folder(name: str) -> Path:
    """Where the cached copy of a catalogue entry stands, fetched or not; it has its name only when it is whole."""
    return cache_folder() / "models" / name


def hosts_folder(data: Path | None = None) -> Path:
    """Hosts that came with an imported checkpoint, by the name of their brick."""
    return (data or data_folder()) / "hosts"


def shipped_models() -> Path:
    """`models/` of the checkout, or the copy inside an installed package."""
    package = Path(__file__).resolve().parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


def brick_folders(data: Path | None = None) -> list[Path]:
    """Folders that hold bricks, the user's first: a user's brick hides a shipped one of the same name."""
    return [(data or data_folder()) / "bricks", shipped_models() / "bricks"]


def data_around(bricks: Path) -> Path | None:
    """The data folder of the person whose bricks lie in a folder; None where it is nobody's who signed in."""
    return bricks.parent if bricks.absolute().is_relative_to(people_folder().absolute()) else None


def training_data() -> Path:
    """The folder that `MATTONI_DATA` names."""
    value = os.environ.get("MATTONI_DATA")
    if not value:
        raise MattoniError("MATTONI_DATA is not set: point it at the folder that holds the training data.")
    folder = Path(value)
    if not folder.is_dir():
        raise MattoniError(f"MATTONI_DATA is {folder}, which is not a folder: point it at the training data.")
    return folder

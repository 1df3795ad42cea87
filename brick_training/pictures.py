"""Files of pictures and recordings in training data: which are, where a row's file lies, and opening one as the assistant does."""

import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from PIL import Image

from assistant.turn.look import look
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment, Document, Looked, Picture, Sound

# By name, because a folder may hold a hundred thousand files; what each really is, the assistant's own reader tells.
SOUND_ENDINGS = frozenset(".wav .mp3 .flac .ogg .oga .opus .m4a .aac .aiff .caf".split())
PICTURE_ENDINGS = frozenset(".png .jpg .jpeg .jpe .jfif .webp .gif .bmp .tif .tiff .avif .jp2 .ico .heic .heif".split())
_SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin"}
_WINDOWS_DRIVE = re.compile(r"^[A-Za-z]:/")


def is_systems(path: PurePosixPath | Path) -> bool:
    """Whether a file is there for an operating system or an editor, not for people: `._a.jpg`, `.DS_Store`, `Thumbs.db`."""
    return any(part.lower() in _SYSTEM_NAMES or (part[:1] == "." and part not in (".", "..")) for part in path.parts)


def open_picture(source: Path | bytes, name: str = "") -> Image.Image:
    """A picture as the assistant sees it: upright, RGB, inside its limits.

    name  what to call bytes in a sentence

    Raises MattoniError with the reason where the assistant could not open it.
    """
    called = source.name if isinstance(source, Path) else name or "picture"
    looked = _looked(source, called)
    for item in looked.items:
        # A file of several pictures may be opened as a document; what it shows first is learned from.
        pages = item.pages if isinstance(item, Document) else ()
        shown = item.image if isinstance(item, Picture) else next((page.image for page in pages[:1]), None)
        if shown is not None:
            return shown
    raise MattoniError(looked.notices[0].text if looked.notices else f"{called} is no picture.")


def open_sound(path: Path) -> Sound:
    """A recording as the assistant hears it. Raises MattoniError with the reason where the assistant could not open it."""
    looked = _looked(path, path.name)
    for item in looked.items:
        if isinstance(item, Sound):
            return item
    raise MattoniError(looked.notices[0].text if looked.notices else f"{path.name} is no recording.")


def _looked(source: Path | bytes, called: str) -> Looked:
    try:
        content = source if isinstance(source, bytes) else source.read_bytes()
    except OSError as problem:
        raise MattoniError(f"{called} cannot be read ({problem.strerror}).") from problem
    return look((Attachment(called, content),))


class PictureFolder:
    """Finds the pictures that rows name, as they were named on another machine too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._moved: dict[Path, str] = {}  # files that were found by the end of a whole path: that path
        self._listed: dict[Path, dict[str, Path]] = {}

    def find(self, name: str) -> Path | None:
        """The file that `name` means, or None.

        As it stands; with Windows' separators; without the folders that this folder stands for already
        ("train2017/1.jpg" in `coco/train2017`); of a whole path of another machine its longest end that is here, unless two
        different paths would be one file; in another case of letters.
        """
        if not name.strip():
            return None
        if (self.folder / name).is_file():
            return self.folder / name
        written = tidy_path(name)
        parts = [part for part in written.split("/") if part not in ("", ".")]
        whole = written.startswith("/") or _WINDOWS_DRIVE.match(written) is not None
        own = self.folder.resolve().name.casefold()
        for start in range(len(parts)):
            if start and not whole and parts[start - 1].casefold() != own:
                continue
            found = self._file("/".join(parts[start:]))
            if found is not None and (not whole or self._moved.setdefault(found, written) == written):
                return found
        return None

    def _file(self, name: str) -> Path | None:
        """A file below the folder by its name, in any case of letters. Nothing above the folder is looked at."""
        if ".." in name.split("/"):
            return None
        place = self.folder
        for part in name.split("/"):
            if not (place / part).exists():
                if place not in self._listed:
                    entries = list(place.iterdir()) if place.is_dir() else []
                    self._listed[place] = {entry.name.casefold(): entry for entry in entries}
                if (other := self._listed[place].get(part.casefold())) is None:
                    return None
                place = other
            else:
                place = place / part
        return place if place.is_file() else None

    def tried(self, name: str) -> str:
        """Where a picture was looked for first."""
        return str(self.folder / tidy_path(name))


def tidy_path(name: str) -> str:
    """A path as it would be written here: slashes, without `file://` and blanks around it."""
    text = name.strip().replace("\\", "/")
    return unquote(text.removeprefix("file://")) if text.startswith("file://") else text

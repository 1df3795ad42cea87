"""File names as they are shown, and what a name promises of a file. Knows nothing of what is in one."""

import unicodedata

from mattoni.kinds import Kind

_PROMISED: dict[Kind, str] = {
    "picture": "png jpg jpeg jpe jfif gif bmp tif tiff webp avif heic heif jp2 j2k ico",
    "document": "pdf docx xlsx pptx odt ods odp epub doc xls ppt",
    "sound": "wav mp3 flac ogg oga opus m4a aac amr aiff wma",
    "film": "mp4 mov avi mkv webm",
}
_KINDS = {ending: kind for kind, endings in _PROMISED.items() for ending in endings.split()}


def clean_name(name: str, length: int = 80) -> str:
    """A file name fit to be shown and put in a prompt: no folders, no control marks; short, its ending kept."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    words = ("".join(c for c in word if not unicodedata.category(c).startswith("C")) for word in last.split())
    short = " ".join(word for word in words if word)
    if len(short) > length:
        short = short[: length - 11] + "…" + short[-10:]
    return short or "attachment"


def ending_of(name: str) -> str:
    """What follows the last full stop, in lower case; empty where there is none."""
    return name.rsplit(".", 1)[-1].lower() if "." in name else ""


def promised_kind(name: str) -> Kind | None:
    """The kind that the name's ending stands for; None where that may be anything, as text may."""
    return _KINDS.get(ending_of(name))

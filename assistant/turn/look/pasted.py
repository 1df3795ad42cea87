"""Pictures inside office files and e-books that hold nothing else: pages to be read."""

import re
from functools import partial

from PIL import Image

from assistant.turn.look.opened import Limits, Opened, too_many
from assistant.turn.look.pictures import decoded
from assistant.turn.look.zips import Archive
from mattoni.inputs import Page
from mattoni.kinds import PICTURES, format_of

_SMALLEST_BYTES = 10_000  # a logo or a bullet is no page


def pasted_pages(archive: Archive, folder: str, limits: Limits) -> Opened | None:
    """The pictures of a folder in the archive, in the order of their numbers; None where there are none."""
    names = [
        name
        for name in archive.names
        if name.startswith(folder)
        and archive.zip.getinfo(name).file_size >= _SMALLEST_BYTES
        and format_of(archive.zip.open(name).read(64)) in PICTURES
    ]
    if not names:
        return None
    names.sort(key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
    kept = names[: limits.pages]
    told = (too_many(len(names), len(kept), "pictures"),) if len(names) > len(kept) else ()
    pages = (Page(n, None, partial(_read, archive, name, limits)) for n, name in enumerate(kept, start=1))
    return Opened(tuple(pages), told)


def _read(archive: Archive, name: str, limits: Limits) -> Image.Image:
    return decoded(archive.zip.read(name), limits)

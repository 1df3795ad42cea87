"""Reads EPUB: the chapters in the order of the book's spine (https://www.w3.org/TR/epub-33). Fetches and runs nothing."""

import posixpath
from urllib.parse import unquote

from assistant.turn.look.html import html_text
from assistant.turn.look.opened import DAMAGED, Limits, Opened, Refused, pages_of
from assistant.turn.look.pasted import pasted_pages
from assistant.turn.look.zips import Archive

_CONTAINER = "META-INF/container.xml"


def open_epub(archive: Archive, limits: Limits) -> Opened:
    """A page for each file of the spine that has text."""
    container = archive.parsed(_CONTAINER)
    root = container.find(".//{*}rootfile") if container is not None else None
    path = root.get("full-path", "") if root is not None else ""
    package = archive.parsed(path)
    if package is None:
        raise Refused(DAMAGED)
    hrefs = {item.get("id"): item.get("href", "") for item in package.iterfind(".//{*}manifest/{*}item")}
    spine = [hrefs.get(item.get("idref"), "") for item in package.iterfind(".//{*}spine/{*}itemref")]
    names = [posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(href))) for href in spine if href]
    texts: list[str] = []
    for name in names:
        if name in archive.names and len(texts) < limits.pages:
            # Chapters are XHTML, which html_text() reads as well; their charset is declared in them, or UTF-8.
            text = html_text(archive.zip.read(name).decode("utf-8", "replace"))
            texts += [text] if text else []
    if not texts and (pages := pasted_pages(archive, "", limits)):
        return pages
    return pages_of(texts, len(names) if len(texts) == limits.pages else None, "chapters")

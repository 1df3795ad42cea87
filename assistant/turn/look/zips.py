"""Checks the zip that an office file or an e-book is, before anything in it is unpacked. Knows nothing of their contents."""

import io
import zipfile
from dataclasses import dataclass
from functools import cached_property

from lxml import etree  # type: ignore[import-untyped]

from assistant.turn.look.opened import DAMAGED, LOCKED, SEND_PART, Limits, Refused

_MOST_FILES = 20_000
_MARKUP = (".xml", ".rels", ".xhtml", ".html", ".htm", ".opf", ".ncx", ".vml")
_OFFICE = {
    b"wordprocessingml": "docx",
    b"application/vnd.ms-word": "docx",
    b"spreadsheetml": "xlsx",
    b"application/vnd.ms-excel.sheet.macro": "xlsx",
    b"presentationml": "pptx",
    b"application/vnd.ms-powerpoint": "pptx",
}
_MIMETYPES = {
    "application/epub+zip": "epub",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.presentation": "odp",
}


@dataclass(frozen=True)
class Archive:
    """A zip within the limits, none of whose files is locked, and none of whose markup brings entities of its own."""

    content: bytes

    @cached_property
    def zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BytesIO(self.content))

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self.zip.namelist())

    @cached_property
    def holds(self) -> str | None:
        """docx, xlsx, pptx, odt, ods, odp or epub, as the zip itself says; None for files that were zipped."""
        if "mimetype" in self.names:
            return _MIMETYPES.get(
                self.zip.read("mimetype").decode("ascii", "replace").strip().removesuffix("-template")
            )
        if "[Content_Types].xml" not in self.names:
            return None
        types = self.zip.read("[Content_Types].xml")
        main = (
            part.get("ContentType", "").encode()
            for part in etree.fromstring(types, _PARSER)
            if part.get("ContentType", "").endswith("main+xml")
        )
        return next((kind for found in main for mark, kind in _OFFICE.items() if mark in found), None)

    def parsed(self, name: str) -> etree._Element | None:
        """The root of an XML file in it; None where there is no such file."""
        return etree.fromstring(self.zip.read(name), _PARSER) if name in self.names else None


_PARSER = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)


def checked(content: bytes, limits: Limits) -> Archive:
    """Raises Refused for what is damaged, locked, too large unpacked, or out to blow up while it is parsed.

    Sizes are those that the zip declares; Python's zipfile never unpacks more than that.
    """
    archive = Archive(content)
    try:
        files = archive.zip.infolist()
    except (zipfile.BadZipFile, ValueError, OSError) as problem:
        raise Refused(DAMAGED) from problem
    if any(file.flag_bits & 1 for file in files) or "META-INF/rights.xml" in archive.names:
        raise Refused(LOCKED)
    markup = [file for file in files if file.filename.lower().endswith(_MARKUP)]
    unpacked, parsed = sum(file.file_size for file in files), sum(file.file_size for file in markup)
    if unpacked > limits.unpacked_bytes or parsed > limits.markup_bytes or len(files) > _MOST_FILES:
        raise Refused(
            f"is {max(unpacked, parsed) / 1e6:,.0f} MB large once it is unpacked, which is too much: {SEND_PART}"
        )
    for file in markup:
        with archive.zip.open(file) as opened:
            if b"<!ENTITY" in opened.read(4096).replace(b"\0", b""):
                raise Refused("holds markup that defines entities of its own, and is not opened: save it as PDF.")
    return archive

"""Makes files as people send them, small enough to be read here. No tests."""

import io
import struct
import zipfile
from collections.abc import Mapping


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def open_document(kind: str, body: str) -> bytes:
    """An ODT, ODS or ODP with that body."""
    oasis = "urn:oasis:names:tc:opendocument:xmlns:"
    spaces = " ".join(f'xmlns:{name}="{oasis}{full}:1.0"' for name, full in _ODF.items())
    content = f"<office:document-content {spaces}><office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>"
    return zipped({"mimetype": f"application/vnd.oasis.opendocument.{kind}", "content.xml": content})


_ODF = {
    "office": "office",
    "text": "text",
    "table": "table",
    "draw": "drawing",
    "presentation": "presentation",
}


def ebook(chapters: Mapping[str, str]) -> bytes:
    """An EPUB whose spine has the chapters in the order given, and whose zip has them in another."""
    items = "".join(f'<item id="{name}" href="text/{name}.xhtml"/>' for name in chapters)
    spine = "".join(f'<itemref idref="{name}"/>' for name in chapters)
    package = (
        f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>'
    )
    container = '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    page = "<?xml version='1.0' encoding='utf-8'?><html xmlns='http://www.w3.org/1999/xhtml'><body>{}</body></html>"
    texts = {f"OEBPS/text/{name}.xhtml": page.format(chapters[name]) for name in sorted(chapters, reverse=True)}
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/book.opf": package,
            **texts,
        }
    )


def pdf(content: str, objects: str = "", page: str = "", catalog: str = "") -> bytes:
    """A page of 400 x 400 points with that content stream; more objects are numbered from 6."""
    stream = content.encode()
    return (
        f"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R{catalog}>>endobj\n"
        "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
        f"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 400 400]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>{page}>>endobj\n"
        f"4 0 obj<</Length {len(stream)}>>stream\n{content}\nendstream endobj\n"
        "5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj\n"
        f"{objects}\ntrailer<</Root 1 0 R/Size 20>>\n%%EOF\n"
    ).encode()


def typed(text: str, x: float, y: float, size: float = 10) -> str:
    """A content stream that puts text on a page."""
    return f"BT /F {size} Tf {x} {y} Td ({text}) Tj ET\n"


def ole(streams: Mapping[str, bytes]) -> bytes:
    """An OLE container ([MS-CFB], version 3) with streams in its root and, by "folder/name", in storages.

    Every stream is padded to 4096 bytes and more, so that none needs the small sectors.
    """
    padded = {name: content + bytes(max(0, 4096 - len(content))) for name, content in streams.items()}
    folders = sorted({name.split("/")[0] for name in padded if "/" in name})
    entries: list[tuple[str, int, list[str], bytes]] = [("Root Entry", 5, _children("", padded, folders), b"")]
    entries += [(folder, 1, _children(folder, padded, folders), b"") for folder in folders]
    entries += [(name, 2, [], content) for name, content in padded.items()]
    place = {name: number for number, (name, *_) in enumerate(entries)}
    right: dict[str, int] = {}
    for _, _, children, _ in entries:
        right.update({a: place[b] for a, b in zip(children, children[1:], strict=False)})
    sectors: list[bytes] = []
    chains: list[int] = []

    def add(content: bytes) -> int:
        first, count = len(sectors), -(-len(content) // 512)
        sectors.extend(content[i * 512 : (i + 1) * 512].ljust(512, b"\0") for i in range(count))
        chains.extend([*range(first + 1, first + count), 0xFFFFFFFE])
        return first

    directory = b""
    for name, kind, children, content in entries:
        start = add(content) if content else 0xFFFFFFFE
        shown = name.rsplit("/", 1)[-1].encode("utf-16-le") + b"\0\0"
        child = place[children[0]] if children else 0xFFFFFFFF
        directory += shown.ljust(64, b"\0") + struct.pack("<HBB", len(shown), kind, 1)
        directory += struct.pack("<III", 0xFFFFFFFF, right.get(name, 0xFFFFFFFF), child) + bytes(36)
        directory += struct.pack("<IQ", start, len(content))
    first_of_directory = add(directory.ljust(-(-len(directory) // 512) * 512, b"\0"))
    count = len(chains) // 126 + 1
    first_of_table = len(sectors)
    table = b"".join(struct.pack("<I", n) for n in [*chains, *[0xFFFFFFFD] * count]).ljust(count * 512, b"\xff")
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 62, 3, 0xFFFE, 9, 6) + bytes(6)
    header += struct.pack("<IIIIIIIII", 0, count, first_of_directory, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0)
    header += b"".join(struct.pack("<I", first_of_table + i) for i in range(count)).ljust(436, b"\xff")
    return header + b"".join(sectors) + table


def _children(folder: str, streams: Mapping[str, bytes], folders: list[str]) -> list[str]:
    inside = [name for name in streams if name.rpartition("/")[0] == folder]
    return sorted(
        [*inside, *(folders if not folder else [])], key=lambda name: (len(name.rsplit("/", 1)[-1]), name.upper())
    )

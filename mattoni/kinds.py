"""What kind of file bytes are, by how they begin: the one place that knows. Opens nothing, and asks no file's name.

Signatures: https://en.wikipedia.org/wiki/List_of_file_signatures; brands of ISO media files: https://mp4ra.org.
"""

import re
from typing import Literal

from mattoni.charsets import charset_of

Kind = Literal["picture", "document", "sound", "film", "unknown"]
Format = Literal[
    "png", "jpeg", "gif", "bmp", "tiff", "webp", "avif", "heic", "jpeg2000", "ico", "svg",
    "pdf", "zip", "ole", "rtf", "postscript",
    "wav", "mp3", "flac", "ogg", "m4a", "aac", "amr", "aiff", "caf", "wma", "webm-sound",
    "film", "text", "unknown",
]  # fmt: skip
PICTURES: frozenset[Format] = frozenset(
    ("png", "jpeg", "gif", "bmp", "tiff", "webp", "avif", "heic", "jpeg2000", "ico", "svg")
)
SOUNDS: frozenset[Format] = frozenset(
    ("wav", "mp3", "flac", "ogg", "m4a", "aac", "amr", "aiff", "caf", "wma", "webm-sound")
)

_STARTS: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\0\0\1\0", "ico"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"\0\0\0\x0cjP", "jpeg2000"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "ole"),
    (b"{\\rtf", "rtf"),
    (b"%!PS", "postscript"),
    (b"ID3", "mp3"),
    (b"fLaC", "flac"),
    (b"#!AMR", "amr"),
    (b"caff", "caf"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma"),
    (b"FLV\1", "film"),
    (b"\0\0\1\xba", "film"),
)
# The second four bytes behind the name of a container.
_CONTAINED: dict[tuple[bytes, bytes], Format] = {
    (b"RIFF", b"WEBP"): "webp",
    (b"RIFF", b"WAVE"): "wav",
    (b"RF64", b"WAVE"): "wav",
    (b"RIFF", b"AVI "): "film",
    (b"FORM", b"AIFF"): "aiff",
    (b"FORM", b"AIFC"): "aiff",
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_SVG = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*(?:<!doctype\s+svg\b|<(?:\w+:)?svg[\s/>])", re.I | re.S
)
_BEGINNING = 16_384


def format_of(content: bytes) -> Format:
    """The format that the bytes begin as; "text" where there is nothing but text, as far as one can see at once."""
    for start, found in _STARTS:
        if content.startswith(start):
            return found
    contained = _CONTAINED.get((content[:4], content[8:12]))
    if contained is not None:
        return contained
    if content[4:8] == b"ftyp":
        return _iso_media(content)
    if content.startswith(b"OggS"):
        return "film" if b"theora" in content[:200] else "ogg"
    if content.startswith(b"\x1a\x45\xdf\xa3"):
        head = content[:65_536]
        return "webm-sound" if b"A_" in head and b"V_" not in head else "film"
    if content.startswith(b"BM") and content[6:10] == b"\0\0\0\0":
        return "bmp"
    if content[:2] in (b"\xff\xf1", b"\xff\xf9"):
        return "aac"
    if _is_mpeg_sound(content):
        return "mp3"
    is_text = charset_of(content[:_BEGINNING]) is not None
    if content.lstrip().startswith(b"%PDF-") or (b"%PDF-" in content[:1024] and not is_text):
        return "pdf"
    if _SVG.match(content[:_BEGINNING]):
        return "svg"
    return "text" if is_text else "unknown"


def kind_of(content: bytes) -> Kind:
    """What a user would call it."""
    found = format_of(content)
    if found in PICTURES:
        return "picture"
    if found in SOUNDS:
        return "sound"
    if found == "film" or found == "unknown":
        return found
    return "document"


def _iso_media(content: bytes) -> Format:
    """Pictures, sound and films share one container; the brand or, where that says nothing, its tracks tell them apart."""
    brands = {content[8:12], *(content[i : i + 4] for i in range(16, min(int.from_bytes(content[:4]), 256), 4))}
    if brands & {b"avif", b"avis"}:
        return "avif"
    if content[8:12] in _HEIF_BRANDS:
        return "heic"
    if content[8:12] in (b"M4A ", b"M4B "):
        return "m4a"
    return "film" if b"vide" in content or b"soun" not in content else "m4a"


def _is_mpeg_sound(content: bytes) -> bool:
    """Whether two frames of MPEG audio, layer II or III, follow each other (ISO 11172-3, section 2.4.1.3)."""
    first = _mpeg_frame_length(content[:4])
    return bool(first) and (first >= len(content) or _mpeg_frame_length(content[first : first + 4]) > 0)


_BITRATES = {  # kbit/s by index: (MPEG 1, layer II), (MPEG 1, layer III), (MPEG 2, both)
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 0): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _mpeg_frame_length(header: bytes) -> int:
    """Bytes of the frame with this header, 0 where it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return 0
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer not in (1, 2) or bitrate in (0, 15) or rate == 3:
        return 0
    kilobits = _BITRATES[(3, layer) if version == 3 else (2, 0)][bitrate]
    sample_rate_hz = (44_100, 48_000, 32_000)[rate] // {3: 1, 2: 2, 0: 4}[version]
    samples = 576 if version != 3 and layer == 1 else 1152
    return samples // 8 * kilobits * 1000 // sample_rate_hz + (header[2] >> 1 & 1)

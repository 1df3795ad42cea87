"""What kind of file bytes are, and in which charset text is."""

import io

import pytest
from PIL import Image

from mattoni.charsets import charset_of, decoded
from mattoni.kinds import format_of, kind_of


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO"])
def test_pictures_are_pictures(kind: str) -> None:
    assert (format_of(encoded(kind)), kind_of(encoded(kind))) == (kind.lower(), "picture")


MP3_FRAME = b"\xff\xfb\x90\x64" + bytes(413)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"RIFF\x24\0\0\0WAVEfmt ", "sound"),
        (b"ID3\x04\0\0", "sound"),
        (MP3_FRAME * 3, "sound"),
        (b"fLaC\0\0\0\x22", "sound"),
        (b"OggS\0\2" + bytes(30) + b"OpusHead", "sound"),
        (b"\0\0\0\x1cftypM4A \0\0\0\0M4A mp42isom", "sound"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"hdlr\0\0\0\0soun", "sound"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41" + b"hdlr\0\0\0\0soun hdlr\0\0\0\0vide", "film"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "picture"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "picture"),
        (b"\x1a\x45\xdf\xa3webm A_OPUS", "sound"),
        (b"\x1a\x45\xdf\xa3webm V_VP9 A_OPUS", "film"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<svg xmlns='http://www.w3.org/2000/svg'>", "picture"),
        (b"%PDF-1.7", "document"),
        (b"PK\x03\x04", "document"),
        (b"BMW is a car. " * 3, "document"),
        (b"The <svg> tag draws.", "document"),
        ("Käse".encode("utf-16"), "document"),
        (b"", "document"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "unknown"),
        (bytes(range(256)) * 8, "unknown"),
    ],
)
def test_other_files_are_what_they_begin_as(content: bytes, kind: str) -> None:
    assert kind_of(content) == kind


GERMAN = "Über den Flüssen fällt Schnee; die Straße ist für Autos gesperrt. Größe: 5"


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        *((GERMAN, charset) for charset in ("utf-8", "cp1252", "cp850", "cp437", "utf-16-le", "utf-16-be")),
        ("He said “hello” and ‘bye’ – it’s the café’s naïve “œuvre” … 5 €", "cp1252"),
        ("Ça va très bien, été à la forêt où l’on mange à Noël", "cp1252"),
        ("El niño comió mañana ¿Qué tal?", "cp850"),
        ("Plain words, and more words\n", "utf-16-le"),
        ("Привет, как дела? Это тест", "utf-16-le"),
        ("Привет, как дела? Это тест", "cp1251"),
        ("日本語のテキストです。これはテスト", "utf-16-be"),
        ("日本語のテキストです。これはテスト", "shift_jis"),
        ("我们今天去公园散步，然后回家吃饭。", "utf-16-le"),
        ("┌────┬────┐\n│ ab │ 5  │\n└────┴────┘\nGrüße", "cp850"),
        ("╒════╤════╕\n│ ab │ 5  │\n╘════╧════╛\nGrüße", "cp437"),
        ("short é", "latin-1"),
    ],
)
def test_text_is_decoded_though_no_one_says_how(text: str, charset: str) -> None:
    assert decoded(text.encode(charset)) == text


def test_a_damaged_byte_does_not_make_utf_8_another_charset() -> None:
    assert decoded("Straße und Größe, ".encode() * 20 + b"\xff end") == "Straße und Größe, " * 20 + "\ufffd end"


def test_what_is_no_text_has_no_charset() -> None:
    assert charset_of(bytes(range(256)) * 4) is None and charset_of(b"\x7fELF\x02\x01" + bytes(64)) is None

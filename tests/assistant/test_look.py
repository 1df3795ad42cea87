"""What a user may send, and what the assistant says when it cannot be used."""

import io
import threading
import zlib
from collections.abc import Sequence

import matplotlib
import numpy as np
import pypdfium2 as pdfium
import pytest
from PIL import Image

from assistant.turn.look import Limits, clean_name, html_text, look
from mattoni.inputs import Attachment, Document, Picture, document_text

matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402 - the backend comes first
from matplotlib.backends.backend_pdf import PdfPages  # noqa: E402


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def red(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    return Image.new("RGB", size, (255, 0, 0)).convert(mode)


def pdf_of(texts: Sequence[str]) -> bytes:
    """A PDF with one page per text; an empty text makes an empty page."""
    buffer = io.BytesIO()
    with PdfPages(buffer) as pages:
        for text in texts:
            figure = pyplot.figure(figsize=(4, 3))
            figure.text(0.1, 0.5, text)
            pages.savefig(figure)
            pyplot.close(figure)
    return buffer.getvalue()


def scanned_pdf(image: Image.Image) -> bytes:
    return encoded(image, "PDF")


# RC4-encrypted with a user password: pdfium cannot write one, so the smallest that asks for a password is spelled out.
LOCKED_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj\n"
    b"4 0 obj<</Filter/Standard/V 1/R 2/O<" + b"11" * 32 + b">/U<" + b"22" * 32 + b">/P -4>>endobj\n"
    b"trailer<</Root 1 0 R/Encrypt 4 0 R/ID[<00><00>]/Size 5>>\n%%EOF\n"
)


def one_picture(content: bytes, name: str = "a.png") -> Image.Image:
    looked = look([Attachment(name, content)])
    assert looked.notices == ()
    (item,) = looked.items
    assert isinstance(item, Picture)
    return item.image


def one_text(content: bytes, name: str = "a.txt") -> str:
    looked = look([Attachment(name, content)])
    assert looked.notices == ()
    (item,) = looked.items
    assert isinstance(item, Document)
    return "\n".join(page.text or "" for page in item.pages)


def refusal(content: bytes, name: str = "holiday.png", limits: Limits | None = None) -> str:
    looked = look([Attachment(name, content)], limits or Limits())
    assert looked.items == ()
    (notice,) = looked.notices
    assert notice.code == "refused"
    assert notice.text.startswith(name) and notice.text.endswith(".")
    return notice.text


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO"])
def test_every_usual_format_is_decoded_to_rgb(kind: str) -> None:
    image = one_picture(encoded(red(size=(32, 32)), kind))
    assert image.mode == "RGB"
    assert np.allclose(np.asarray(image).reshape(-1, 3).mean(0), (255, 0, 0), atol=6)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("CMYK", "JPEG"), ("YCbCr", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("L", "PNG"), ("LA", "PNG")],
)
def test_every_colour_mode_becomes_rgb(mode: str, kind: str) -> None:
    assert one_picture(encoded(red(mode), kind)).mode == "RGB"


def test_a_cmyk_jpeg_keeps_its_colour() -> None:
    assert np.allclose(np.asarray(one_picture(encoded(red("CMYK"), "JPEG")))[5, 5], (255, 0, 0), atol=8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = np.asarray(one_picture(encoded(Image.fromarray(ramp), kind)))[..., 0]
    assert np.abs(found.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1


def test_floating_point_tiff_is_stretched_to_eight_bits() -> None:
    ramp = np.linspace(-1, 3, 64, dtype=np.float32).reshape(8, 8)
    found = np.asarray(one_picture(encoded(Image.fromarray(ramp), "TIFF")))
    assert found.min() == 0 and found.max() == 255


def test_transparent_becomes_white() -> None:
    assert one_picture(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).getpixel((1, 1)) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour_becomes_white_there() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 1)
    found = one_picture(encoded(image, "PNG", transparency=0))
    assert found.getpixel((0, 0)) == (255, 0, 0) and found.getpixel((2, 2)) == (255, 255, 255)


def test_exif_rotation_is_applied() -> None:
    image = red(size=(40, 20))
    image.paste((0, 0, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left side belongs on top
    found = one_picture(encoded(image, "JPEG", exif=exif, quality=95))
    assert found.size == (20, 40)
    assert found.getpixel((10, 5))[2] > 200 and found.getpixel((10, 35))[0] > 200


def test_of_an_animation_the_first_frame_is_used_and_the_user_is_told() -> None:
    content = encoded(red(), "GIF", save_all=True, append_images=[Image.new("RGB", (40, 20), (0, 0, 255))])
    looked = look([Attachment("dance.gif", content)])
    (item,) = looked.items
    assert isinstance(item, Picture) and item.image.getpixel((5, 5))[0] > 250
    (notice,) = looked.notices
    assert notice.code == "first-frame" and notice.text.startswith("dance.gif has 2 frames")


def test_one_pixel_is_a_picture() -> None:
    assert one_picture(encoded(red(size=(1, 1)))).size == (1, 1)


def test_the_content_decides_and_not_the_name() -> None:
    assert one_picture(encoded(red(), "JPEG"), name="letter.png").mode == "RGB"
    looked = look([Attachment("photo.jpg", b"plain words")])
    assert isinstance(looked.items[0], Document) and looked.items[0].pages[0].text == "plain words"


@pytest.mark.parametrize(
    ("content", "name", "what"),
    [
        (b"plain words", "photo.png", "a text file"),
        (b"plain words", "a.pdf", "a text file"),
        (b"jpeg", "a.pdf", "a picture"),
    ],
)
def test_a_name_that_promises_something_else_is_told(content: bytes, name: str, what: str) -> None:
    looked = look([Attachment(name, encoded(red(), "JPEG") if content == b"jpeg" else content)])
    (notice,) = looked.notices
    assert notice.code == "misnamed"
    assert notice.text == f"{name} is {what}, whatever its name says, and was opened as one."


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_truncated_picture_is_refused_by_name(kind: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    content = encoded(noise, kind)
    assert "is damaged and cannot be opened" in refusal(content[: len(content) // 2])


def test_an_empty_file_is_refused() -> None:
    assert refusal(b"") == "holiday.png is empty: send it again."


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    # The header alone says 30,000 x 30,000: were it decoded first, the missing rest would make it "damaged".
    bomb = bytearray(encoded(red()))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    assert refusal(bytes(bomb)) == "holiday.png has more than 64 million pixels: send a smaller version."


def test_a_picture_just_above_the_pixel_limit_is_refused() -> None:
    assert "more than 0 million pixels" in refusal(encoded(red()), limits=Limits(pixels=799))


def test_too_many_bytes_are_refused_unread() -> None:
    text = refusal(b"x" * 2000, name="film.bin", limits=Limits(bytes=1000))
    assert text == "film.bin is 0 MB large, and at most 0 MB are read: send a smaller version or a part of it."


def test_a_large_picture_is_kept_at_four_million_pixels() -> None:
    image = one_picture(encoded(red(size=(4000, 3000)), "JPEG"))
    assert image.width * image.height <= 2048 * 2048
    assert image.width / image.height == pytest.approx(4 / 3, rel=0.01)


def test_a_long_screenshot_keeps_a_width_that_can_be_read() -> None:
    assert one_picture(encoded(red(size=(500, 9000)))).width >= 480


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04" + bytes(100), "is damaged"),
        (b"\0\0\0\x20ftypheic" + bytes(100), "is damaged"),
        (b"\0\0\0\x18ftypisom" + bytes(30) + b"vide", "is damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"\x7fELF" + bytes(100), "unknown kind"),
        (bytes(range(256)) * 8, "unknown kind"),
        (b"   \n ", "holds no text"),
    ],
)
def test_other_kinds_are_refused_by_name_and_with_advice(content: bytes, what: str) -> None:
    assert what in refusal(content)


def test_more_than_ten_pictures_are_left_out_in_one_sentence() -> None:
    looked = look([Attachment(f"{i}.png", encoded(red())) for i in range(30)])
    assert [item.name for item in looked.items] == [f"{i}.png" for i in range(10)]
    (notice,) = looked.notices
    assert notice.code == "truncated"
    assert notice.text == (
        "Only the first 10 pictures of a message are used; 20 more were left out: send them in the next message."
    )


def test_a_bad_file_leaves_the_others_alone_and_in_order() -> None:
    sent = [
        Attachment("a.png", encoded(red())),
        Attachment("bad.png", b"\x89PNG\r\n\x1a\nrubbish"),
        Attachment("b.txt", b"words"),
        Attachment("c.png", encoded(red(size=(3, 3)))),
    ]
    looked = look(sent)
    assert [item.name for item in looked.items] == ["a.png", "b.txt", "c.png"]
    assert [notice.text.split()[0] for notice in looked.notices] == ["bad.png"]


def test_an_empty_pdf_never_hands_over_another_file() -> None:
    """open-webui #4601."""
    empty = pdf_of([""])
    looked = look([Attachment("secret.txt", b"the secret of another file"), Attachment("empty.pdf", empty)])
    _, document = looked.items
    assert isinstance(document, Document)
    assert [page.text for page in document_text(document, lambda image: "")] == [""]


def test_the_digest_is_of_the_bytes_and_not_of_the_name() -> None:
    first, second, other = look([Attachment("a", b"one"), Attachment("b", b"one"), Attachment("a", b"two")]).items
    assert first.digest == second.digest != other.digest


# PDF


def test_a_pdf_gives_its_own_text_page_by_page() -> None:
    looked = look([Attachment("a.pdf", pdf_of(["First page", "Second page"]))])
    (document,) = looked.items
    assert isinstance(document, Document)
    assert [(p.number, p.text, p.image) for p in document.pages] == [(1, "First page", None), (2, "Second page", None)]


def test_a_scanned_page_is_rendered_for_ocr_and_only_when_asked() -> None:
    (document,) = look([Attachment("scan.pdf", scanned_pdf(red(size=(300, 200))))]).items
    assert isinstance(document, Document)
    (page,) = document.pages
    assert page.text is None and page.image is not None and page.image.mode == "RGB"
    (text,) = document_text(document, lambda image: f"{image.getpixel((9, 9))}")
    assert (text.number, text.read) == (1, True) and text.text.startswith("(25")


@pytest.mark.parametrize(
    ("words", "covers", "read"),
    [
        ("Archive copy, page 3", 1.0, True),
        ("Archive copy, page 3", 0.3, False),
        ("A layer of text under the scan, as scanners write it.\n" * 5, 1.0, False),
    ],
)
def test_a_scan_with_a_stamp_is_read_and_a_page_with_text_is_taken_at_its_word(words, covers, read) -> None:
    content = io.BytesIO()
    figure = pyplot.figure(figsize=(4, 6))
    figure.text(0.05, 0.5, words, fontsize=4)
    axes = figure.add_axes((0, 0, 1, covers))
    axes.imshow(np.zeros((30, 20, 3)), aspect="auto")
    axes.axis("off")
    with PdfPages(content) as pdf:
        pdf.savefig(figure)
    pyplot.close(figure)
    (document,) = look([Attachment("page.pdf", content.getvalue())]).items
    (page,) = document.pages
    assert (page.text is None) == (page.image is not None) == read


def test_a_huge_page_is_rendered_inside_the_limit() -> None:
    (document,) = look([Attachment("poster.pdf", scanned_pdf(red(size=(9000, 300))))]).items
    assert isinstance(document, Document)
    image = document.pages[0].image
    assert image is not None and image.width * image.height <= 2048 * 2048 * 1.01


def test_of_500_pages_the_first_50_are_read_and_the_user_is_told() -> None:
    pdf = pdfium.PdfDocument.new()
    for _ in range(500):
        pdf.new_page(200, 200)
    buffer = io.BytesIO()
    pdf.save(buffer)
    pdf.close()
    looked = look([Attachment("long.pdf", buffer.getvalue())])
    (document,) = looked.items
    assert isinstance(document, Document) and len(document.pages) == 50
    (notice,) = looked.notices
    assert notice.code == "truncated" and "has 500 pages; only the first 50 are read" in notice.text


def test_a_locked_pdf_is_refused_with_the_reason() -> None:
    assert refusal(LOCKED_PDF, "tax.pdf") == "tax.pdf is locked with a password: save it without one."


@pytest.mark.parametrize("content", [b"%PDF-1.7\n", b"%PDF-1.4\n" + bytes(500), pdf_of(["hello"])[:400]])
def test_a_damaged_pdf_is_refused(content: bytes) -> None:
    assert "is damaged and cannot be opened" in refusal(content, "letter.pdf")


def test_pdfs_are_opened_by_several_threads_at_once() -> None:
    contents = [pdf_of([f"text {i}"]) for i in range(4)]
    found: dict[int, str] = {}

    def open_it(i: int) -> None:
        for _ in range(5):
            found[i] = one_text(contents[i], f"{i}.pdf")

    threads = [threading.Thread(target=open_it, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: f"text {i}" for i in range(4)}


# Text files


@pytest.mark.parametrize(
    ("text", "charset"),
    [
        ("plain words", "ascii"),
        ("Käse für 3 €", "utf-8"),
        ("Käse für 3 €", "utf-8-sig"),
        ("Käse für 3 €", "utf-16"),
        ("Käse für 3 € and a longer English sentence", "cp1252"),
        ("Привет, как дела? Это тест", "cp1251"),
        ("日本語のテキストです。これはテスト", "shift_jis"),
    ],
)
def test_text_is_read_in_its_charset(text: str, charset: str) -> None:
    assert one_text(text.encode(charset)) == text


def test_text_loses_its_control_characters_and_keeps_its_lines() -> None:
    assert one_text(b"one\r\ntwo\rthree\x07\x1b[0m four\tfive") == "one\ntwo\nthree[0m four\tfive"


def test_a_long_text_is_cut_and_the_user_is_told() -> None:
    looked = look([Attachment("long.txt", b"word " * 100)], Limits(characters=20))
    (document,) = looked.items
    assert isinstance(document, Document) and document.pages[0].text == "word word word word "
    assert looked.notices[0].code == "truncated"


def test_html_becomes_what_a_reader_sees() -> None:
    page = (
        "<!DOCTYPE html><html><head><title>Menu &amp; prices</title><style>p {}</style></head><body><!-- no -->"
        "<script>alert(1)</script><h1>Lunch</h1><p>Soup<br>of the\n  day</p>"
        "<ul><li>bread</li><li><b>salt</b>y butter</li></ul>"
        "<table><tr><td>Tea</td><td>2.50</td></tr></table><p hidden>secret</p><p>end"
    )
    seen = ["Menu & prices", "Lunch", "Soup", "of the day", "- bread", "- salty butter", "Tea\t2.50", "end"]
    assert html_text(page).split("\n") == seen
    assert one_text(page.encode(), "page.htm") == html_text(page)


def test_text_that_only_mentions_html_and_pdf_stays_as_it_is() -> None:
    for text in ("Use <b>bold</b> in Markdown.", "A PDF begins with %PDF- and a number."):
        assert one_text(text.encode()) == text


# Names


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("/etc/../passwd.png", "passwd.png"),
        ("C:\\pictures\\cat.png", "cat.png"),
        ("a\nb\tc\x00\x1b[31m.png", "a b c[31m.png"),
        ("gp\u202egnp.exe", "gpgnp.exe"),
        ("", "attachment"),
        ("\x01", "attachment"),
        ("  two   words .png ", "two words .png"),
    ],
)
def test_names_are_fit_to_be_shown(name: str, shown: str) -> None:
    assert clean_name(name) == shown


def test_a_long_name_is_cut_in_the_middle() -> None:
    assert clean_name("x" * 300 + ".png") == "x" * 69 + "…" + "xxxxxx.png"

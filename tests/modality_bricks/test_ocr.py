"""Reading text in pictures: with the real models of the wheel, on drawn text."""

import socket
from typing import NoReturn

import pytest
from PIL import Image, ImageDraw, ImageFont

from mattoni.errors import MattoniError
from modality_bricks.ocr import Line, Reader, ocr_threads, rows_of, text_in_reading_order

LINES = ["Sunrise Bakery", "2 croissants 4.80", "1 coffee 3.20", "Total 8.00", "Thank you and goodbye"]


def drawn(lines: list[str], size: int = 24, width: int = 420) -> Image.Image:
    image = Image.new("RGB", (width, 20 + 2 * size * len(lines)), "white")
    draw = ImageDraw.Draw(image)
    for i, text in enumerate(lines):
        draw.text((20, 10 + 2 * size * i), text, fill="black", font=ImageFont.load_default(size))
    return image


def box(text: str, left: float, top: float, width: float = 50, height: float = 10, slant: float = 0) -> Line:
    right, down = left + width, slant * width
    corners = ((left, top), (right, top + down), (right, top + height + down), (left, top + height))
    return Line(text, corners, 1.0)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(threads=1)


def test_drawn_text_is_read_in_order(reader: Reader) -> None:
    assert text_in_reading_order(reader.read(drawn(LINES))).split("\n") == LINES


def test_the_models_are_in_the_wheel_and_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert text_in_reading_order(Reader().read(drawn(["Hello"]))) == "Hello"


@pytest.mark.parametrize("turn", list(Image.Transpose)[2:5])
def test_a_picture_on_its_side_or_head_is_turned_first(reader: Reader, turn: Image.Transpose) -> None:
    assert turn.name.startswith("ROTATE")
    image = drawn(LINES, width=640)
    for row, price in enumerate(["", "4.80", "3.20", "8.00", ""]):
        ImageDraw.Draw(image).text((540, 10 + 48 * row), price, fill="black", font=ImageFont.load_default(24))
    upright = text_in_reading_order(reader.read(image))
    assert upright.split("\n")[1] == "2 croissants 4.80 4.80"
    # Boxes that lie on their side are read with as much certainty; that must not keep the picture from being turned.
    assert text_in_reading_order(reader.read(image.transpose(turn))) == upright


def test_threads_are_a_setting_and_one_on_a_small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MATTONI_OCR_THREADS", raising=False)
    for cores, threads in ((1, 1), (2, 1), (8, 2), (64, 4)):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        assert ocr_threads() == threads
    monkeypatch.setenv("MATTONI_OCR_THREADS", "3")
    assert ocr_threads() == 3
    monkeypatch.setenv("MATTONI_OCR_THREADS", "many")
    with pytest.raises(MattoniError, match="MATTONI_OCR_THREADS is 'many': set it to a number of threads"):
        ocr_threads()


def test_two_columns_of_a_scan_are_read_one_after_the_other(reader: Reader) -> None:
    left = [
        "The pump must be primed",
        "before every start. Open",
        "the valve and wait for ten",
        "seconds, then close it.",
    ]
    right = ["In winter the housing is", "drained completely, with", "the valve left open and", "the seals taken out."]
    image = drawn(left, size=20, width=760)
    for row, text in enumerate(right):
        ImageDraw.Draw(image).text((400, 10 + 40 * row), text, fill="black", font=ImageFont.load_default(20))
    assert text_in_reading_order(reader.read(image)).split("\n") == [*left, "", *right]


def test_small_text_is_read(reader: Reader) -> None:
    assert text_in_reading_order(reader.read(drawn(LINES, size=13, width=220))).split("\n") == LINES


def test_a_single_line_cut_out_of_a_page_is_read(reader: Reader) -> None:
    image = Image.new("RGB", (560, 22), "white")
    ImageDraw.Draw(image).text(
        (4, 0), "a single line of text, cut out closely", fill="black", font=ImageFont.load_default(18)
    )
    assert text_in_reading_order(reader.read(image)) == "a single line of text, cut out closely"


def test_a_long_screenshot_is_read_in_pieces(reader: Reader) -> None:
    lines = [f"Message number {i}" for i in range(1, 61)]
    assert text_in_reading_order(reader.read(drawn(lines, size=20, width=260))).split("\n") == lines


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (8000, 30), (300, 200)])
def test_a_picture_without_text_gives_no_lines(reader: Reader, size: tuple[int, int]) -> None:
    assert reader.read(Image.new("RGB", size, "white")) == []


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_any_mode_is_read(reader: Reader, mode: str) -> None:
    assert text_in_reading_order(reader.read(drawn(["Hello there"]).convert(mode))) == "Hello there"


def test_boxes_of_a_row_are_joined_from_left_to_right() -> None:
    lines = [box("4.80", 300, 12), box("tea", 10, 10), box("milk", 10, 30), box("1.20", 300, 29)]
    assert text_in_reading_order(lines) == "tea 4.80\nmilk 1.20"


def test_rows_of_a_slanted_page_stay_together() -> None:
    lines = [
        box(f"{row}{column}", 100 * column, 15 * row + 10 * column, slant=0.1)
        for row in range(4)
        for column in range(5)
    ]
    assert [[line.text for line in row] for row in rows_of(lines)] == [[f"{r}{c}" for c in range(5)] for r in range(4)]


def test_no_boxes_make_no_text() -> None:
    assert text_in_reading_order([]) == ""

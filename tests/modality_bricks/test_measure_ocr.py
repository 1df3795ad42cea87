"""How reading is scored."""

import io
import json

from PIL import Image, ImageDraw, ImageFont

from modality_bricks.evaluation.measure_ocr import edit_distance, errors, measure
from modality_bricks.ocr import Reader


def test_edit_distance_counts_single_changes() -> None:
    assert [
        edit_distance(a, b) for a, b in [("", ""), ("abc", ""), ("", "ab"), ("kitten", "sitting"), ("ab", "ba")]
    ] == [
        0,
        3,
        2,
        3,
        2,
    ]


def test_case_spaces_and_the_order_of_lines_do_not_count() -> None:
    assert errors(["total  8.00", "TEA"], ["Tea", "TOTAL 8.00"]) == (0, 12)


def test_a_missing_and_an_invented_line_count_in_full() -> None:
    assert errors(["tea"], ["tea", "milk"]) == (4, 7)
    assert errors(["tea", "milk"], ["tea"]) == (4, 3)


def test_a_pack_is_measured() -> None:
    image = Image.new("RGB", (300, 60), "white")
    ImageDraw.Draw(image).text((10, 10), "Total 8.00", fill="black", font=ImageFont.load_default(28))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    pack = {"a.webp": buffer.getvalue(), "a.json": json.dumps({"lines": ["TOTAL 8.00"]}).encode()}
    figures = measure(Reader(), pack)
    assert (figures["characters_read"], figures["n"], figures["characters"]) == (1.0, 1, 9)

"""Measures in which order text is read:

    MATTONI_DATA=... python -m assistant.evaluation.measure_reading_order [--pages N] [--receipts N]

Two- and three-column pages are drawn from passages of reading-passages-dev, as PDFs whose text is stored row by row and
as scans (turned a little, noisy); receipts of receipts-dev are turned by 90, 180 and 270 degrees. Prints JSON: the share of
characters read in the order a person reads them, 1 - CER over the whole text, so that what is read in the wrong place counts
as wrong; case and white space do not count.
"""

import argparse
import io
import json
import random
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from assistant.turn.look import look
from mattoni.inputs import Attachment, Document
from mattoni.paths import training_data
from modality_bricks.evaluation.measure_ocr import edit_distance, fold
from modality_bricks.ocr import Reader, text_in_reading_order
from modality_bricks.training.packs import pack_files

_WIDTH, _HEIGHT, _MARGIN = 1240, 1754, 100  # A4 at 150 dpi
_FONTS = ("DejaVuSerif.ttf", "DejaVuSans.ttf")
_TURNS = {"90": Image.Transpose.ROTATE_90, "180": Image.Transpose.ROTATE_180, "270": Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class Written:
    """A line of a drawn page: its text, the left end of its base line in pixels from the top left, and its size."""

    text: str
    x: float
    y: float
    size: int


@dataclass(frozen=True)
class DrawnPage:
    """Lines in reading order."""

    lines: tuple[Written, ...]
    font: str

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)


def drawn_page(passages: Sequence[str], title: str, columns: int, rng: random.Random) -> DrawnPage:
    """A page of columns with a title over all of them, and in half of the pages a heading that parts them in the middle."""
    font = rng.choice(_FONTS)
    size = rng.choice((18, 20, 22, 24)) if columns == 2 else rng.choice((16, 18))
    gutter = rng.choice((1.5, 2, 3)) * size
    width = (_WIDTH - 2 * _MARGIN - gutter * (columns - 1)) / columns
    step = size * rng.choice((1.25, 1.4, 1.6))
    words = textwrap.wrap(" ".join(passages), int(width / _character(font, size)))
    lines = [Written(title, _MARGIN, 140, 2 * size)]
    top = 140 + 3 * size
    parts = [(top, 0.5), (_HEIGHT / 2 + 3 * size, 1.0)] if rng.random() < 0.5 else [(top, 1.0)]
    for part, (begins, until) in enumerate(parts):
        if part:
            heading = "What was found when all of it was measured again in the second year"
            lines.append(Written(heading, _MARGIN, begins - 1.6 * size, round(1.2 * size)))
        rows = int((_HEIGHT * until - _MARGIN / 2 - begins) / step)
        for column in range(columns):
            # Base lines of columns seldom meet in print; where they do, rows tempt to be read across.
            shift = rng.choice((0, 0, 0.4)) * step
            for row, text in enumerate(words[:rows]):
                lines.append(
                    Written(text, _MARGIN + column * (width + gutter), begins + shift + (row + 1) * step, size)
                )
            words = words[rows:]
    return DrawnPage(tuple(lines), font)


def _path(font: str) -> str:
    return f"{matplotlib.get_data_path()}/fonts/ttf/{font}"


def _character(font: str, size: int) -> float:
    """The mean width of a character, with some room to spare."""
    return ImageFont.truetype(_path(font), size).getlength("the quick brown fox jumps over it again ") / 38


def as_pdf(page: DrawnPage) -> bytes:
    """The page as a PDF that stores its text row by row."""
    figure = Figure(figsize=(_WIDTH / 150, _HEIGHT / 150))
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for line in sorted(page.lines, key=lambda line: (line.y, line.x)):
            style: dict[str, Any] = {"fontfamily": "DejaVu Serif" if "Serif" in page.font else "DejaVu Sans"}
            style["parse_math"] = False
            figure.text(line.x / _WIDTH, 1 - line.y / _HEIGHT, line.text, fontsize=line.size * 72 / 150, **style)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="pdf")
    return buffer.getvalue()


def as_scan(page: DrawnPage, rng: random.Random) -> Image.Image:
    """The page as a scanner sees it: turned by up to a degree, grey, with noise."""
    image = Image.new("L", (_WIDTH, _HEIGHT), 250)
    draw = ImageDraw.Draw(image)
    for line in page.lines:
        draw.text(
            (line.x, line.y), line.text, fill=30, font=ImageFont.truetype(_path(page.font), line.size), anchor="ls"
        )
    image = image.rotate(rng.uniform(-1, 1), Image.Resampling.BICUBIC, fillcolor=250)
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 8, (_HEIGHT, _WIDTH))
    return Image.fromarray((np.asarray(image, np.float32) + noise).clip(0, 255).astype(np.uint8)).convert("RGB")


def read_right(found: str, true: str) -> tuple[int, int]:
    """Wrong characters, at most all of them, and how many there are; each at its place in the text."""
    a, b = fold(found), fold(true)
    return min(edit_distance(a, b), len(b)), len(b)


def _share(pairs: Sequence[tuple[int, int]]) -> dict[str, float | int]:
    wrong, characters = sum(wrong for wrong, _ in pairs), sum(all_ for _, all_ in pairs)
    worst = min((1 - wrong / all_ for wrong, all_ in pairs), default=0.0)
    return {"read in order": round(1 - wrong / max(characters, 1), 4), "worst": round(worst, 3), "n": len(pairs)}


def measure_pages(reader: Reader, number: int) -> dict[str, Any]:
    """PDFs and scans of the same drawn pages."""
    rows = (training_data() / "text" / "reading-passages-dev.jsonl").read_text(encoding="utf-8").split("\n")
    passages = [json.loads(row) for row in rows if row]
    rng = random.Random(0)
    figures: dict[str, list[tuple[int, int]]] = {}
    for _ in range(number):
        some = rng.sample(passages, 12)
        columns = 3 if rng.random() < 0.25 else 2
        page = drawn_page(
            [_plain(row["text"]) for row in some], f"On {some[0]['title']} and other things", columns, rng
        )
        text = "\n".join(_texts(look([Attachment("page.pdf", as_pdf(page))]).items))
        figures.setdefault(f"{columns} columns, PDF stored row by row", []).append(read_right(text, page.text))
        scan = text_in_reading_order(reader.read(as_scan(page, rng)))
        figures.setdefault(f"{columns} columns, scan", []).append(read_right(scan, page.text))
    return {what: _share(pairs) for what, pairs in sorted(figures.items())}


def _plain(text: str) -> str:
    """What the fonts and the OCR's alphabet have."""
    return text.encode("ascii", "ignore").decode()


def _texts(items: Sequence[object]) -> Iterator[str]:
    for item in items:
        if isinstance(item, Document):
            yield from (page.text or "" for page in item.pages)


def measure_receipts(reader: Reader, number: int) -> dict[str, Any]:
    """Receipts as they are and turned, each against its own lines from top to bottom."""
    files = pack_files(training_data() / "vision" / "receipts-dev.tar")
    figures: dict[str, list[tuple[int, int]]] = {"upright": [], **{turn: [] for turn in _TURNS}}
    for key in sorted(name[:-5] for name in files if name.endswith(".webp"))[:number]:
        upright = Image.open(io.BytesIO(files[f"{key}.webp"])).convert("RGB")
        true = " ".join(json.loads(files[f"{key}.json"])["lines"])
        for turn, pairs in figures.items():
            image = upright if turn == "upright" else upright.transpose(_TURNS[turn])
            pairs.append(read_right(text_in_reading_order(reader.read(image)), true))
    return {f"receipts, {turn}": _share(pairs) for turn, pairs in figures.items()}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m assistant.evaluation.measure_reading_order")
    parser.add_argument("--pages", type=int, default=40)
    parser.add_argument("--receipts", type=int, default=60)
    asked = parser.parse_args()
    reader = Reader()
    figures = {**measure_pages(reader, asked.pages), **measure_receipts(reader, asked.receipts)}
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

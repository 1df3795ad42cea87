"""What the drawn pictures of `glance` are made with: words, fonts, photos, colours, sizes and blank pages. Training only."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mattoni.lines import json_rows
from modality_bricks.training.packs import captioned_pictures

Random = np.random.Generator
Colour = tuple[int, int, int]

# DejaVu Sans, its condensed and mono cuts and Computer Modern Sans are left to the dev pictures.
FONTS = ("LiberationSans", "LiberationSerif", "LiberationMono", "STIXGeneral", "DejaVuSerif", "cmr10", "cmti10")


@dataclass(frozen=True)
class Material:
    """What pictures are made from: lines of text, photos, and scans with writing on them."""

    lines: list[str]
    photos: list[Image.Image]
    receipts: list[Image.Image]


# Draws one picture of a kind.
Kind = Callable[[Random, Material], Image.Image]


def read_material(data: Path, photos: int = 6000) -> Material:
    """Lines and pictures of the training packs."""
    vision, text = data / "vision", data / "text"
    flickr = list(captioned_pictures(vision / "flickr8k-train-000.tar.gz"))
    rooms = [image for _, image, _ in captioned_pictures(vision / "daquar-train-images.tar.gz")]
    receipts = [image for _, image, _ in captioned_pictures(vision / "receipts-train.tar")]
    lines = [caption for _, _, captions in flickr for caption in captions]
    lines += [row.value["text"] for row in json_rows(text / "chat-train.jsonl")]
    # Rooms are few, and their straight edges and empty walls are what is most like a page: each counts three times.
    return Material(lines, rooms * 3 + [image for _, image, _ in flickr][:photos], receipts)


@lru_cache(maxsize=1)
def font_files() -> list[str]:
    known = font_manager.findSystemFonts() + font_manager.findSystemFonts([f"{matplotlib.get_data_path()}/fonts/ttf"])
    files = sorted(path for path in set(known) if Path(path).stem.split("-")[0].startswith(FONTS))
    assert files  # matplotlib brings STIX and Computer Modern
    return files


@lru_cache(maxsize=512)
def font_of(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def any_font(rng: Random, size: int) -> ImageFont.FreeTypeFont:
    files = font_files()
    return font_of(files[rng.integers(len(files))], size)


def _line(rng: Random, material: Material) -> str:
    return material.lines[rng.integers(len(material.lines))]


def words_of(rng: Random, material: Material, count: int) -> str:
    words: list[str] = []
    while len(words) < count:
        words += _line(rng, material).split()
    return " ".join(words[:count])


def colours(rng: Random) -> tuple[Colour, Colour]:
    """Paper and ink, either of which may be the dark one."""
    paper = int(rng.integers(215, 256)) + rng.integers(-12, 13, 3)
    ink = int(rng.integers(0, 90)) + rng.integers(0, 50, 3)
    pair = [tuple(int(v) for v in np.clip(c, 0, 255)) for c in (paper, ink)]
    if rng.random() < 0.2:
        pair.reverse()
    return pair[0], pair[1]  # type: ignore[return-value]  # np.clip of three values gives three


def any_size(rng: Random, low: int = 300, high: int = 900) -> tuple[int, int]:
    height = int(rng.integers(low, high))
    return int(np.clip(height * np.exp(rng.uniform(-0.6, 0.6)), 200, 1100)), height


def wrapped(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines, current = [], ""
    for word in text.split():
        longer = f"{current} {word}".strip()
        if draw.textlength(longer, font=font) > width and current:
            lines.append(current)
            longer = word
        current = longer
    return [*lines, current]


def paragraph(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    fill: Colour,
    leading: float = 1.25,
) -> float:
    """Write text into a box; gives the height where it ended."""
    left, y, right, bottom = box
    for line in wrapped(draw, text, font, right - left):
        if y + font.size > bottom:
            break
        draw.text((left, y), line, font=font, fill=fill)
        y += font.size * leading
    return y


def thumbnail(rng: Random, material: Material, size: tuple[int, int]) -> Image.Image:
    photo = material.photos[rng.integers(len(material.photos))]
    return ImageOps.fit(photo, (max(size[0], 2), max(size[1], 2)))


def blank(rng: Random, size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw, Colour, Colour]:
    """An empty page, what draws on it, its paper and an ink."""
    paper, ink = colours(rng)
    page = Image.new("RGB", size, paper)
    return page, ImageDraw.Draw(page), paper, ink

"""Draws the pictures that `glance` learns from: pages, screens, photos of text, charts, drawings, photos. Training only.

Every kind is a function of a random generator and of material (words, photos), so that a seed gives the same picture
again. `assistant.evaluation.measure_router` draws its dev pictures with other layouts, texts and fonts.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from modality_bricks.training.charts.draw import draw_chart
from modality_bricks.training.charts.styles import TRAIN
from modality_bricks.training.packs import captioned_pictures, sheet_tiles

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
    with (text / "chat-train.jsonl").open(encoding="utf-8") as file:
        lines += [json.loads(row)["text"] for row in file]
    # Rooms are few, and their straight edges and empty walls are what is most like a page: each counts three times.
    return Material(lines, rooms * 3 + [image for _, image, _ in flickr][:photos], receipts)


@lru_cache(maxsize=1)
def _font_files() -> list[str]:
    known = font_manager.findSystemFonts() + font_manager.findSystemFonts([f"{matplotlib.get_data_path()}/fonts/ttf"])
    files = sorted(path for path in set(known) if Path(path).stem.split("-")[0].startswith(FONTS))
    assert files  # matplotlib brings STIX and Computer Modern
    return files


@lru_cache(maxsize=512)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _any_font(rng: Random, size: int) -> ImageFont.FreeTypeFont:
    files = _font_files()
    return _font(files[rng.integers(len(files))], size)


def _line(rng: Random, material: Material) -> str:
    return material.lines[rng.integers(len(material.lines))]


def _words(rng: Random, material: Material, count: int) -> str:
    words: list[str] = []
    while len(words) < count:
        words += _line(rng, material).split()
    return " ".join(words[:count])


def _colours(rng: Random) -> tuple[Colour, Colour]:
    """Paper and ink, either of which may be the dark one."""
    paper = int(rng.integers(215, 256)) + rng.integers(-12, 13, 3)
    ink = int(rng.integers(0, 90)) + rng.integers(0, 50, 3)
    pair = [tuple(int(v) for v in np.clip(c, 0, 255)) for c in (paper, ink)]
    if rng.random() < 0.2:
        pair.reverse()
    return pair[0], pair[1]  # type: ignore[return-value]  # np.clip of three values gives three


def _size(rng: Random, low: int = 300, high: int = 900) -> tuple[int, int]:
    height = int(rng.integers(low, high))
    return int(np.clip(height * np.exp(rng.uniform(-0.6, 0.6)), 200, 1100)), height


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines, current = [], ""
    for word in text.split():
        longer = f"{current} {word}".strip()
        if draw.textlength(longer, font=font) > width and current:
            lines.append(current)
            longer = word
        current = longer
    return [*lines, current]


def _paragraph(
    draw: ImageDraw.ImageDraw,
    box: tuple[float, float, float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    fill: Colour,
    leading: float = 1.25,
) -> float:
    """Write text into a box; gives the height where it ended."""
    left, y, right, bottom = box
    for line in _wrapped(draw, text, font, right - left):
        if y + font.size > bottom:
            break
        draw.text((left, y), line, font=font, fill=fill)
        y += font.size * leading
    return y


# --- documents ---


def text_page(rng: Random, material: Material) -> Image.Image:
    """Paragraphs in one to three columns, perhaps with headings."""
    size = _size(rng, 350, 1000)
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    body = int(rng.integers(9, 26))
    font, heading = _any_font(rng, body), _any_font(rng, int(body * rng.uniform(1.2, 2.2)))
    columns, margin = int(rng.integers(1, 4)), size[0] * rng.uniform(0.03, 0.14)
    step = (size[0] - margin) / columns
    bottom = size[1] * rng.uniform(0.4, 1.0)
    for column in range(columns):
        left, y = margin + column * step, margin * rng.uniform(0.6, 1.4)
        while y < bottom - body:
            if rng.random() < 0.3:
                y = _paragraph(draw, (left, y, left + step - margin, bottom), _words(rng, material, 4), heading, ink)
            text = _words(rng, material, int(rng.integers(12, 90)))
            y = _paragraph(draw, (left, y, left + step - margin, bottom), text, font, ink, rng.uniform(1.1, 1.7))
            y += body * rng.uniform(0.2, 1.5)
    return page


def table_page(rng: Random, material: Material) -> Image.Image:
    """An invoice, a form or a spreadsheet: ruled rows of words and numbers."""
    size = _size(rng)
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    font = _any_font(rng, int(rng.integers(10, 22)))
    rows, columns = int(rng.integers(4, 24)), int(rng.integers(2, 8))
    top = size[1] * rng.uniform(0.03, 0.3)
    left = size[0] * rng.uniform(0.02, 0.12)
    _paragraph(draw, (left, 6, size[0] - left, top), _words(rng, material, int(rng.integers(2, 20))), font, ink)
    row_height, cell = (size[1] * 0.97 - top) / rows, (size[0] - 2 * left) / columns
    ruled = rng.random(2) < 0.6
    for row in range(rows):
        y = top + row * row_height
        if ruled[0]:
            draw.line((left, y, size[0] - left, y), fill=ink)
        for column in range(columns):
            value = f"{rng.uniform(0, 900):.2f}" if column and rng.random() < 0.7 else _words(rng, material, 2)
            if rng.random() < 0.85:
                draw.text((left + column * cell + 4, y + 3), value[: int(cell / font.size * 1.8)], font=font, fill=ink)
    if ruled[1]:
        for column in range(columns + 1):
            draw.line((left + column * cell, top, left + column * cell, size[1] * 0.97), fill=ink)
    return page


def slip(rng: Random, material: Material) -> Image.Image:
    """A till slip: a narrow page of items and prices."""
    width = int(rng.integers(200, 420))
    size = (width, int(width * rng.uniform(1.0, 3.2)))
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    font = _any_font(rng, int(rng.integers(11, 20)))
    y = 8.0
    while y < size[1] - font.size - 4:
        kind = rng.random()
        if kind < 0.65:
            draw.text((8, y), _words(rng, material, 2).upper()[:18], font=font, fill=ink)
            price = f"{rng.uniform(0.5, 99):.2f}"
            draw.text((width - 10 - draw.textlength(price, font=font), y), price, font=font, fill=ink)
        elif kind < 0.85:
            text = _words(rng, material, 3)
            draw.text(((width - draw.textlength(text, font=font)) / 2, y), text, font=font, fill=ink)
        else:
            draw.text((8, y), "-" * int(width / font.size * 1.5), font=font, fill=ink)
        y += font.size * rng.uniform(1.1, 1.6)
    return page


def terminal(rng: Random, material: Material) -> Image.Image:
    """Source code or a terminal: indented lines of a few colours."""
    size = _size(rng)
    paper, _ = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    mono = [path for path in _font_files() if "Mono" in path] or _font_files()
    font = _font(mono[rng.integers(len(mono))], int(rng.integers(10, 20)))
    dark = sum(paper) < 380
    indent, y = 0, 6.0
    while y < size[1] - font.size:
        indent = int(np.clip(indent + rng.integers(-1, 2), 0, 5))
        x = 8 + indent * font.size * 2
        for word in _words(rng, material, int(rng.integers(0, 10))).split():
            tone = rng.integers(150, 256, 3) if dark else rng.integers(0, 140, 3)
            draw.text((x, y), word, font=font, fill=tuple(int(v) for v in tone))
            x += draw.textlength(word + " ", font=font)
        y += font.size * 1.35
    return page


def _thumbnail(rng: Random, material: Material, size: tuple[int, int]) -> Image.Image:
    photo = material.photos[rng.integers(len(material.photos))]
    return ImageOps.fit(photo, (max(size[0], 2), max(size[1], 2)))


def web_page(rng: Random, material: Material) -> Image.Image:
    """A page in a browser: a bar, a menu, headings, paragraphs, buttons and perhaps photos."""
    size = _size(rng, 400, 900)
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    font, small = _any_font(rng, int(rng.integers(13, 20))), _any_font(rng, int(rng.integers(9, 14)))
    heading = _any_font(rng, int(rng.integers(22, 44)))
    accent: Colour = tuple(int(v) for v in rng.integers(0, 256, 3))  # type: ignore[assignment]  # three of them
    bar = int(rng.integers(24, 70))
    draw.rectangle((0, 0, size[0], bar), fill=accent if rng.random() < 0.6 else paper)
    draw.text((12, bar / 4), _words(rng, material, 6), font=font, fill=ink)
    side = int(size[0] * rng.uniform(0.15, 0.3)) if rng.random() < 0.5 else 0
    for item in range(int(rng.integers(4, 14)) if side else 0):
        draw.text((10, bar + 14 + item * 26), _words(rng, material, 2), font=small, fill=ink)
    left, y = side + 16, bar + 14.0
    while y < size[1] - 20:
        block = rng.random()
        right = size[0] - 16
        if block < 0.2:
            y = _paragraph(draw, (left, y, right, size[1]), _words(rng, material, 5), heading, ink) + 6
        elif block < 0.4:
            high, count = int(rng.integers(50, 220)), int(rng.integers(1, 5))
            wide = int((right - left) / (count + rng.uniform(0, 1.2)))
            for number in range(count):
                page.paste(_thumbnail(rng, material, (wide, high)), (int(left + number * (wide + 8)), int(y)))
            y += high + 10
        elif block < 0.55:
            wide = int(rng.integers(70, 200))
            draw.rounded_rectangle((left, y, left + wide, y + 30), 6, fill=accent, outline=ink)
            draw.text((left + 10, y + 8), _words(rng, material, 2)[:14], font=small, fill=paper)
            y += 42
        else:
            y = _paragraph(draw, (left, y, right, size[1]), _words(rng, material, 45), font, ink, 1.4) + 10
    return page


def phone_screen(rng: Random, material: Material) -> Image.Image:
    """A chat or a list on a phone: bubbles or rows with round pictures and short lines."""
    width = int(rng.integers(240, 420))
    size = (width, int(width * rng.uniform(1.4, 2.2)))
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    font = _any_font(rng, int(rng.integers(12, 19)))
    shades = [tuple(int(v) for v in rng.integers(90, 250, 3)) for _ in range(2)]
    bubbles, y = rng.random() < 0.5, 30.0
    while y < size[1] - 40:
        if bubbles:
            wide = width * rng.uniform(0.4, 0.75)
            left = 10.0 if rng.random() < 0.5 else width - wide - 10
            lines = _wrapped(draw, _words(rng, material, int(rng.integers(2, 22))), font, wide - 20)
            bottom = y + len(lines) * font.size * 1.25 + 14
            draw.rounded_rectangle((left, y, left + wide, bottom), 10, fill=shades[left > 20])
            _paragraph(draw, (left + 10, y + 6, left + wide, size[1]), " ".join(lines), font, (20, 20, 20))
            y = bottom + 8
        else:
            draw.ellipse((10, y, 46, y + 36), fill=shades[0])
            draw.text((56, y), _words(rng, material, 2), font=font, fill=ink)
            draw.text((56, y + 20), _words(rng, material, 5), font=font, fill=shades[1])
            draw.line((56, y + 46, width, y + 46), fill=shades[1])
            y += 54
    return page


def slide(rng: Random, material: Material) -> Image.Image:
    """A poster, a slide or a sign: a few large words, perhaps on a photo or a coloured ground."""
    size = _size(rng, 300, 700)
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    if rng.random() < 0.3:
        ground = _thumbnail(rng, material, size).filter(ImageFilter.GaussianBlur(4))
        page = Image.blend(ground, page, rng.uniform(0.6, 0.9))
    elif rng.random() < 0.5:
        page.paste(tuple(int(v) for v in rng.integers(0, 256, 3)), (0, 0, *size))
        ink = (255, 255, 255) if np.asarray(page).mean() < 128 else (10, 10, 10)
    draw = ImageDraw.Draw(page)
    y = size[1] * rng.uniform(0.04, 0.25)
    for size_share in sorted(rng.uniform(0.04, 0.16, int(rng.integers(2, 6))), reverse=True):
        font = _any_font(rng, max(12, int(size[1] * size_share)))
        text = _words(rng, material, int(rng.integers(2, 9)))
        y = _paragraph(draw, (size[0] * 0.06, y, size[0] * 0.95, size[1]), text, font, ink) + size[1] * 0.03
    return page


def scan(rng: Random, material: Material) -> Image.Image:
    """A receipt that was really scanned or photographed, whole or a part of it."""
    receipt = material.receipts[rng.integers(len(material.receipts))]
    width, height = receipt.size
    share = rng.uniform(0.35, 1.0)
    high = max(80, int(height * share))
    top = int(rng.integers(0, max(1, height - high + 1)))
    return receipt.crop((0, top, width, min(height, top + high)))


def _lit(rng: Random, picture: Image.Image) -> Image.Image:
    """Uneven light: a bright and a dark side, and perhaps a soft shadow."""
    width, height = picture.size
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0.0, 0.5) * (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) * 2
    if rng.random() < 0.4:
        edge = np.cos(angle + 1) * (x - rng.uniform(0.2, 0.8)) + np.sin(angle + 1) * (y - rng.uniform(0.2, 0.8))
        light *= 1 - rng.uniform(0.1, 0.5) / (1 + np.exp(-edge * rng.uniform(8, 60)))
    shade = np.asarray(picture, dtype=np.float32) * (light * rng.uniform(0.55, 1.05))[..., None]
    return Image.fromarray(np.clip(shade, 0, 255).astype(np.uint8))


def _perspective(source: list[tuple[float, float]], target: list[tuple[float, float]]) -> list[float]:
    """The eight numbers of PIL's perspective that put `source` points of a picture at `target` points."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([u, v, 1, 0, 0, 0, -x * u, -x * v])
        rows.append([0, 0, 0, u, v, 1, -y * u, -y * v])
    return [float(n) for n in np.linalg.solve(np.array(rows), np.array(source).ravel())]


PAPERS: tuple[Kind, ...] = (
    text_page,
    text_page,
    table_page,
    slip,
    slide,
    scan,
    scan,
    web_page,
    web_page,
    terminal,
    phone_screen,
    phone_screen,
)


def photo_of_text(rng: Random, material: Material) -> Image.Image:
    """Writing as a camera sees it: a page or a screen, near or far, askew on a ground, lit unevenly, out of focus."""
    return _photographed(rng, material, PAPERS[rng.integers(len(PAPERS))](rng, material))


def _photographed(rng: Random, material: Material, page: Image.Image) -> Image.Image:
    size = _size(rng, 260, 480)
    blur = rng.uniform(0, 10) if rng.random() < 0.5 else rng.uniform(0, 1.5)
    ground = _thumbnail(rng, material, size).filter(ImageFilter.GaussianBlur(blur))
    if rng.random() < 0.25:
        ground = Image.new("RGB", size, tuple(int(v) for v in rng.integers(20, 200, 3)))
    w, h = page.size
    # Corners about the page's middle, pushed about, turned, and put somewhere near the middle of the picture.
    share = rng.uniform(0.5, 1.25)
    fit = share * min(size[0] / w, size[1] / h) if share < 1 else share * max(size[0] / w, size[1] / h)
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2 * fit
    corners *= 1 - rng.uniform(0.0, 0.25, (4, 2))
    turn = rng.normal(0, 0.3)
    turned = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    target = [(float(x), float(y)) for x, y in turned + np.array(size) * rng.uniform(0.4, 0.6, 2)]
    numbers = _perspective([(0, 0), (w, 0), (w, h), (0, h)], target)
    warped = page.transform(size, Image.Transform.PERSPECTIVE, numbers, Image.Resampling.BILINEAR)
    mask = Image.new("L", page.size, 255).transform(size, Image.Transform.PERSPECTIVE, numbers)
    ground.paste(warped, mask=mask)
    return _lit(rng, ground).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.6)))


# --- photos ---


def photo(rng: Random, material: Material) -> Image.Image:
    """A photo; now and then with a caption, a date or a watermark on it, which does not make it a document."""
    picture = material.photos[rng.integers(len(material.photos))].copy()
    if rng.random() < 0.15:
        picture = picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        font = _any_font(rng, int(picture.height * rng.uniform(0.04, 0.09)))
        y = picture.height * (rng.uniform(0, 0.1) if rng.random() < 0.5 else rng.uniform(0.85, 0.92))
        draw.text(
            (picture.width * rng.uniform(0.02, 0.5), y), _words(rng, material, 3), font=font, fill=(250, 240, 200)
        )
    if rng.random() < 0.3:
        picture = ImageEnhance.Sharpness(picture).enhance(rng.uniform(1.5, 4))
    return picture


# --- charts ---


def chart(rng: Random, material: Material) -> Image.Image:
    """A chart as the chart brick learns from them: matplotlib, in the styles that are for training."""
    return draw_chart(rng, TRAIN)[0]


Box = tuple[float, float, float, float]  # left, top, right, bottom


def plain_chart(rng: Random, material: Material) -> Image.Image:
    """A chart as web pages, office programs and phones draw them: with or without a scale, a grid, a legend, a title."""
    size = _size(rng, 250, 600)
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    font = _any_font(rng, int(rng.integers(9, 17)))
    hues = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(8)]
    fills = [h if sum(abs(a - b) for a, b in zip(h, paper, strict=True)) > 90 else ink for h in hues]
    box = (size[0] * 0.1, size[1] * (0.15 if rng.random() < 0.7 else 0.05), size[0] * 0.95, size[1] * 0.88)
    if rng.random() < 0.7:
        draw.text((box[0], 5), _words(rng, material, int(rng.integers(1, 7))), font=font, fill=ink)
    marks = (_draw_columns, _draw_rows, _draw_pie, _draw_courses, _draw_dots)[rng.integers(5)]
    if marks in (_draw_columns, _draw_courses, _draw_dots):
        _draw_scale(rng, draw, box, font, ink)
    marks(rng, material, draw, box, font, ink, fills)  # type: ignore[arg-type]  # fills are of three numbers
    return page


def _draw_scale(rng: Random, draw: ImageDraw.ImageDraw, box: Box, font: ImageFont.FreeTypeFont, ink: Colour) -> None:
    left, top, right, bottom = box
    numbers, grid = rng.random(2) < 0.7
    faint = tuple(int(0.5 * c + 64) for c in ink)
    steps, highest = int(rng.integers(2, 9)), int(rng.integers(3, 3000))
    for step in range(steps + 1):
        y = bottom - (bottom - top) * step / steps
        if grid or step == 0:
            draw.line((left, y, right, y), fill=faint, width=1)
        if numbers:
            draw.text((left - 4, y), f"{highest * step / steps:.0f}", font=font, fill=ink, anchor="rm")
    if rng.random() < 0.4:
        draw.line((left, top, left, bottom), fill=ink, width=int(rng.integers(1, 3)))


def _draw_columns(
    rng: Random,
    material: Material,
    draw: ImageDraw.ImageDraw,
    box: Box,
    font: ImageFont.FreeTypeFont,
    ink: Colour,
    fills: list[Colour],
) -> None:
    """Columns: single, beside one another in groups, or on top of one another."""
    left, top, right, bottom = box
    count, groups = int(rng.integers(2, 24)), int(rng.choice([1, 1, 1, 2, 3, 4]))
    stacked, many = bool(rng.random() < 0.5), rng.random() < 0.3
    step, share = (right - left) / count, rng.uniform(0.4, 0.95)
    radius = int(rng.choice([0, 0, 4]))
    for column in range(count):
        x, base = left + (column + (1 - share) / 2) * step, bottom
        for group in range(groups):
            high = (bottom - top) * rng.uniform(0.04, 1) / (groups if stacked else 1)
            wide = step * share / (1 if stacked else groups)
            fill = fills[(column if many and groups == 1 else group) % len(fills)]
            draw.rounded_rectangle((x, base - high, x + max(wide, 1), base), radius, fill=fill)
            base, x = (base - high, x) if stacked else (base, x + wide)
        if step > font.size * 2:
            draw.text(
                (left + (column + 0.5) * step, bottom + 4),
                _words(rng, material, 1)[:9],
                font=font,
                fill=ink,
                anchor="ma",
            )


def _draw_rows(
    rng: Random,
    material: Material,
    draw: ImageDraw.ImageDraw,
    box: Box,
    font: ImageFont.FreeTypeFont,
    ink: Colour,
    fills: list[Colour],
) -> None:
    """Bars across, with their names before them and perhaps their numbers behind."""
    left, top, right, bottom = box
    count = int(rng.integers(2, 13))
    start, step, share = left + (right - left) * rng.uniform(0.05, 0.3), (bottom - top) / count, rng.uniform(0.35, 0.95)
    numbers, many = rng.random(2) < 0.4
    for row in range(count):
        y = top + (row + (1 - share) / 2) * step
        end = start + (right - start) * rng.uniform(0.03, 0.93)
        draw.rectangle((start, y, end, y + step * share), fill=fills[row % len(fills) if many else 0])
        middle = y + step * share / 2
        draw.text((start - 5, middle), _words(rng, material, 1)[:12], font=font, fill=ink, anchor="rm")
        if numbers:
            draw.text((end + 5, middle), f"{rng.uniform(0, 100):.0f}%", font=font, fill=ink, anchor="lm")


def _draw_pie(
    rng: Random,
    material: Material,
    draw: ImageDraw.ImageDraw,
    box: Box,
    font: ImageFont.FreeTypeFont,
    ink: Colour,
    fills: list[Colour],
) -> None:
    """A pie or a ring, anywhere on the page, with its legend beside it, or names around it, or neither."""
    left, top, right, bottom = box
    radius = min(right - left, bottom - top) * rng.uniform(0.25, 0.5)
    x, y = rng.uniform(left + radius, right - radius), rng.uniform(top + radius, bottom - radius)
    shares = rng.dirichlet(np.full(int(rng.integers(2, 9)), 2.0)) * 360
    start, way = rng.uniform(0, 360), rng.random()
    for number, share in enumerate(shares):
        outline = ink if rng.random() < 0.1 else None
        draw.pieslice(
            (x - radius, y - radius, x + radius, y + radius), start, start + share, fills[number % 8], outline
        )
        middle = np.radians(start + share / 2)
        name = _words(rng, material, 1)[:10]
        if way < 0.4:
            at = (x + 1.12 * radius * np.cos(middle), y + 1.12 * radius * np.sin(middle))
            draw.text(at, name, font=font, fill=ink, anchor="lm" if np.cos(middle) > 0 else "rm")
        elif way < 0.8:
            beside = x + radius + 14 if x + radius < right - 70 else left
            row = top + number * font.size * 1.6
            draw.rectangle((beside, row, beside + font.size * 0.8, row + font.size * 0.8), fill=fills[number % 8])
            draw.text((beside + font.size * 1.3, row), name, font=font, fill=ink)
        start += share
    if rng.random() < 0.35:
        hole = radius * rng.uniform(0.4, 0.75)
        draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=draw.im.getpixel((1, draw.im.size[1] - 2)))


def _draw_courses(
    rng: Random,
    material: Material,
    draw: ImageDraw.ImageDraw,
    box: Box,
    font: ImageFont.FreeTypeFont,
    ink: Colour,
    fills: list[Colour],
) -> None:
    """Lines over time, or the areas under them."""
    left, top, right, bottom = box
    count, filled, dots = int(rng.integers(4, 60)), rng.random() < 0.3, rng.random() < 0.3
    for number in range(int(rng.integers(1, 5))):
        walk = np.cumsum(rng.normal(rng.normal(0, 0.3), 1, count))
        walk = rng.uniform(0, 0.5) + rng.uniform(0.2, 0.5) * (walk - walk.min()) / max(float(np.ptp(walk)), 1e-6)
        points = [
            (left + (right - left) * n / (count - 1), bottom - (bottom - top) * float(y)) for n, y in enumerate(walk)
        ]
        if filled:
            draw.polygon([(left, bottom), *points, (right, bottom)], fill=fills[number])
        else:
            draw.line(points, fill=fills[number], width=int(rng.integers(1, 6)), joint="curve")
        for x, y in points if dots and count < 20 else []:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=fills[number])
    for n in range(int(rng.integers(0, 7))):
        draw.text((left + (right - left) * n / 6, bottom + 5), str(1950 + 10 * n), font=font, fill=ink, anchor="ma")


def _draw_dots(
    rng: Random,
    material: Material,
    draw: ImageDraw.ImageDraw,
    box: Box,
    font: ImageFont.FreeTypeFont,
    ink: Colour,
    fills: list[Colour],
) -> None:
    """Points of one or two colours, of one size or of many."""
    left, top, right, bottom = box
    count, slope, size = int(rng.integers(12, 150)), rng.uniform(-0.9, 0.9), rng.uniform(2, 6)
    x = rng.uniform(0, 1, count)
    y = np.clip(0.5 + slope * (x - 0.5) + rng.normal(0, rng.uniform(0.05, 0.25), count), 0, 1)
    sizes = size * (rng.uniform(0.5, 3, count) if rng.random() < 0.25 else np.ones(count))
    colours = int(rng.integers(1, 4))
    for number, (a, b, r) in enumerate(zip(x, y, sizes, strict=True)):
        u, v = left + (right - left) * a, bottom - (bottom - top) * b
        draw.ellipse((u - r, v - r, u + r, v + r), fill=fills[number % colours])


def photo_of_chart(rng: Random, material: Material) -> Image.Image:
    """A chart as a camera sees it, on paper or on a screen."""
    return _photographed(rng, material, (chart, plain_chart)[rng.integers(2)](rng, material))


# --- neither ---


def _curve(rng: Random, size: tuple[int, int]) -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 60)
    x, y = rng.uniform(0.2, 0.8, 2)
    scale = rng.uniform(0.05, 0.35)
    radius = scale * (1 + sum(rng.normal(0, 0.25) * np.cos(k * t + rng.uniform(0, 6)) for k in range(1, 5)))
    return [((x + r * np.cos(a)) * size[0], (y + r * np.sin(a)) * size[1]) for r, a in zip(radius, t, strict=True)]  # type: ignore[arg-type]  # a sum of arrays is an array


def line_drawing(rng: Random, material: Material) -> Image.Image:
    """Pencil strokes on paper: closed and open curves, hatching, no words."""
    size = _size(rng, 250, 600)
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    for _ in range(int(rng.integers(3, 14))):
        points = _curve(rng, size)
        draw.line(points[: int(rng.integers(20, 61))], fill=ink, width=int(rng.integers(1, 6)), joint="curve")
    if rng.random() < 0.4:
        x, y = rng.uniform(0.1, 0.7, 2) * size
        for number in range(int(rng.integers(5, 25))):
            draw.line((x + number * 6, y, x + number * 6 + 20, y + 60), fill=ink)
    return page


def cartoon(rng: Random, material: Material) -> Image.Image:
    """Flat coloured shapes, with or without outlines: clip art, flags, icons, maps."""
    size = _size(rng, 250, 600)
    page = Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 256, 3)))
    draw = ImageDraw.Draw(page)
    outline = (0, 0, 0) if rng.random() < 0.5 else None
    for _ in range(int(rng.integers(2, 16))):
        fill = tuple(int(v) for v in rng.integers(0, 256, 3))
        x, y = rng.uniform(-0.1, 0.8, 2) * size
        w, h = rng.uniform(0.1, 0.6, 2) * size
        shape = rng.integers(3)
        if shape == 0:
            draw.polygon(_curve(rng, size), fill=fill, outline=outline)
        elif shape == 1:
            draw.ellipse((x, y, x + w, y + h), fill=fill, outline=outline, width=3)
        else:
            draw.rectangle((x, y, x + w, y + h), fill=fill, outline=outline, width=3)
    return page


def diagram(rng: Random, material: Material) -> Image.Image:
    """Boxes with a word or two, joined by lines."""
    size = _size(rng, 300, 700)
    paper, ink = _colours(rng)
    page = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(page)
    font = _any_font(rng, int(rng.integers(11, 20)))
    centres = [rng.uniform(0.12, 0.88, 2) * size for _ in range(int(rng.integers(3, 10)))]
    for first, second in zip(centres, centres[1:], strict=False):
        draw.line((*first, *second), fill=ink, width=int(rng.integers(1, 4)))
    for x, y in centres:
        w, h = rng.uniform(35, 80), rng.uniform(14, 34)
        fill = paper if rng.random() < 0.5 else tuple(int(v) for v in rng.integers(120, 256, 3))
        shape = draw.rectangle if rng.random() < 0.6 else draw.ellipse
        shape((x - w, y - h, x + w, y + h), fill=fill, outline=ink, width=2)
        draw.text((x, y), _words(rng, material, 1), font=font, fill=ink, anchor="mm")
    return page


def texture(rng: Random, material: Material) -> Image.Image:
    """Nothing in particular: noise, stripes, a gradient, one colour."""
    size = (int(rng.integers(100, 400)), int(rng.integers(100, 400)))
    y, x = np.mgrid[0 : 1 : size[1] * 1j, 0 : 1 : size[0] * 1j]
    style = rng.integers(4)
    if style == 0:
        grain = Image.fromarray(rng.integers(0, 256, (int(rng.integers(4, 120)),) * 2).astype(np.uint8))
        return grain.resize(size, Image.Resampling.BICUBIC).convert("RGB")
    if style == 1:
        waves = np.sin(2 * np.pi * rng.uniform(2, 40) * (x * np.cos(a := rng.uniform(0, 6)) + y * np.sin(a)))
        return Image.fromarray(((waves > rng.uniform(-0.5, 0.5)) * 200 + 20).astype(np.uint8)).convert("RGB")
    if style == 2:
        ramp = rng.uniform(0, 255) + rng.uniform(-255, 255) * x + rng.uniform(-255, 255) * y
        return Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)).convert("RGB")
    return Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 256, 3)))


DOCUMENTS: tuple[Kind, ...] = (
    text_page,
    table_page,
    slip,
    terminal,
    web_page,
    phone_screen,
    slide,
    scan,
    photo_of_text,
)
CHARTS: tuple[Kind, ...] = (chart, plain_chart, photo_of_chart)
OTHERS: tuple[Kind, ...] = (line_drawing, cartoon, diagram, texture)


def tiny_photos(data: Path, count: int) -> Iterator[Image.Image]:
    """Photos of 64 x 64 pixels of the first training pack, which is shuffled over its classes."""
    tiles, _ = sheet_tiles([data / "vision" / "tinyimagenet-train-000.tar"])
    for tile in tiles[:count]:
        yield Image.fromarray(tile)

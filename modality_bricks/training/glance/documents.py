"""Draws pages, screens, slips and scans. Training only."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from modality_bricks.training.glance.canvas import (
    Colour,
    Material,
    Random,
    any_font,
    any_size,
    blank,
    colours,
    font_files,
    font_of,
    paragraph,
    thumbnail,
    words_of,
    wrapped,
)


def text_page(rng: Random, material: Material) -> Image.Image:
    """Paragraphs in one to three columns, perhaps with headings."""
    size = any_size(rng, 350, 1000)
    page, draw, paper, ink = blank(rng, size)
    body = int(rng.integers(9, 26))
    font, heading = any_font(rng, body), any_font(rng, int(body * rng.uniform(1.2, 2.2)))
    columns, margin = int(rng.integers(1, 4)), size[0] * rng.uniform(0.03, 0.14)
    step = (size[0] - margin) / columns
    bottom = size[1] * rng.uniform(0.4, 1.0)
    for column in range(columns):
        left, y = margin + column * step, margin * rng.uniform(0.6, 1.4)
        while y < bottom - body:
            if rng.random() < 0.3:
                y = paragraph(draw, (left, y, left + step - margin, bottom), words_of(rng, material, 4), heading, ink)
            text = words_of(rng, material, int(rng.integers(12, 90)))
            y = paragraph(draw, (left, y, left + step - margin, bottom), text, font, ink, rng.uniform(1.1, 1.7))
            y += body * rng.uniform(0.2, 1.5)
    return page


def table_page(rng: Random, material: Material) -> Image.Image:
    """An invoice, a form or a spreadsheet: ruled rows of words and numbers."""
    size = any_size(rng)
    page, draw, paper, ink = blank(rng, size)
    font = any_font(rng, int(rng.integers(10, 22)))
    rows, columns = int(rng.integers(4, 24)), int(rng.integers(2, 8))
    top = size[1] * rng.uniform(0.03, 0.3)
    left = size[0] * rng.uniform(0.02, 0.12)
    paragraph(draw, (left, 6, size[0] - left, top), words_of(rng, material, int(rng.integers(2, 20))), font, ink)
    row_height, cell = (size[1] * 0.97 - top) / rows, (size[0] - 2 * left) / columns
    ruled = rng.random(2) < 0.6
    for row in range(rows):
        y = top + row * row_height
        if ruled[0]:
            draw.line((left, y, size[0] - left, y), fill=ink)
        for column in range(columns):
            value = f"{rng.uniform(0, 900):.2f}" if column and rng.random() < 0.7 else words_of(rng, material, 2)
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
    page, draw, paper, ink = blank(rng, size)
    font = any_font(rng, int(rng.integers(11, 20)))
    y = 8.0
    while y < size[1] - font.size - 4:
        kind = rng.random()
        if kind < 0.65:
            draw.text((8, y), words_of(rng, material, 2).upper()[:18], font=font, fill=ink)
            price = f"{rng.uniform(0.5, 99):.2f}"
            draw.text((width - 10 - draw.textlength(price, font=font), y), price, font=font, fill=ink)
        elif kind < 0.85:
            text = words_of(rng, material, 3)
            draw.text(((width - draw.textlength(text, font=font)) / 2, y), text, font=font, fill=ink)
        else:
            draw.text((8, y), "-" * int(width / font.size * 1.5), font=font, fill=ink)
        y += font.size * rng.uniform(1.1, 1.6)
    return page


def terminal(rng: Random, material: Material) -> Image.Image:
    """Source code or a terminal: indented lines of a few colours."""
    size = any_size(rng)
    page, draw, paper, _ = blank(rng, size)
    mono = [path for path in font_files() if "Mono" in path] or font_files()
    font = font_of(mono[rng.integers(len(mono))], int(rng.integers(10, 20)))
    dark = sum(paper) < 380
    indent, y = 0, 6.0
    while y < size[1] - font.size:
        indent = int(np.clip(indent + rng.integers(-1, 2), 0, 5))
        x = 8 + indent * font.size * 2
        for word in words_of(rng, material, int(rng.integers(0, 10))).split():
            tone = rng.integers(150, 256, 3) if dark else rng.integers(0, 140, 3)
            draw.text((x, y), word, font=font, fill=tuple(int(v) for v in tone))
            x += draw.textlength(word + " ", font=font)
        y += font.size * 1.35
    return page


def web_page(rng: Random, material: Material) -> Image.Image:
    """A page in a browser: a bar, a menu, headings, paragraphs, buttons and perhaps photos."""
    size = any_size(rng, 400, 900)
    page, draw, paper, ink = blank(rng, size)
    font, small = any_font(rng, int(rng.integers(13, 20))), any_font(rng, int(rng.integers(9, 14)))
    heading = any_font(rng, int(rng.integers(22, 44)))
    accent: Colour = tuple(int(v) for v in rng.integers(0, 256, 3))  # type: ignore[assignment]  # three of them
    bar = int(rng.integers(24, 70))
    draw.rectangle((0, 0, size[0], bar), fill=accent if rng.random() < 0.6 else paper)
    draw.text((12, bar / 4), words_of(rng, material, 6), font=font, fill=ink)
    side = int(size[0] * rng.uniform(0.15, 0.3)) if rng.random() < 0.5 else 0
    for item in range(int(rng.integers(4, 14)) if side else 0):
        draw.text((10, bar + 14 + item * 26), words_of(rng, material, 2), font=small, fill=ink)
    left, y = side + 16, bar + 14.0
    while y < size[1] - 20:
        block = rng.random()
        right = size[0] - 16
        if block < 0.2:
            y = paragraph(draw, (left, y, right, size[1]), words_of(rng, material, 5), heading, ink) + 6
        elif block < 0.4:
            high, count = int(rng.integers(50, 220)), int(rng.integers(1, 5))
            wide = int((right - left) / (count + rng.uniform(0, 1.2)))
            for number in range(count):
                page.paste(thumbnail(rng, material, (wide, high)), (int(left + number * (wide + 8)), int(y)))
            y += high + 10
        elif block < 0.55:
            wide = int(rng.integers(70, 200))
            draw.rounded_rectangle((left, y, left + wide, y + 30), 6, fill=accent, outline=ink)
            draw.text((left + 10, y + 8), words_of(rng, material, 2)[:14], font=small, fill=paper)
            y += 42
        else:
            y = paragraph(draw, (left, y, right, size[1]), words_of(rng, material, 45), font, ink, 1.4) + 10
    return page


def phone_screen(rng: Random, material: Material) -> Image.Image:
    """A chat or a list on a phone: bubbles or rows with round pictures and short lines."""
    width = int(rng.integers(240, 420))
    size = (width, int(width * rng.uniform(1.4, 2.2)))
    page, draw, paper, ink = blank(rng, size)
    font = any_font(rng, int(rng.integers(12, 19)))
    shades = [tuple(int(v) for v in rng.integers(90, 250, 3)) for _ in range(2)]
    bubbles, y = rng.random() < 0.5, 30.0
    while y < size[1] - 40:
        if bubbles:
            wide = width * rng.uniform(0.4, 0.75)
            left = 10.0 if rng.random() < 0.5 else width - wide - 10
            lines = wrapped(draw, words_of(rng, material, int(rng.integers(2, 22))), font, wide - 20)
            bottom = y + len(lines) * font.size * 1.25 + 14
            draw.rounded_rectangle((left, y, left + wide, bottom), 10, fill=shades[left > 20])
            paragraph(draw, (left + 10, y + 6, left + wide, size[1]), " ".join(lines), font, (20, 20, 20))
            y = bottom + 8
        else:
            draw.ellipse((10, y, 46, y + 36), fill=shades[0])
            draw.text((56, y), words_of(rng, material, 2), font=font, fill=ink)
            draw.text((56, y + 20), words_of(rng, material, 5), font=font, fill=shades[1])
            draw.line((56, y + 46, width, y + 46), fill=shades[1])
            y += 54
    return page


def slide(rng: Random, material: Material) -> Image.Image:
    """A poster, a slide or a sign: a few large words, perhaps on a photo or a coloured ground."""
    size = any_size(rng, 300, 700)
    paper, ink = colours(rng)
    page = Image.new("RGB", size, paper)
    if rng.random() < 0.3:
        ground = thumbnail(rng, material, size).filter(ImageFilter.GaussianBlur(4))
        page = Image.blend(ground, page, rng.uniform(0.6, 0.9))
    elif rng.random() < 0.5:
        page.paste(tuple(int(v) for v in rng.integers(0, 256, 3)), (0, 0, *size))
        ink = (255, 255, 255) if np.asarray(page).mean() < 128 else (10, 10, 10)
    draw = ImageDraw.Draw(page)
    y = size[1] * rng.uniform(0.04, 0.25)
    for size_share in sorted(rng.uniform(0.04, 0.16, int(rng.integers(2, 6))), reverse=True):
        font = any_font(rng, max(12, int(size[1] * size_share)))
        text = words_of(rng, material, int(rng.integers(2, 9)))
        y = paragraph(draw, (size[0] * 0.06, y, size[0] * 0.95, size[1]), text, font, ink) + size[1] * 0.03
    return page


def scan(rng: Random, material: Material) -> Image.Image:
    """A receipt that was really scanned or photographed, whole or a part of it."""
    receipt = material.receipts[rng.integers(len(material.receipts))]
    width, height = receipt.size
    share = rng.uniform(0.35, 1.0)
    high = max(80, int(height * share))
    top = int(rng.integers(0, max(1, height - high + 1)))
    return receipt.crop((0, top, width, min(height, top + high)))

"""Draws kinds of picture that nothing here was trained for: what a user's own image brick might be about.

With them the router is measured on what it does with a brick that comes later. Training never reads this.
"""

from collections.abc import Callable
from functools import lru_cache

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from mattoni.errors import MattoniError

Random = np.random.Generator
Colour = tuple[int, int, int]
FINE = 3  # times the size, made smaller in the end: smooth edges


def _tone(rng: Random, low: int, high: int) -> Colour:
    red, green, blue = (int(v) for v in rng.integers(low, high, 3))
    return red, green, blue


def _size(rng: Random) -> tuple[int, int]:
    return int(rng.integers(240, 620)), int(rng.integers(240, 620))


def _font(size: int, name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", size)


@lru_cache(maxsize=1)
def _emoji_font() -> tuple[str, tuple[int, ...]]:
    """The file of the system's colour emoji, and which characters are in it."""
    path = next((p for p in font_manager.findSystemFonts() if "NotoColorEmoji" in p), None)
    if path is None:
        raise MattoniError("Stickers are drawn in Noto Color Emoji, which is not installed: install that font.")
    return path, tuple(code for code in sorted(FT2Font(path).get_charmap()) if code >= 0x1F300)


def sticker(rng: Random) -> Image.Image:
    """One or a few emoji on a plain or a two-coloured ground: clip art by real designers, no two alike."""
    path, codes = _emoji_font()
    font = ImageFont.truetype(path, 109)  # the one size that the font's bitmaps have
    page = Image.new("RGB", (side := int(rng.integers(150, 420)), side), _tone(rng, 120, 256))
    draw = ImageDraw.Draw(page)
    if rng.random() < 0.4:
        draw.ellipse((side * 0.05, side * 0.05, side * 0.95, side * 0.95), fill=_tone(rng, 60, 256))
    count = int(rng.choice([1, 1, 2, 4]))
    across = 1 if count == 1 else 2
    cell = side // across
    for number in range(count):
        glyph = Image.new("RGBA", (136, 128))
        ImageDraw.Draw(glyph).text(
            (0, 0), chr(codes[int(rng.integers(len(codes)))]), font=font, embedded_color=True, fill=(60, 60, 60)
        )
        wide = int(cell * rng.uniform(0.6, 0.95))
        glyph = glyph.resize((wide, wide)).rotate(rng.uniform(-25, 25))
        x, y = number % across * cell + (cell - wide) // 2, number // across * cell + (cell - wide) // 2
        page.paste(glyph, (x, y), glyph)
    return page


def sheet_music(rng: Random) -> Image.Image:
    """Staves with clefs, bars, notes, beams and words under them."""
    width, height = _size(rng)
    paper, ink = _tone(rng, 225, 256), _tone(rng, 0, 60)
    page = Image.new("RGB", (width * FINE, height * FINE), paper)
    draw = ImageDraw.Draw(page)
    gap = rng.uniform(5, 11) * FINE
    left, right = width * FINE * rng.uniform(0.02, 0.1), width * FINE * rng.uniform(0.9, 0.98)
    y = gap * rng.uniform(1, 6)
    while y + 5 * gap < height * FINE:
        for line in range(5):
            draw.line((left, y + line * gap, right, y + line * gap), fill=ink, width=FINE // 2 + 1)
        draw.arc((left + gap * 0.4, y - gap, left + gap * 2.2, y + 5 * gap), 60, 330, fill=ink, width=int(gap * 0.3))
        x, beam = left + gap * 4, None
        while x < right - 2 * gap:
            if rng.random() < 0.15:
                draw.line((x, y, x, y + 4 * gap), fill=ink, width=FINE)
                x, beam = x + gap * 1.5, None
                continue
            note = y + gap * rng.integers(-1, 10) / 2
            hollow = rng.random() < 0.2
            draw.ellipse(
                (x - gap * 0.62, note - gap * 0.45, x + gap * 0.62, note + gap * 0.45),
                fill=None if hollow else ink,
                outline=ink,
                width=FINE,
            )
            up = note > y + 2 * gap
            stem = x + gap * 0.58 if up else x - gap * 0.58
            tip = note - 3.3 * gap if up else note + 3.3 * gap
            draw.line((stem, note, stem, tip), fill=ink, width=FINE)
            if beam and rng.random() < 0.6 and not hollow:
                draw.line((*beam, stem, tip), fill=ink, width=int(gap * 0.45))
            beam = None if hollow else (stem, tip)
            x += gap * rng.uniform(1.8, 4)
        if rng.random() < 0.5:
            words = " - ".join("la lu da ri so mi fa do no ve".split()[int(rng.integers(8)) :])
            draw.text((left + gap * 3, y + gap * 6), words, font=_font(int(gap * 1.4), "DejaVuSerif"), fill=ink)
        y += gap * rng.uniform(9, 14)
    return page.resize((width, height), Image.Resampling.LANCZOS)


def street_map(rng: Random) -> Image.Image:
    """Roads with names, blocks, parks and water, as maps on the web have them."""
    width, height = _size(rng)
    dark = rng.random() < 0.2
    land, road, edge = (
        ((36, 40, 46), (70, 76, 86), (24, 26, 30)) if dark else ((242, 239, 233), (255, 255, 255), (205, 200, 190))
    )
    page = Image.new("RGB", (width * FINE, height * FINE), land)
    draw = ImageDraw.Draw(page)
    span = max(width, height) * FINE

    def blob(scale: float, fill: Colour) -> None:
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        centre = rng.uniform(0, span, 2)
        radii = scale * span * rng.uniform(0.5, 1, 12)
        draw.polygon(
            [(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)],
            fill=fill,
        )

    for _ in range(int(rng.integers(1, 5))):
        blob(rng.uniform(0.06, 0.22), (52, 72, 52) if dark else (205, 232, 190))
    turn, spacing = rng.uniform(0, np.pi / 2), rng.uniform(40, 110) * FINE
    for _ in range(int(rng.integers(20, 90))):
        x, y = rng.uniform(0, width * FINE), rng.uniform(0, height * FINE)
        w, h = rng.uniform(6, 16, 2) * FINE
        draw.rectangle((x, y, x + w, y + h), fill=(58, 60, 66) if dark else (217, 208, 201))
    if rng.random() < 0.6:
        t = np.linspace(-0.1, 1.1, 20)
        river = rng.uniform(0.2, 0.8) * height * FINE + np.cumsum(rng.normal(0, 0.05, 20)) * height * FINE
        water = (34, 52, 70) if dark else (170, 211, 223)
        draw.line(
            list(zip((t * width * FINE).tolist(), river.tolist(), strict=True)),
            fill=water,
            width=int(rng.uniform(10, 45) * FINE),
            joint="curve",
        )
    lines = []
    for direction in (turn, turn + np.pi / 2):
        along, beside = (
            np.array([np.cos(direction), np.sin(direction)]),
            np.array([-np.sin(direction), np.cos(direction)]),
        )
        for step in range(-20, 21):
            if rng.random() < 0.25:
                continue
            middle = np.array([width, height]) * FINE / 2 + beside * (step + rng.normal(0, 0.15)) * spacing
            bend = np.cumsum(rng.normal(0, 0.04, 9)) * spacing
            points = [
                tuple(middle + along * span * s + beside * b) for s, b in zip(np.linspace(-1, 1, 9), bend, strict=True)
            ]
            lines.append((points, rng.uniform(3, 7) * FINE if rng.random() < 0.85 else rng.uniform(9, 14) * FINE))
    for points, wide in lines:
        draw.line(points, fill=edge, width=int(wide + 2 * FINE), joint="curve")
    for points, wide in lines:
        main = wide > 8 * FINE
        fill = ((140, 110, 60) if dark else (250, 205, 130)) if main else road
        draw.line(points, fill=fill, width=int(wide), joint="curve")
    small = page.resize((width, height), Image.Resampling.LANCZOS)
    for _ in range(int(rng.integers(3, 14))):
        name = str(
            rng.choice(["Via Roma", "Park Lane", "Mill Road", "Rue Neuve", "Hafenweg", "Station", "Old Town", "Corso"])
        )
        label = Image.new("L", (90, 16))
        ImageDraw.Draw(label).text((0, 0), name, font=_font(int(rng.integers(9, 14))), fill=255)
        label = label.rotate(-np.degrees(turn) + 90 * int(rng.integers(2)), expand=True)
        at = (int(rng.integers(width)), int(rng.integers(height)))
        small.paste((220, 220, 220) if dark else (70, 70, 70), at, label)
    return small


def chess_board(rng: Random) -> Image.Image:
    """A diagram of a position: a whole board in two colours with its pieces."""
    cell = int(rng.integers(28, 60))
    margin = int(rng.integers(0, cell))
    page = Image.new("RGB", (8 * cell + 2 * margin, 8 * cell + 2 * margin), _tone(rng, 200, 256))
    draw = ImageDraw.Draw(page)
    light, shade = _tone(rng, 205, 256), _tone(rng, 80, 180)
    font = _font(int(cell * 0.8))
    crowd = rng.uniform(0.1, 0.5)
    for row in range(8):
        for column in range(8):
            x, y = margin + column * cell, margin + row * cell
            draw.rectangle((x, y, x + cell, y + cell), fill=shade if (row + column) % 2 else light)
            if rng.random() < crowd:
                piece = chr(0x2654 + int(rng.integers(12)))
                draw.text((x + cell / 2, y + cell / 2), piece, font=font, fill=(10, 10, 10), anchor="mm")
    for n in range(8 if margin > 12 else 0):
        draw.text(
            (margin + (n + 0.5) * cell, margin / 2), "abcdefgh"[n], font=_font(11), fill=(30, 30, 30), anchor="mm"
        )
    return page


def chest_x_ray(rng: Random) -> Image.Image:
    """A phantom of a chest: lungs, ribs, spine, heart, in grey, noisy and soft."""
    width, height = int(rng.integers(260, 420)), int(rng.integers(280, 460))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    x = x + rng.normal(0, 0.05)
    body = 1 / (1 + np.exp((np.abs(x) - rng.uniform(0.75, 0.95) - 0.15 * y) * 18))
    picture = 0.75 * body
    for side in (-1, 1):
        centre, wide, tall = side * rng.uniform(0.36, 0.44), rng.uniform(0.24, 0.32), rng.uniform(0.55, 0.7)
        lung = 1 / (1 + np.exp((((x - centre) / wide) ** 2 + ((y + 0.1) / tall) ** 2 - 1) * 5))
        picture -= rng.uniform(0.35, 0.5) * lung
    for rib in np.linspace(-0.75, 0.55, int(rng.integers(8, 12))):
        bow = rib + rng.uniform(0.25, 0.4) * np.abs(x) ** 1.5 - 0.12
        picture += rng.uniform(0.08, 0.15) * np.exp(-(((y - bow) / 0.025) ** 2)) * body * (np.abs(x) < 0.72)
    picture += 0.25 * np.exp(-((x / rng.uniform(0.05, 0.08)) ** 2)) * (1 + 0.15 * np.sin(y * 60))
    picture += 0.3 / (1 + np.exp((((x - 0.12) / 0.28) ** 2 + ((y - 0.25) / 0.3) ** 2 - 1) * 6))
    picture += 0.45 / (1 + np.exp(-(y - rng.uniform(0.6, 0.75) - 0.3 * x**2) * 14)) * body
    tone = 255 * np.clip(picture + rng.normal(0, 0.03, picture.shape), 0, 1) ** rng.uniform(0.7, 1.3)
    page = Image.fromarray(tone.astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    if rng.random() < 0.6:
        ImageDraw.Draw(page).text(
            (width * 0.08, height * 0.05), str(rng.choice(["L", "R", "AP"])), font=_font(22), fill=240
        )
    return page.convert("RGB")


def handwriting(rng: Random) -> Image.Image:
    """Lines of joined pen strokes on plain or ruled paper: an alphabet of one writer, made up for each page."""
    width, height = _size(rng)
    paper, ink = _tone(rng, 215, 256), _tone(rng, 0, 110)
    page = Image.new("RGB", (width * FINE, height * FINE), paper)
    draw = ImageDraw.Draw(page)
    line, slant, pen = rng.uniform(24, 48) * FINE, rng.uniform(-0.1, 0.6), int(rng.uniform(1, 2.6) * FINE)
    t = np.linspace(0, 1, 14)
    waves = rng.normal(0, 1, (20, 2, 3))
    letters = [
        np.stack([t + sum(w[0, k] * 0.25 * np.sin((k + 1) * np.pi * t) for k in range(3)),
                  sum(w[1, k] * np.sin((k + 1) * np.pi * t) / (k + 1) for k in range(3)) * 0.45], 1)
        for w in waves
    ]  # fmt: skip
    y = line * rng.uniform(1, 2)
    ruled = rng.random() < 0.4
    while y < height * FINE:
        if ruled:
            draw.line((0, y + line * 0.15, width * FINE, y + line * 0.15), fill=(170, 190, 215), width=FINE)
        x = line * rng.uniform(0.5, 1.2)
        end = width * FINE * rng.uniform(0.75, 0.97)
        while x < end:
            stroke: list[tuple[float, float]] = []
            for letter in rng.integers(0, 20, int(rng.integers(2, 9))):
                scale = line * 0.32
                for u, v in letters[letter] + rng.normal(0, 0.02, (14, 2)):
                    stroke.append((x + (u - slant * v) * scale, y + v * scale))
                x += scale * rng.uniform(0.9, 1.1)
            draw.line(stroke, fill=ink, width=pen, joint="curve")
            x += line * rng.uniform(0.35, 0.6)
        y += line
    return page.resize((width, height), Image.Resampling.LANCZOS)


LATER_KINDS: tuple[Callable[[Random], Image.Image], ...] = (
    sticker, sheet_music, street_map, chess_board, chest_x_ray, handwriting,
)  # fmt: skip

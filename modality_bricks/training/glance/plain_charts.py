"""Draws charts as web pages, office programs and phones do. Training only."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from modality_bricks.training.glance.canvas import Colour, Material, Random, any_font, any_size, blank, words_of


@dataclass(frozen=True)
class Plot:
    """Where the marks of a chart are drawn, and with what."""

    rng: Random
    material: Material
    draw: ImageDraw.ImageDraw
    box: tuple[float, float, float, float]  # left, top, right, bottom
    font: ImageFont.FreeTypeFont
    ink: Colour
    fills: Sequence[Colour]

    def words(self, count: int) -> str:
        """Words to write on it."""
        return words_of(self.rng, self.material, count)


def plain_chart(rng: Random, material: Material) -> Image.Image:
    """A chart as web pages, office programs and phones draw them: with or without a scale, a grid, a legend, a title."""
    size = any_size(rng, 250, 600)
    page, draw, paper, ink = blank(rng, size)
    font = any_font(rng, int(rng.integers(9, 17)))
    hues = [tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(8)]
    fills = [h if sum(abs(a - b) for a, b in zip(h, paper, strict=True)) > 90 else ink for h in hues]
    box = (size[0] * 0.1, size[1] * (0.15 if rng.random() < 0.7 else 0.05), size[0] * 0.95, size[1] * 0.88)
    if rng.random() < 0.7:
        draw.text((box[0], 5), words_of(rng, material, int(rng.integers(1, 7))), font=font, fill=ink)
    marks = (_draw_columns, _draw_rows, _draw_pie, _draw_courses, _draw_dots)[rng.integers(5)]
    plot = Plot(rng, material, draw, box, font, ink, fills)  # type: ignore[arg-type]  # fills are of three numbers
    if marks in (_draw_columns, _draw_courses, _draw_dots):
        _draw_scale(plot)
    marks(plot)
    return page


def _draw_scale(plot: Plot) -> None:
    rng, draw, font, ink = plot.rng, plot.draw, plot.font, plot.ink
    left, top, right, bottom = plot.box
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


def _draw_columns(plot: Plot) -> None:
    """Columns: single, beside one another in groups, or on top of one another."""
    rng, draw, font, ink, fills = plot.rng, plot.draw, plot.font, plot.ink, plot.fills
    left, top, right, bottom = plot.box
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
                plot.words(1)[:9],
                font=font,
                fill=ink,
                anchor="ma",
            )


def _draw_rows(plot: Plot) -> None:
    """Bars across, with their names before them and perhaps their numbers behind."""
    rng, draw, font, ink, fills = plot.rng, plot.draw, plot.font, plot.ink, plot.fills
    left, top, right, bottom = plot.box
    count = int(rng.integers(2, 13))
    start, step, share = left + (right - left) * rng.uniform(0.05, 0.3), (bottom - top) / count, rng.uniform(0.35, 0.95)
    numbers, many = rng.random(2) < 0.4
    for row in range(count):
        y = top + (row + (1 - share) / 2) * step
        end = start + (right - start) * rng.uniform(0.03, 0.93)
        draw.rectangle((start, y, end, y + step * share), fill=fills[row % len(fills) if many else 0])
        middle = y + step * share / 2
        draw.text((start - 5, middle), plot.words(1)[:12], font=font, fill=ink, anchor="rm")
        if numbers:
            draw.text((end + 5, middle), f"{rng.uniform(0, 100):.0f}%", font=font, fill=ink, anchor="lm")


def _draw_pie(plot: Plot) -> None:
    """A pie or a ring, anywhere on the page, with its legend beside it, or names around it, or neither."""
    rng, draw, font, ink, fills = plot.rng, plot.draw, plot.font, plot.ink, plot.fills
    left, top, right, bottom = plot.box
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
        name = plot.words(1)[:10]
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


def _draw_courses(plot: Plot) -> None:
    """Lines over time, or the areas under them."""
    rng, draw, font, ink, fills = plot.rng, plot.draw, plot.font, plot.ink, plot.fills
    left, top, right, bottom = plot.box
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


def _draw_dots(plot: Plot) -> None:
    """Points of one or two colours, of one size or of many."""
    rng, draw, fills = plot.rng, plot.draw, plot.fills
    left, top, right, bottom = plot.box
    count, slope, size = int(rng.integers(12, 150)), rng.uniform(-0.9, 0.9), rng.uniform(2, 6)
    x = rng.uniform(0, 1, count)
    y = np.clip(0.5 + slope * (x - 0.5) + rng.normal(0, rng.uniform(0.05, 0.25), count), 0, 1)
    sizes = size * (rng.uniform(0.5, 3, count) if rng.random() < 0.25 else np.ones(count))
    colours = int(rng.integers(1, 4))
    for number, (a, b, r) in enumerate(zip(x, y, sizes, strict=True)):
        u, v = left + (right - left) * a, bottom - (bottom - top) * b
        draw.ellipse((u - r, v - r, u + r, v + r), fill=fills[number % colours])

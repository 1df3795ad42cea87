"""Draws what is neither a document nor a chart nor a photo: pencil drawings, cartoons, diagrams, textures. Training only."""

import numpy as np
from PIL import Image, ImageDraw

from modality_bricks.training.glance.canvas import Material, Random, any_font, any_size, blank, words_of


def _curve(rng: Random, size: tuple[int, int]) -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 60)
    x, y = rng.uniform(0.2, 0.8, 2)
    scale = rng.uniform(0.05, 0.35)
    radius = scale * (1 + sum(rng.normal(0, 0.25) * np.cos(k * t + rng.uniform(0, 6)) for k in range(1, 5)))
    return [((x + r * np.cos(a)) * size[0], (y + r * np.sin(a)) * size[1]) for r, a in zip(radius, t, strict=True)]  # type: ignore[arg-type]  # a sum of arrays is an array


def line_drawing(rng: Random, material: Material) -> Image.Image:
    """Pencil strokes on paper: closed and open curves, hatching, no words."""
    size = any_size(rng, 250, 600)
    page, draw, paper, ink = blank(rng, size)
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
    size = any_size(rng, 250, 600)
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
    size = any_size(rng, 300, 700)
    page, draw, paper, ink = blank(rng, size)
    font = any_font(rng, int(rng.integers(11, 20)))
    centres = [rng.uniform(0.12, 0.88, 2) * size for _ in range(int(rng.integers(3, 10)))]
    for first, second in zip(centres, centres[1:], strict=False):
        draw.line((*first, *second), fill=ink, width=int(rng.integers(1, 4)))
    for x, y in centres:
        w, h = rng.uniform(35, 80), rng.uniform(14, 34)
        fill = paper if rng.random() < 0.5 else tuple(int(v) for v in rng.integers(120, 256, 3))
        shape = draw.rectangle if rng.random() < 0.6 else draw.ellipse
        shape((x - w, y - h, x + w, y + h), fill=fill, outline=ink, width=2)
        draw.text((x, y), words_of(rng, material, 1), font=font, fill=ink, anchor="mm")
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

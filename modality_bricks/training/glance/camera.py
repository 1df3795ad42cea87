"""Takes a photo of what was drawn: askew on a ground, lit unevenly, out of focus. Training only."""

import numpy as np
from PIL import Image, ImageFilter

from modality_bricks.training.glance.canvas import Material, Random, any_size, thumbnail


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


def photographed(rng: Random, material: Material, page: Image.Image) -> Image.Image:
    size = any_size(rng, 260, 480)
    blur = rng.uniform(0, 10) if rng.random() < 0.5 else rng.uniform(0, 1.5)
    ground = thumbnail(rng, material, size).filter(ImageFilter.GaussianBlur(blur))
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

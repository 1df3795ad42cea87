"""The kinds of pictures that `glance` learns from: pages, screens, photos of text, charts, drawings, photos. Training only.

Every kind is a function of a random generator and of material (words, photos), so that a seed gives the same picture
again. `assistant.evaluation.measure_router` draws its dev pictures with other layouts, texts and fonts.
"""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageEnhance

from modality_bricks.training.charts.draw import draw_chart
from modality_bricks.training.charts.styles import TRAIN
from modality_bricks.training.glance.camera import photographed
from modality_bricks.training.glance.canvas import Kind, Material, Random, any_font, words_of
from modality_bricks.training.glance.documents import (
    phone_screen,
    scan,
    slide,
    slip,
    table_page,
    terminal,
    text_page,
    web_page,
)
from modality_bricks.training.glance.drawings import cartoon, diagram, line_drawing, texture
from modality_bricks.training.glance.plain_charts import plain_chart
from modality_bricks.training.packs import sheet_tiles

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
    return photographed(rng, material, PAPERS[rng.integers(len(PAPERS))](rng, material))


def photo(rng: Random, material: Material) -> Image.Image:
    """A photo; now and then with a caption, a date or a watermark on it, which does not make it a document."""
    picture = material.photos[rng.integers(len(material.photos))].copy()
    if rng.random() < 0.15:
        picture = picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(picture)
        font = any_font(rng, int(picture.height * rng.uniform(0.04, 0.09)))
        y = picture.height * (rng.uniform(0, 0.1) if rng.random() < 0.5 else rng.uniform(0.85, 0.92))
        draw.text(
            (picture.width * rng.uniform(0.02, 0.5), y), words_of(rng, material, 3), font=font, fill=(250, 240, 200)
        )
    if rng.random() < 0.3:
        picture = ImageEnhance.Sharpness(picture).enhance(rng.uniform(1.5, 4))
    return picture


def chart(rng: Random, material: Material) -> Image.Image:
    """A chart as the chart brick learns from them: matplotlib, in the styles that are for training."""
    return draw_chart(rng, TRAIN)[0]


def photo_of_chart(rng: Random, material: Material) -> Image.Image:
    """A chart as a camera sees it, on paper or on a screen."""
    return photographed(rng, material, (chart, plain_chart)[rng.integers(2)](rng, material))


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

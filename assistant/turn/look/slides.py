"""Reads PPTX with python-pptx: a page for each slide, with its tables, charts and notes."""

import io
from collections.abc import Iterable, Iterator

from pptx import Presentation
from pptx.chart.chart import Chart
from pptx.shapes.autoshape import Shape
from pptx.shapes.base import BaseShape
from pptx.shapes.graphfrm import GraphicFrame
from pptx.shapes.group import GroupShape
from pptx.slide import Slide
from pptx.table import _Cell

from assistant.turn.look.markdown_tables import markdown_table
from assistant.turn.look.opened import Limits, Opened, pages_of
from assistant.turn.look.pasted import pasted_pages
from assistant.turn.look.zips import Archive


def open_pptx(archive: Archive, limits: Limits) -> Opened:
    """A page for each slide that is shown; a slide that is nothing but pictures is read from them."""
    slides = [slide for slide in Presentation(io.BytesIO(archive.content)).slides if slide.element.get("show") != "0"]
    texts = ["\n".join(_texts(slide)) for slide in slides[: limits.pages]]
    if not any(text.strip() for text in texts) and (pages := pasted_pages(archive, "ppt/media/", limits)):
        return pages
    return pages_of(texts, len(slides), "slides")


def _texts(slide: Slide) -> Iterator[str]:
    """The title, then the rest from top to bottom, then what the speaker noted."""
    title = slide.shapes.title
    if title is not None and title.text_frame.text.strip():
        yield f"# {' '.join(title.text_frame.text.split())}"
    yield from _of_shapes(shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = slide.notes_slide.notes_text_frame.text.strip()
        if notes:
            yield f"Notes: {notes}"


def _of_shapes(shapes: Iterable[BaseShape]) -> Iterator[str]:
    for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
        if isinstance(shape, GroupShape):
            yield from _of_shapes(shape.shapes)
        elif isinstance(shape, GraphicFrame) and shape.has_table:
            yield markdown_table([[_cell(cell) for cell in row.cells] for row in shape.table.rows])
        elif isinstance(shape, GraphicFrame) and shape.has_chart:
            yield _chart(shape.chart)
        elif isinstance(shape, Shape) and shape.has_text_frame:
            lines = (
                f"{'  ' * p.level}- {p.text}" if p.level else p.text.replace("\v", "\n")
                for p in shape.text_frame.paragraphs
            )
            text = "\n".join(line for line in lines if line.strip())
            if text:
                yield text


def _cell(cell: _Cell) -> str:
    """A cell that another one covers has no text of its own; it is left empty as on the slide."""
    return str(cell.text)


def _chart(chart: Chart) -> str:
    """A chart's title, and its numbers as a table with a column for each series."""
    title = chart.chart_title.text_frame.text if chart.has_title and chart.chart_title.has_text_frame else ""
    plot = next(iter(chart.plots), None)
    if plot is None:
        return title
    names = [str(category) for category in plot.categories]
    series = [(str(one.name), list(one.values)) for one in plot.series]
    head = ["", *(name for name, _ in series)]
    rows = [
        [name, *(f"{values[i]:g}" if i < len(values) and values[i] is not None else "" for _, values in series)]
        for i, name in enumerate(names)
    ]
    return "\n".join(part for part in (title, markdown_table([head, *rows])) if part)

"""Puts boxes of text into the order in which a person reads them. Knows nothing of where the boxes came from.

Rows from top to bottom, in a row from left to right, and columns one after the other. Columns are found as in the recursive
XY-cut (Nagy and Seth 1984, "Hierarchical representation of optically scanned documents"; on boxes: Ha, Haralick and
Phillips 1995), with two departures: a gutter may be crossed by titles, which then part the page into bands (as obstacles
do for Breuel 2002, "Two algorithms for geometric layout analysis"), and only running text is cut, since the cells of a
table, and numbers with their labels, are read row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import numpy as np

# A box joins a row when at least this part of the lower of the two lies beside the other.
_OVERLAP = 0.5
_LOOK_BACK = 4
# More boxes than this are no page of columns, and comparing them takes long.
_MOST_BOXES = 4000
# A column is that many lines of so many characters, most of them letters; its lines begin within this part of a line's
# height of one another, and a line that crosses a gutter reaches over it by as much.
_LINES, _CHARACTERS, _LETTERS, _ALIGNED = 3, 10, 0.6, 0.5
# Running text goes on in the middle of a sentence, or its lines do not stand beside the neighbour's.
_GOING_ON, _ALONE = 0.2, 0.4


@dataclass(frozen=True)
class Line:
    """A box of text: its corners (x, y) clockwise from the text's top left, in pixels, and its score (0-1)."""

    text: str
    box: tuple[tuple[float, float], ...]
    score: float


class _Box(NamedTuple):
    """A line's place on a page whose slant is taken out."""

    left: float
    top: float
    right: float
    bottom: float
    line: Line

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def text_in_reading_order(lines: Sequence[Line]) -> str:
    """The text, a row of boxes per line, and an empty line between columns."""
    blocks = ("\n".join(" ".join(line.text for line in row) for row in block) for block in blocks_of(lines))
    return "\n\n".join(blocks)


def blocks_of(lines: Sequence[Line]) -> list[list[list[Line]]]:
    """The rows of each column or part of a page, in reading order; without columns there is one block."""
    if len(lines) < 2 * _LINES or len(lines) > _MOST_BOXES:
        return [rows_of(lines)] if lines else []
    slant = _slant(lines)
    return _blocks([_straight(line, slant) for line in lines])


def rows_of(lines: Sequence[Line]) -> list[list[Line]]:
    """Boxes that stand side by side, as rows from top to bottom; the page's slant is taken out first."""
    slant = _slant(lines)
    placed = sorted(((*_extent(line, slant), line) for line in lines), key=lambda p: p[1] + p[2])
    rows: list[tuple[float, float, list[tuple[float, Line]]]] = []
    for left, top, bottom, line in placed:
        # The row that it overlaps most. Only the last few can: the boxes come in the order of their middles.
        best, best_overlap = None, _OVERLAP
        for row in rows[-_LOOK_BACK:]:
            overlap = (min(row[1], bottom) - max(row[0], top)) / max(min(bottom - top, row[1] - row[0]), 1e-6)
            if overlap > best_overlap:
                best, best_overlap = row, overlap
        if best is None:
            rows.append((top, bottom, [(left, line)]))
        else:
            best[2].append((left, line))
    return [[line for _, line in sorted(row, key=lambda item: item[0])] for _, _, row in rows]


def _blocks(boxes: list[_Box]) -> list[list[list[Line]]]:
    gutter, columned = 0.0, 0
    for place in _gutters(boxes):
        characters = sum(
            len(box.line.text) for band in _bands(boxes, place) if _has_columns(*band) for box in band[0] + band[1]
        )
        if characters > columned:
            gutter, columned = place, characters
    if not columned:
        return [rows_of([box.line for box in boxes])]
    blocks: list[list[list[Line]]] = []
    loose: list[Line] = []
    for left, right in _bands(boxes, gutter):
        if not _has_columns(left, right):
            loose += [box.line for box in left + right]
            continue
        if loose:
            blocks.append(rows_of(loose))
            loose = []
        blocks += _blocks(left) + _blocks(right)
    return [*blocks, rows_of(loose)] if loose else blocks


def _gutters(boxes: Sequence[_Box]) -> list[float]:
    """Just left of where several lines begin one below the other."""
    reach = _ALIGNED * _height(boxes)
    lefts = sorted(box.left for box in boxes)
    gutters: list[float] = []
    start = 0
    for end in range(1, len(lefts) + 1):
        if end == len(lefts) or lefts[end] - lefts[start] > reach:
            if end - start >= _LINES:
                gutters.append(lefts[start] - reach / 2)
            start = end
    # What begins leftmost has nothing on its left.
    return [gutter for gutter in gutters if gutter > lefts[0]]


def _bands(boxes: Sequence[_Box], gutter: float) -> list[tuple[list[_Box], list[_Box]]]:
    """What stands left and right of the gutter, from top to bottom; a line that crosses it is a band of its own."""
    reach = _ALIGNED * _height(boxes)
    bands: list[tuple[list[_Box], list[_Box]]] = [([], [])]
    for box in sorted(boxes, key=lambda box: box.middle):
        if box.left < gutter - reach and box.right > gutter + reach:
            bands += [([box], []), ([], [])]
        else:
            bands[-1][(box.left + box.right) / 2 > gutter].append(box)
    return [band for band in bands if band[0] or band[1]]


def _has_columns(left: Sequence[_Box], right: Sequence[_Box]) -> bool:
    return _is_column(left, right) and _is_column(right, left)


def _is_column(boxes: Sequence[_Box], beside: Sequence[_Box]) -> bool:
    """Whether lines are running text that has nothing to do with the lines beside it."""
    if len(boxes) < _LINES:
        return False
    texts = [box.line.text.strip() for box in boxes]
    letters = sum(c.isalpha() for text in texts for c in text)
    if median(map(len, texts)) < _CHARACTERS or letters < _LETTERS * sum(len("".join(text.split())) for text in texts):
        return False
    going_on = sum(text[:1].isalpha() and not text[0].isupper() for text in texts[1:])
    tops, bottoms = np.array([box.top for box in beside]), np.array([box.bottom for box in beside])
    alone = 0
    for box in boxes:
        shared = np.minimum(bottoms, box.bottom) - np.maximum(tops, box.top)
        alone += bool((shared < _OVERLAP * np.minimum(bottoms - tops, box.bottom - box.top)).all())
    return going_on >= _GOING_ON * len(texts) or alone >= _ALONE * len(texts)


def _height(boxes: Sequence[_Box]) -> float:
    return median(box.bottom - box.top for box in boxes)


def _slant(lines: Sequence[Line]) -> float:
    """How much the text falls per pixel to the right: the median over the boxes, weighted by their width."""
    corners = [(line.box[0], line.box[1]) for line in lines]
    across = np.array([b[0] - a[0] for a, b in corners], dtype=np.float64)
    down = np.array([b[1] - a[1] for a, b in corners], dtype=np.float64)
    usable = across > 2 * np.abs(down)
    if not usable.any():
        return 0.0
    slopes, widths = down[usable] / across[usable], across[usable]
    order = np.argsort(slopes)
    total = np.cumsum(widths[order])
    return float(slopes[order][np.searchsorted(total, total[-1] / 2)])


def _extent(line: Line, slant: float) -> tuple[float, float, float]:
    """Left, top and bottom of a box on a page whose slant is taken out."""
    ys = [y - slant * x for x, y in line.box]
    ends = sorted(((ys[0] + ys[1]) / 2, (ys[2] + ys[3]) / 2))
    return min(x for x, _ in line.box), ends[0], ends[1]


def _straight(line: Line, slant: float) -> _Box:
    _, top, bottom = _extent(line, slant)
    xs = [x + slant * y for x, y in line.box]
    # The corners' mean on each side, as for top and bottom.
    left, right = sorted(((xs[0] + xs[3]) / 2, (xs[1] + xs[2]) / 2))
    return _Box(left, top, right, bottom, line)

"""Puts the texts that were read on a chart into order: a title, and numbered labels. Knows nothing of bars or values.

Soft tokens can say "the third", and OCR alone knows how the third is called; so both must count alike, and the words of the
third label can take the place of "third": a pointer into what was read (Vinyals et al. 2015, arXiv:1506.03134). Labels count from
the left along the bottom, from the top down the left side, or clockwise from the top around a pie.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from math import atan2, pi
from statistics import median
from typing import NamedTuple

from mattoni.ordinals import ORDINALS
from modality_bricks.ocr import Line

_MOSTLY, _HARDLY = 0.5, 0.02
# A tick beside a number is read as a dash.
_NUMBER = re.compile(r"[-−+~$€£]?[\dOol]+(?:[.,:]\d+)*\s?[%kKMm]?(?:\s?[-−–_])?")
# Labels that stand close are read as one text: years, a word with numbers ("Day 2 Day 3"), or words with capitals.
_YEARS = re.compile(r"(?:19|20)\d\d")
_COUNTED = re.compile(r"([^\W\d]+)\s?\d+")
# Edges are one line when they differ by at most this part of a text's height.
_IN_LINE = 0.75
# A title is set larger than labels, or stands apart from them by this part of its height.
_LARGER, _APART = 1.13, 0.9


class Placed(NamedTuple):
    """A text and its box in pixels from the top left."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    @property
    def x(self) -> float:
        return (self.left + self.right) / 2

    @property
    def y(self) -> float:
        return (self.top + self.bottom) / 2


class ChartTexts(NamedTuple):
    """What a chart says in words."""

    title: str
    labels: tuple[str, ...]


def chart_texts(texts: Sequence[Placed]) -> ChartTexts:
    """The title and the labels in the order that soft tokens of a chart count them."""
    if not texts:
        return ChartTexts("", ())
    texts = _apart_in_row(texts)
    height = median(min(t.bottom - t.top, t.right - t.left) for t in texts)
    middle = (max(t.bottom for t in texts) + min(t.top for t in texts)) / 2
    lower = [t for t in texts if t.top > middle]
    column, row = _left_column(texts, height), _bottom_row(lower, height)
    if _is_scale(column):
        labels = _bottom_row([t for t in lower if t not in column], height)
    elif _is_scale(row):
        labels = column
    else:
        labels = ()
    if _wordy(labels) > 0.5:
        # A number that is in line by chance belongs to the scale.
        labels = tuple(t for t in labels if not is_number(t.text))
    title = _title(texts, labels, height)
    if not labels:
        rest = sorted((t for t in texts if t is not title and not is_number(t.text)), key=lambda t: t.y)
        labels = _legend(rest, height)
        if not labels and title is None and (labels := _legend(rest[1:], height)):
            # A title that is no larger than the rest, above a legend.
            title = rest[0]
        labels = labels or tuple(clockwise(rest))
    return ChartTexts(title.text if title else "", tuple(t.text for t in labels))


def _apart_in_row(texts: Sequence[Placed]) -> list[Placed]:
    """The texts, with wide ones of the lower half cut into the labels that they are made of."""
    width = max(t.right for t in texts) - min(t.left for t in texts)
    middle = (max(t.bottom for t in texts) + min(t.top for t in texts)) / 2
    found = []
    for t in texts:
        spans = _spans(t.text) if t.top > middle and t.right - t.left > width / 3 else []
        step = (t.right - t.left) / max(1, len(t.text))
        cells = [t._replace(text=t.text[a:b], left=t.left + a * step, right=t.left + b * step) for a, b in spans]
        found += cells or [t]
    return found


def _spans(text: str) -> list[tuple[int, int]]:
    """Where the labels of a joined text begin and end; empty where it looks like one."""
    counted = list(_COUNTED.finditer(text))
    words = list(re.finditer(r"\S+", text))
    if not _YEARS.sub("", text).strip():
        found = list(_YEARS.finditer(text))
    elif len({match[1] for match in counted}) == 1 and not _COUNTED.sub("", text).strip():
        found = counted
    else:
        found = words if len(words) > 2 and all(word[0][0].isupper() for word in words) else []
    return [match.span() for match in found] if len(found) > 1 else []


def title_text(texts: ChartTexts) -> str:
    """How the host is told the title; empty without one."""
    return f"Title: {texts.title}.\n" if texts.title else ""


class Named(NamedTuple):
    """Something that the soft tokens say of a label: that the fourth is the highest, mostly."""

    what: str  # a word, such as "highest"
    shares: tuple[float, ...]  # of the labels, in their order, together 1


def named(shares: Sequence[Sequence[float]], words: Sequence[str], labels: int) -> list[Named]:
    """What queries say of labels: where one says an ordinal, rather than anything else, the one before says what it is.

    shares  of the words, by query
    labels  how many there are; ordinals beyond them name none of them
    """
    places = [words.index(ordinal) if ordinal in words else None for ordinal in ORDINALS]
    found = []
    for before, query in zip(shares, shares[1:], strict=False):
        ordinals = [0.0 if place is None else query[place] for place in places]
        able = sum(ordinals[:labels])
        # What is meant may be one label too far when a label was not seen, or not read: then the nearest guess counts.
        if sum(ordinals) > _MOSTLY and able > _HARDLY:
            what = words[max(range(len(words)), key=before.__getitem__)]
            found.append(Named(what, tuple(share / able for share in ordinals[:labels])))
    return found


def named_text(names: Sequence[tuple[str, str]]) -> str:
    """What stands before the question, with labels in words: "Highest: Plums, lowest: Figs." """
    said = ", ".join(f"{what}: {label}" for what, label in names)
    return f"{said[:1].upper()}{said[1:]}.\n" if said else ""


def is_number(text: str) -> bool:
    """Whether a text is a number of a scale, or a share."""
    return _NUMBER.fullmatch(text.strip()) is not None


def clockwise(texts: Sequence[Placed]) -> list[Placed]:
    """Texts around a middle, clockwise from the top."""
    if not texts:
        return []
    x = (min(t.left for t in texts) + max(t.right for t in texts)) / 2
    y = (min(t.top for t in texts) + max(t.bottom for t in texts)) / 2
    return sorted(texts, key=lambda t: atan2(t.x - x, y - t.y) % (2 * pi))


def _is_scale(texts: Sequence[Placed]) -> bool:
    """Whether the texts are the numbers of an axis: shares, as on the slices of a pie, are none."""
    numbers = [t for t in texts if is_number(t.text) and "%" not in t.text]
    return len(numbers) > 1 and 2 * len(numbers) > len(texts)


def _wordy(texts: Sequence[Placed]) -> float:
    """The part of the texts that are no numbers."""
    return sum(not is_number(t.text) for t in texts) / max(1, len(texts))


def _groups(texts: Sequence[Placed], edge: Callable[[Placed], float], room: float) -> list[list[Placed]]:
    """Texts whose edges lie on one line, by the edge."""
    groups: list[list[Placed]] = []
    for text in sorted(texts, key=edge):
        if groups and edge(text) - edge(groups[-1][0]) <= room:
            groups[-1].append(text)
        else:
            groups.append([text])
    return groups


def _bottom_row(texts: Sequence[Placed], height: float) -> tuple[Placed, ...]:
    """The longest row of at least two texts whose tops are in line; of equals the lowest."""
    rows = [group for group in _groups(texts, lambda t: t.top, _IN_LINE * height) if len(group) > 1]
    best = max(rows, key=lambda group: (len(group), group[0].top), default=[])
    return tuple(sorted(best, key=lambda t: t.x))


def _left_column(texts: Sequence[Placed], height: float) -> tuple[Placed, ...]:
    """The longest column of at least two texts whose right edges are in line, left of the middle; of equals the first."""
    middle = (max(t.right for t in texts) + min(t.left for t in texts)) / 2
    best: list[Placed] = []
    # What stands on its side there is the name of an axis.
    upright = [t for t in texts if len(t.text) < 2 or t.bottom - t.top < 1.5 * (t.right - t.left)]
    for group in _groups(upright, lambda t: t.right, _IN_LINE * height):
        column = sorted(group, key=lambda t: t.y)
        apart = all(b.y - a.y > 0.8 * height for a, b in zip(column, column[1:], strict=False))
        if len(column) > max(1, len(best)) and column[0].right < middle and apart:
            best = column
    return tuple(best)


def _title(texts: Sequence[Placed], labels: Sequence[Placed], height: float) -> Placed | None:
    """The topmost text, when it is larger than the others or stands apart."""
    free = sorted((t for t in texts if t not in labels and not is_number(t.text)), key=lambda t: t.y)
    if not free:
        return None
    first, others = free[0], [t for t in texts if t is not free[0]]
    tall = first.bottom - first.top
    if first.right - first.left < tall or not others or first.y > min(t.y for t in others) + height / 2:
        return None
    gap = min(t.top for t in others) - first.bottom
    return first if tall > _LARGER * height or (labels and gap > _APART * tall) else None


def _legend(texts: Sequence[Placed], height: float) -> tuple[Placed, ...]:
    """All texts in one column with their left edges in line; empty when they stand otherwise."""
    column = sorted(texts, key=lambda t: t.y)
    in_line = len(column) > 1 and max(t.left for t in column) - min(t.left for t in column) <= height
    steps = [b.y - a.y for a, b in zip(column, column[1:], strict=False)]
    return tuple(column) if in_line and max(steps) < 3 * height and min(steps) > 0.7 * height else ()


def placed(lines: Iterable[Line]) -> list[Placed]:
    """What OCR read, as upright boxes."""
    found = []
    for line in lines:
        across, down = [x for x, _ in line.box], [y for _, y in line.box]
        found.append(Placed(line.text, min(across), min(down), max(across), max(down)))
    return found

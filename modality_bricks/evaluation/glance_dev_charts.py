"""Draws charts that the router is measured on, by means that no training picture is drawn with.

They are HTML, CSS and SVG for a browser, as dashboards, newspapers and polls on the web are. Training never reads this.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

Random = np.random.Generator
Page = tuple[str, tuple[int, int]]  # HTML, and the window it is shown in

PALETTES = (
    ("#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#9c755f"),
    ("#0b84a5", "#f6c85f", "#6f4e7c", "#9dd866", "#ca472f", "#ffa056", "#8dddd0", "#333333"),
    ("#003f5c", "#2f4b7c", "#665191", "#a05195", "#d45087", "#f95d6a", "#ff7c43", "#ffa600"),
    ("#666666", "#444444", "#888888", "#999999", "#aaaaaa", "#777777", "#bbbbbb", "#555555"),
    ("#e41a1c", "#377eb8", "#4daf4a", "#984ea3", "#ff7f00", "#ffff33", "#a65628", "#f781bf"),
)


@dataclass(frozen=True)
class _Look:
    """Size, colours and words of one chart that a browser draws."""

    width: int
    height: int
    ink: str
    paper: str
    palette: Sequence[str]
    font: str
    words: Callable[[int], str]

    def text(self, x: float, y: float, content: object, size: float = 12, anchor: str = "middle") -> str:
        style = f"font-size:{size:.0f}px;font-family:{self.font};fill:{self.ink}"
        return f"<text x='{x:.0f}' y='{y:.0f}' text-anchor='{anchor}' style='{style}'>{content}</text>"

    def svg(self, body: str) -> str:
        return f"<svg width='{self.width}' height='{self.height}' style='background:{self.paper}'>{body}</svg>"


def browser_charts(rng: Random, texts: Sequence[str], count: int) -> Iterator[Page]:
    """Pages that hold one chart each and little else, template after template."""
    for number in range(count):
        look = _look(rng, texts)
        body = TEMPLATES[number % len(TEMPLATES)](rng, look)
        style = f"margin:0;background:{look.paper};color:{look.ink};font-family:{look.font}"
        yield f"<!doctype html><meta charset=utf-8><body style='{style}'>{body}", (look.width, look.height)


def report_pages(rng: Random, texts: Sequence[str], count: int) -> Iterator[Page]:
    """Pages of text with one chart among the paragraphs: both bricks could answer for them."""
    for number in range(count):
        look = _look(rng, texts)
        chart = TEMPLATES[number % len(TEMPLATES)](rng, look)
        words = [look.words(int(rng.integers(40, 90))) for _ in range(4)]
        body = f"<h2>{look.words(5)}</h2><p>{words[0]}</p><p>{words[1]}</p>{chart}<p>{words[2]}</p><p>{words[3]}</p>"
        style = f"padding:24px;background:{look.paper};color:{look.ink};font-family:{look.font}"
        page = f"<!doctype html><meta charset=utf-8><body style='{style}'>{body}"
        yield page, (look.width + 60, look.height + int(rng.integers(250, 500)))


def _look(rng: Random, texts: Sequence[str]) -> _Look:
    width = int(rng.integers(320, 900))
    dark = rng.random() < 0.2
    ink, paper = ("#ddd", "#1d1f21") if dark else (str(rng.choice(["#222", "#555"])), "#fff")
    if not dark and rng.random() < 0.3:
        paper = str(rng.choice(["#f7f7f7", "#fff1e5", "#eef3f7"]))

    def words(count: int) -> str:
        text = texts[int(rng.integers(len(texts)))]
        found = "".join(c for c in text if c.isascii() and c not in "<&$").split()
        start = int(rng.integers(max(1, len(found) - count)))
        return " ".join(found[start : start + count])

    font = str(rng.choice(["DejaVu Sans", "DejaVu Sans Condensed", "DejaVu Sans Mono"]))
    palette = PALETTES[int(rng.integers(len(PALETTES)))]
    return _Look(width, int(width * rng.uniform(0.5, 0.95)), ink, paper, palette, font, words)


def _values(rng: Random, count: int) -> list[float]:
    """Shares of the highest, none of them nothing."""
    values = rng.uniform(0.08, 1, count) if rng.random() < 0.5 else np.sort(rng.uniform(0.08, 1, count))
    return [float(v) for v in values / values.max()]


def _frame(rng: Random, look: _Look) -> tuple[str, tuple[float, float, float, float]]:
    """Title, grid and scale of a chart with axes, and the box (left, top, right, bottom) that its marks stand in."""
    left, top, right, bottom = 48.0, 46.0, look.width - 16.0, look.height - 40.0
    parts = [look.text(left if rng.random() < 0.5 else look.width / 2, 24, look.words(5), 15, "start")]
    highest, lines = int(rng.integers(5, 5000)), int(rng.integers(3, 8))
    grid = rng.random() < 0.7
    for line in range(lines + 1):
        y = bottom - (bottom - top) * line / lines
        if grid or line == 0:
            parts.append(f"<line x1='{left}' x2='{right}' y1='{y}' y2='{y}' stroke='{look.ink}' opacity='.25'/>")
        parts.append(look.text(left - 6, y + 4, f"{highest * line / lines:.0f}", 11, "end"))
    if rng.random() < 0.4:
        parts.append(f"<line x1='{left}' x2='{left}' y1='{top}' y2='{bottom}' stroke='{look.ink}'/>")
    return "".join(parts), (left, top, right, bottom)


def _svg_bars(rng: Random, look: _Look, groups: int = 1, stacked: bool = False) -> str:
    frame, (left, top, right, bottom) = _frame(rng, look)
    count = int(rng.integers(3, 10))
    step, thick = (right - left) / count, rng.uniform(0.45, 0.9)
    marks = []
    for bar in range(count):
        base, values = bottom, _values(rng, groups) if stacked else list(rng.uniform(0.08, 1, groups))
        for group, value in enumerate(values):
            high = (bottom - top) * value / (groups if stacked else 1)
            wide = step * thick / (1 if stacked else groups)
            x = left + bar * step + step * (1 - thick) / 2 + (0 if stacked else group * wide)
            colour = look.palette[group if groups > 1 else 0]
            marks.append(
                f"<rect x='{x:.1f}' y='{base - high:.1f}' width='{wide:.1f}' height='{high:.1f}' fill='{colour}'/>"
            )
            base = base - high if stacked else base
        marks.append(look.text(left + (bar + 0.5) * step, bottom + 16, look.words(1)[:10], 11))
    return look.svg(frame + "".join(marks))


def _svg_lines(rng: Random, look: _Look, filled: bool = False) -> str:
    frame, (left, top, right, bottom) = _frame(rng, look)
    count = int(rng.integers(5, 40))
    marks = []
    for number in range(1 if filled else int(rng.integers(1, 5))):
        walk = np.cumsum(rng.normal(rng.normal(0, 0.3), 1, count))
        walk = (walk - walk.min()) / max(float(np.ptp(walk)), 1e-6) * rng.uniform(0.4, 0.95)
        points = [
            f"{left + (right - left) * n / (count - 1):.1f},{bottom - (bottom - top) * y:.1f}"
            for n, y in enumerate(walk)
        ]
        colour = look.palette[number]
        area = [f"{right:.1f},{bottom}", f"{left:.1f},{bottom}"] if filled else []
        paint = f"fill='{colour}' opacity='.8'" if filled else f"fill='none' stroke='{colour}'"
        marks.append(f"<polyline points='{' '.join(points + area)}' {paint} stroke-width='{rng.uniform(1.5, 4):.1f}'/>")
        if count < 15 and not filled:
            marks += [f"<circle cx='{p.split(',')[0]}' cy='{p.split(',')[1]}' r='4' fill='{colour}'/>" for p in points]
    names = [look.text(left + (right - left) * n / 4, bottom + 18, 1990 + 7 * n, 11) for n in range(5)]
    return look.svg(frame + "".join(marks + names))


def _svg_scatter(rng: Random, look: _Look) -> str:
    frame, (left, top, right, bottom) = _frame(rng, look)
    count, slope = int(rng.integers(15, 120)), rng.uniform(-0.8, 0.8)
    x = rng.uniform(0.03, 0.97, count)
    y = np.clip(0.5 + slope * (x - 0.5) + rng.normal(0, 0.15, count), 0.02, 0.98)
    size = rng.uniform(2.5, 7) * np.where(rng.random() < 0.3, rng.uniform(0.5, 3, count), 1)
    marks = [
        f"<circle cx='{left + (right - left) * a:.1f}' cy='{bottom - (bottom - top) * b:.1f}' r='{r:.1f}' "
        f"fill='{look.palette[int(rng.integers(2))]}' opacity='.75'/>"
        for a, b, r in zip(x, y, np.broadcast_to(size, count), strict=True)
    ]
    return look.svg(frame + "".join(marks) + look.text((left + right) / 2, look.height - 10, look.words(2)))


def _css_pie(rng: Random, look: _Look) -> str:
    """A pie or a ring, painted as a conic gradient, with its legend below or beside."""
    shares = rng.dirichlet(np.full(int(rng.integers(2, 8)), 2.0))
    stops, start = [], 0.0
    for number, share in enumerate(shares):
        stops.append(f"{look.palette[number]} {start:.3f}turn {start + share:.3f}turn")
        start += float(share)
    side = int(look.height * rng.uniform(0.5, 0.7))
    hole = f"mask:radial-gradient(transparent {side * 0.28:.0f}px,#000 {side * 0.28 + 1:.0f}px)"
    ring = hole if rng.random() < 0.4 else ""
    disc = f"<div style='width:{side}px;height:{side}px;border-radius:50%;background:conic-gradient({','.join(stops)});{ring}'></div>"
    legend = "".join(
        f"<div style='font-size:13px;margin:4px'><span style='display:inline-block;width:12px;height:12px;"
        f"background:{look.palette[number]}'></span> {look.words(1)} {share:.0%}</div>"
        for number, share in enumerate(shares)
    )
    direction = "row" if rng.random() < 0.6 else "column"
    return (
        f"<div style='padding:14px'><b>{look.words(4)}</b></div>"
        f"<div style='display:flex;flex-direction:{direction};align-items:center;gap:20px;padding:0 20px'>{disc}<div>{legend}</div></div>"
    )


def _css_bars_across(rng: Random, look: _Look) -> str:
    """A poll: a label, a bar and its share in every row."""
    count = int(rng.integers(3, 10))
    high = max(10, int((look.height - 60) / count * rng.uniform(0.4, 0.75)))
    rows = "".join(
        f"<div style='display:flex;align-items:center;margin:{high // 5}px 0'>"
        f"<div style='width:22%;text-align:right;padding-right:8px;font-size:13px;overflow:hidden'>{look.words(1)}</div>"
        f"<div style='width:{62 * value:.0f}%;height:{high}px;background:{look.palette[0]}'></div>"
        f"<div style='padding-left:6px;font-size:12px'>{100 * value:.0f}</div></div>"
        for value in _values(rng, count)
    )
    return f"<div style='padding:14px'><b>{look.words(5)}</b></div>{rows}"


def _css_columns(rng: Random, look: _Look) -> str:
    """A tile of a dashboard: a number, and columns of boxes with rounded heads."""
    count, high = int(rng.integers(5, 25)), look.height - 120
    columns = "".join(
        f"<div style='flex:1;height:{high * value:.0f}px;border-radius:5px 5px 0 0;"
        f"background:{look.palette[1 if rng.random() < 0.1 else 0]}'></div>"
        for value in _values(rng, count)
    )
    days = "".join(f"<div style='flex:1;text-align:center;font-size:10px'>{n + 1}</div>" for n in range(count))
    return (
        f"<div style='padding:12px 20px'><small>{look.words(3)}</small><h2 style='margin:4px 0'>{rng.integers(9999)}</h2></div>"
        f"<div style='display:flex;align-items:flex-end;gap:4px;padding:0 20px;height:{high}px'>{columns}</div>"
        f"<div style='display:flex;gap:4px;padding:2px 20px'>{days}</div>"
    )


TEMPLATES: tuple[Callable[[Random, _Look], str], ...] = (
    _svg_bars,
    _svg_lines,
    _css_pie,
    _svg_scatter,
    _css_bars_across,
    partial(_svg_bars, groups=3),
    _css_columns,
    partial(_svg_lines, filled=True),
    partial(_svg_bars, groups=4, stacked=True),
    _css_pie,
)

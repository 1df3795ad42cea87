"""Draws one chart with matplotlib, and says what is on it. Training only; the same generator gives the same chart."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from modality_bricks.chart_labels import Placed, clockwise
from modality_bricks.training.charts.styles import StyleSpace

Random = np.random.Generator
Kind = Literal["bar", "horizontal bar", "line", "pie", "scatter"]
KINDS: tuple[Kind, ...] = ("bar", "horizontal bar", "line", "pie", "scatter")
_SHARES = (0.27, 0.2, 0.27, 0.14, 0.12)
MOST = {"bar": 10, "horizontal bar": 10, "pie": 8, "line": 6, "scatter": 1}
# The highest (lowest) value is beyond the next by at least this part of the largest: nobody could say otherwise.
_GAP = 0.07
# A trend is asked where the fitted line moves by at least this many deviations of what it leaves over.
_CLEAR = 2.0


@dataclass(frozen=True)
class Facts:
    """What a chart shows. Places count from 0 in the order in which one reads: from the left, from the top."""

    kind: Kind
    count: int | None  # bars, slices or lines; None for points
    labels: tuple[str, ...]  # of bars, slices, or of the points of a single line
    values: tuple[float, ...]  # of the labels, as parts of the largest
    highest: int | None  # place of the label; None where there is none
    lowest: int | None
    trend: Literal["rising", "falling"] | None
    texts: tuple[tuple[str, tuple[float, float, float, float]], ...]  # all text drawn, with left, top, right, bottom


@dataclass(frozen=True)
class _Series:
    labels: tuple[str, ...]
    values: NDArray[np.float64]


def draw_chart(rng: Random, space: StyleSpace) -> tuple[Image.Image, Facts]:
    """One chart of any kind, as a JPEG or PNG would show it."""
    sheet = _one(rng, space.sheets)
    settings: dict[Any, Any] = {} if sheet == "default" else {**matplotlib.style.library[sheet]}
    settings |= {
        "font.family": _one(rng, space.fonts),
        "axes.unicode_minus": False,
        "axes.formatter.use_mathtext": False,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        for name, value in settings.items():
            matplotlib.rcParams[name] = value
        return _draw(rng, space)


def _draw(rng: Random, space: StyleSpace) -> tuple[Image.Image, Facts]:
    kind = KINDS[int(rng.choice(len(KINDS), p=_SHARES))]
    dpi = int(rng.integers(70, 131))
    width = float(rng.uniform(3.6, 7.5))
    height = width * float(rng.uniform(0.55, 1.0))
    figure = Figure(figsize=(width, height), dpi=dpi)
    canvas = FigureCanvasAgg(figure)
    size = float(np.clip(rng.normal(10, 1.2), 8, 13))
    ground = _one(rng, space.grounds)
    ink = str(matplotlib.rcParams["text.color"])
    if ground:
        figure.set_facecolor(ground)
        ink = "white" if _dark(ground) else "black"
    axes = figure.add_axes((0.17, 0.2, 0.76, 0.66))
    if ground:
        axes.set_facecolor(ground)
    drawer = {"bar": _bars, "horizontal bar": _rows, "line": _lines, "pie": _slices, "scatter": _points}[kind]
    labelled, count, trend, around = drawer(rng, space, axes, size, ink)
    if kind != "pie":
        _dress(rng, space, axes, size, ink)
    titles = [topic[0].split("|") for topic in space.topics]
    if rng.random() < 0.7:
        title = _one(rng, [t for some in titles for t in some])
        axes.set_title(
            title, fontsize=size * rng.uniform(1.1, 1.5), color=ink, loc=_one(rng, ("center", "center", "left"))
        )
    _fit(figure, axes, canvas, kind)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    picture = Image.fromarray(pixels[:, :, :3].copy())
    texts = _texts(figure, canvas, picture.size)
    if rng.random() < 0.6:
        squeezed = io.BytesIO()
        picture.save(squeezed, "JPEG", quality=int(rng.integers(40, 96)))
        picture = Image.open(squeezed).convert("RGB")
    labels, values = (labelled.labels, labelled.values) if labelled is not None else ((), np.zeros(0))
    order = _reading_order(kind, labels, texts, around)
    labels, values = tuple(labels[i] for i in order), values[order] if len(order) else values
    highest, lowest = (int(values.argmax()), int(values.argmin())) if len(values) else (None, None)
    parts = tuple(round(float(v / np.abs(values).max()), 4) for v in values)
    return picture, Facts(kind, count, labels, parts, highest, lowest, trend, texts)


def _one(rng: Random, choices: Sequence[Any]) -> Any:
    return choices[int(rng.integers(len(choices)))]


def _dark(colour: str) -> bool:
    return float(np.dot(to_rgb(colour), (0.3, 0.59, 0.11))) < 0.45


def _colours(rng: Random, space: StyleSpace, count: int, ground: Any) -> list[Any]:
    """One colour for all, or one for each: the sheet's, a colour map's, or any."""
    way = rng.random()
    if way < 0.3:
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
        found = [cycle[i % len(cycle)] for i in range(count)]
    elif way < 0.85:
        colours = matplotlib.colormaps[_one(rng, space.colour_maps)]
        if colours.N <= 20:
            start = int(rng.integers(colours.N))
            found = [colours((start + i) % colours.N) for i in range(count)]
        else:
            found = [colours(v) for v in np.linspace(rng.uniform(0.1, 0.5), rng.uniform(0.5, 0.95), count)]
    else:
        found = [tuple(rng.uniform(0.1, 0.9, 3)) for _ in range(count)]
    return [_apart(colour, ground) for colour in found]


def _apart(colour: Any, ground: Any) -> tuple[float, float, float]:
    """The colour, or a darker (on dark grounds lighter) one where it could not be told from the ground."""
    mine, other = np.asarray(to_rgb(colour)), np.asarray(to_rgb(ground))
    if float(np.abs(mine - other).max()) < 0.2:
        mine = mine + 0.35 if other.mean() < 0.45 else mine - 0.35
    red, green, blue = np.clip(mine, 0, 1)
    return float(red), float(green), float(blue)


def _distinct(values: NDArray[np.float64]) -> bool:
    """Whether the highest and the lowest stand apart."""
    ranked = np.sort(values)
    room = _GAP * float(np.abs(values).max())
    return bool(ranked[-1] - ranked[-2] >= room and ranked[1] - ranked[0] >= room)


def _values(rng: Random, count: int) -> NDArray[np.float64]:
    """Values of `count` things, of which one is clearly the highest and one the lowest."""
    while True:
        match int(rng.integers(3)):
            case 0:
                values = rng.uniform(0.08, 1, count)
            case 1:
                values = rng.uniform(0.45, 1, count)
            case _:
                values = np.clip(np.cumsum(rng.normal(0, 0.2, count)) + 0.6, 0.05, None)
        if _distinct(values):
            return np.asarray(values * 10 ** rng.uniform(0.7, 4))


def _names(rng: Random, space: StyleSpace, count: int, ordered: float) -> tuple[str, ...]:
    """Labels of one topic, or some that keep their order, such as months."""
    able = [order for order in space.orders if len(order) >= count]
    if able and rng.random() < ordered:
        order = _one(rng, able)
        first = int(rng.integers(len(order) - count + 1))
        return tuple(order[first : first + count])
    topic = _one(rng, [t for t in space.topics if len(t) > count])
    return tuple(topic[1:][i] for i in rng.permutation(len(topic) - 1)[:count])


_Drawn = tuple[_Series | None, int | None, Literal["rising", "falling"] | None, bool]


def _bars(rng: Random, space: StyleSpace, axes: Axes, size: float, ink: str) -> _Drawn:
    return _any_bars(rng, space, axes, size, ink, across=False)


def _rows(rng: Random, space: StyleSpace, axes: Axes, size: float, ink: str) -> _Drawn:
    return _any_bars(rng, space, axes, size, ink, across=True)


def _any_bars(rng: Random, space: StyleSpace, axes: Axes, size: float, ink: str, across: bool) -> _Drawn:
    count = int(rng.integers(2, MOST["bar"] + 1))
    # Numbers down the side could not be told from the numbers of a scale.
    names = _names(rng, space, count, 0.0 if across else 0.25)
    values = _values(rng, count)
    colours = _colours(rng, space, count, axes.get_facecolor())
    if rng.random() < 0.6:
        colours = [colours[int(rng.integers(count))]] * count
    extra: dict[str, Any] = {"color": colours}
    if rng.random() < 0.3:
        extra |= {"edgecolor": ink, "linewidth": float(rng.uniform(0.4, 1.6))}
    if rng.random() < 0.15:
        extra["hatch"] = _one(rng, space.hatches)
    thickness = float(rng.uniform(0.35, 0.95))
    places = np.arange(count)
    if across:
        drawn = axes.barh(places, values, thickness, **extra)
        axes.set_yticks(places, names)
        if rng.random() < 0.5:
            axes.invert_yaxis()
        axes.set_xlim(0, float(values.max()) * rng.uniform(1.03, 1.25))
    else:
        drawn = axes.bar(places, values, thickness, **extra)
        axes.set_xticks(places, names)
        axes.set_ylim(0, float(values.max()) * rng.uniform(1.03, 1.25))
        _turn_labels(rng, axes, names, size)
    if rng.random() < 0.2:
        form = "%.0f" if values.min() >= 20 else "%.1f"
        axes.bar_label(drawn, fmt=form, fontsize=size * 0.8, padding=2, color=ink)
    return _Series(names, values), count, None, False


def _turn_labels(rng: Random, axes: Axes, names: Sequence[str], size: float) -> None:
    """Stand labels upright or aslant where they would touch one another."""
    room = axes.figure.bbox.width / axes.figure.dpi * 72 * 0.76 / len(names)
    longest = max(map(len, names)) * size * 0.62
    turn = 0 if longest < room else int(_one(rng, (30, 45, 45, 60, 90)))
    if rng.random() < 0.06:
        turn = int(_one(rng, (30, 45, 90)))
    if turn:
        axes.tick_params(axis="x", rotation=turn)
        for label in axes.get_xticklabels():
            label.set(ha="center" if turn == 90 else "right", rotation_mode="default" if turn == 90 else "anchor")


def _lines(rng: Random, space: StyleSpace, axes: Axes, size: float, ink: str) -> _Drawn:
    count = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.55, 0.11, 0.12, 0.1, 0.07, 0.05]))
    points = int(rng.integers(4, 11))
    names = _names(rng, space, points, 0.9)
    points = len(names)
    colours = _colours(rng, space, count, axes.get_facecolor())
    markers = _one(rng, space.markers) if rng.random() < 0.5 else None
    styles = ("-", "-", "-", "--", "-.")
    scale, places = 10 ** rng.uniform(0.7, 4), np.arange(points)
    if count == 1:
        values, trend = _course(rng, points)
        series = _Series(names, values * scale)
        style = _one(rng, styles)
        axes.plot(
            places, values * scale, style, color=colours[0], marker=markers, lw=rng.uniform(1, 3.5), ms=size * 0.6
        )
        if rng.random() < 0.15:
            axes.fill_between(places, values * scale, (values * scale).min(), color=colours[0], alpha=0.25)
    else:
        series, trend = None, None
        keys = _names(rng, space, count, 0.0)
        level = rng.permutation(np.linspace(0.15, 1, count))
        weight = float(rng.uniform(1, 3))
        for i in range(count):
            values = level[i] + np.cumsum(rng.normal(0, 0.07, points))
            style = _one(rng, styles)
            axes.plot(
                places, values * scale, style, color=colours[i], marker=markers, lw=weight, ms=size * 0.5, label=keys[i]
            )
        _legend(rng, axes, size, ink)
    axes.set_xticks(places, names)
    _turn_labels(rng, axes, names, size)
    if rng.random() < 0.3:
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0), high * 1.05)
    return series, count, trend, False


def _course(rng: Random, points: int) -> tuple[NDArray[np.float64], Literal["rising", "falling"] | None]:
    """A line with one highest and one lowest point, and whether it clearly rises or falls."""
    places = np.linspace(-0.5, 0.5, points)
    while True:
        slope = float(rng.choice([-1, 1]) * rng.uniform(0.25, 1)) if rng.random() < 0.75 else 0.0
        values = slope * places + rng.normal(0, float(rng.uniform(0.02, 0.18)), points)
        if slope == 0:
            values = values + 0.4 * np.sin(places * rng.uniform(4, 9) + rng.uniform(0, 6))
        span = float(np.ptp(values))
        values = (values - values.min()) / span + float(rng.uniform(0.05, 1))
        ranked = np.sort(values)
        if min(ranked[-1] - ranked[-2], ranked[1] - ranked[0]) >= _GAP:
            return values, trend_of(places, values)


def trend_of(x: NDArray[np.float64], y: NDArray[np.float64]) -> Literal["rising", "falling"] | None:
    """Where the fitted line (least squares) goes, if it goes clearly; None where one could quarrel about it."""
    slope, start = np.polyfit(x, y, 1)
    rest = float(np.std(y - slope * x - start))
    if abs(slope) * float(np.ptp(x)) < _CLEAR * max(rest, 1e-9):
        return None
    return "rising" if slope > 0 else "falling"


def _slices(rng: Random, space: StyleSpace, axes: Axes, size: float, ink: str) -> _Drawn:
    count = int(rng.integers(2, MOST["pie"] + 1))
    names = _names(rng, space, count, 0.0)
    while True:
        values = rng.uniform(0.3, 1, count) ** rng.uniform(1, 2)
        ranked = np.sort(values / values.sum())
        room = 0.25 / count
        if ranked[0] > 0.04 and min(ranked[-1] - ranked[-2], ranked[1] - ranked[0]) >= room:
            break
    colours = _colours(rng, space, count, axes.get_facecolor())
    edges = {"edgecolor": _one(rng, ("white", "white", "black", ink)), "linewidth": float(rng.uniform(0.5, 2))}
    if len({tuple(np.round(to_rgb(c), 2)) for c in colours}) < count:
        edges["linewidth"] = 1.5
    if rng.random() < 0.2:
        edges["width"] = float(rng.uniform(0.35, 0.6))  # a ring
    beside = bool(rng.random() < 0.7)
    axes.pie(
        values,
        labels=names if beside else None,
        colors=colours,
        startangle=float(rng.uniform(0, 360)),
        counterclock=bool(rng.random() < 0.5),
        wedgeprops=edges,
        textprops={"fontsize": size, "color": ink},
        autopct="%.0f%%" if rng.random() < 0.3 else None,
        explode=[0.03] * count if rng.random() < 0.15 else None,
    )
    if not beside:
        axes.legend(
            names, fontsize=size * 0.9, loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=ink, facecolor="none"
        )
    return _Series(names, np.asarray(values)), count, None, beside


def _points(rng: Random, space: StyleSpace, axes: Axes, size: float, ink: str) -> _Drawn:
    number = int(rng.integers(15, 90))
    x = rng.uniform(0, 1, number)
    slope = float(rng.choice([-1, 1]) * rng.uniform(0.5, 1)) if rng.random() < 0.8 else 0.0
    y = slope * x + rng.normal(0, float(rng.uniform(0.04, 0.2)) if slope else 0.4, number)
    y = y - y.min() + rng.uniform(0, 1)
    colour = _colours(rng, space, 3, axes.get_facecolor())[0]
    marker = _one(rng, space.markers)
    axes.scatter(
        x * 10 ** rng.uniform(0, 3), y * 10 ** rng.uniform(0, 3), rng.uniform(12, 60), color=colour, marker=marker
    )
    return None, None, trend_of(x, y), False


def _legend(rng: Random, axes: Axes, size: float, ink: str) -> None:
    axes.legend(
        fontsize=size * 0.85,
        loc=_one(rng, ("best", "upper left", "upper right", "lower right")),
        labelcolor=ink,
        facecolor="none",
        frameon=bool(rng.random() < 0.5),
    )


def _dress(rng: Random, space: StyleSpace, axes: Axes, size: float, ink: str) -> None:
    """Grid, frame, ticks, names of the axes."""
    if rng.random() < 0.35:
        axes.grid(True, axis=_one(rng, ("both", "x", "y")), alpha=float(rng.uniform(0.2, 0.9)))
        axes.set_axisbelow(True)
    elif rng.random() < 0.3:
        axes.grid(False)
    if rng.random() < 0.7:
        kept = _one(rng, space.frames).split()
        for side, spine in axes.spines.items():
            spine.set_visible(side in kept)
    for spine in axes.spines.values():
        spine.set_color(ink)
    axes.tick_params(labelsize=size, colors=ink)
    if rng.random() < 0.4:
        axes.set_ylabel(_one(rng, space.measures), fontsize=size, color=ink)
    if rng.random() < 0.25:
        axes.set_xlabel(_one(rng, space.measures), fontsize=size, color=ink)


def _fit(figure: Figure, axes: Axes, canvas: FigureCanvasAgg, kind: Kind) -> None:
    """Move the axes so that no text is cut off: one measuring pass, cheaper than tight_layout."""
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    whole, drawn = figure.bbox, axes.get_tightbbox(renderer)
    if drawn is None:
        return
    box = axes.get_position()
    pad = 0.02
    left = box.x0 + pad - drawn.x0 / whole.width
    bottom = box.y0 + pad - drawn.y0 / whole.height
    right = box.x1 - pad + (whole.width - drawn.x1) / whole.width
    top = box.y1 - pad + (whole.height - drawn.y1) / whole.height
    if right - left > 0.25 and top - bottom > 0.25:
        axes.set_position((left, bottom, right - left, top - bottom))


def _texts(
    figure: Figure, canvas: FigureCanvasAgg, size: tuple[int, int]
) -> tuple[tuple[str, tuple[float, float, float, float]], ...]:
    """Every text on the picture with its box in pixels from the top left."""
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    found = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        said = text.get_text().strip()
        if not said or not text.get_visible():
            continue
        box = text.get_window_extent(renderer)
        left, right = float(box.x0), float(box.x1)
        top, bottom = size[1] - float(box.y1), size[1] - float(box.y0)
        if right > 0 and left < size[0] and bottom > 0 and top < size[1]:
            found.append((said, (round(left, 1), round(top, 1), round(right, 1), round(bottom, 1))))
    return tuple(found)


def _reading_order(
    kind: Kind, labels: Sequence[str], texts: Sequence[tuple[str, tuple[float, float, float, float]]], around: bool
) -> list[int]:
    """The places of the labels from the left (bars, lines), from the top (rows, legends) or clockwise (around a pie)."""
    if kind in ("bar", "line"):
        return list(range(len(labels)))
    boxes = {said: box for said, box in texts}
    placed = [Placed(label, *boxes[label]) for label in labels]
    ordered = clockwise(placed) if kind == "pie" and around else sorted(placed, key=lambda p: p.y)
    return [labels.index(p.text) for p in ordered]

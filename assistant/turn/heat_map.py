"""Draws what a stitch attended to over its picture. Knows nothing of how that was found out or where it is shown.

Colours are those of cividis, made to look alike to people with and without colour blindness (Nuñez et al. 2018,
arXiv:1712.01662), over a grey picture. The scale is fixed, so a stitch that looked everywhere alike gives an even veil.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from assistant.turn.look import look
from mattoni.errors import MattoniError
from mattoni.files import replacing
from mattoni.inputs import Attachment, Picture
from mattoni.trace import Attention, Trace

COLOURS = "cividis"
SPAN = math.log2(3)  # octaves of the scale on either side of an even share
SCALE = ("a third", "an even share", "three times")
_LONGEST = 640  # pixels
_VEIL = (0.25, 0.75)  # how much of a pixel is the map's colour, at an even share and at the scale's ends


def heat_map(image: Image.Image, attention: Attention) -> Image.Image:
    """The upright picture in grey under a smooth map of its stitch's attention; what was not shown to it stays grey."""
    size = _fitted(image.size)
    grey = image.convert("L").resize(size, Image.Resampling.LANCZOS).convert("RGB")
    left, top, right, bottom = (round(edge * side) for edge, side in zip(attention.box, size * 2, strict=True))
    coarse = Image.fromarray(_octaves(attention))
    octaves = np.asarray(coarse.resize((right - left, bottom - top), Image.Resampling.BICUBIC)) / SPAN
    veil = np.interp(np.abs(octaves), (0, 1), _VEIL) * 255
    grey.paste(_coloured(octaves), (left, top), Image.fromarray(veil.astype(np.uint8)))
    return grey


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    """The size with its longest side `_LONGEST`; a tiny picture grows, or its map would be a few squares."""
    factor = _LONGEST / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _octaves(attention: Attention) -> NDArray[np.float32]:
    """How often the grid's shares double an even share: (rows, columns), within the scale."""
    shares = np.asarray(attention.grid, dtype=np.float32)
    octaves: NDArray[np.float32] = np.log2((shares / shares.mean()).clip(2.0**-SPAN, 2.0**SPAN))
    return octaves


def _coloured(places: NDArray[np.floating]) -> Image.Image:
    """Places on the scale, -1 to 1, (height, width), in its colours; bicubic may have run past its ends."""
    colours = colormaps[COLOURS](places.clip(-1, 1) / 2 + 0.5)
    return Image.fromarray((colours[..., :3] * 255).round().astype(np.uint8))


def scale_stops(count: int = 9) -> list[str]:
    """The scale's colours from its low to its high end, as #rrggbb."""
    return [to_hex(colormaps[COLOURS](place)) for place in np.linspace(0, 1, count)]


def save_heat_maps(trace: Trace, attachments: Sequence[Attachment], path: Path) -> None:
    """Write where the bricks looked on the turn's pictures as one PNG. Raises MattoniError where nothing is known."""
    pictures = {item.digest: item.image for item in look(attachments).items if isinstance(item, Picture)}
    maps = [(pictures[found.picture], found) for found in trace.attention if found.grid and found.picture in pictures]
    if not maps:
        why = [found.sentence for found in trace.attention if found.sentence]
        raise MattoniError(f"{path.name} was not written: {why[0] if why else 'no stitch looked at a picture.'}")
    with replacing(path) as temporary:
        sheet(maps).save(temporary, "PNG")


def in_words(attention: Attention) -> str:
    """What the map shows, for those who do not see it: where most of the attention went, and how much to no place."""
    if not attention.grid:
        return attention.sentence
    shares: NDArray[np.float64] = np.asarray(attention.grid)
    row, column = np.unravel_index(int(shares.argmax()), shares.shape)
    place = _PLACES[_third(int(row), shares.shape[0])][_third(int(column), shares.shape[1])]
    times = float(shares.max() / shares.mean())
    return (
        f"What {attention.brick}'s stitch attended to on {attention.name}: most of all {place} ({times:.1f} times an even "
        f"share); {attention.elsewhere:.0%} went to the picture as a whole."
    )


_PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)


def _third(index: int, count: int) -> int:
    """Which third of `count` places."""
    return min(2, int(3 * (index + 0.5) / count))


def sheet(maps: Sequence[tuple[Image.Image, Attention]]) -> Image.Image:
    """Each picture's map under the last, with its sentence, and the scale at the end: one picture to keep."""
    margin, line = 16, 22
    font = ImageFont.load_default(15)
    drawn = [(heat_map(image, attention), in_words(attention)) for image, attention in maps]
    width = _LONGEST + 2 * margin
    texts = [_wrapped(sentence, font, _LONGEST) for _, sentence in drawn]
    height = (
        sum(m.height + 2 * margin + line * len(t) for (m, _), t in zip(drawn, texts, strict=True)) + 3 * margin + line
    )
    page = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(page)
    y = margin
    for (picture, _), lines in zip(drawn, texts, strict=True):
        page.paste(picture, (margin + (_LONGEST - picture.width) // 2, y))
        y += picture.height + margin // 2
        for text in lines:
            pen.text((margin, y), text, "black", font)
            y += line
        y += margin
    ramp = np.linspace(-1, 1, _LONGEST)
    page.paste(_coloured(np.tile(ramp, (margin, 1))), (margin, y))
    for text, x, anchor in zip(SCALE, (margin, width // 2, width - margin), ("lt", "mt", "rt"), strict=True):
        pen.text((x, y + margin + 4), text, "black", font, anchor=anchor)
    return page


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Lines no wider than `width` pixels, broken between words."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines

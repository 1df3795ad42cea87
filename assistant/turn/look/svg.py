"""Draws SVG with resvg, which runs no scripts, after every way out of the file was taken away. Fetches nothing."""

import base64
import binascii
import io
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from lxml import etree  # type: ignore[import-untyped]
from PIL import Image

from assistant.turn.look.opened import DAMAGED, Limits, Opened, Refused
from assistant.turn.look.pictures import fitted

_SIDE = 1600  # pixels of the longer side; drawings have no size of their own, and text in them should be readable
_MOST_BYTES = 10_000_000
_MOST_ELEMENTS = 200_000
_MOST_SECONDS = 20
_MOST_STRETCHED = 100
_UNWANTED = {
    "script",
    "foreignObject",
    "audio",
    "video",
    "iframe",
    "animate",
    "set",
    "animateTransform",
    "animateMotion",
}
_INSIDE = re.compile(r"^\s*(?:#|data:image/(?:png|jpe?g|gif|webp)[;,])", re.I)
_URL = re.compile(r"url\(\s*['\"]?(?!\s*['\"]?#)[^)]*\)", re.I)
_IMPORT = re.compile(r"@import[^;]*;?", re.I)


def open_svg(content: bytes, limits: Limits) -> Opened:
    """A picture of the drawing, on the ground that contrasts with it."""
    if len(content) > _MOST_BYTES:
        raise Refused("is too large a drawing: save it as PNG.")
    root = _safe(content)
    width, height = _size(root)
    if max(width, height) > _MOST_STRETCHED * min(width, height):
        raise Refused("is a drawing without a usable size: save it as PNG.")
    scale = min(_SIDE / max(width, height), (limits.pixels / (width * height)) ** 0.5)
    drawn = _drawn(etree.tostring(root), max(1, round(width * scale)))
    return Opened(fitted(Image.open(io.BytesIO(drawn)), limits))


def _drawn(markup: bytes, width: int) -> bytes:
    """PNG. Drawn by a process of its own: a filter of a million octaves takes hours, and cannot be stopped in this one."""
    command = [sys.executable, "-I", str(Path(__file__).with_name("draw_svg.py")), str(width), _fonts()]
    try:
        done = subprocess.run(command, input=markup, capture_output=True, timeout=_MOST_SECONDS, check=True)
    except subprocess.TimeoutExpired as problem:
        raise Refused("takes too long to draw: save it as PNG.") from problem
    except subprocess.CalledProcessError as problem:
        raise Refused(DAMAGED) from problem
    return done.stdout


def _safe(content: bytes) -> etree._Element:
    """The drawing without scripts, references to anything outside, or entities of its own."""
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as problem:
        raise Refused(DAMAGED) from problem
    if root.getroottree().docinfo.internalDTD is not None and b"<!ENTITY" in content:
        raise Refused("is a drawing with entities of its own, which is not opened: save it as PNG.")
    elements = list(root.iter(etree.Element))
    if len(elements) > _MOST_ELEMENTS:
        raise Refused("is too large a drawing: save it as PNG.")
    for element in elements:
        if etree.QName(element).localname in _UNWANTED and element.getparent() is not None:
            element.getparent().remove(element)
            continue
        for name, value in element.attrib.items():
            local = etree.QName(name).localname
            outside = local == "href" and (not _INSIDE.match(value) or _is_drawing(value))
            if outside or local.startswith("on"):
                del element.attrib[name]
            elif "url(" in value.lower():
                element.attrib[name] = _URL.sub("none", value)
        if element.text and etree.QName(element).localname == "style":
            element.text = _URL.sub("none", _IMPORT.sub("", element.text))
    return root


def _is_drawing(href: str) -> bool:
    """Whether data that call themselves a picture are another drawing, which might refer to files again."""
    data = href.split(",", 1)[-1]
    try:
        start = (
            base64.b64decode(data[:4096] + "==", validate=False) if ";base64" in href[:60].lower() else data.encode()
        )
    except (binascii.Error, ValueError):
        return True
    return b"<" in start[:16] or start.startswith(b"\x1f\x8b")


def _size(root: etree._Element) -> tuple[float, float]:
    """Width and height, as the view box has them; any unit will do, since only their ratio counts."""
    box = [float(number) for number in re.findall(r"-?[\d.]+(?:e-?\d+)?", root.get("viewBox", ""))]
    sides = [re.match(r"\s*([\d.]+)(?!.*%)", root.get(name, "")) for name in ("width", "height")]
    width, height = (float(side.group(1)) if side else 0.0 for side in sides)
    if not (width > 0 and height > 0):
        width, height = (box[2], box[3]) if len(box) == 4 else (1.0, 1.0)
    return max(width, 1e-3), max(height, 1e-3)


@cache
def _fonts() -> str:
    """Matplotlib's own DejaVu fonts, for a machine that has none."""
    import matplotlib

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf")

"""Decodes pictures: upright, in RGB, within limits. Knows nothing of what is on them."""

import io
import logging
from functools import partial

import numpy as np
from pi_heif import register_heif_opener
from PIL import Image, ImageOps

from assistant.turn.look.opened import Limits, Opened, Refused, Told, too_many
from mattoni.inputs import TALL, Page

LOG = logging.getLogger(__name__)

register_heif_opener(thumbnails=False)
# Formats that people send. EPS is missing because Pillow hands it to Ghostscript, the rare ones because fewer is safer.
# MPO, a phone's two views of one scene, is opened as the JPEG that it begins with.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "HEIF")
# A long screenshot is read piece by piece, so it may keep this many times the pixels of a picture that is looked at whole.
_TALL_PIXELS = 6
_NEW_SUBFILE_TYPE, _REDUCED = 254, 1
# How near in brightness (0-1) a ground makes what stands on it invisible, and for which part of it white is still taken.
_NEAR, _MOSTLY_SEEN = 0.25, 0.3
_GROUNDS = {"white": 1.0, "black": 0.0, "grey": 0.5}


def open_picture(content: bytes, limits: Limits) -> Opened:
    """The picture, or the pages of a TIFF that has several."""
    opened = _opened(content, limits)
    frames = getattr(opened, "n_frames", 1)
    if opened.format == "TIFF" and frames > 1:
        return _tiff_pages(content, opened, frames, limits)
    told: list[Told] = []
    # A phone's MPO or HEIF holds the same view twice; that is no animation.
    if frames > 1 and opened.format not in ("MPO", "HEIF"):
        advice = f"has {frames} frames; only the first is looked at: send the others as pictures of their own."
        told.append(("first-frame", advice))
    return Opened(_kept(opened, limits), tuple(told))


def decoded(content: bytes, limits: Limits) -> Image.Image:
    """The first frame."""
    return _kept(_opened(content, limits), limits)


def fitted(image: Image.Image, limits: Limits) -> Image.Image:
    """The picture in RGB, made smaller where it has more pixels than are kept."""
    image = in_rgb(image)
    most = limits.kept_pixels * (_TALL_PIXELS if image.height > TALL * image.width else 1)
    factor = (most / (image.width * image.height)) ** 0.5
    if factor < 1:
        size = (max(1, int(image.width * factor)), max(1, int(image.height * factor)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def _opened(content: bytes, limits: Limits) -> Image.Image:
    """The header alone; the pixel limit is checked on it, before anything is decoded."""
    try:
        opened = Image.open(io.BytesIO(content), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as bomb:
        raise Refused(_too_many_pixels(limits)) from bomb
    _check_size(opened, limits)
    return opened


def _check_size(image: Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.pixels:
        raise Refused(_too_many_pixels(limits))


def _too_many_pixels(limits: Limits) -> str:
    return f"has more than {limits.pixels / 1e6:.0f} million pixels: send a smaller version."


def _kept(opened: Image.Image, limits: Limits) -> Image.Image:
    # Lets the JPEG decoder skip detail that would be thrown away.
    side = int(limits.kept_pixels**0.5)
    if opened.height <= TALL * opened.width:
        opened.draft(None, (side, side))
    opened.load()
    return fitted(_upright(opened), limits)


def _tiff_pages(content: bytes, opened: Image.Image, frames: int, limits: Limits) -> Opened:
    """Pages to be read, each decoded when it is asked for; smaller versions of a page are none of their own."""
    pages = []
    for frame in range(frames):
        opened.seek(frame)
        if not opened.tag_v2.get(_NEW_SUBFILE_TYPE, 0) & _REDUCED:  # type: ignore[attr-defined]
            pages.append(frame)
    if len(pages) == 1:
        return Opened(_frame(content, pages[0], limits))
    kept = pages[: limits.pages]
    told = (too_many(len(pages), len(kept), "pages"),) if len(pages) > len(kept) else ()
    _frame(content, kept[0], limits)  # a damaged file is refused here and not in the middle of a turn
    return Opened(
        tuple(
            Page(number, None, partial(_frame, content, frame, limits)) for number, frame in enumerate(kept, start=1)
        ),
        told,
    )


def _frame(content: bytes, frame: int, limits: Limits) -> Image.Image:
    opened = _opened(content, limits)
    opened.seek(frame)
    _check_size(opened, limits)
    return _kept(opened, limits)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the camera's EXIF data say; damaged EXIF data do not make a picture unusable."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as problem:
        LOG.debug("EXIF data ignored", exc_info=problem)
        return image


def in_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB from any mode: wider greys are scaled to 8 bits, not clipped; what is transparent gets a ground."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = values.min(), values.max()
        image = Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _ground(image)), image).convert("RGB")
    return image.convert("RGB")


def _ground(image: Image.Image) -> str:
    """White, as paper; but black, or grey, where on white little of the picture would be seen, as of white letters."""
    small = image.copy()
    small.thumbnail((512, 512), Image.Resampling.NEAREST)
    alpha = np.asarray(small.getchannel("A"))
    brightness = np.asarray(small.convert("RGB").convert("L"))[alpha > 127].astype(np.float32) / 255
    # What is mostly opaque brings its own ground; corners are no reason to change it.
    if not brightness.size or brightness.size > alpha.size / 2:
        return "white"
    hidden = {name: float((np.abs(brightness - level) < _NEAR).mean()) for name, level in _GROUNDS.items()}
    return "white" if hidden["white"] <= _MOSTLY_SEEN else min(hidden, key=hidden.__getitem__)

"""Reads the text in a picture: RapidOCR's models on onnxruntime. Knows nothing of PDFs, prompts or hosts.

Method: PP-OCR (Du et al. 2020, arXiv:2009.09941): a DB network finds boxes of text, a CTC recogniser reads each box.
The models come inside the `rapidocr` wheel, so nothing is downloaded.
"""

import os
import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rapidocr import RapidOCR
from rapidocr.ch_ppocr_det.utils import TextDetOutput

from mattoni.errors import MattoniError
from mattoni.inputs import cuts
from mattoni.runtime import BrickFiles, GivenPicture
from modality_bricks.reading_order import Line, blocks_of, rows_of, text_in_reading_order

__all__ = ["Line", "Reader", "rows_of", "text_in_reading_order"]

Pixels = NDArray[np.uint8]

# Boxes are looked for at this size and read from the full picture (docs/experiments.md): a larger short side finds
# hardly more and takes longer, and above 1.6 million pixels a picture needs more than 650 MB.
_FIND_SHORT_SIDE = 608
_FIND_PIXELS = 1_600_000
_MOST_ENLARGED = 4.0
_SHORTEST_STRIP = 1024
_MIN_SCORE = 0.5
# Upright text scores above 0.95 on average; upside down, receipts score between 0.63 and 0.75, their longest lines
# between 0.56 and 0.67 (docs/experiments.md).
_UPRIGHT_SCORE = 0.9
_ENOUGH_CHARACTERS = 20
_ASKED = 12
# A picture's text is small work: above four threads nothing is gained.
_MOST_THREADS = 4


def ocr_threads() -> int:
    """One where that leaves another for the host, which decodes meanwhile; more only on machines with cores to spare."""
    wanted = os.environ.get("MATTONI_OCR_THREADS", "")
    if wanted and not (wanted.isdecimal() and int(wanted) > 0):
        raise MattoniError(f"MATTONI_OCR_THREADS is '{wanted}': set it to a number of threads, such as 1, or unset it.")
    return int(wanted) if wanted else min(_MOST_THREADS, max(1, (os.cpu_count() or 1) // 4))


@runtime_checkable
class ReadsLines(Protocol):
    """A brick that tells where on a picture each text stands."""

    brick: BrickFiles

    def lines(self, picture: GivenPicture) -> list[Line]: ...


class Reader:
    """OCR on its own budget of threads. One picture at a time: several would only wait for the same cores."""

    def __init__(self, threads: int | None = None) -> None:
        """threads: for each network; by default as many as MATTONI_OCR_THREADS says, else as `ocr_threads()` thinks fit."""
        threads = ocr_threads() if threads is None else threads
        self._lock = threading.Lock()
        self._engine = RapidOCR(
            params={
                "Global.log_level": "critical",
                # _enlarged() decides the size; RapidOCR's own padding makes 16 million pixels of a strip of 8000 x 30.
                "Global.max_side_len": 100_000,
                "Global.use_vertical_padding": False,
                "Global.use_cls": False,  # it turned over more upright lines than it mended: 95.9 instead of 96.7 %
                "Det.limit_side_len": 32,
                "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def read(self, image: Image.Image) -> list[Line]:
        """The boxes of text in a picture, in reading order; empty where there is no text.

        A picture that lies on its side or on its head is turned first; the boxes are those of the turned picture.
        """
        with self._lock:
            lines = self._read(image)
            turn = self._turn(image, lines)
            if turn is not None:
                lines = self._read(image.transpose(turn))
        return [line for block in blocks_of(lines) for row in block for line in row]

    def _turn(self, image: Image.Image, lines: Sequence[Line]) -> Image.Transpose | None:
        """How to turn the picture so that its text stands upright; None when it does, or when it has too little.

        Upright first: what was read with certainty stands as it was read. Else the longest lines are read the other way
        round as well, and the way that is read with more certainty is taken.
        """
        if sum(len(line.text) for line in lines) < _ENOUGH_CHARACTERS:
            return None
        tall = sum(_height(line) > 1.5 * _width(line) for line in lines) > len(lines) / 2
        longest = sorted(lines, key=lambda line: max(_height(line), _width(line)))[-_ASKED:]
        as_read = _certainty(lines) > _UPRIGHT_SCORE or _certainty(longest) >= self._certainty_turned(image, longest)
        if tall:
            # RapidOCR itself turns a tall box to the left before it reads it.
            return Image.Transpose.ROTATE_90 if as_read else Image.Transpose.ROTATE_270
        return None if as_read else Image.Transpose.ROTATE_180

    def _certainty_turned(self, image: Image.Image, lines: Sequence[Line]) -> float:
        """With how much certainty the lines are read upside down."""
        boxes = np.stack([np.array(line.box, np.float32) for line in lines])
        crops = self._engine.crop_text_regions(_blue_first(image.convert("RGB")), boxes)
        read = self._engine.recognize_txt([np.ascontiguousarray(crop[::-1, ::-1]) for crop in crops])
        pairs = zip(read.txts or (), read.scores or (), strict=True)
        return _certainty([Line(text, (), float(score)) for text, score in pairs])

    def _read(self, image: Image.Image) -> list[Line]:
        image = image.convert("RGB")
        boxes: list[NDArray[np.float32]] = []
        for top, bottom in cuts(image, _FIND_PIXELS / _FIND_SHORT_SIDE**2, _SHORTEST_STRIP):
            strip = image.crop((0, top, image.width, bottom))
            boxes += [box + np.array((0, top), np.float32) for box in self._find(strip)]
        if not boxes:
            return []
        crops = self._engine.crop_text_regions(_blue_first(image), np.stack(boxes))
        read = self._engine.recognize_txt(crops)
        return [
            Line(text, tuple((float(x), float(y)) for x, y in box), float(score))
            for box, text, score in zip(boxes, read.txts or (), read.scores or (), strict=True)
            if text.strip() and score >= _MIN_SCORE
        ]

    def _find(self, image: Image.Image) -> list[NDArray[np.float32]]:
        """Corners (4, 2) of each box of text."""
        resized = _enlarged(image)
        found = self._engine(_blue_first(_padded(resized)), use_rec=False)
        if not isinstance(found, TextDetOutput) or found.boxes is None:
            return []
        factor = np.array((image.width / resized.width, image.height / resized.height), np.float32)
        return [np.asarray(box, np.float32) * factor for box in found.boxes]


def _certainty(lines: Sequence[Line]) -> float:
    """The share of characters that is expected to be read right."""
    return sum(line.score * len(line.text) for line in lines) / max(sum(len(line.text) for line in lines), 1)


def _width(line: Line) -> float:
    return float(np.hypot(line.box[1][0] - line.box[0][0], line.box[1][1] - line.box[0][1]))


def _height(line: Line) -> float:
    return float(np.hypot(line.box[3][0] - line.box[0][0], line.box[3][1] - line.box[0][1]))


def _enlarged(image: Image.Image) -> Image.Image:
    """The picture at the size at which boxes are looked for: small text enlarged, large pictures made smaller."""
    factor = min(max(1.0, _FIND_SHORT_SIDE / min(image.size)), _MOST_ENLARGED)
    factor = min(factor, (_FIND_PIXELS / (image.width * image.height)) ** 0.5)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image if factor == 1 else image.resize(size, Image.Resampling.BICUBIC)


def _padded(image: Image.Image) -> Image.Image:
    """At least 64 pixels a side, by more background at the right and below: corners stay where they are."""
    canvas = Image.new("RGB", (max(image.width, 64), max(image.height, 64)), image.getpixel((0, 0)))
    canvas.paste(image)
    return canvas


def _blue_first(image: Image.Image) -> Pixels:
    """Pixels in OpenCV's order, which the models were trained on."""
    return np.ascontiguousarray(np.asarray(image)[:, :, ::-1])

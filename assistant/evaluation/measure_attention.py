"""Measures whether the map of a stitch's attention finds things: `python -m assistant.measure_attention [--vision photo]`

A dev tile of Tiny ImageNet stands in one quarter of a canvas; the rest is grey, another tile blurred beyond recognition, or
noise. The quarter's share of the attention (an even share is 25 %), and how often it has the largest; beside both the same
stitch with random weights, which finds what merely stands out in the features. Prints one JSON object. Needs MATTONI_DATA.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from assistant.host.host import Host, load_host
from assistant.registry import Brick, Registry
from mattoni.errors import MattoniError
from mattoni.metrics import bootstrap
from mattoni.paths import brick_folders, training_data
from modality_bricks.methods.qformer import QFormerParts
from modality_bricks.modality import ModalityBrick, load_modality
from modality_bricks.stitch import QFormerStitch
from modality_bricks.stitch_file import load_stitch, save_stitch
from modality_bricks.training.packs import Pixels, sheet_tiles

BACKGROUNDS = ("grey", "blurred", "noise")
_SIDE = 160  # pixels of a canvas
Shares = NDArray[np.float64]


def canvases(tiles: Pixels, background: str, seed: int = 0) -> list[Image.Image]:
    """Each tile in a quarter of a canvas, the quarters in turn: top left, top right, bottom left, bottom right."""
    chances = np.random.default_rng(seed)
    half, pictures = _SIDE // 2, []
    for number, tile in enumerate(tiles):
        if background == "grey":
            canvas = Image.new("RGB", (_SIDE, _SIDE), "grey")
        elif background == "blurred":
            other = Image.fromarray(tiles[number - 1]).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            canvas = other.filter(ImageFilter.GaussianBlur(_SIDE / 8))
        else:
            noise = Image.fromarray(chances.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8))
            canvas = noise.filter(ImageFilter.GaussianBlur(2))
        down, across = divmod(number % 4, 2)
        thing = Image.fromarray(tile).resize((half, half), Image.Resampling.BICUBIC)
        canvas.paste(thing, (across * half, down * half))
        pictures.append(canvas)
    return pictures


def quarters(grid: Sequence[Sequence[float]]) -> Shares:
    """The shares of the four quarters, 1 together. A place on the border of two counts for each by its area."""

    def halves(count: int) -> Shares:
        first = np.clip(count / 2 - np.arange(count), 0, 1)
        return np.stack([first, 1 - first])

    shares = np.asarray(grid, dtype=np.float64)
    found: Shares = (halves(shares.shape[0]) @ shares @ halves(shares.shape[1]).T).ravel()
    found /= found.sum()
    return found


def found_in(brick: ModalityBrick, pictures: Sequence[Image.Image]) -> dict[str, Any]:
    """How much of the attention lies in the tiles' quarters."""
    shares, elsewhere = [], []
    for picture in pictures:
        attended = brick.attended(brick.encode([picture])[0])
        if attended is None:
            raise MattoniError("This brick's stitch has no cross-attention: name one with a Q-Former.")
        shares.append(quarters(attended.grid))
        elsewhere.append(attended.elsewhere)
    right = [number % 4 for number in range(len(shares))]
    inside = [float(share[quarter]) for share, quarter in zip(shares, right, strict=True)]
    largest = [float(share.argmax() == quarter) for share, quarter in zip(shares, right, strict=True)]
    low, high = bootstrap(inside)
    return {
        "share": round(float(np.mean(inside)), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "largest": round(float(np.mean(largest)), 4),
        "elsewhere": round(float(np.mean(elsewhere)), 4),
    }


def eye_parts(brick: Brick) -> QFormerParts:
    """The parts of a brick that this can measure. Raises MattoniError for another."""
    if not isinstance(brick.parts, QFormerParts):
        raise MattoniError(f"'{brick.name}' has no Q-Former of our own: name an image brick such as photo.")
    return brick.parts


def at_random(brick: Brick, host: Host) -> ModalityBrick:
    """The brick with a stitch of random weights, which knows no more than the spread of the features."""
    trained = load_stitch(brick.host_folder, host.embedding.float(), beside=brick.folder)
    torch.manual_seed(0)
    stitch = QFormerStitch(trained.shape)
    for name, values in trained.named_buffers():
        stitch.get_buffer(name).copy_(values)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / brick.name
        shutil.copytree(brick.folder, folder)
        save_stitch(stitch, folder / brick.place)
        return load_modality(folder, eye_parts(brick), host.embedding, host_folder=folder / brick.place)


def main() -> int:
    """Command line of `python -m assistant.measure_attention`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.measure_attention",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vision", default="photo", help="an image brick with a Q-Former of our own")
    parser.add_argument("--limit", type=int, default=200, help="canvases")
    arguments = parser.parse_args()
    try:
        packs = sorted((training_data() / "vision").glob("tinyimagenet-dev-*.tar"))
        if not packs:
            raise MattoniError("There is no tinyimagenet-dev-*.tar: check MATTONI_DATA.")
        pixels, _ = sheet_tiles(packs)
        tiles = pixels[np.random.default_rng(0).permutation(len(pixels))[: arguments.limit]]
        host = load_host("builtin")
        brick = Registry(brick_folders()).scan(host).get(arguments.vision)
        trained = load_modality(brick.folder, eye_parts(brick), host.embedding, host_folder=brick.host_folder)
        random = at_random(brick, host)
        figures: dict[str, Any] = {"n": len(tiles), "even share": 0.25}
        for background in BACKGROUNDS:
            pictures = canvases(tiles, background)
            figures[background] = {
                "trained": found_in(trained, pictures),
                "random weights": found_in(random, pictures),
            }
        print(json.dumps(figures, indent=1))
    except MattoniError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m modality_bricks.tutorial_pictures FOLDER`: draws coloured shapes, so that a brick can be trained without any data.

`FOLDER/train` and `FOLDER/dev` have a sub-folder per thing ("red_circle") with pictures of it; `FOLDER/dev.jsonl` asks about
the dev pictures, for `mattoni eval`. The same seed draws the same pictures.
"""

import argparse
import json
from collections.abc import Sequence
from math import cos, pi, sin
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mattoni.errors import MattoniError
from mattoni.files import replace_folder, write_text

SIZE = 64
COLOURS = {
    "red": (205, 40, 40),
    "green": (45, 150, 60),
    "blue": (45, 80, 200),
    "yellow": (235, 205, 40),
    "purple": (135, 55, 165),
    "orange": (240, 130, 30),
}
# Corners as (radius, turns); a circle and a ring have none.
SHAPES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": (),
    "ring": (),
    "square": tuple((1.0, n / 4) for n in range(4)),
    "triangle": tuple((1.0, n / 3) for n in range(3)),
    "star": tuple((1.0 if n % 2 == 0 else 0.42, n / 10) for n in range(10)),
    "cross": tuple((r, n / 4 + turn) for n in range(4) for r, turn in ((1.0, -0.045), (1.0, 0.045), (0.4, 0.125))),
}
# Drawn this much larger and then made smaller, for smooth edges.
FINE = 4


def draw(colour: str, shape: str, generator: np.random.Generator) -> Image.Image:
    """One shape of some size, place, angle and shade on a pale ground."""
    ground = tuple(int(v) for v in generator.integers(185, 256, 3))
    fill = tuple(int(np.clip(v + generator.integers(-22, 23), 0, 255)) for v in COLOURS[colour])
    picture = Image.new("RGB", (SIZE * FINE, SIZE * FINE), ground)
    pen = ImageDraw.Draw(picture)
    radius = float(generator.uniform(0.24, 0.42)) * SIZE * FINE
    x, y = generator.uniform(radius, SIZE * FINE - radius, 2)
    if SHAPES[shape]:
        angle = generator.uniform(0, 1)
        turns = [(r * radius, 2 * pi * (turn + angle)) for r, turn in SHAPES[shape]]
        pen.polygon([(x + r * cos(a), y + r * sin(a)) for r, a in turns], fill=fill)
    else:
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, fill=fill if shape == "circle" else None, outline=fill, width=round(radius * 0.38))
    small = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.float32)
    noisy = small + generator.normal(0, 6, small.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def draw_pictures(folder: Path, train: int, dev: int, seed: int = 0) -> int:
    """Draw `train` and `dev` pictures of each thing; what was in the folder is replaced. Returns how many there are."""
    if folder.exists() and not (folder / "dev.jsonl").is_file():
        raise MattoniError(f"{folder} holds something else than such pictures: name a new folder.")
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]

    def fill(target: Path) -> None:
        rows = []
        for split, count in (("train", train), ("dev", dev)):
            for nth, (colour, shape) in enumerate(names):
                sub = Path(split) / f"{colour}_{shape}"
                (target / sub).mkdir(parents=True)
                for i in range(count):
                    generator = np.random.default_rng((seed, split == "dev", nth, i))
                    path = sub / f"{i:03}.png"
                    draw(colour, shape, generator).save(target / path)
                    if split == "dev":
                        row = {"id": f"{sub.name}-{i}", "question": "What is in the picture?", "image": path.as_posix()}
                        rows.append(row | {"answers": [f"{colour} {shape}"], "metric": "contains"})
        write_text(target / "dev.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    replace_folder(folder, fill)
    return len(names) * (train + dev)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures of the tutorial."""
    parser = argparse.ArgumentParser(prog="python -m modality_bricks.tutorial_pictures", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=40, help="training pictures of each thing")
    parser.add_argument("--dev", type=int, default=6, help="held-out pictures of each thing")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print(f"{draw_pictures(given.folder, given.train, given.dev, given.seed)} pictures in {given.folder}")

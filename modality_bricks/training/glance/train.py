"""Trains the network of the `glance` space: python -m modality_bricks.training.glance.train CONFIG.yaml

It starts from the first three stages of our own photo encoder, or from an earlier state of itself, and learns to tell many
kinds of picture apart (a cosine classifier with a margin: Wang et al. 2018, arXiv:1801.09414), with crops, blur, sharpening,
low resolution, noise, contrast and inversion on all kinds alike, so that none of these tells a photo from a page. The classifier is thrown away; the unit vectors in front of it are the space.
"""

import hashlib
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from mattoni.files import sha256_of, write_bytes, write_text
from mattoni.paths import training_data
from modality_bricks.glance import FILE, SIDE, WIDTH, GlanceNet, even_out, grey_square
from modality_bricks.training.charts import draw as charts
from modality_bricks.training.charts import styles
from modality_bricks.training.features import half
from modality_bricks.training.glance import camera, canvas, documents, drawings, plain_charts
from modality_bricks.training.glance import pictures as drawn
from modality_bricks.training.glance.canvas import Kind, read_material

GROUPS: tuple[tuple[Kind, ...], ...] = (drawn.DOCUMENTS, drawn.CHARTS, drawn.OTHERS, (drawn.photo,))
STORED = 128  # pixels a side of the stored pictures, so that crops have something to show


class Config(BaseModel):
    """What the configuration file says."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    seed: int
    drawn_per_kind: PositiveInt
    photos: PositiveInt
    photos_of_text: PositiveInt
    charts: PositiveInt
    tiny_photos: PositiveInt
    steps: PositiveInt
    batch: PositiveInt
    start_from: Path
    trunk_rate: PositiveFloat
    rate: PositiveFloat
    weight_decay: float
    scale: PositiveFloat
    margin: float
    output: Path


def draw_pictures(config: Config, data: Path) -> tuple[Tensor, Tensor, list[str]]:
    """All training pictures: (n, 1, STORED, STORED) uint8, kinds (n,), and the kinds' names."""
    material = read_material(data)
    kinds = [kind for group in GROUPS for kind in group]
    counts: dict[Kind, int] = {drawn.photo: config.photos, drawn.photo_of_text: config.photos_of_text}
    counts |= dict.fromkeys(drawn.CHARTS, config.charts)
    squares, labels = [], []
    for label, kind in enumerate(kinds):
        count = counts.get(kind, config.drawn_per_kind)
        start = time.monotonic()
        for number in range(count):
            squares.append(grey_square(kind(np.random.default_rng([config.seed, label, number]), material), STORED))
            labels.append(label)
        print(f"drew {count} of {kind.__name__} in {time.monotonic() - start:.0f} s", flush=True)
    for picture in drawn.tiny_photos(data, config.tiny_photos):
        squares.append(grey_square(picture, STORED))
        labels.append(len(kinds) - 1)
    return torch.from_numpy(np.stack(squares)).unsqueeze(1), torch.tensor(labels), [kind.__name__ for kind in kinds]


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops, proportions, quarter turns, resolution, sharpness, contrast and noise: (n, 1, h, w) to SIDE."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    n = len(pictures)
    x = pictures.float()
    share, stretch = uniform(0.7, 1.0, n), torch.exp(uniform(-0.3, 0.3, n))
    wide, high = (share * stretch).clamp(max=1), (share / stretch).clamp(max=1)
    turn = torch.randint(0, 4, (n,), generator=generator) * (torch.rand(n, generator=generator) < 0.2)
    angle = turn * (math.pi / 2) + torch.randn(n, generator=generator) * 0.05
    flip = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = wide * angle.cos() * flip, -wide * angle.sin()
    matrix[:, 1, 0], matrix[:, 1, 1] = high * angle.sin() * flip, high * angle.cos()
    matrix[:, 0, 2], matrix[:, 1, 2] = uniform(-1, 1, n) * (1 - wide), uniform(-1, 1, n) * (1 - high)
    grid = functional.affine_grid(matrix, [n, 1, SIDE, SIDE], align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    # One resolution for a sixth of the batch: down and up again, as a small picture is when it is enlarged.
    parts = list(x.chunk(6))
    for number in range(3, len(parts)):
        side = int(torch.randint(56, SIDE, (1,), generator=generator))
        low = functional.interpolate(parts[number], size=(side, side), mode="bilinear", antialias=True)
        parts[number] = functional.interpolate(low, size=(SIDE, SIDE), mode="bicubic")
    x = torch.cat(parts)
    blurred = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    x = x + (x - blurred) * uniform(-0.6, 2.5, n, 1, 1, 1) * (torch.rand(n, 1, 1, 1, generator=generator) < 0.6)
    x = 255 * (x.clamp(0, 255) / 255) ** torch.exp(uniform(-0.5, 0.5, n, 1, 1, 1))
    x = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < 0.1, 255 - x, x)
    x = x + torch.randn(x.shape, generator=generator) * uniform(0, 12, n, 1, 1, 1)
    return x.clamp(0, 255)


def start_from(path: Path, net: GlanceNet) -> None:
    """Give the network the weights of an open_clip encoder, the colours of its first layer added up, or of an earlier glance."""
    prefix = "visual.trunk."
    weights = {name.removeprefix(prefix): tensor.float() for name, tensor in load_file(path).items()}
    weights["conv1.weight"] = weights["conv1.weight"].sum(dim=1, keepdim=True)
    own = net.state_dict()
    missing = [name for name in own if not name.startswith("project") and name not in weights]
    if missing:
        raise RuntimeError(f"{path} is no ResNet-18 encoder: it lacks {missing[0]}")
    net.load_state_dict({name: weights.get(name, own[name]) for name in own})


def train(config: Config, pictures: Tensor, labels: Tensor, kinds: int) -> tuple[GlanceNet, list[dict[str, float]]]:
    """Gives the network, ready for use, and the course of the loss."""
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    net = GlanceNet().to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    start_from(config.start_from, net)
    directions = nn.Parameter(torch.randn(kinds, WIDTH))
    head = [*net.project.parameters(), directions]
    trunk = [tensor for name, tensor in net.named_parameters() if not name.startswith("project")]
    rates = [config.rate, config.trunk_rate]
    optimiser = torch.optim.AdamW(
        [{"params": head}, {"params": trunk}], lr=config.rate, weight_decay=config.weight_decay
    )
    groups = torch.tensor([number for number, group in enumerate(GROUPS) for _ in group])
    # Every kind equally often, but the hardest kind and charts, of which there are few, more; and photos, one kind, as
    # often as all documents together.
    weight = torch.ones(kinds)
    weight[drawn.DOCUMENTS.index(drawn.photo_of_text)] = 6
    weight[groups == 1] = 3
    weight[kinds - 1] = weight[groups == 0].sum()
    chance = (weight / torch.bincount(labels, minlength=kinds))[labels]
    course: list[dict[str, float]] = []
    start, running = time.monotonic(), 0.0
    for step in range(config.steps):
        course_of_rate = min(1, (step + 1) / 30) * (1 + math.cos(math.pi * step / config.steps)) / 2
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * course_of_rate
        rows = torch.multinomial(chance, config.batch, generator=generator)
        x = even_out(disturb(pictures[rows], generator)).contiguous(memory_format=torch.channels_last)
        with half(torch.device("cpu")):
            vectors = net(x)
        cosines = vectors @ functional.normalize(directions, dim=1).T
        margins = config.margin * functional.one_hot(labels[rows], kinds)
        loss = functional.cross_entropy(config.scale * (cosines - margins), labels[rows])
        # Which group a kind belongs to is what the router asks first: the sum of its kinds' probabilities counts too.
        chances = (config.scale * cosines).softmax(dim=1) @ functional.one_hot(groups).float()
        loss = loss - chances.gather(1, groups[labels[rows], None]).clamp(min=1e-6).log().mean()
        if not torch.isfinite(loss):
            raise RuntimeError(f"step {step}: the loss is {loss.item()}; lower the rate")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        running += (loss.item() - running) / min(step + 1, 50)
        if (step + 1) % 20 == 0:
            course.append({"step": step + 1, "loss": round(running, 4)})
            print(f"step {step + 1}  loss {running:.3f}  {time.monotonic() - start:.0f} s", flush=True)
    return net.eval(), course


def main(path: Path) -> None:
    """Draw, train, write the network and beside it how it was made."""
    config = Config.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    torch.set_num_threads(1)
    drawn_by = config.model_dump(
        include={"seed", "drawn_per_kind", "photos", "photos_of_text", "charts", "tiny_photos"}
    )
    counts = json.dumps([STORED, drawn_by])
    sources = b"".join(
        Path(str(module.__file__)).read_bytes()
        for module in (drawn, camera, canvas, documents, drawings, plain_charts, charts, styles)
    )
    drawing = hashlib.sha256(sources + counts.encode()).hexdigest()[:12]
    stored = Path("runs/glance") / f"pictures-{drawing}.pt"
    if not stored.is_file():
        stored.parent.mkdir(parents=True, exist_ok=True)
        torch.save(draw_pictures(config, training_data()), stored)
    pictures, labels, kinds = torch.load(stored)
    net, course = train(config, pictures, labels, len(kinds))
    # Convolutions in half precision: half the file.
    weights = {name: t.half() if t.ndim > 1 else t for name, t in net.state_dict().items()}
    write_bytes(config.output / FILE, save({name: t.contiguous() for name, t in weights.items()}))
    start, earlier = sha256_of(config.start_from), config.start_from.with_name("training.json")
    made = {
        "config": config.model_dump(mode="json"),
        "start_sha256": start,
        "start_training": json.loads(earlier.read_text(encoding="utf-8")) if earlier.is_file() else None,
        "pictures": len(pictures),
        "kinds": kinds,
        "course": course,
    }
    write_text(config.output / "training.json", json.dumps(made, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

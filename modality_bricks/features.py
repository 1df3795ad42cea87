"""Features of a frozen encoder, computed when first asked for and kept on disk. Training only.

A picture may have several views (as it is, mirrored, crops), each a row of the cache; the encoder runs once per row.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from modality_bricks.encoder import VisionEncoder, stack
from modality_bricks.samples import SampleSet


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def half(device: torch.device) -> torch.autocast:
    """Matrix products in bf16 on this device."""
    return torch.autocast(device.type, torch.bfloat16)


def view_of(picture: Image.Image, key: str, view: int) -> Image.Image:
    """View 0 is the picture, 1 its mirror image, further ones random crops of 60 to 100 % of its area, half of them mirrored."""
    if view == 0:
        return picture
    if view == 1:
        return ImageOps.mirror(picture)
    seed = int.from_bytes(hashlib.sha256(f"{key}/{view}".encode()).digest()[:8])
    generator = np.random.default_rng(seed)
    side = float(np.sqrt(generator.uniform(0.6, 1.0)))
    width, height = max(1, round(picture.width * side)), max(1, round(picture.height * side))
    left, top = int(generator.integers(picture.width - width + 1)), int(generator.integers(picture.height - height + 1))
    crop = picture.crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if view % 2 else crop


class FeatureCache:
    """Rows of (tokens, width) in float16 on disk, filled lazily; safe to kill, as a row is marked after it is written."""

    def __init__(self, folder: Path, source: SampleSet, encoder: VisionEncoder) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        samples, views = source.samples, source.views
        self.samples, self.views, self.encoder = samples, views, encoder
        digest = hashlib.sha256()
        for value in encoder.state_dict().values():
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(f"{source.origin} {views} {len(samples)} {[s.key for s in samples]}".encode())
        name = digest.hexdigest()[:16]
        rows = len(samples) * views
        shape = (rows, encoder.tokens, encoder.width)
        self._features = _memmap(folder / f"{name}.features", np.float16, shape)
        self._done = _memmap(folder / f"{name}.done", np.uint8, (rows,))

    def get(self, wanted: Sequence[tuple[int, int]]) -> Tensor:
        """Features of (sample, view) pairs: (n, tokens, width), float32."""
        rows = [sample * self.views + view for sample, view in wanted]
        missing = [i for i, row in enumerate(rows) if not self._done[row]]
        for start in range(0, len(missing), 64):
            part = missing[start : start + 64]
            pictures = [
                view_of(self.samples[wanted[i][0]].open(), self.samples[wanted[i][0]].key, wanted[i][1]) for i in part
            ]
            batch = stack(self.encoder, pictures)
            with half(device_of(self.encoder)):  # twice as fast, and the cache is float16 anyway
                found = self.encoder.features(batch)
            for i, features in zip(part, found, strict=True):
                self._features[rows[i]] = features.float().cpu().numpy()
                self._done[rows[i]] = 1
        return torch.from_numpy(np.asarray(self._features[rows], dtype=np.float32))


def _memmap(path: Path, kind: type, shape: tuple[int, ...]) -> np.memmap:
    """Open the file, or make it, all zeros."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as file:
            file.truncate(size)
    return np.memmap(path, dtype=kind, mode="r+", shape=shape)

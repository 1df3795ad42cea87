"""Features of a frozen encoder, computed when first asked for and kept on disk. Training only.

A picture may have several views (as it is, mirrored, crops), each a row of the cache; the encoder runs once per row.
"""

import hashlib
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from mattoni.processor import multiplies_bf16
from modality_bricks.encoder import VisionEncoder, stack
from modality_bricks.training.samples import SampleSet


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def half(device: torch.device) -> torch.autocast:
    """Matrix products in bf16, where this device does not imitate it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bf16(device))


def view_of(picture: Image.Image, key: str, view: int, blur: int | None = None) -> Image.Image:
    """View 0 is the picture, 1 its mirror image, further ones random crops of 60 to 100 % of its area, half of them mirrored.

    blur  mirrored views are first made as small as this, longest side in pixels
    """
    if view == 0:
        return picture
    if blur is not None and view % 2:
        picture = picture.copy()
        picture.thumbnail((blur, blur), Image.Resampling.BICUBIC)
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
    """Rows of (tokens, width) in float16 on disk, filled lazily; safe to kill, as a row is marked after it is written.

    The files' names hash encoder, pictures and views: another host or stitch finds the same features.
    """

    def __init__(self, folder: Path, source: SampleSet, encoder: VisionEncoder) -> None:
        samples, views = source.samples, source.views
        self.folder, self.samples, self.views, self.encoder = folder, samples, views, encoder
        self.blur = source.blur
        self.rows, self.row_bytes = len(samples) * views, 2 * encoder.tokens * encoder.width
        self.computed, self.seconds = 0, 0.0  # by this object
        digest = hashlib.sha256()
        for value in encoder.state_dict().values():
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
        digest.update(f"{source.origin} {views} {len(samples)} {[s.key for s in samples]}".encode())
        if source.blur is not None:
            digest.update(f" blur {source.blur}".encode())
        self.name = digest.hexdigest()[:16]

    def rows_in(self, folder: Path) -> int:
        """How many rows are there already, in this or another folder of features."""
        path = folder / f"{self.name}.done"
        return int(np.fromfile(path, np.uint8).sum()) if path.is_file() else 0

    def get(self, wanted: Sequence[tuple[int, int]]) -> Tensor:
        """Features of (sample, view) pairs: (n, tokens, width), float32."""
        rows = [sample * self.views + view for sample, view in wanted]
        missing = [i for i, row in enumerate(rows) if not self._done[row]]
        start = time.monotonic()
        for first in range(0, len(missing), 64):
            part = missing[first : first + 64]
            pictures = [
                view_of(sample.open(), sample.key, wanted[i][1], self.blur)
                for i, sample in ((i, self.samples[wanted[i][0]]) for i in part)
            ]
            batch = stack(self.encoder, pictures)
            with half(device_of(self.encoder)):  # twice as fast, and the cache is float16 anyway
                found = self.encoder.features(batch)
            self._write([rows[i] for i in part], found)
        self.computed, self.seconds = self.computed + len(missing), self.seconds + time.monotonic() - start
        return torch.from_numpy(np.asarray(self._features[rows], dtype=np.float32))

    def _write(self, rows: Sequence[int], found: Tensor) -> None:
        """Put features into the file, then mark their rows."""
        features, done = self._files
        # Written, not assigned to the mapping: on a full disk that would be a SIGBUS, and this is an error with a name.
        with features.open("rb+", buffering=0) as file, done.open("rb+", buffering=0) as marks:
            for row, values in zip(rows, found.float().cpu().numpy().astype(np.float16), strict=True):
                file.seek(row * self.row_bytes)
                file.write(values.tobytes())
                marks.seek(row)
                marks.write(b"\1")

    @cached_property
    def _files(self) -> tuple[Path, Path]:
        """Of features and marks; made where they are not there, all zeros and without taking room."""
        sizes = {f"{self.name}.features": self.rows * self.row_bytes, f"{self.name}.done": self.rows}
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, size in sizes.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size != size:
                with path.open("wb") as file:
                    file.truncate(size)
        features, done = (self.folder / name for name in sizes)
        return features, done

    @cached_property
    def _features(self) -> np.memmap:
        shape = (self.rows, self.encoder.tokens, self.encoder.width)
        return np.memmap(self._files[0], dtype=np.float16, mode="r", shape=shape)

    @cached_property
    def _done(self) -> np.memmap:
        return np.memmap(self._files[1], dtype=np.uint8, mode="r", shape=(self.rows,))

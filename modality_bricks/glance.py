"""The `glance` space: a small embedding of a picture, by which the router tells what kind of picture it is.

Independent of every brick, so that any of them can be removed. Knows nothing of keys or of what is done with a vector.
Only shape counts: a picture is made grey, squeezed into a square of fixed size and evened out in light, so that neither
its size, nor its proportions, nor its colour or brightness say anything.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mattoni.errors import MattoniError
from mattoni.paths import shipped_models

SIDE = 128  # pixels; coarser than the training photos, so that sharpness does not tell photos from pages
WIDTH = 64
FILE = "glance.safetensors"


class _Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        shortcut = [nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)] if stride > 1 else []
        self.downsample = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        body = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(body + self.downsample(x))


class GlanceNet(nn.Module):
    """The first three of a ResNet-18's four stages on grey pictures: (n, 1, SIDE, SIDE), evened out, to (n, WIDTH) unit rows.

    Its parts have the names that timm gives them, so that it can start from an encoder of a photo brick.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        # The mean says what most of the picture is like, the maximum what is somewhere in it; of every depth.
        self.project = nn.Linear(2 * (64 + 128 + 256), WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.layer1(nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        middle = self.layer2(fine)
        depths = (fine, middle, self.layer3(middle))
        pooled = [pool for maps in depths for pool in (maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3)))]
        return nn.functional.normalize(self.project(torch.cat(pooled, dim=1)).float(), dim=1)


def even_out(pixels: Tensor) -> Tensor:
    """Grey pictures (n, 1, h, w) with values 0 to 255, each to mean 0 and a spread of about 1."""
    pixels = pixels.float() / 255
    spread = pixels.std(dim=(1, 2, 3), keepdim=True)
    return (pixels - pixels.mean(dim=(1, 2, 3), keepdim=True)) / (spread + 0.05)


def grey_square(picture: Image.Image, side: int = SIDE) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The whole picture squeezed into `side` x `side` grey pixels, each the mean of what it covers."""
    # Reducing by whole factors first makes a 4-megapixel picture cost 3 ms instead of 30.
    small = picture.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small.convert("L"))


class Glance:
    """The frozen network, loaded once. Deterministic."""

    def __init__(self, net: GlanceNet) -> None:
        self._net = net.eval().requires_grad_(False)

    @classmethod
    def load(cls, folder: Path | None = None) -> "Glance":
        """Read the network from `folder`; without one, the shipped one."""
        folder = folder or shipped_models() / "glance"
        net = GlanceNet()
        try:
            net.load_state_dict(load_file(folder / FILE))
        except (OSError, SafetensorError, RuntimeError) as problem:
            raise MattoniError(f"{folder / FILE} is missing, damaged or of another version: restore it.") from problem
        return cls(net)

    @torch.inference_mode()
    def embed(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Embed pictures of any size and mode. Returns (n, WIDTH) float32 unit rows."""
        if not pictures:
            return torch.empty(0, WIDTH)
        squares = np.stack([grey_square(picture.convert("RGB")) for picture in pictures])
        pixels = even_out(torch.from_numpy(squares).unsqueeze(1))
        # A mirrored picture is of the same kind; the mean of both is nearer to its kind than either.
        return nn.functional.normalize(self._net(pixels) + self._net(pixels.flip(3)), dim=1)

"""Picture augmentation as batched tensor operations, and the normalisation of this project's encoders. Training only.

Chance is an argument: a row of uniform numbers per picture, so that a picture is augmented alike in whichever slice of a
batch it is.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Columns of chance that `random_crops` and `jitter` use.
CROP_CHANCES, JITTER_CHANCES = 5, 4


def chances(seed: int, step: int, rows: Sequence[int], columns: int) -> Tensor:
    """Uniform numbers in [0, 1), a function of seed, step and row: (rows, columns)."""
    drawn = [np.random.default_rng((seed, step, row)).random(columns, np.float32) for row in rows]
    return torch.from_numpy(np.stack(drawn)) if drawn else torch.zeros(0, columns)


def random_crops(pixels: Tensor, size: int, area: tuple[float, float], chance: Tensor) -> Tensor:
    """Random resized crops with random horizontal flips, bilinear, one affine sampling for the whole batch.

    Method: Inception-style crops (Szegedy et al. 2015, arXiv:1409.4842, section 6). Area fraction uniform in `area`,
    aspect ratio log-uniform in 3/4 to 4/3.

    pixels   (batch, height, width, 3), uint8
    chance   (batch, CROP_CHANCES)
    returns  (batch, 3, size, size), float in [0, 1]
    """
    n = len(pixels)
    low, high = area
    area_chance, ratio_chance, x_chance, y_chance, flip_chance = chance.unbind(1)
    fraction = area_chance * (high - low) + low
    ratio = torch.exp((ratio_chance * 2 - 1) * 0.28768)
    width = (fraction * ratio).sqrt().clamp(max=1)
    height = (fraction / ratio).sqrt().clamp(max=1)
    across = (x_chance * 2 - 1) * (1 - width)
    down = (y_chance * 2 - 1) * (1 - height)
    flip = (flip_chance < 0.5).float() * -2 + 1
    zero = torch.zeros(n)
    theta = torch.stack([width * flip, zero, across, zero, height, down], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    pictures = pixels.permute(0, 3, 1, 2).float() / 255
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def jitter(pictures: Tensor, chance: Tensor, strength: float = 0.3, grey: float = 0.06) -> Tensor:
    """Random brightness, contrast and saturation (factors 1 ± strength); some pictures lose all colour. In [0, 1].

    chance  (batch, JITTER_CHANCES)
    """
    *factors, grey_chance = chance.view(*chance.shape, 1, 1, 1).unbind(1)
    brightness, contrast, saturation = (1 + strength * (factor * 2 - 1) for factor in factors)
    saturation = torch.where(grey_chance < grey, torch.zeros(()), saturation)
    pictures = pictures * brightness
    luminance = pictures.mean(1, keepdim=True)
    pictures = luminance + (pictures - luminance) * saturation
    middle = luminance.mean((2, 3), keepdim=True)
    jittered: Tensor = (middle + (pictures - middle) * contrast).clamp(0, 1)
    return jittered


def enlarge(pixels: Tensor, size: int) -> Tensor:
    """Whole pictures at another size, bicubic as at inference: (batch, height, width, 3) uint8 -> (batch, 3, size, size)."""
    pictures = pixels.permute(0, 3, 1, 2).float() / 255
    if pictures.shape[-1] == size:
        return pictures
    return F.interpolate(pictures, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)


def normalise(pictures: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """[0, 1] to zero mean and unit deviation per channel, in channels_last."""
    offset, scale = torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
    return ((pictures - offset) / scale).to(memory_format=torch.channels_last)


def shift(pictures: Tensor, chance: Tensor, scale: float = 0.08) -> Tensor:
    """Stretched or squeezed by up to `scale` along each axis, and moved as far; what comes in is the border's colour.

    pictures (batch, 3, height, width)
    chance   (batch, 4)
    """
    wide, high, across, down = (scale * (c * 2 - 1) for c in chance.unbind(1))
    zero = torch.zeros(len(pictures))
    theta = torch.stack([1 + wide, zero, across, zero, 1 + high, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def recolour(pictures: Tensor, chance: Tensor, inverted: float = 0.25, permuted: float = 0.6) -> Tensor:
    """Some pictures with light and dark exchanged, some with their colour channels in another order. In [0, 1].

    chance  (batch, 3)
    """
    invert, permute, which = chance.unbind(1)
    pictures = torch.where((invert < inverted).view(-1, 1, 1, 1), 1 - pictures, pictures)
    orders = torch.tensor([[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    order = orders[(which * len(orders)).long()]
    order = torch.where((permute < permuted).view(-1, 1), order, torch.arange(3))
    found: Tensor = pictures.gather(1, order.view(-1, 3, 1, 1).expand_as(pictures))
    return found

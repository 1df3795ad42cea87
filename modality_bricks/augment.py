"""Picture augmentation as batched tensor operations, and the normalisation of this project's encoders. Training only."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_crops(pixels: Tensor, size: int, area: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Random resized crops with random horizontal flips, bilinear, one affine sampling for the whole batch.

    Method: Inception-style crops (Szegedy et al. 2015, arXiv:1409.4842, section 6). Area fraction uniform in `area`,
    aspect ratio log-uniform in 3/4 to 4/3.

    pixels   (batch, height, width, 3), uint8
    returns  (batch, 3, size, size), float in [0, 1]
    """
    n = len(pixels)
    low, high = area
    fraction = torch.rand(n, generator=generator) * (high - low) + low
    ratio = torch.exp((torch.rand(n, generator=generator) * 2 - 1) * 0.28768)
    width = (fraction * ratio).sqrt().clamp(max=1)
    height = (fraction / ratio).sqrt().clamp(max=1)
    across = (torch.rand(n, generator=generator) * 2 - 1) * (1 - width)
    down = (torch.rand(n, generator=generator) * 2 - 1) * (1 - height)
    flip = (torch.rand(n, generator=generator) < 0.5).float() * -2 + 1
    zero = torch.zeros(n)
    theta = torch.stack([width * flip, zero, across, zero, height, down], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    pictures = pixels.permute(0, 3, 1, 2).float() / 255
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def jitter(pictures: Tensor, generator: torch.Generator, strength: float = 0.3, grey: float = 0.06) -> Tensor:
    """Random brightness, contrast and saturation (factors 1 ± strength); some pictures lose all colour. In [0, 1]."""
    n = len(pictures)
    brightness, contrast, saturation = 1 + strength * (torch.rand(3, n, 1, 1, 1, generator=generator) * 2 - 1)
    saturation = torch.where(torch.rand(n, 1, 1, 1, generator=generator) < grey, torch.zeros(()), saturation)
    pictures = pictures * brightness
    luminance = pictures.mean(1, keepdim=True)
    pictures = luminance + (pictures - luminance) * saturation
    middle = luminance.mean((2, 3), keepdim=True)
    return (middle + (pictures - middle) * contrast).clamp(0, 1)  # type: ignore[no-any-return]


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

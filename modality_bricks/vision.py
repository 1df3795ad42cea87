"""What every frozen vision encoder offers, whoever made it. Knows nothing of how one is loaded."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

Box = tuple[float, float, float, float]  # left, top, right, bottom; outside 0..1 where the picture was padded


class VisionEncoder(nn.Module, ABC):
    """Pictures to features: (tokens, width) each, after the preprocessing that the encoder was trained with."""

    tokens: int
    width: int
    grid: tuple[int, int]  # rows and columns of the patch tokens, which stand row by row
    first_patch = 0  # how many tokens stand in front of the patch tokens

    @abstractmethod
    def preprocess(self, picture: Image.Image) -> Tensor:
        """A picture of any size and mode as (3, height, width), normalised."""

    @abstractmethod
    def features(self, batch: Tensor) -> Tensor:
        """(batch, 3, height, width), normalised -> (batch, tokens, width)."""

    @abstractmethod
    def seen(self, width: int, height: int) -> Box:
        """The part of a picture that the preprocessing leaves, as shares of its width and height."""


def stack(encoder: VisionEncoder, pictures: Sequence[Image.Image]) -> Tensor:
    """Preprocess several pictures: (n, 3, height, width)."""
    return torch.stack([encoder.preprocess(picture) for picture in pictures])


def centred(width: int, height: int, longest: bool = False) -> Box:
    """The square in the middle of a picture as shares of its sides: of its shortest side, or around it of its longest."""
    side = max(width, height) if longest else min(width, height)
    across, down = side / width / 2, side / height / 2
    return 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down

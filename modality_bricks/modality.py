"""A modality brick at run time: an encoder and its stitch. Knows nothing of cards, prompts or routing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mattoni.errors import MattoniError
from modality_bricks.encoder import FOLDERS, Box, VisionEncoder, load_encoder, stack
from modality_bricks.imported_stitch import (
    ImportedStitch,
    InstructBlipStitch,
    ProjectorStitch,
    load_imported_stitch,
)
from modality_bricks.stitch import QFormerStitch
from modality_bricks.stitch_file import load_stitch
from modality_bricks.stitched import StitchedParts

FINEST = 8  # rows and columns of what is told of a stitch's attention: a trace is no picture


@dataclass(frozen=True)
class Attended:
    """Shares of a stitch's attention: of each place of the encoder's grid, and of tokens that stand for no place."""

    grid: list[list[float]]  # rows from the top
    elsewhere: float


class ModalityBrick:
    """Pictures to soft tokens, in two halves so that features can be kept per picture."""

    def __init__(self, encoder: VisionEncoder, stitch: QFormerStitch | ImportedStitch) -> None:
        self._encoder, self._stitch = encoder, stitch

    @property
    def reads_question(self) -> bool:
        """Whether soft tokens depend on the question too."""
        return isinstance(self._stitch, InstructBlipStitch)

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures -> (n, tokens, feature width)."""
        return self._encoder.features(stack(self._encoder, images))

    @torch.no_grad()
    def stitch(self, features: Tensor, question: str = "", as_words: bool = False, wants_name: bool = False) -> Tensor:
        """(n, tokens, feature width) -> (n, soft tokens, host width).

        question    counts where `reads_question`
        as_words    mixtures of the host's words alone, where the stitch speaks in words; any other stays as it is
        wants_name  whether the question is what the thing is called; counts where the encoder's classifier has names
        """
        if isinstance(self._stitch, QFormerStitch):
            soft = self._stitch(features, as_words=as_words, wants_name=wants_name)
        else:
            soft = self._stitch(features, question) if self.reads_question else self._stitch(features)
        assert isinstance(soft, Tensor)
        return soft

    @torch.no_grad()
    def said(self, features: Tensor) -> tuple[Tensor, Tensor] | None:
        """What each query of a stitch says of one picture, (tokens, feature width), before the residue.

        Shares of words (queries, words) and the words' ids (words,); None for a stitch that does not speak in words.
        """
        if not isinstance(self._stitch, QFormerStitch):
            return None
        logits = self._stitch.word_logits(self._stitch.read(features.unsqueeze(0)))[0].float()
        return (self._stitch.shape.sharpness * logits).softmax(-1), self._stitch.word_ids

    def named(self, features: Tensor, wants_name: bool = False) -> list[int]:
        """What the encoder's classifier is sure to see on one picture, (tokens, feature width), as the host's ids; empty: nothing."""
        if not isinstance(self._stitch, QFormerStitch) or not self._stitch.shape.classes:
            return []
        seen = int(self._stitch.sure_classes(features.unsqueeze(0), wants_name))
        return [] if seen < 0 else [int(piece) for piece in self._stitch.class_ids[seen]]

    def attended(self, features: Tensor, question: str = "") -> Attended | None:
        """What the stitch attended to on one picture, (tokens, feature width); None for one without cross-attention."""
        if isinstance(self._stitch, ProjectorStitch):
            return None
        shares = self._stitch.attended(features.unsqueeze(0), question)[0].float()
        rows, columns = self._encoder.grid
        places = shares[self._encoder.first_patch :][: rows * columns]
        grid = places.reshape(1, rows, columns)
        coarse = F.adaptive_avg_pool2d(grid, (min(rows, FINEST), min(columns, FINEST)))[0]
        return Attended((coarse / coarse.sum() * places.sum()).tolist(), float(1 - places.sum()))

    def seen(self, width: int, height: int) -> Box:
        """The part of a picture of this size that the encoder is shown."""
        return self._encoder.seen(width, height)

    def soft_tokens(self, images: Sequence[Image.Image]) -> Tensor:
        """Pictures -> (n, soft tokens, host width)."""
        return self.stitch(self.encode(images))


class EyeParts(Protocol):
    """What of a card's `parts` is needed here."""

    @property
    def method(self) -> str: ...
    @property
    def encoder(self) -> str: ...


def load_modality(
    folder: Path,
    parts: EyeParts,
    host_embedding: Tensor,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    host_folder: Path | None = None,
) -> ModalityBrick:
    """Load what the card's `parts` name: `encoder` (a source; folders are inside the brick) and, as `method`, the stitch.

    host_folder  where the stitch is, if not in the brick's own folder: that of a variant
    dtype  of our own stitches and their encoders; an imported checkpoint runs in the host's, as it did before

    Raises MattoniError for parts that are missing, unknown or do not fit each other or the host.
    """
    where, own = f"{folder.name}/brick.yaml", host_folder or folder
    kind, source = parts.method, parts.encoder
    scheme, _, name = source.partition(":")
    if scheme in FOLDERS:
        inside = (folder / name).resolve()
        if not inside.is_relative_to(folder.resolve()):
            raise MattoniError(f"{where}: parts.encoder leads out of the brick's folder; put the encoder inside it.")
        source = f"{scheme}:{inside}"
    if not isinstance(parts, StitchedParts):
        dtype = host_embedding.dtype
        encoder = load_encoder(source, device, dtype)
        return ModalityBrick(encoder, load_imported_stitch(str(kind), own, host_embedding.shape[1], device, dtype))
    encoder = load_encoder(source, device, dtype)
    stitch = load_stitch(own, host_embedding, device, dtype, folder)
    queries = getattr(parts, "queries", None)
    if queries not in (None, stitch.shape.queries):
        raise MattoniError(
            f"{where}: parts.queries is {queries} and the stitch has {stitch.shape.queries}; correct the card."
        )
    if (encoder.tokens, encoder.width) != (stitch.shape.tokens, stitch.shape.feature_width):
        raise MattoniError(
            f"{where}: the stitch expects {stitch.shape.tokens} features of width {stitch.shape.feature_width} and the "
            f"encoder gives {encoder.tokens} of width {encoder.width}; retrain it or name its own encoder."
        )
    return ModalityBrick(encoder, stitch)

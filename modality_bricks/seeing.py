"""Bricks that turn a picture into soft tokens, whatever their stitch. Knows nothing of prompts, routing or conversations."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import Tensor

from mattoni.cache import RecentlyUsed
from mattoni.errors import MattoniError
from mattoni.injections import AFTER_PICTURE, Segment, Soft, picture_label
from mattoni.records import Seen
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, GivenPicture, HostView, Injected
from mattoni.trace import Attention
from modality_bricks.modality import ModalityBrick, load_modality


class SeeingRuntime(BrickRuntime):
    """An encoder and its stitch, with what they made of the pictures seen last."""

    # Whether a picture of several is called "First picture:" in the prompt; some checkpoints place pictures themselves.
    labels_pictures = True

    def __init__(self, brick: BrickFiles, host: HostView, modality: ModalityBrick) -> None:
        super().__init__(brick)
        self._host, self._modality = host, modality
        # By picture, and where the stitch depends on more, by that too.
        self._features: RecentlyUsed[Tensor] = RecentlyUsed(256)
        self._soft_tokens: RecentlyUsed[Soft] = RecentlyUsed(512)
        self._attention: RecentlyUsed[Attention] = RecentlyUsed(256)

    @classmethod
    def load(cls, brick: BrickFiles, host: HostView) -> Self:
        """The brick in fp32. Raises MattoniError as `load_modality`."""
        with torch.inference_mode(False):
            modality = load_modality(
                brick.folder, brick.parts, host.embedding, host.device, torch.float32, brick.host_folder
            )
        return cls(brick, host, modality)

    def inject(self, asked: Asked) -> Injected:
        """The picture's soft tokens."""
        picture = picture_of(asked)
        with asked.stage("encode"):
            named = self._modality.named(self.features(picture), asked.wants_name)
        with asked.stage("stitch"):
            soft = self._soft(picture, asked, named)
        told = f"sequence: {len(soft.vectors)} soft tokens of {picture.name} by {self.brick.name}"
        if named:
            told += f"; its encoder names the thing: {str(self._host.tokenizer.decode(named)).strip(' .')}"
        label: list[Segment] = [*picture_label(picture.place, picture.of)] if self.labels_pictures else []
        return Injected(
            segments=(*label, soft, AFTER_PICTURE),
            record=picture.known or Seen(picture.name, picture.digest, self.brick.name),
            described=(told,),
        )

    def explain(self, asked: Asked) -> tuple[Attention, ...]:
        """What of the picture the stitch attended to."""
        picture = picture_of(asked)
        key = (picture.digest, self._question(asked.question))
        found = self._attention.get(key, lambda: self._attended(picture, asked.question))
        # The same picture may come again under another name.
        return (replace(found, name=picture.name),)

    def forget(self, digests: frozenset[str]) -> None:
        """Drop what was made of these pictures."""
        self._features.drop(lambda key: key in digests)
        for kept in (self._soft_tokens, self._attention):
            kept.drop(lambda key: isinstance(key, tuple) and key[0] in digests)

    def features(self, picture: GivenPicture) -> Tensor:
        """The encoder's features of one picture, (tokens, width)."""
        return self._features.get(picture.digest, lambda: self._modality.encode([picture.open()])[0])

    def _soft(self, picture: GivenPicture, asked: Asked, named: Sequence[int]) -> Soft:
        features = self.features(picture)
        # By what is told and not by whether a name is wanted: where both say the same, what was read of the picture is reused.
        told = "-".join(map(str, named))
        kind = f"{self._question(asked.question)}:{told}" + (":words" if asked.as_words else "")

        def make() -> Soft:
            vectors = self._modality.stitch(features.unsqueeze(0), asked.question, asked.as_words, asked.wants_name)[0]
            if vectors.shape[1] != self._host.width:
                raise MattoniError(
                    f"{self.brick.name}: its soft tokens have width {vectors.shape[1]} and {self._host.name} takes "
                    f"{self._host.width}: train the brick for this host."
                )
            return Soft(f"{self.brick.digest}:{picture.digest}:{kind}", vectors)

        return self._soft_tokens.get((picture.digest, kind), make)

    def _question(self, question: str) -> str:
        """What stands for the question where soft tokens are made from it too."""
        return hashlib.sha256(question.encode()).hexdigest() if self._modality.reads_question else ""

    def _attended(self, picture: GivenPicture, question: str) -> Attention:
        attended = self._modality.attended(self.features(picture), question)
        name = self.brick.name
        if attended is None:
            sentence = f"{name}'s stitch has no cross-attention, so it cannot be told where it looked."
            return Attention(picture.digest, picture.name, name, sentence=sentence)
        return Attention(
            picture.digest,
            picture.name,
            name,
            tuple(tuple(round(share, 4) for share in row) for row in attended.grid),
            self._modality.seen(*picture.open().size),
            round(attended.elsewhere, 4),
        )


def picture_of(asked: Asked) -> GivenPicture:
    """The picture that is asked about: a brick that sees is planned for nothing else."""
    assert isinstance(asked.given, GivenPicture)
    return asked.given

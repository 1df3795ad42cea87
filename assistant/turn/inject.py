"""Asks each planned brick for its injections, with caches by content. Knows nothing of routing or generation."""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import torch
from PIL import Image
from torch import Tensor

from assistant.host.catalogue import fetch_source
from assistant.host.host import Host
from assistant.host.prompt import encode_untrusted
from assistant.registry import Brick
from mattoni.errors import MattoniError
from mattoni.injections import LowRank, Soft, Text
from mattoni.inputs import Picture
from mattoni.trace import Attention
from modality_bricks.chart_labels import ChartTexts, chart_texts, named, placed, title_text
from modality_bricks.modality import ModalityBrick, load_modality
from modality_bricks.ocr import Line, Reader, text_in_reading_order
from task_bricks.lora import LoRA, check_fits, read_lora

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The values used last, made on demand. Keys hash contents (digests), never names."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value kept under `key`, else a new one from `make()`."""
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self._size:
            self._values.popitem(last=False)
        return self._values[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(list(self._values))

    def drop(self, unwanted: Callable[[Hashable], bool]) -> None:
        """Forget the values under all keys for which `unwanted(key)` holds."""
        for key in [key for key in self._values if unwanted(key)]:
            del self._values[key]


class Workshop:
    """Loaded bricks and what they made of earlier inputs. Used by the engine's thread only, but for `read_anew`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._modalities: Recent[ModalityBrick] = Recent(4)
        self._features: Recent[Tensor] = Recent(256)
        self._soft: Recent[Soft] = Recent(512)
        self._attention: Recent[Attention] = Recent(256)
        self._lines: Recent[list[Line]] = Recent(256)
        self._loras: Recent[LoRA] = Recent(8)
        self._reader: Reader | None = None
        self._loading = threading.Lock()

    def encode(self, brick: Brick, digest: str, open_image: Callable[[], Image.Image]) -> Tensor:
        """The encoder's features of one picture, (tokens, width)."""

        def make() -> Tensor:
            return self._modality(brick).encode([open_image()])[0]

        return self._features.get((brick.digest, digest), make)

    def soft_tokens(
        self,
        brick: Brick,
        digest: str,
        open_image: Callable[[], Image.Image],
        question: str = "",
        as_words: bool = False,
    ) -> Soft:
        """The picture's soft tokens, from cached features where they are known; `as_words`, see `ModalityBrick.stitch`."""
        asked = self._asked(brick, question) + (":words" if as_words else "")

        def make() -> Soft:
            features = self.encode(brick, digest, open_image)
            vectors = self._modality(brick).stitch(features.unsqueeze(0), question, as_words)[0]
            if vectors.shape[1] != self._host.width:
                raise MattoniError(
                    f"{brick.name}: its soft tokens have width {vectors.shape[1]} and {self._host.name} takes "
                    f"{self._host.width}: train the brick for this host."
                )
            return Soft(f"{brick.digest}:{digest}:{asked}", vectors)

        return self._soft.get((brick.digest, digest, asked), make)

    def _asked(self, brick: Brick, question: str) -> str:
        """What stands for the question where soft tokens were made from it too."""
        return hashlib.sha256(question.encode()).hexdigest() if self._modality(brick).reads_question else ""

    def attention(self, brick: Brick, picture: Picture, question: str) -> Attention:
        """What of the picture the brick's stitch attended to, from cached features."""

        def make() -> Attention:
            modality = self._modality(brick)
            attended = modality.attended(self.encode(brick, picture.digest, lambda: picture.image), question)
            if attended is None:
                sentence = f"{brick.name}'s stitch has no cross-attention, so it cannot be told where it looked."
                return Attention(picture.digest, picture.name, brick.name, sentence=sentence)
            return Attention(
                picture.digest,
                picture.name,
                brick.name,
                tuple(tuple(round(share, 4) for share in row) for row in attended.grid),
                modality.seen(*picture.image.size),
                round(attended.elsewhere, 4),
            )

        # The same picture may come again under another name.
        key = (brick.digest, picture.digest, self._asked(brick, question))
        return replace(self._attention.get(key, make), name=picture.name)

    def read(self, brick: Brick, digest: str, open_image: Callable[[], Image.Image]) -> str:
        """The text on a picture, in reading order."""
        return text_in_reading_order(self._read(brick, digest, open_image))

    def read_labels(self, brick: Brick, digest: str, open_image: Callable[[], Image.Image]) -> ChartTexts:
        """The title and the labels on a chart, in the order in which a chart's soft tokens count them."""
        return chart_texts(placed(self._read(brick, digest, open_image)))

    def name_labels(
        self, brick: Brick, digest: str, open_image: Callable[[], Image.Image], texts: ChartTexts
    ) -> list[Text | Soft]:
        """What soft tokens say of labels, in the labels' own words: each a mixture of the labels that may be meant."""
        said = self._modality(brick).said(self.encode(brick, digest, open_image))
        segments: list[Text | Soft] = [Text(title_text(texts))]
        if said is not None and texts.labels:
            words = [str(self._host.tokenizer.decode([i])).strip() for i in said[1].tolist()]
            for number, (what, shares) in enumerate(named(said[0].tolist(), words, len(texts.labels))):
                segments.append(Text(f", {what}:" if number else f"{what.capitalize()}:"))
                contents = hashlib.sha256(json.dumps([digest, what, texts]).encode()).hexdigest()
                segments.append(Soft(f"{brick.digest}:{contents}", self._mixture(texts.labels, shares)))
            if len(segments) > 1:
                segments.append(Text(".\n"))
        return segments

    def _mixture(self, labels: Sequence[str], shares: Sequence[float]) -> Tensor:
        """As many vectors as the likeliest label has tokens, (n, width): the labels' tokens, mixed by their shares."""
        tokenizer = self._host.tokenizer
        ids = [encode_untrusted(tokenizer, f" {label}") or encode_untrusted(tokenizer, " ?") for label in labels][
            : len(shares)
        ]
        length = len(ids[max(range(len(shares)), key=shares.__getitem__)])
        rows = [self._host.embed(torch.tensor(row, device=self._host.device)).float() for row in ids]
        mixed = torch.zeros(length, self._host.width, device=self._host.device)
        for row, share in zip(rows, shares, strict=True):
            # A shorter label's last token stands for what it lacks.
            mixed += share * row[[min(place, len(row) - 1) for place in range(length)]]
        return mixed

    def _read(self, brick: Brick, digest: str, open_image: Callable[[], Image.Image]) -> list[Line]:
        return self._lines.get((brick.digest, digest), lambda: self.reader.read(open_image()))

    def read_anew(self, image: Image.Image) -> str:
        """The text on a picture, kept nowhere. May be called from any thread."""
        return text_in_reading_order(self.reader.read(image))

    def read_page(self, brick: Brick, image: Image.Image) -> str:
        """The text on a rendered page; its pixels stand for it, since pages are rendered anew from the same bytes."""
        return self.read(brick, hashlib.sha256(image.tobytes()).hexdigest(), lambda: image)

    @property
    def reader(self) -> Reader:
        """The OCR models, loaded at first use."""
        with self._loading:
            if self._reader is None:
                self._reader = Reader()
            return self._reader

    def low_rank(self, brick: Brick, weight: float) -> LowRank:
        """A skill's deltas, checked against the host's layers."""

        def make() -> LoRA:
            lora = read_lora(brick.folder)
            check_fits(lora, self._host.linear_shapes)
            return lora

        lora = self._loras.get(brick.digest, make)
        return LowRank(brick.name, brick.digest, lora.factors, lora.scales, weight)

    def forget(self, digest: str) -> None:
        """Drop everything that was made by the brick of that digest."""
        for kept in (self._modalities, self._features, self._soft, self._attention, self._lines, self._loras):
            kept.drop(lambda key: digest == key or (isinstance(key, tuple) and digest in key))

    def _modality(self, brick: Brick) -> ModalityBrick:
        host = self._host

        def make() -> ModalityBrick:
            fetch_source(str(brick.card.parts.get("encoder", "")))
            with torch.inference_mode(False):
                return load_modality(brick.folder, dict(brick.card.parts), host.embedding, host.device, torch.float32)

        return self._modalities.get(brick.digest, make)

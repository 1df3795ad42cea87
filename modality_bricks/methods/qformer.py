"""An encoder of open_clip, stitched to the host by a Q-Former of this project (`modality_bricks/stitch.py`).

`reads: labels` on a card: the brick sees where a chart's highest bar stands, and another brick reads how it is called. Where a
query says an ordinal ("third"), the third label's own words, mixed by the shares of all ordinals, stand in the prompt.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mattoni.injections import Segment, Soft, Text
from mattoni.methods import Method
from mattoni.records import Seen
from mattoni.runtime import Asked, GivenPicture, Helper, Injected
from mattoni.trace import Notice
from mattoni.untrusted import encode_untrusted
from modality_bricks.chart_labels import ChartTexts, chart_texts, named, placed, title_text
from modality_bricks.ocr import ReadsLines
from modality_bricks.seeing import SeeingRuntime, picture_of
from modality_bricks.stitched import StitchedParts


class QFormerParts(StitchedParts):
    """What a card says of such a brick."""

    method: Literal["qformer"]
    reads: Literal["labels"] | None = None

    @property
    def brings_words(self) -> bool:
        return self.reads is not None


class QFormerRuntime(SeeingRuntime):
    """Soft tokens, and where the card says so what they say of the labels that another brick reads."""

    def inject(self, asked: Asked) -> Injected:
        """The picture's soft tokens, and its labels' words."""
        seen = super().inject(asked)
        return seen if self.brick.parts.reads is None else self._with_labels(seen, asked)

    def _with_labels(self, seen: Injected, asked: Asked) -> Injected:
        picture, record = picture_of(asked), seen.record
        assert isinstance(record, Seen)
        if picture.known is None:
            if not isinstance(asked.reader, ReadsLines):
                sentence = (
                    f"The labels of {picture.name} were not read: no brick that reads is installed and switched on."
                )
                return replace(seen, notices=(*seen.notices, Notice("refused", sentence)))
            with asked.stage("read"):
                texts = chart_texts(placed(asked.reader.lines(picture)))
            reader = asked.reader.brick
            record = replace(record, findings={"title": texts.title, "labels": list(texts.labels)})
            seen = replace(
                seen,
                record=record,
                described=(*seen.described, f"sequence: labels of {picture.name} by {reader.name}"),
                helpers=(Helper(reader, f"reads the labels for {self.brick.name}"),),
            )
        if "labels" not in record.findings:
            return seen
        found = ChartTexts(record.findings["title"], tuple(record.findings["labels"]))
        return replace(seen, segments=(*seen.segments, *self.name_labels(picture, found)))

    def name_labels(self, picture: GivenPicture, texts: ChartTexts) -> list[Segment]:
        """What soft tokens say of labels, in the labels' own words: each a mixture of the labels that may be meant."""
        said = self._modality.said(self.features(picture))
        segments: list[Segment] = [Text(title_text(texts))]
        if said is not None and texts.labels:
            words = [str(self._host.tokenizer.decode([i])).strip() for i in said[1].tolist()]
            for number, (what, shares) in enumerate(named(said[0].tolist(), words, len(texts.labels))):
                segments.append(Text(f", {what}:" if number else f"{what.capitalize()}:"))
                contents = hashlib.sha256(json.dumps([picture.digest, what, texts]).encode()).hexdigest()
                segments.append(Soft(f"{self.brick.digest}:{contents}", self._mixture(texts.labels, shares)))
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


METHODS = (Method("qformer", QFormerParts, QFormerRuntime.load, accepts=frozenset({"picture"})),)

"""Writes a turn's prompt: history, attachments, knowledge and question, inside what the host can read.

Knows nothing of routing, of how attachments were read, or of generation.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from assistant.host.composition import Composition
from assistant.host.embedder import Embedder
from assistant.host.generation import Sampling
from assistant.host.host import Host
from assistant.host.prompt import ASK_TEXT, Prompt, Turn, asks, build_prompt, encode_untrusted, picture_label
from assistant.registry import Bricks
from assistant.turn.fit import first_kept, fit_question, fit_text
from assistant.turn.inject import Recent, Workshop
from assistant.turn.look import look
from assistant.turn.route import Choices
from knowledge_bricks.documents import Documents, Hit, answer_threshold, searched_text
from knowledge_bricks.passages import DocumentText, PageText, split_document
from mattoni.errors import MattoniError
from mattoni.injections import AFTER_PICTURE, Ids, Segment, Soft, Text
from mattoni.inputs import Attachment, Picture
from mattoni.trace import Notice, Trace
from modality_bricks.chart_labels import ChartTexts

# Role markers and line ends that a template puts around one exchange; generous.
_TEMPLATE_TOKENS = 24
# The part of the room that passages of earlier documents may take in a later message: three or four of them.
_RECALL_SHARE = 8
# The part of a document's room that its passages may take for a question when it does not fit: as much as in a later
# message. Among 4,000 tokens of passages the builtin host did not find what it found among 1,000.
_PASSAGES_SHARE = 4

# What an attachment became, as it is kept with its message: `name`, `brick`, and the digest of a `picture` or `document`.
# `text`: all that was read of it. `shown`: what of that stood in the prompt, if not all. `recalled`: passages of an
# earlier document. `asked`: the question behind it came with an instruction.
Part = dict[str, Any]
# Passages that are embedded between two looks at whether the user has stopped the turn: about a second's work.
_EMBEDDED_AT_ONCE = 16


class Stopped(Exception):
    """The user stopped the turn while it was still looking at what was sent."""


@dataclass(frozen=True)
class Exchange:
    """An earlier question and its answer; `parts` is what its attachments became."""

    question: str
    parts: tuple[Part, ...]
    answer: str
    token_ids: tuple[int, ...] | None


@dataclass(frozen=True)
class Request:
    """Everything a turn depends on."""

    text: str
    attachments: tuple[Attachment, ...] = ()
    choices: Choices = Choices()
    sampling: Sampling = Sampling()
    past: tuple[Exchange, ...] = ()
    conversation: str = ""  # under which keys and values are kept; empty: they are not
    content: Callable[[str], bytes] = lambda digest: b""  # bytes of an earlier attachment
    answer_anyway: bool = False  # also where the message seems to miss its picture


class Archive:
    """Searches the documents of conversations. Their passages' vectors are kept, by content, for later questions."""

    def __init__(self, embedder: Callable[[], Embedder]) -> None:
        self._embedder = embedder
        self._documents: Recent[Documents] = Recent(32)

    def search(self, part: Part, question: str, stopping: Callable[[], bool]) -> list[Hit]:
        """All passages of a document, those that the question asks for first. Raises Stopped."""
        embed, text = self._embedder().embed, part["text"]

        def make() -> Documents:
            passages = split_document(DocumentText(part["name"], (PageText(1, text),)))
            vectors = []
            for start in range(0, len(passages), _EMBEDDED_AT_ONCE):
                if stopping():
                    raise Stopped
                vectors.append(embed([searched_text(p) for p in passages[start : start + _EMBEDDED_AT_ONCE]]))
            return Documents(passages, torch.cat(vectors))

        documents = self._documents.get(hashlib.sha256(f"{part['name']}\n{text}".encode()).hexdigest(), make)
        wanted = question or documents.passages[0].text
        return documents.search(embed([wanted])[0], wanted, len(documents.passages))


@dataclass(frozen=True)
class Writer:
    """Writes the prompt of one turn; what had to be left out becomes a notice of its trace."""

    host: Host
    workshop: Workshop
    archive: Archive
    request: Request
    bricks: Bricks
    composition: Composition
    trace: Trace
    stopping: Callable[[], bool]
    as_words: bool = False  # whether a skill of this turn wants pictures as words

    def write(self, parts: Sequence[Part], knowledge: str) -> tuple[Prompt, list[Part]]:
        """History and message inside the context: long documents give way first, then the oldest turns, whole.

        Returns the prompt, and the message's parts as they stand in it: the next turn must find them the same.
        """
        tokenizer = self.host.tokenizer
        room = (
            self.host.context
            - self.composition.prefix_length
            - min(self.request.sampling.max_tokens, self.host.context // 4)
        )
        question, cut = fit_question(self.request.text, room // 2, self._count)
        if cut:
            self.trace.notices.append(
                Notice("truncated", "The message is longer than the host can read: its middle was left out.")
            )

        def message(parts: Sequence[Part]) -> Turn:
            lead = knowledge or _instruction(parts)
            return Turn("user", (*self._segments(parts, self.request.text), *_texts(lead, question)))

        taken = _length([message([part for part in parts if not part.get("text")])], tokenizer)
        parts = self._fit_parts(parts, question, min(room // 2, room - taken))
        earlier = [exchange for exchange in self.request.past if exchange.answer or exchange.parts]
        past = [self._exchange(exchange) for exchange in earlier]
        recall = room // _RECALL_SHARE if any(part.get("text") for e in earlier for part in e.parts) else 0
        first = first_kept(
            [_length(turns, tokenizer) for turns in past] + [_length([message(parts)], tokenizer) + recall], room
        )
        if first:
            self.trace.notices.append(
                Notice(
                    "truncated",
                    f"The conversation is longer than the host can read: its first {first} exchange(s) were left out.",
                )
            )
        parts = [*self._recall(earlier, first, question, recall), *parts]
        # A skill brings the wording that it was trained on, knowledge its own instruction; beside a picture that is seen,
        # not read, the question may be about either.
        sees = any("picture" in part and "text" not in part for part in parts)
        if asks(question) and not (self.composition.deltas or knowledge or sees):
            parts = [{**part, "asked": True} if part.get("text") else part for part in parts]
        return build_prompt(tokenizer, [turn for turns in past[first:] for turn in turns] + [message(parts)]), parts

    def _count(self, text: str) -> int:
        return len(encode_untrusted(self.host.tokenizer, text))

    def _fit(self, part: Part, question: str, room: int, passages_room: int) -> tuple[str, bool]:
        return fit_text(
            part["text"],
            room,
            self._count,
            lambda: [hit.passage for hit in self.archive.search(part, question, self.stopping)],
            passages_room,
        )

    def _fit_parts(self, parts: Sequence[Part], question: str, room: int) -> list[Part]:
        """Texts of documents within `room` tokens together: whole, or the passages that the question asks for."""
        texts = [part for part in parts if part.get("text")]
        passages_room = room // _PASSAGES_SHARE if asks(question) else room
        fitted = []
        for part in parts:
            if part.get("text"):
                text, cut = self._fit(part, question, room // len(texts), passages_room // len(texts))
                if cut:
                    self.trace.notices.append(
                        Notice(
                            "truncated",
                            f"{part['name']} is longer than the host can read: only what was asked for is used.",
                        )
                    )
                    part = {**part, "shown": text}
            fitted.append(part)
        return fitted

    def _recall(self, earlier: Sequence[Exchange], first: int, question: str, room: int) -> list[Part]:
        """What this question asks of earlier documents that no longer stand in the prompt, or never stood there whole.

        Nothing, where it asks nothing of them: as in a knowledge brick, the best passage has to be near enough.
        """
        whole: set[str] = set()
        others: dict[str, Part] = {}
        for index, exchange in enumerate(earlier):
            for part in exchange.parts:
                if part.get("text") and not part.get("recalled"):
                    digest = part.get("document") or part["picture"]
                    others[digest] = part
                    if index >= first and "shown" not in part:
                        whole.add(digest)
        recalled = []
        for digest, part in others.items():
            hits = self.archive.search(part, question, self.stopping) if digest not in whole else []
            if hits and hits[0].score >= answer_threshold(len(hits)):
                text, _ = self._fit(part, question, room // len(others), room // len(others))
                recalled.append({"name": part["name"], "document": digest, "text": text, "recalled": True})
                self.trace.injections.append(f"sequence: what was asked for of {part['name']}, sent earlier")
        return recalled

    def _exchange(self, exchange: Exchange) -> list[Turn]:
        answer: Segment = Ids(exchange.token_ids) if exchange.token_ids is not None else Text(exchange.answer)
        asked = (
            *self._segments(exchange.parts, exchange.question),
            *_texts(_instruction(exchange.parts), exchange.question),
        )
        return [Turn("user", asked), Turn("assistant", (answer,))]

    def _segments(self, parts: Sequence[Part], question: str) -> list[Segment]:
        """Soft tokens and texts of a message's attachments, each followed by what parts it from the next."""
        segments: list[Segment] = []
        pictures = sum("text" not in part for part in parts)
        places = itertools.count()
        for part in parts:
            if "text" in part:
                text = part.get("shown", part["text"])
                if text:
                    segments.append(Text(f"{text}\n\n"))
                continue
            place = next(places)
            try:
                soft = self._soft(part, question)
                # An imported checkpoint knows its pictures by their places in its own template.
                if self.bricks.get(part["brick"]).card.parts.get("stitch") == "qformer":
                    segments.extend(picture_label(place, pictures))
                segments.extend([soft, AFTER_PICTURE])
                if "labels" in part:
                    segments.extend(self._labels(part))
            except MattoniError as problem:
                # Its brick or its file is gone since: the conversation goes on without it, and says so once a turn.
                notice = Notice("gone", f"{part['name']} from earlier was left out: {problem}")
                if notice not in self.trace.notices:
                    self.trace.notices.append(notice)
                segments.append(Text(f"(picture {part['name']})\n"))
        return segments

    def _soft(self, part: Part, question: str) -> Soft:
        """The soft tokens of a picture; one of an earlier message is opened again when nothing of it is kept."""
        digest = part["picture"]
        return self.workshop.soft_tokens(
            self.bricks.get(part["brick"]), digest, lambda: _reopened(self.request, digest), question, self.as_words
        )

    def _labels(self, part: Part) -> list[Text | Soft]:
        """What the soft tokens of a picture say of the labels that were read on it."""
        digest, texts = part["picture"], ChartTexts(part["title"], tuple(part["labels"]))
        brick = self.bricks.get(part["brick"])
        return self.workshop.name_labels(brick, digest, lambda: _reopened(self.request, digest), texts)


def _instruction(parts: Sequence[Part]) -> str:
    """What stands between documents and a question about them."""
    return ASK_TEXT if any(part.get("asked") for part in parts) else ""


def _texts(knowledge: str, question: str) -> list[Text]:
    return [Text(text) for text in (knowledge, question) if text]


def _length(turns: Sequence[Turn], tokenizer: Any) -> int:
    """Positions that turns take in a prompt, their role markers estimated."""
    total = _TEMPLATE_TOKENS
    for segment in (segment for turn in turns for segment in turn.segments):
        match segment:
            case Text(text):
                total += len(encode_untrusted(tokenizer, text))
            case Ids(ids):
                total += len(ids)
            case soft:
                total += len(soft.vectors)
    return total


def _reopened(request: Request, digest: str) -> Image.Image:
    """The picture of an earlier message, decoded again because nothing made of it is cached any more."""
    looked = look([Attachment("earlier picture", request.content(digest))])
    pictures = [item for item in looked.items if isinstance(item, Picture)]
    if not pictures:
        raise MattoniError("it can no longer be opened; attach it again.")
    return pictures[0].image

"""Writes a turn's prompt: history, attachments, knowledge and question, inside what the host can read.

Knows nothing of routing, of how attachments were read, or of generation.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from assistant.host.prompt import ASK_TEXT, Prompt, Turn, asks, build_prompt
from assistant.turn.fit import first_kept, fit_question, fit_text
from assistant.turn.focus import MATERIAL
from assistant.turn.loaded import OfAnotherHost
from assistant.turn.request import Exchange, Request, unwritten_question
from knowledge_bricks.documents import Hit, answer_threshold
from mattoni.errors import MattoniError
from mattoni.injections import Ids, Passage, Segment, Text
from mattoni.records import Read, Record, Seen, is_picture
from mattoni.trace import Notice, Trace
from mattoni.untrusted import encode_untrusted

# Role markers and line ends that a template puts around one exchange; generous.
_TEMPLATE_TOKENS = 24
# The part of the room that passages of earlier documents may take in a later message: three or four of them.
_RECALL_SHARE = 8
# The part of a document's room that its passages may take for a question when it does not fit: as much as in a later
# message. Among 4,000 tokens of passages the builtin host did not find what it found among 1,000.
_PASSAGES_SHARE = 4


class ShownAgain(Protocol):
    """How the writer gets the soft tokens of a picture: one of several in its message, beside its question."""

    def __call__(self, seen: Seen, question: str, place: int, of: int) -> Sequence[Segment]: ...


@dataclass(frozen=True)
class Written:
    """A prompt, and what it was made of."""

    prompt: Prompt
    records: tuple[Record, ...]  # the message's own, as they stand in the prompt: the next turn must find them the same
    earlier: tuple[Record, ...]  # of earlier messages, that stand in it too


@dataclass(frozen=True)
class Writer:
    """Writes the prompt of one turn; what had to be left out becomes a notice of its trace."""

    tokenizer: Any
    opening: Sequence[Turn]  # what the conversations of this host begin with
    context: int  # positions that are left for prompt and answer
    has_skill: bool  # a trained skill brings the wording that it was trained on
    request: Request
    trace: Trace
    show: ShownAgain
    search: Callable[[Read, str], list[Hit]]  # passages of a document, those that a question asks for first
    shown: Sequence[Record] = ()  # of earlier messages, what stands beside this one as if it had come with it
    ask_text: str = ASK_TEXT  # between a text and a question about it
    pasted: str = ""  # what of the message is a text that was pasted in, before the question that it answers

    def write(self, records: Sequence[Record], knowledge: Sequence[Passage | Text]) -> Written:
        """History and message inside the context: long documents give way first, then the oldest turns, whole."""
        room = (
            self.context
            - self._length(self.opening) * bool(self.opening)
            - min(self.request.sampling.max_tokens, self.context // 4)
        )
        asked = self.request.text if self.request.text.strip() else unwritten_question(records)
        question, cut = fit_question(asked, room // 2, self._count)
        if cut:
            self._tell("truncated", "The message is longer than the host can read: its middle was left out.")

        def message(records: Sequence[Record]) -> Turn:
            if self.pasted and not (cut or knowledge or self.has_skill):
                told = (self.pasted, self.ask_text, question.removeprefix(self.pasted))
                return Turn("user", (*self._segments(records, asked), *_texts(*told)))
            lead = knowledge or _texts(self._instruction(records))
            return Turn("user", (*self._segments(records, asked), *lead, *_texts(question)))

        records = [*map(_as_new, self.shown), *records]
        taken = self._length([message([record for record in records if not _is_text(record)])])
        records = self._fit(records, question, min(room // 2, room - taken))
        earlier = [exchange for exchange in self.request.past if exchange.answer or exchange.records]
        past = [self._exchange(exchange) for exchange in earlier]
        recall = room // _RECALL_SHARE if any(_is_text(record) for e in earlier for record in e.records) else 0
        first = first_kept([self._length(turns) for turns in past] + [self._length([message(records)]) + recall], room)
        if first:
            self._tell(
                "truncated",
                f"The conversation is longer than the host can read: its first {first} exchange(s) were left out.",
            )
        recalled = self._recall(earlier, first, question, recall)
        records = [*recalled, *records]
        # Knowledge brings its own instruction; beside a picture that is seen, not read, the question may be about either.
        read = {record.digest for record in records if isinstance(record, Read)}
        sees = any(isinstance(record, Seen) and record.digest not in read for record in records)
        if asks(question) and not (self.has_skill or knowledge or sees):
            records = [replace(r, asked=True) if isinstance(r, Read) and r.is_text else r for r in records]
        turns = [*self.opening, *(turn for turns in past[first:] for turn in turns), message(records)]
        standing = tuple(record for exchange in earlier[first:] for record in exchange.records)
        own = (*recalled, *records[len(recalled) + len(self.shown) :])
        return Written(build_prompt(self.tokenizer, turns), own, (*standing, *self.shown))

    def _tell(self, code: str, text: str) -> None:
        notice = Notice(code, text)
        if notice not in self.trace.notices:
            self.trace.notices.append(notice)

    def _count(self, text: str) -> int:
        return len(encode_untrusted(self.tokenizer, text))

    def _fit_one(self, record: Read, question: str, room: int, passages_room: int) -> tuple[str, bool]:
        ranked = lambda: [hit.passage for hit in self.search(record, question)]  # noqa: E731
        return fit_text(record.text, room, self._count, ranked, passages_room)

    def _fit(self, records: Sequence[Record], question: str, room: int) -> list[Record]:
        """Texts of documents within `room` tokens together: whole, or the passages that the question asks for."""
        texts = sum(_is_text(record) for record in records)
        passages_room = room // _PASSAGES_SHARE if asks(question) else room
        fitted = []
        for record in records:
            if isinstance(record, Read) and record.is_text:
                text, cut = self._fit_one(record, question, room // texts, passages_room // texts)
                if cut:
                    self._tell(
                        "truncated",
                        f"{record.name} is longer than the host can read: only what was asked for is used.",
                    )
                    record = record.showing(text)
            fitted.append(record)
        return fitted

    def _recall(self, earlier: Sequence[Exchange], first: int, question: str, room: int) -> list[Record]:
        """What this question asks of earlier documents that no longer stand in the prompt, or never stood there whole.

        Nothing, where it asks nothing of them: as in a knowledge brick, the best passage has to be near enough.
        """
        whole: set[str] = set()
        others: dict[str, Read] = {}
        for index, exchange in enumerate(earlier):
            for record in exchange.records:
                if isinstance(record, Read) and record.is_text and not record.recalled:
                    others[record.digest] = record
                    if index >= first and record.shown is None:
                        whole.add(record.digest)
        recalled: list[Record] = []
        for digest, record in others.items():
            hits = self.search(record, question) if digest not in whole else []
            if hits and hits[0].score >= answer_threshold(len(hits)):
                text, _ = self._fit_one(record, question, room // len(others), room // len(others))
                recalled.append(Read(record.name, digest, record.brick, text, recalled=True))
                self.trace.injections.append(f"sequence: what was asked for of {record.name}, sent earlier")
        return recalled

    def _exchange(self, exchange: Exchange) -> list[Turn]:
        answer: Segment = Ids(exchange.token_ids) if exchange.token_ids is not None else Text(exchange.answer)
        asked = (
            *self._segments(exchange.records, exchange.asked),
            *_texts(self._instruction(exchange.records), exchange.asked),
        )
        return [Turn("user", asked), Turn("assistant", (answer,))]

    def _segments(self, records: Sequence[Record], question: str) -> list[Segment]:
        """Soft tokens and texts of a message's attachments, each followed by what parts it from the next."""
        segments: list[Segment] = []
        pictures = sum(isinstance(record, Seen) and is_picture(record) for record in records)
        places = itertools.count()
        for record in records:
            if isinstance(record, Read):
                segments += [Text(f"{record.in_prompt}\n\n")] if record.in_prompt else []
                continue
            try:
                place = next(places) if is_picture(record) else 0
                segments += self.show(record, question, place, pictures)
            except OfAnotherHost:
                raise  # the turn goes there
            except MattoniError as problem:
                # Its brick or its file is gone since: the conversation goes on without it, and says so once a turn.
                self._tell("gone", f"{record.name} from earlier was left out: {problem}")
                segments.append(Text(f"({record.source} {record.name})\n"))
        return segments

    def _instruction(self, records: Sequence[Record]) -> str:
        """What stands between documents and a question about them."""
        return self.ask_text if any(isinstance(record, Read) and record.asked for record in records) else ""

    def _length(self, turns: Sequence[Turn]) -> int:
        """Positions that turns take in a prompt, their role markers estimated."""
        total = _TEMPLATE_TOKENS
        for segment in (segment for turn in turns for segment in turn.segments):
            match segment:
                case Text(text) | Passage(text):
                    total += self._count(text)
                case Ids(ids):
                    total += len(ids)
                case soft:
                    total += len(soft.vectors)
        return total


def pasted_in(message: str) -> tuple[str, str]:
    """A text that was pasted into a message, up to the empty line behind it, and the question there; empty where it is no such message."""
    text, gap, question = message.rpartition("\n\n")
    return (text + gap, question) if len(text) >= MATERIAL and asks(question) else ("", "")


def _as_new(record: Record) -> Record:
    """The record as if it had come with this message."""
    return replace(record, shown=None, asked=False) if isinstance(record, Read) else record


def _is_text(record: Record) -> bool:
    return isinstance(record, Read) and record.is_text


def _texts(*texts: str) -> list[Text]:
    return [Text(text) for text in texts if text]

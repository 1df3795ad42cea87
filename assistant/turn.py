"""One turn from a message to tokens: look, route, inject, compose, generate, and the trace of it all.

Called on the engine's thread only. Knows nothing of where conversations are kept or shown.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from PIL import Image

from assistant.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.composition import Composition, compose
from assistant.embedder import Embedder
from assistant.engine import Status, Ticket
from assistant.fit import first_kept, fit_question, fit_text
from assistant.generation import Generation, KeyValues, Sampling, TextStream
from assistant.host import Host
from assistant.inject import Recent, Workshop
from assistant.keyring import Keyrings
from assistant.knowledge import Library, knowledge_block
from assistant.look import Attachment, Document, Looked, Picture, document_text, look
from assistant.picture_questions import PictureQuestions
from assistant.prompt import ASK_TEXT, Ids, Prompt, Segment, Soft, Text, Turn, asks, build_prompt, encode_untrusted
from assistant.registry import Brick, Bricks
from assistant.route import Choices, Chosen, Plan, Question, SeenPicture, route
from assistant.trace import Notice, Trace, UsedBrick
from knowledge_bricks.documents import Documents, Hit, answer_threshold, searched_text
from knowledge_bricks.passages import DocumentText, PageText, split_document
from mattoni.errors import MattoniError
from modality_bricks.glance import Glance

# Keys and values of idle conversations: about 11,000 positions of the builtin host.
_MEMORIES_BYTES = 256_000_000
# Role markers and line ends that a template puts around one exchange; generous.
_TEMPLATE_TOKENS = 24
# The part of the room that passages of earlier documents may take in a later message: three or four of them.
_RECALL_SHARE = 8

# What an attachment became, as it is kept with its message: `name`, `brick`, and the digest of a `picture` or `document`.
# `text`: all that was read of it. `shown`: what of that stood in the prompt, if not all. `recalled`: passages of an
# earlier document. `asked`: the question behind it came with an instruction.
Part = dict[str, Any]

# "None is attached" would be wrong where one was, and could not be opened.
_NOTHING_LEFT = Notice("no-picture", "So there is no picture to look at, and the question was not answered.")


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


@dataclass(frozen=True)
class Outcome:
    """How a turn ended, and what must be kept to rebuild its prompt later."""

    status: Status
    parts: tuple[Part, ...]
    token_ids: tuple[int, ...]


class Memories:
    """Keys and values of the conversations used last, within a budget of bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._kept: OrderedDict[tuple[str, str], KeyValues] = OrderedDict()

    def take(self, conversation: str, composition: Composition) -> KeyValues | None:
        """Remove and return what is kept; whoever takes it changes it."""
        return self._kept.pop((conversation, composition.key), None)

    def keep(self, conversation: str, memory: KeyValues) -> None:
        """Keep it as the latest; the oldest leave when the budget is spent."""
        self._kept[(conversation, memory.composition)] = memory
        while self._kept and sum(m.memory_bytes for m in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget all: after bricks changed on the user's order, nothing made with them may stay."""
        self._kept.clear()


class Runner:
    """Runs turns on a host. Holds loaded models and caches, and no state of a turn."""

    def __init__(self, host: Host, workshop: Workshop, library: Library) -> None:
        self.host, self.workshop, self.library = host, workshop, library
        self.memories = Memories(_MEMORIES_BYTES)
        self._keyrings = Keyrings()
        self._documents: Recent[Documents] = Recent(32)

    @cached_property
    def embedder(self) -> Embedder:
        """The `text` space."""
        return Embedder(fetch(BUILTIN_EMBEDDER))

    @cached_property
    def glance(self) -> Glance:
        """The `glance` space."""
        return Glance.load()

    @cached_property
    def picture_questions(self) -> PictureQuestions:
        """Tells messages that ask about a picture from those that do not."""
        return PictureQuestions.load()

    def run(self, request: Request, bricks: Bricks, ticket: Ticket, save: Callable[[], None]) -> Outcome:
        """Answer one message into the ticket. `save` is called after each token that is shown.

        Raises Stopped when the ticket is stopped while attachments are being read.
        """
        sampling = request.sampling
        seed = sampling.seed if sampling.seed is not None else secrets.randbelow(2**31)
        trace = Trace(host=self.host.name, device=str(self.host.device), seed=seed)
        ticket.trace = trace
        ticket.enter("looking")
        with trace.stage("look"):
            looked = look(request.attachments)
        trace.notices.extend(looked.notices)
        with trace.stage("route"):
            plan = self._route(request, looked, bricks)
        refused = any(notice.code == "refused" for notice in looked.notices)
        trace.notices.extend(
            _NOTHING_LEFT if refused and notice.code == "no-picture" else notice for notice in plan.notices
        )
        trace.candidates.extend(plan.candidates)
        parts = self._see(request, looked, plan, bricks, trace, ticket)
        if self._misses_its_picture(request, plan):
            return Outcome("done", tuple(parts), ())
        knowledge = self._look_up(request, plan, bricks, trace)
        with trace.stage("compose"):
            composition = self._compose(plan, bricks, trace)
        with trace.stage("prompt"):
            prompt, parts = self._prompt(request, parts, knowledge, bricks, composition, trace)
        return self._generate(request, prompt, composition, seed, trace, ticket, save, parts)

    # Route

    def _route(self, request: Request, looked: Looked, bricks: Bricks) -> Plan:
        pictures = [item for item in looked.items if isinstance(item, Picture)]
        glances = self.glance.embed([p.image for p in pictures]) if pictures else ()
        texts = asks = None
        if request.text.strip() and not request.choices.no_bricks:
            texts = self.embedder.embed(message_pieces(request.text))
            asks = self.picture_questions.asks(self.embedder.depths(request.text))
        question = Question(
            pictures=tuple(SeenPicture(p.name, vector) for p, vector in zip(pictures, glances, strict=True)),
            texts=texts,
            asks_about_picture=bool(asks),
            has_documents=any(isinstance(item, Document) for item in looked.items),
            history_has_pictures=any(exchange.parts for exchange in request.past),
        )
        return route(question, self._keyrings.of(bricks), request.choices)

    @staticmethod
    def _misses_its_picture(request: Request, plan: Plan) -> bool:
        """Whether to leave the question to the notice: an answer about a picture that is not there would be made up."""
        missing = any(notice.code == "no-picture" for notice in plan.notices)
        return missing and not request.answer_anyway and not plan.skills

    # Inject

    def _see(
        self, request: Request, looked: Looked, plan: Plan, bricks: Bricks, trace: Trace, ticket: Ticket
    ) -> list[Part]:
        """What each attachment becomes, in the order sent; the trace says which brick looked."""
        parts: list[Part] = []
        chosen = iter(plan.pictures)
        for item in looked.items:
            if ticket.is_stopping:
                raise Stopped
            ticket.enter(f"reading {item.name}")
            if isinstance(item, Picture):
                brick = next(chosen)
                if brick is not None:
                    parts.append(self._see_picture(item, brick, bricks.get(brick.name), trace))
            elif not request.choices.no_bricks:
                parts.extend(self._read_document(item, request, bricks, trace, ticket))
            else:
                trace.notices.append(Notice("refused", f"{item.name} was not read: bricks are off."))
        return parts

    def _see_picture(self, picture: Picture, chosen: Chosen, brick: Brick, trace: Trace) -> Part:
        _use(trace, brick, chosen)
        part: Part = {"name": picture.name, "picture": picture.digest, "brick": brick.name}
        if "reader" in brick.card.parts:
            with trace.stage("read"):
                text = self.workshop.read(brick, picture.digest, lambda: picture.image)
            if not text.strip():
                trace.notices.append(Notice("no-text", f"No text was found on {picture.name}."))
            trace.injections.append(f"sequence: text of {picture.name} by {brick.name}")
            return {**part, "text": text}
        with trace.stage("encode"):
            self.workshop.encode(brick, picture.digest, lambda: picture.image)
        with trace.stage("stitch"):
            soft = self.workshop.soft_tokens(brick, picture.digest, lambda: picture.image)
        trace.injections.append(f"sequence: {len(soft.vectors)} soft tokens of {picture.name} by {brick.name}")
        return part

    def _read_document(
        self, document: Document, request: Request, bricks: Bricks, trace: Trace, ticket: Ticket
    ) -> list[Part]:
        readers = [
            brick
            for brick in bricks.usable
            if "reader" in brick.card.parts and request.choices.of(brick.name).state != "off"
        ]
        if not readers:
            sentence = f"{document.name} was not read: no brick that reads documents is installed and switched on."
            trace.notices.append(Notice("refused", sentence))
            return []
        reader = readers[0]

        with trace.stage("read"):
            pages = []
            for page in document_text(document, lambda image: self.workshop.read_page(reader, image)):
                # The texts of the pages so far are kept: asked again, reading goes on where it was stopped.
                if ticket.is_stopping:
                    raise Stopped
                pages.append(page)
                if page.read and page.number < len(document.pages):
                    ticket.enter(f"reading {document.name}, page {page.number + 1} of {len(document.pages)}")
        text = "\n\n".join(page.text for page in pages if page.text.strip())
        by_ocr = sum(page.read for page in pages)
        reason = f"{document.name}: {len(pages)} page(s), {by_ocr} by OCR"
        _use(trace, reader, Chosen(reader.name, 1.0, None, None, reason))
        if not text:
            trace.notices.append(Notice("no-text", f"No text was found in {document.name}."))
        trace.injections.append(f"sequence: text of {document.name} by {reader.name}")
        return [{"name": document.name, "document": document.digest, "brick": reader.name, "text": text}]

    def _look_up(self, request: Request, plan: Plan, bricks: Bricks, trace: Trace) -> str:
        """The passages that answer the message, as text for the prompt; on every message, cited in this very turn."""
        if not plan.knowledge:
            return ""
        with trace.stage("knowledge"):
            found = self.library.find([bricks.get(name) for name in plan.knowledge], request.text, self.embedder)
        trace.citations.extend(found.citations)
        trace.bricks.extend(found.used)
        trace.candidates.extend(found.candidates)
        trace.notices.extend(found.notices)
        trace.injections.extend(f"sequence: passage of {c.document} ({c.place}) by {c.brick}" for c in found.citations)
        block = knowledge_block(found.citations)
        return f"{block}\n\n" if block else ""

    def _compose(self, plan: Plan, bricks: Bricks, trace: Trace) -> Composition:
        deltas = []
        for chosen in plan.skills:
            brick = bricks.get(chosen.name)
            lora = self.workshop.low_rank(brick, chosen.weight)
            deltas.append(lora)
            _use(trace, brick, chosen)
            trace.injections.append(f"low-rank: {len(lora.factors)} layers by {brick.name}, strength {chosen.weight:g}")
        return compose(self.host, deltas)

    # Prompt

    def _prompt(
        self,
        request: Request,
        parts: Sequence[Part],
        knowledge: str,
        bricks: Bricks,
        composition: Composition,
        trace: Trace,
    ) -> tuple[Prompt, list[Part]]:
        """History and message inside the context: long documents give way first, then the oldest turns, whole.

        Returns the prompt, and the message's parts as they stand in it: the next turn must find them the same.
        """
        tokenizer = self.host.tokenizer
        room = self.host.context - composition.prefix_length - min(request.sampling.max_tokens, self.host.context // 4)
        question, cut = fit_question(request.text, room // 2, self._count)
        if cut:
            trace.notices.append(
                Notice("truncated", "The message is longer than the host can read: its middle was left out.")
            )

        def message(parts: Sequence[Part]) -> Turn:
            lead = knowledge or _instruction(parts)
            return Turn("user", (*self._segments(parts, request, bricks, trace), *_texts(lead, question)))

        taken = _length([message([part for part in parts if not part.get("text")])], tokenizer)
        parts = self._fit_parts(parts, question, min(room // 2, room - taken), trace)
        earlier = [exchange for exchange in request.past if exchange.answer or exchange.parts]
        past = [self._exchange(exchange, request, bricks, trace) for exchange in earlier]
        recall = room // _RECALL_SHARE if any(part.get("text") for e in earlier for part in e.parts) else 0
        first = first_kept(
            [_length(turns, tokenizer) for turns in past] + [_length([message(parts)], tokenizer) + recall], room
        )
        if first:
            trace.notices.append(
                Notice(
                    "truncated",
                    f"The conversation is longer than the host can read: its first {first} exchange(s) were left out.",
                )
            )
        parts = [*self._recall(earlier, first, question, recall, trace), *parts]
        # A skill brings the wording that it was trained on, knowledge its own instruction; beside a picture that is seen,
        # not read, the question may be about either.
        sees = any("picture" in part and "text" not in part for part in parts)
        if asks(question) and not (composition.deltas or knowledge or sees):
            parts = [{**part, "asked": True} if part.get("text") else part for part in parts]
        return build_prompt(tokenizer, [turn for turns in past[first:] for turn in turns] + [message(parts)]), parts

    def _count(self, text: str) -> int:
        return len(encode_untrusted(self.host.tokenizer, text))

    def _hits(self, part: Part, question: str) -> list[Hit]:
        """The passages of a document, those that the question asks for first; their vectors are kept for later ones."""
        text = part["text"]

        def make() -> Documents:
            passages = split_document(DocumentText(part["name"], (PageText(1, text),)))
            return Documents(passages, self.embedder.embed([searched_text(passage) for passage in passages]))

        documents = self._documents.get(hashlib.sha256(text.encode()).hexdigest(), make)
        wanted = question or documents.passages[0].text
        return documents.search(self.embedder.embed([wanted])[0], wanted, len(documents.passages))

    def _fit(self, part: Part, question: str, room: int) -> tuple[str, bool]:
        return fit_text(part["text"], room, self._count, lambda: [hit.passage for hit in self._hits(part, question)])

    def _fit_parts(self, parts: Sequence[Part], question: str, room: int, trace: Trace) -> list[Part]:
        """Texts of documents within `room` tokens together: whole, or the passages that the question asks for."""
        texts = [part for part in parts if part.get("text")]
        fitted = []
        for part in parts:
            if part.get("text"):
                text, cut = self._fit(part, question, room // len(texts))
                if cut:
                    trace.notices.append(
                        Notice(
                            "truncated",
                            f"{part['name']} is longer than the host can read: only what was asked for is used.",
                        )
                    )
                    part = {**part, "shown": text}
            fitted.append(part)
        return fitted

    def _recall(self, earlier: Sequence[Exchange], first: int, question: str, room: int, trace: Trace) -> list[Part]:
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
            hits = self._hits(part, question) if digest not in whole else []
            if hits and hits[0].score >= answer_threshold(len(hits)):
                text, _ = self._fit(part, question, room // len(others))
                recalled.append({"name": part["name"], "document": digest, "text": text, "recalled": True})
                trace.injections.append(f"sequence: what was asked for of {part['name']}, sent earlier")
        return recalled

    def _exchange(self, exchange: Exchange, request: Request, bricks: Bricks, trace: Trace) -> list[Turn]:
        answer: Segment = Ids(exchange.token_ids) if exchange.token_ids is not None else Text(exchange.answer)
        asked = (
            *self._segments(exchange.parts, request, bricks, trace),
            *_texts(_instruction(exchange.parts), exchange.question),
        )
        return [Turn("user", asked), Turn("assistant", (answer,))]

    def _segments(self, parts: Sequence[Part], request: Request, bricks: Bricks, trace: Trace) -> list[Segment]:
        """Soft tokens and texts of a message's attachments, each followed by what parts it from the next."""
        segments: list[Segment] = []
        for part in parts:
            if "text" in part:
                text = part.get("shown", part["text"])
                if text:
                    segments.append(Text(f"{text}\n\n"))
                continue
            try:
                segments.extend([self._soft(part, request, bricks), Text("\n")])
            except MattoniError as problem:
                # Its brick or its file is gone since: the conversation goes on without it, and says so once a turn.
                notice = Notice("gone", f"{part['name']} from earlier was left out: {problem}")
                if notice not in trace.notices:
                    trace.notices.append(notice)
                segments.append(Text(f"(picture {part['name']})\n"))
        return segments

    def _soft(self, part: Part, request: Request, bricks: Bricks) -> Soft:
        """The soft tokens of a picture; one of an earlier message is opened again when nothing of it is kept."""
        digest = part["picture"]
        return self.workshop.soft_tokens(bricks.get(part["brick"]), digest, lambda: _reopened(request, digest))

    # Generate

    def _generate(
        self,
        request: Request,
        prompt: Prompt,
        composition: Composition,
        seed: int,
        trace: Trace,
        ticket: Ticket,
        save: Callable[[], None],
        parts: Sequence[Part],
    ) -> Outcome:
        memory = self.memories.take(request.conversation, composition) if request.conversation else None
        generation = Generation(
            self.host, prompt, composition, request.sampling, seed, memory, stopped=lambda: ticket.is_stopping
        )
        stream = TextStream(lambda ids: str(self.host.tokenizer.decode(ids, skip_special_tokens=True)))
        ticket.enter("answering")
        trace.tokens.update(prompt=len(prompt), reused=generation.reused)
        tokens = iter(generation)
        with trace.stage("first token"):
            token = next(tokens, None)
        with trace.stage("generate"):
            while token is not None:
                ticket.say(stream.push(token))
                save()
                token = next(tokens, None)
        ticket.say(stream.rest())
        trace.tokens["new"] = len(stream.ids)
        if generation.finished == "length":
            trace.notices.append(
                Notice("length", "The answer reached its longest allowed length: raise max tokens, or say 'go on'.")
            )
        if request.conversation:
            self.memories.keep(request.conversation, generation.memory)
        return Outcome("stopped" if generation.finished == "stopped" else "done", tuple(parts), tuple(stream.ids))


def message_pieces(text: str) -> list[str]:
    """What of a message is compared with the skills' keys: all of it, then its paragraphs' first and last."""
    paragraphs = [p for p in (p.strip() for p in text.split("\n")) if p]
    return list(dict.fromkeys([text, *paragraphs[:1], *paragraphs[-1:]]))


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


def _use(trace: Trace, brick: Brick, chosen: Chosen) -> None:
    trace.bricks.append(
        UsedBrick(
            brick.name,
            brick.card.version,
            brick.card.kind,
            chosen.weight,
            chosen.score,
            chosen.threshold,
            chosen.reason,
        )
    )
    if brick.warning is not None:
        trace.notices.append(Notice("other-host", brick.warning))


def _reopened(request: Request, digest: str) -> Image.Image:
    """The picture of an earlier message, decoded again because nothing made of it is cached any more."""
    looked = look([Attachment("earlier picture", request.content(digest))])
    pictures = [item for item in looked.items if isinstance(item, Picture)]
    if not pictures:
        raise MattoniError("it can no longer be opened; attach it again.")
    return pictures[0].image

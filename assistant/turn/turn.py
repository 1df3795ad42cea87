"""One turn from a message to tokens: look, route, inject, compose, generate, and the trace of it all.

Called on the engine's thread only. Knows nothing of where conversations are kept or shown.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.composition import Composition, compose
from assistant.host.embedder import Embedder
from assistant.host.engine import Status, Ticket
from assistant.host.generation import Generation, KeyValues, TextStream
from assistant.host.host import Host
from assistant.host.prompt import Prompt
from assistant.registry import Brick, Bricks
from assistant.turn.inject import Workshop
from assistant.turn.keyring import Keyrings
from assistant.turn.knowledge import Library, knowledge_block
from assistant.turn.look import look
from assistant.turn.recogniser import FOLLOW_UPS, PICTURE_QUESTIONS, Recogniser
from assistant.turn.route import Chosen, Plan, Question, SeenPicture, route
from assistant.turn.writing import Archive, Exchange, Part, Request, Stopped, Writer
from mattoni.inputs import Document, Looked, Picture, document_text
from mattoni.trace import Notice, Trace, UsedBrick
from modality_bricks.glance import Glance

# Keys and values of idle conversations: about 11,000 positions of the builtin host.
_MEMORIES_BYTES = 256_000_000
# "None is attached" would be wrong where one was, and could not be opened.
_NOTHING_LEFT = Notice("no-picture", "So there is no picture to look at, and the question was not answered.")


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
        self._archive = Archive(lambda: self.embedder)

    @cached_property
    def embedder(self) -> Embedder:
        """The `text` space."""
        return Embedder(fetch(BUILTIN_EMBEDDER))

    @cached_property
    def glance(self) -> Glance:
        """The `glance` space."""
        return Glance.load()

    @cached_property
    def picture_questions(self) -> Recogniser:
        """Tells messages that ask about a picture from those that do not."""
        return Recogniser.load(PICTURE_QUESTIONS)

    @cached_property
    def follow_ups(self) -> Recogniser:
        """Tells messages that go on with what was said from those that stand alone."""
        return Recogniser.load(FOLLOW_UPS)

    def run(self, request: Request, bricks: Bricks, ticket: Ticket, save: Callable[[], None]) -> Outcome:
        """Answer one message into the ticket. `save` is called after each token that is shown.

        Raises Stopped when the ticket is stopped before the host is asked.
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
        trace.notices.extend(
            _NOTHING_LEFT if _was_refused(looked) and notice.code == "no-picture" else notice for notice in plan.notices
        )
        trace.candidates.extend(plan.candidates)
        if not plan.needs_seen:
            request = _without_seen(request, trace)
        parts = self._see(request, looked, plan, bricks, trace, ticket)
        knowledge = self._look_up(request, plan, bricks, trace)
        if trace.citations:
            # Passages that answer the message outweigh its sounding like a question about a picture.
            trace.notices = [notice for notice in trace.notices if notice.code != "no-picture"]
        elif self._misses_its_picture(request, plan):
            return Outcome("done", tuple(parts), ())
        with trace.stage("compose"):
            composition = self._compose(plan, bricks, trace)
        with trace.stage("prompt"):
            writer = Writer(
                self.host,
                self.workshop,
                self._archive,
                request,
                bricks,
                composition,
                trace,
                stopping=lambda: ticket.is_stopping,
                as_words=_wants_words(plan, bricks),
            )
            prompt, parts = writer.write(parts, knowledge)
        outcome = self._generate(request, prompt, composition, seed, trace, ticket, save, parts)
        # After the answer: nobody waits for it.
        self._say_where_it_looked(request, looked, parts, bricks, trace)
        return outcome

    # Route

    def _route(self, request: Request, looked: Looked, bricks: Bricks) -> Plan:
        pictures = [item for item in looked.items if isinstance(item, Picture)]
        glances = self.glance.embed([p.image for p in pictures]) if pictures else ()
        texts, asks, follows = None, False, True
        if request.text.strip() and not request.choices.no_bricks:
            pieces = message_pieces(request.text)
            texts = self.embedder.embed(pieces)
            depths = self.embedder.depths(request.text)
            asks = self.picture_questions.recognises(depths)
            if any(_is_seen(exchange) for exchange in request.past):
                all_depths = [depths, *map(self.embedder.depths, pieces[1:])]
                follows = goes_on(all_depths, self.follow_ups, self.picture_questions)
        question = Question(
            pictures=tuple(SeenPicture(p.name, vector) for p, vector in zip(pictures, glances, strict=True)),
            texts=texts,
            asks_about_picture=asks,
            goes_on=follows,
            has_documents=any(isinstance(item, Document) for item in looked.items),
            # A question that came with a file is about that file, not about an earlier one, also where it was refused.
            history_has_pictures=any(exchange.parts for exchange in request.past) and not _was_refused(looked),
            earlier_pictures=tuple(p["brick"] for e in request.past for p in e.parts if "picture" in p),
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
        as_words = _wants_words(plan, bricks)
        chosen = iter(zip(plan.pictures, plan.runners_up, strict=True))
        for item in looked.items:
            if ticket.is_stopping:
                raise Stopped
            ticket.enter(f"reading {item.name}")
            if isinstance(item, Picture):
                first, runners_up = next(chosen)
                if first is not None:
                    parts.append(self._look_at(item, (first, *runners_up), request, bricks, trace, as_words))
            elif not request.choices.no_bricks:
                parts.extend(self._read_document(item, request, bricks, trace, ticket))
            else:
                trace.notices.append(Notice("refused", f"{item.name} was not read: bricks are off."))
        return parts

    def _look_at(
        self,
        picture: Picture,
        candidates: Sequence[Chosen],
        request: Request,
        bricks: Bricks,
        trace: Trace,
        as_words: bool,
    ) -> Part:
        """What a picture becomes by the first of these bricks; where that one reads and finds no text, by the next that sees."""
        first, *runners_up = candidates
        part = self._see_picture(picture, request.text, first, bricks.get(first.name), trace, as_words)
        if part.get("text") == "":
            seeing = (c for c in runners_up if "reader" not in bricks.get(c.name).card.parts)
            other = next(seeing, None)
            found = f"No text was found on {picture.name}"
            trace.notices.append(
                Notice("no-text", f"{found}, so '{other.name}' looked at it." if other else f"{found}.")
            )
            if other is not None:
                part = self._see_picture(picture, request.text, other, bricks.get(other.name), trace, as_words)
        if bricks.get(part["brick"]).card.parts.get("reads") == "labels":
            part = self._read_labels(picture, part, request, bricks, trace)
        return part

    def _see_picture(
        self, picture: Picture, question: str, chosen: Chosen, brick: Brick, trace: Trace, as_words: bool
    ) -> Part:
        _use(trace, brick, chosen)
        part: Part = {"name": picture.name, "picture": picture.digest, "brick": brick.name}
        if "reader" in brick.card.parts:
            with trace.stage("read"):
                text = self.workshop.read(brick, picture.digest, lambda: picture.image).strip()
            if text:
                trace.injections.append(f"sequence: text of {picture.name} by {brick.name}")
            return {**part, "text": text}
        with trace.stage("encode"):
            self.workshop.encode(brick, picture.digest, lambda: picture.image)
        with trace.stage("stitch"):
            soft = self.workshop.soft_tokens(brick, picture.digest, lambda: picture.image, question, as_words)
        trace.injections.append(f"sequence: {len(soft.vectors)} soft tokens of {picture.name} by {brick.name}")
        return part

    def _say_where_it_looked(
        self, request: Request, looked: Looked, parts: Sequence[Part], bricks: Bricks, trace: Trace
    ) -> None:
        seen_by = {part["picture"]: part["brick"] for part in parts if "picture" in part and "text" not in part}
        for item in looked.items:
            if isinstance(item, Picture) and item.digest in seen_by:
                with trace.stage("attention"):
                    brick = bricks.get(seen_by[item.digest])
                    trace.attention.append(self.workshop.attention(brick, item, request.text))

    def _read_labels(self, picture: Picture, part: Part, request: Request, bricks: Bricks, trace: Trace) -> Part:
        """The part with the labels that a reading brick finds on the picture, for a brick that only sees where they are."""
        reader = _reader(request, bricks)
        if reader is None:
            sentence = f"The labels of {picture.name} were not read: no brick that reads is installed and switched on."
            trace.notices.append(Notice("refused", sentence))
            return part
        _use(trace, reader, Chosen(reader.name, 1.0, None, None, f"reads the labels for {part['brick']}"))
        with trace.stage("read"):
            texts = self.workshop.read_labels(reader, picture.digest, lambda: picture.image)
        trace.injections.append(f"sequence: labels of {picture.name} by {reader.name}")
        return {**part, "title": texts.title, "labels": list(texts.labels)}

    def _read_document(
        self, document: Document, request: Request, bricks: Bricks, trace: Trace, ticket: Ticket
    ) -> list[Part]:
        reader = _reader(request, bricks)
        if reader is None:
            sentence = f"{document.name} was not read: no brick that reads documents is installed and switched on."
            trace.notices.append(Notice("refused", sentence))
            return []
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


def goes_on(pieces: Sequence[Tensor], follow_ups: Recogniser, picture_questions: Recogniser) -> bool:
    """Whether a message goes on with what was said or shown, by the depths of its `message_pieces`.

    Beside a long text one line may ask about a picture. A line beside a text goes on with that text, so only the whole
    message tells whether it is a follow-up.
    """
    return follow_ups.recognises(pieces[0]) or any(picture_questions.recognises(piece) for piece in pieces)


def _is_seen(exchange: Exchange) -> bool:
    """Whether it is about pictures alone that were seen, not read: a text stays with what was said of it."""
    return bool(exchange.parts) and not any("text" in part for part in exchange.parts)


def _without_seen(request: Request, trace: Trace) -> Request:
    """The request without earlier exchanges about pictures.

    The builtin host answers a question that stands alone worse after them, with the picture or without it
    (`docs/experiments.md`). They are back as soon as a message asks about a picture or goes on.
    """
    kept = tuple(exchange for exchange in request.past if not _is_seen(exchange))
    left_out = len(request.past) - len(kept)
    if left_out:
        exchanges = "exchange" if left_out == 1 else "exchanges"
        trace.left_out.append(f"{left_out} earlier {exchanges} about a picture, not asked about")
    return replace(request, past=kept)


def _was_refused(looked: Looked) -> bool:
    """Whether something that came with the message could not be opened."""
    return any(notice.code == "refused" for notice in looked.notices)


def _reader(request: Request, bricks: Bricks) -> Brick | None:
    """The first brick that reads text and is not switched off."""
    able = (brick for brick in bricks.usable if "reader" in brick.card.parts)
    return next((brick for brick in able if request.choices.of(brick.name).state != "off"), None)


def _wants_words(plan: Plan, bricks: Bricks) -> bool:
    """Whether a skill of the plan was trained on pictures as words."""
    return any(bricks.get(chosen.name).card.parts.get("pictures_as") == "words" for chosen in plan.skills)


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

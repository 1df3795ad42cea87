"""From a message to a job: look, route, inject, write. Knows no kind of brick, and nothing of how tokens are made.

May run on several threads at once: reading fifty pages of a scan holds up nobody's tokens. Each step takes a value and returns a
value, top to bottom:

    prepare ─▶ look ─▶ listen ─▶ route ─▶ inject (each planned brick in order) ─▶ write ─▶ Prepared
"""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from PIL import Image

from assistant.host.activation import acts_from
from assistant.host.host import Host
from assistant.host.prompt import ASK_TEXT, Turn, asks, build_prompt, opening
from assistant.host.wheels import Unavailable
from assistant.registry import Brick, Bricks
from assistant.turn.earlier_documents import EarlierDocuments
from assistant.turn.focus import Asking, Focus, focus, named_document, named_picture
from assistant.turn.gates import much_is_off
from assistant.turn.keyring import Keyrings
from assistant.turn.listening import HeardSounds, are_message
from assistant.turn.loaded import LoadedBricks
from assistant.turn.look import Limits, look
from assistant.turn.look.sounds import in_words
from assistant.turn.passages import answers_clearly, best_passages, found_reason, knowledge_segments
from assistant.turn.place import document_meant
from assistant.turn.question import barely_goes_on, goes_on, holds_number, is_in_known_script, message_pieces
from assistant.turn.request import Exchange, Message, Request
from assistant.turn.route import Choices, Chosen, Keyring, Plan, Question, SeenPicture, listeners, route
from assistant.turn.spaces import Spaces
from assistant.turn.twofold import Second, asking, form_of, is_answered, second_request, without
from assistant.turn.writing import Writer, Written, pasted_in
from knowledge_bricks.documents import Hit, answer_threshold
from mattoni.errors import MattoniError
from mattoni.injections import Gate, LowRank, Other, Passage, Prefix, Segment, Text
from mattoni.inputs import Attachment, Document, Looked, Picture, Samples, Sound
from mattoni.records import Read, Record, Seen, is_picture
from mattoni.runtime import Asked, Finished, Given, GivenDocument, GivenPicture, GivenSound, Injected, Stopped
from mattoni.trace import Attention, Notice, Trace, UsedBrick

# Notices that stand for an answer.
_UNANSWERED = frozenset({"no-picture", "no-document"})
# Beyond the threshold: 286 of 300 questions reach it for their own passage, 12 of 8,840 pairs of a question about a picture and some
# other passage, and 30 of 4,000 of a follow-up and one.
_BEYOND_DOUBT = 0.15
_CLOSED = "it can no longer be opened; attach it again."


@dataclass(frozen=True)
class Watcher:
    """Whoever waits for a turn: is told what is being done, and may stop it."""

    progress: Callable[[str], None] = lambda stage: None
    stopping: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Prepared:
    """A turn that is ready to be decoded, or that needs no decoding: then `written` is None and the notices say why."""

    request: Request
    seed: int
    records: tuple[Record, ...]
    injections: tuple[Other, ...] = ()
    written: Written | None = None
    explain: Callable[[], Iterator[Attention]] = lambda: iter(())  # where bricks looked; after the answer
    finish: Callable[[str], Sequence[Finished]] = lambda said: ()  # what the turn's skills add to what the host said
    then: "Callable[[str], SecondHalf | None] | None" = None  # of a turn that goes on from the answer


@dataclass(frozen=True)
class SecondHalf:
    """What a skill is given of an answer: all of it, or each of the texts in a form, whose answers take their places."""

    parts: tuple[Prepared, ...]
    around: tuple[str, ...] | None = None  # of a form: what stands before, between and behind the parts


class Preparation:
    """Prepares turns for a host. Holds loaded models and caches, and no state of a turn."""

    def __init__(self, host: Host, spaces: Spaces | None = None, beside: "Preparation | None" = None) -> None:
        """beside  that of another host, whose models this one uses too, where they do not hang on the host"""
        self.host = host
        self.spaces: Spaces = beside.spaces if beside is not None else spaces or Spaces()
        self.loaded: LoadedBricks = LoadedBricks(host, beside.loaded if beside is not None else None)
        self.earlier: EarlierDocuments = (
            beside.earlier if beside is not None else EarlierDocuments(lambda: self.spaces.embedder)
        )
        self._keyrings = Keyrings()

    def forget(self, contents: frozenset[str]) -> None:
        """Drop everything that was made of these attachments."""
        self.loaded.forget(contents)
        self.earlier.forget(contents)

    def forget_everything(self) -> None:
        """Drop all that was loaded or made; it is loaded and made anew as it is needed."""
        self.loaded.clear()
        self.earlier.clear()
        self._keyrings.clear()
        self.spaces.forget()

    def forget_bricks(self, names: frozenset[str]) -> None:
        """Drop what was loaded of the bricks of these names, in whatever state."""
        self.loaded.unload_named(names)
        self._keyrings.forget(names)

    def prepare(self, request: Request, bricks: Bricks, trace: Trace, watcher: Watcher) -> Prepared:
        """One message made ready. Raises Stopped when the watcher stops it, and MattoniError."""
        return self.plan(request, bricks, trace, watcher).prepare()

    def plan(self, request: Request, bricks: Bricks, trace: Trace, watcher: Watcher) -> "Routed":
        """What came with a message looked at, and who is to answer. Raises Stopped, and MattoniError."""
        given, sampling = request, request.sampling
        seed = sampling.seed if sampling.seed is not None else secrets.randbelow(2**31)
        trace.host, trace.device, trace.seed = self.host.name, str(self.host.device), seed
        watcher.progress("looking")
        with trace.stage("look"):
            looked = look(request.attachments)
        trace.notices.extend(looked.notices)
        heard = self._listen(request, looked, bricks, trace, watcher)
        if not request.text.strip():
            request = replace(request, text=heard.message)
        with trace.stage("route"):
            keyring = self._keyrings.of(bricks)
            question = self._question(request, looked, heard)
            if self._is_for_library(request, question, keyring, bricks, watcher):
                question = question.about_nothing_earlier()
            plan = route(question, keyring, request.choices)
            second = self._second(request, question, keyring)
            if second is not None:
                rest = replace(request, text=second.rest, choices=without(request.choices, second.chosen.name))
                asked = self._question(rest, looked, heard)
                answered = route(asked, keyring, rest.choices)
                if is_answered(second, asked, answered):
                    request, question, plan = rest, asked, answered
                else:
                    second = None
        return Routed(self, given, request, bricks, trace, watcher, looked, heard, question, plan, second, seed)

    def make_ready(self, routed: "Routed") -> Prepared:
        """The rest of what `prepare` does."""
        request, bricks, trace, watcher = routed.request, routed.bricks, routed.trace, routed.watcher
        looked, question, plan, second = routed.looked, routed.question, routed.plan, routed.second
        trace.notices.extend(
            _nothing_left(looked) if _was_refused(looked) and notice.code == "no-picture" else notice
            for notice in plan.notices
        )
        trace.candidates.extend(plan.candidates)
        found = Focus(request.past)
        if plan.reads != "conversation":
            alone = _alone_of(looked, question, plan)
            found = Focus((), _read_last(request) if plan.reads == "last" and not looked.items else (), alone)
            request = _message_alone(request, plan, found, trace)
        elif self.host.focuses:
            found = self._focus(request, question, plan, watcher)
            _tell_left_out(request, found, trace)
        elif not plan.needs_seen:
            request = _without_sights(request, trace)
            found = Focus(request.past)
        prepared = _Planned(self, request, bricks, trace, watcher, looked, routed.heard, plan, found).prepare(
            routed.seed
        )
        if second is None or prepared.written is None:
            return prepared
        return replace(prepared, then=self._going_on(second, request, bricks, trace, routed.seed))

    def _is_for_library(
        self, request: Request, question: Question, keyring: Keyring, bricks: Bricks, watcher: Watcher
    ) -> bool:
        """Whether a message that might be about what was shown earlier is clearly answered by a brick of knowledge.

        "When does the ferry leave?" sounds a little like a question about the photograph before it.
        """
        brings_its_own = question.pictures or question.has_documents
        if question.texts is None or brings_its_own or not question.may_be_about_earlier:
            return False
        spaces = self.spaces
        if not barely_goes_on(spaces.embedder.depths(request.text), spaces.follow_ups, spaces.picture_questions):
            return False
        read = [r for exchange in request.past for r in exchange.brought if isinstance(r, Read) and r.is_text]
        if any(self.holds_answer(record, request.text, watcher.stopping) for record in read):
            return False
        asked = Asked(request.text, embedder=lambda: spaces.embedder, stopping=watcher.stopping)
        for brick in keyring.asked_always:
            if request.choices.of(brick.name).state == "off":
                continue
            with contextlib.suppress(MattoniError):  # said where it is asked again
                if answers_clearly(self.loaded.get(bricks.get(brick.name)).inject(asked).score):
                    return True
        return False

    def _second(self, request: Request, question: Question, keyring: Keyring) -> Second | None:
        """The skill that is to go on from the answer, where the message asks for that too."""
        if question.texts is None or request.sampling.json_schema is not None:
            return None
        spaces = self.spaces
        asks = asking(spaces.embedder, spaces.picture_questions, keyring)
        return second_request(request.text, question.texts, spaces.embedder.embed, asks, keyring, request.choices)

    def _going_on(
        self, second: Second, request: Request, bricks: Bricks, trace: Trace, seed: int
    ) -> Callable[[str], SecondHalf | None]:
        """Makes the second half of a turn from the answer of the first; None where the answer is a form without a text."""
        brick = bricks.get(second.chosen.name)
        injected = self.loaded.get(brick).inject(Asked(second.rest, strength=second.chosen.weight))

        def asked(text: str) -> Prepared:
            turn = Turn("user", (Text(f"{second.instruction}\n\n{text}"),))
            written = Written(build_prompt(self.host.tokenizer, [*opening(self.host), turn]), (), ())
            return Prepared(replace(request, conversation=""), seed, (), injected.others, written)

        def prepare(answer: str) -> SecondHalf | None:
            form = form_of(answer)
            texts = (answer,) if form is None else form.texts
            if not texts:
                text = f"The answer is JSON of names and numbers, which '{brick.name}' leaves as they are."
                trace.notices.append(Notice("not-gone-on", text))
                return None
            _use(trace, brick, second.chosen)
            trace.injections.extend(injected.described)
            trace.finished.append(f"{brick.name} went on from: {answer}")
            return SecondHalf(tuple(map(asked, texts)), None if form is None else form.around)

        return prepare

    def _listen(self, request: Request, looked: Looked, bricks: Bricks, trace: Trace, watcher: Watcher) -> HeardSounds:
        """What the bricks that listen make of each recording; what none can be asked is a notice.

        Where the first finds no words in it, one that hears sounds is asked.
        """
        sounds = [item for item in looked.items if isinstance(item, Sound)]
        able = listeners(self._keyrings.of(bricks), request.choices) if sounds else ()
        spoken = are_message(sounds, request.text)
        found: dict[str, Injected] = {}
        for sound in sounds:
            if not able:
                trace.notices.append(_not_heard(sound.name, request.choices.no_bricks))
            for chosen in able:
                if watcher.stopping():
                    raise Stopped
                watcher.progress(f"listening to {sound.name}")
                asked = Asked(
                    request.text,
                    GivenSound(sound, spoken),
                    embedder=lambda: self.spaces.embedder,
                    stage=trace.stage,
                    progress=watcher.progress,
                    stopping=watcher.stopping,
                )
                try:
                    injected = self.loaded.get(bricks.get(chosen.name)).inject(asked)
                except MattoniError as problem:
                    # No model is fetched yet, say: the rest of the message goes on.
                    trace.notices.append(Notice("refused", str(problem)))
                    continue
                found[sound.digest] = injected
                _put_down(trace, bricks, chosen, injected)
                trace.citations.extend(injected.citations)
                if not injected.is_empty:
                    break
        return HeardSounds(found)

    def _focus(self, request: Request, question: Question, plan: Plan, watcher: Watcher) -> Focus:
        """What of the conversation the message is about."""
        if not request.text.strip() or question.texts is None:
            # Nothing is known of a message without words, or in a script that the embedder does not read.
            return Focus(()) if question.pictures or question.has_documents else Focus(request.past)
        asking = Asking(
            picture="" if plan.needs_several else question.picture,
            brings_its_own=bool(question.pictures) or question.has_documents,
            is_question=asks(request.text),
            asks_about_picture=question.asks_about_picture or question.wants_words,
            goes_on=question.goes_on,
            about_several=plan.needs_several,
            document=document_meant(request.text),
        )
        return focus(
            asking,
            request.past,
            stands_alone=self._stands_alone,
            holds_answer=lambda read: self.holds_answer(read, request.text, watcher.stopping),
            answers_clearly=lambda read: self.holds_answer(read, request.text, watcher.stopping, _BEYOND_DOUBT),
        )

    def _stands_alone(self, text: str) -> bool:
        """Whether a message goes on with nothing that was said or shown before it."""
        if not text.strip() or not is_in_known_script(text):
            return False
        depths = [self.spaces.embedder.depths(piece) for piece in message_pieces(text)]
        return not goes_on(depths, self.spaces.follow_ups, self.spaces.picture_questions)

    def transcribe(
        self, file: Attachment, choices: Choices, bricks: Bricks, watcher: Watcher, language: str = ""
    ) -> Injected:
        """What is said in a recording that no message came with; nothing of it is kept.

        Raises MattoniError where no brick listens or the file is no recording, and Stopped.
        """
        chosen = next(iter(listeners(self._keyrings.of(bricks), choices, for_words=True)), None)
        if chosen is None:
            raise MattoniError("No brick that recognises speech is installed and switched on: add one.")
        limits = Limits()
        looked = look([file], limits)
        sounds = [item for item in looked.items if isinstance(item, Sound)]
        if len(sounds) != 1:
            refused = [notice.text for notice in looked.notices if notice.code == "refused"]
            raise MattoniError(
                refused[0] if refused else f"{file.name} is no recording: send a WAV, an MP3 or the like."
            )
        if any(notice.code == "truncated" for notice in looked.notices):
            raise MattoniError(f"{file.name} is longer than {in_words(limits.seconds)}: send it in parts.")
        runtime = self.loaded.get(bricks.get(chosen.name))
        given = GivenSound(sounds[0], spoken=True)
        asked = Asked("", given, language=language, progress=watcher.progress, stopping=watcher.stopping)
        injected = runtime.inject(asked)
        runtime.forget(frozenset({given.digest}))
        return injected

    def exchanges(
        self, messages: Sequence[Message], choices: Choices, bricks: Bricks, watcher: Watcher
    ) -> tuple[Exchange, ...]:
        """A history as exchanges, its attachments looked at as they would have been in their own turns.

        Messages of the same side that follow one another are taken as one. Raises Stopped, and MattoniError.
        """
        exchanges: list[Exchange] = []
        asked: Message | None = None
        for message in messages:
            if message.role == "user":
                asked = message if asked is None else _joined(asked, message)
            elif asked is not None:
                records = self._records(asked, choices, bricks, watcher)
                exchanges.append(Exchange(asked.text, records, message.text, None))
                asked = None
            elif exchanges:
                last = exchanges.pop()
                exchanges.append(replace(last, answer=f"{last.answer}\n\n{message.text}"))
            else:
                exchanges.append(Exchange("", (), message.text, None))
        if asked is not None:
            exchanges.append(Exchange(asked.text, self._records(asked, choices, bricks, watcher), "", None))
        return tuple(exchanges)

    def _records(self, message: Message, choices: Choices, bricks: Bricks, watcher: Watcher) -> tuple[Record, ...]:
        """What the attachments of an earlier message became."""
        if not message.attachments:
            return ()
        request = Request(message.text, message.attachments, choices)
        looked = look(request.attachments)
        heard = self._listen(request, looked, bricks, Trace(), watcher)
        plan = route(self._question(request, looked, heard), self._keyrings.of(bricks), choices)
        return _Planned(self, request, bricks, Trace(), watcher, looked, heard, plan, Focus(())).records()

    def holds_answer(self, read: Read, question: str, stopping: Callable[[], bool], beyond: float = 0.0) -> bool:
        """Whether a passage of an earlier document is near enough to a message to answer it, by so much beyond the threshold."""
        return _reach(self.earlier.search(read, question, stopping), beyond)

    def wants_name(self, question: str) -> bool:
        """Whether a question is what the thing on a picture is called.

        It is told from the question that the picture came with alone, so that an earlier picture stays as it was read.
        """
        if not question.strip() or not is_in_known_script(question):
            return False
        return self.spaces.naming_questions.recognises(self.spaces.embedder.depths(question))

    def _question(self, request: Request, looked: Looked, heard: HeardSounds) -> Question:
        """The message as the router sees it."""
        pictures = [item for item in looked.items if isinstance(item, Picture)]
        glances = self.spaces.glance.embed([p.image for p in pictures]) if pictures else ()
        texts, asks, follows, several, words = None, False, True, False, False
        if request.text.strip() and not request.choices.no_bricks and is_in_known_script(request.text):
            pieces = message_pieces(request.text)
            spaces = self.spaces
            texts = spaces.embedder.embed(pieces)
            depths = spaces.embedder.depths(request.text)
            asks = spaces.picture_questions.recognises(depths)
            several = spaces.several_pictures.recognises(depths, expected=_showed_several(request.past))
            words = spaces.reading_questions.recognises(depths)
            if request.past:
                all_depths = [depths, *map(spaces.embedder.depths, pieces[1:])]
                follows = goes_on(all_depths, spaces.follow_ups, spaces.picture_questions)
        named = ""
        if texts is not None:
            named = named_picture(request.text, request.past, looked.items, asks or several)
        # A question that came with a file is about that file, not about an earlier one, also where it was refused.
        past = () if _was_refused(looked) else request.past
        earlier = [record for exchange in past for record in exchange.records]
        meant = named if self.host.focuses else ""
        seen = [*(p.digest for p in pictures), *(record.digest for record in earlier if is_picture(record))]
        return Question(
            pictures=tuple(SeenPicture(p.name, vector) for p, vector in zip(pictures, glances, strict=True)),
            texts=texts,
            asks_about_picture=asks,
            goes_on=follows,
            about_several=several and not named,
            picture=meant,
            picture_at=seen.index(meant) if meant in seen else None,
            wants_words=words,
            has_past=bool(request.past),
            has_documents=heard.are_asked_about or any(isinstance(item, Document) for item in looked.items),
            history_has_pictures=any(exchange.brought for exchange in past),
            earlier_pictures=tuple(record.brick for record in earlier if is_picture(record)),
            earlier_text=any(isinstance(record, Read) and record.is_text for record in earlier),
            holds_number=bool(looked.items) or holds_number(request.text),
        )


@dataclass(frozen=True)
class Routed:
    """A turn of which is known who is to answer, and nothing was injected yet."""

    home: Preparation
    given: Request  # the whole message
    request: Request  # what is answered first
    bricks: Bricks
    trace: Trace
    watcher: Watcher
    looked: Looked
    heard: HeardSounds
    question: Question
    plan: Plan
    second: Second | None
    seed: int

    @property
    def skills(self) -> tuple[Chosen, ...]:
        """The skills that are to answer."""
        return (*self.plan.skills, *((self.second.chosen,) if self.second is not None else ()))

    @property
    def borrowed(self) -> frozenset[str]:
        """Those of them that were trained with another host."""
        return frozenset(one.name for one in self.skills if self.bricks.get(one.name).borrowed)

    def prepare(self) -> Prepared:
        """Inject and write. Raises Stopped, and MattoniError."""
        return self.home.make_ready(self)


@dataclass(frozen=True)
class _Planned:
    """A turn from its plan on: its arguments, so that the steps need not hand them to one another."""

    home: Preparation
    request: Request
    bricks: Bricks
    trace: Trace
    watcher: Watcher
    looked: Looked
    heard: HeardSounds
    plan: Plan
    focus: Focus

    def prepare(self, seed: int) -> Prepared:
        """Inject and write."""
        brought = [*self._inject_given(), *self._inject_words_of_earlier()]
        given = [found for found in brought if not self._stays_out(found.record)]
        records = tuple(found.record for found in given if found.record is not None)
        says_nothing = all(found.is_empty for found in given if not _is_spoken(found)) and not self._goes_on_with_text()
        knowledge = self._inject_knowledge((*self.plan.knowledge, *(self.plan.waiting if says_nothing else ())))
        if self.trace.citations:
            # Passages that answer the message outweigh its sounding like a question about a picture.
            self.trace.notices = [notice for notice in self.trace.notices if notice.code not in _UNANSWERED]
        elif self._misses_its_picture():
            return Prepared(self.request, seed, self._all_brought(brought, records))
        elif self._is_about_nothing_opened() or self._says_and_brings_nothing(records):
            return Prepared(self.request, seed, self._all_brought(brought, records))
        with self.trace.stage("compose"):
            reads = self._who_reads(bool(knowledge), records)
            composed = (*self.plan.skills, *reads, *self.plan.by_user)
            skills = [self._ask(chosen, None) for chosen in composed]
            # Kept, as a brick may be removed while its turn is answered.
            runtimes = [self.home.loaded.get(self.bricks.get(chosen.name)) for chosen in composed]
            skills += [self._ask_always(name) for name in self.plan.always]
        others = tuple(injection for skill in skills for injection in skill.others)
        if (notice := much_is_off([o for o in others if isinstance(o, Gate)])) is not None:
            self.trace.notices.append(notice)
        with self.trace.stage("prompt"):
            is_trained = any(isinstance(injection, LowRank) for injection in others) and not reads
            written = self._write(records, knowledge, others, is_trained)
        self._name_earlier(written)
        self.trace.notices.extend(_never_invoked(others, written))
        return Prepared(
            self.request,
            seed,
            self._all_brought(brought, written.records),
            others,
            written,
            explain=lambda: self._explain(written.records),
            finish=lambda said: [runtime.finish(said) for runtime in runtimes],
        )

    def records(self) -> tuple[Record, ...]:
        """What the attachments become, without the rest of the turn."""
        return tuple(found.record for found in self._inject_given() if found.record is not None)

    def _who_reads(self, has_passages: bool, records: Sequence[Record]) -> tuple[Chosen, ...]:
        """The skill that answers from passages, where some were found or the message asks of a text that it brought or holds.

        A skill that was asked for reads them as well; the one for passages alone makes way.
        """
        chosen = self.plan.for_passages
        if self.plan.skills or chosen is None:
            return ()
        if has_passages:
            return (replace(chosen, reason="passages were found for it"),)
        standing = [*records, *self.focus.shown]
        texts = [r.name for r in standing if isinstance(r, Read) and r.is_text]
        if not asks(self.request.text) or any(isinstance(r, Seen) for r in standing):
            return ()
        if not texts and not self._pasted:
            return ()
        return (replace(chosen, reason=f"the message asks of {', '.join(texts) or 'a text that it holds'}"),)

    def _stays_out(self, thing: Picture | Document | Sound | Record | None) -> bool:
        """Whether it is a picture of this message that stays out of the prompt: the message is about another one alone."""
        about = self.focus.picture
        if not about or thing is None or thing.digest == about:
            return False
        return isinstance(thing, Picture) or (isinstance(thing, Seen | Read) and is_picture(thing))

    @property
    def _about(self) -> str:
        """The name of the one picture that the message is about alone."""
        return next(o.name for o in (*self.looked.items, *self.focus.shown) if o.digest == self.focus.picture)

    def _all_brought(self, brought: Sequence[Injected], standing: Sequence[Record]) -> tuple[Record, ...]:
        """The records that are kept: those in the prompt, as they stand there, and in their places those that stay out of it.

        standing  what was recalled, then the message's own
        """
        records = [found.record for found in brought if found.record is not None]
        own = sum(not self._stays_out(record) for record in records)
        recalled, kept = standing[: len(standing) - own], iter(standing[len(standing) - own :])
        return (*recalled, *(record if self._stays_out(record) else next(kept) for record in records))

    def _misses_its_picture(self) -> bool:
        """Whether to leave the question to the notice: an answer about a picture that is not there would be made up."""
        missing = any(notice.code == "no-picture" for notice in self.plan.notices)
        return missing and not self.request.answer_anyway and not self.plan.skills

    def _is_about_nothing_opened(self) -> bool:
        """Whether all that the message brought was refused: an answer about it would be made up."""
        asked = self.request.text.strip() and not self.request.answer_anyway and not self.plan.skills
        nothing = not self.looked.items and _was_refused(self.looked)
        if asked and nothing:
            self.trace.notices = [notice for notice in self.trace.notices if notice.code not in _UNANSWERED]
            self.trace.notices.append(_nothing_left(self.looked))
        return bool(asked and nothing)

    def _says_and_brings_nothing(self, records: Sequence[Record]) -> bool:
        """Whether there is no message, or a question about recordings in which nothing was understood."""
        if any(isinstance(record, Seen) or record.text for record in records):
            return False
        only_sounds = bool(self.looked.items) and all(isinstance(item, Sound) for item in self.looked.items)
        asked = self.request.text.strip()
        return not asked or (only_sounds and not self.request.answer_anyway and not self.plan.skills)

    def _goes_on_with_text(self) -> bool:
        """Whether the message goes on with a text of the conversation that holds what it asks for, or that a skill was chosen for."""
        if self.plan.skills and any(isinstance(record, Read) and record.is_text for record in self.focus.shown):
            return True
        texts = [
            r for e in self.request.past for r in e.records if isinstance(r, Read) and r.is_text and not r.recalled
        ]
        return any(self.home.holds_answer(text, self.request.text, self.watcher.stopping) for text in texts[-1:])

    # Inject

    def _inject_given(self) -> list[Injected]:
        """What each attachment becomes, in the order sent; the trace says by which brick."""
        found: list[Injected] = []
        pictures = iter(zip(self.plan.pictures, self.plan.runners_up, strict=True))
        for item in self.looked.items:
            if self.watcher.stopping():
                raise Stopped
            if isinstance(item, Sound):
                found += [self.heard.found[item.digest]] if item.digest in self.heard.found else []
                continue
            self.watcher.progress(f"reading {item.name}")
            candidates: tuple[Chosen, ...]
            if isinstance(item, Picture):
                first, runners_up = next(pictures)
                candidates = (first, *runners_up) if first is not None else ()
            else:
                candidates = (self.plan.reader,) if self.plan.reader is not None else ()
                if not candidates:
                    self.trace.notices.append(_not_read(item.name, self.request.choices.no_bricks))
            if candidates and self._stays_out(item):
                # It is looked at for later messages, and took no part in this turn.
                found.append(replace(self, trace=Trace())._first_to_find(_given(item), candidates))
                self.trace.left_out.append(f"{item.name}, as the message is about {self._about} alone")
            elif candidates:
                found.append(self._first_to_find(_given(item), candidates))
                if isinstance(item, Picture) and self.plan.reads_words:
                    found += self._inject_words(_given(item), candidates[0])
        return found

    def _inject_words(self, given: Given, looking: Chosen) -> list[Injected]:
        """What is written on a picture that another brick sees, where the message asks for it."""
        reader = self.plan.reader
        seeing = self.bricks.get(looking.name)
        if reader is None or seeing.accepts("page") or seeing.parts.brings_words:
            return []
        reason = f"the message asks for the words on {given.name}"
        read = self.home.loaded.get(self.bricks.get(reader.name)).inject(self._asked(given))
        if read.is_empty:
            self.trace.notices.append(Notice("no-text", f"No text was found on {given.name}."))
            return []
        _use(self.trace, self.bricks.get(reader.name), replace(reader, reason=reason))
        self.trace.injections.extend(read.described)
        return [read]

    def _inject_words_of_earlier(self) -> list[Injected]:
        """What is written on the latest picture that the message is about, where it asks for that and brings none."""
        if not self.plan.reads_words or self.looked.items or _was_refused(self.looked):
            return []
        earlier = [record for exchange in self.request.past for record in exchange.records]
        meant = {r.digest for r in self.focus.shown} | {r.digest for e in self.focus.past for r in e.records}
        records = [record for record in earlier if record.digest in meant]
        if not records or not isinstance(records[-1], Seen) or not is_picture(records[-1]):
            return []
        seen = records[-1]
        given = GivenPicture(seen.name, seen.digest, partial(self._picture, seen.digest))
        try:
            return self._inject_words(given, Chosen(seen.brick, 1.0, None, None, ""))
        except MattoniError:
            # Its brick or its file is gone: the writer says so where the picture stood.
            return []

    def _first_to_find(self, given: Given, candidates: Sequence[Chosen]) -> Injected:
        """What the first of these bricks makes of it; where that one finds nothing, the next that goes about it otherwise."""
        first, *others = candidates
        tried = self.bricks.get(first.name).parts.method
        other = next((c for c in others if self.bricks.get(c.name).parts.method != tried), None)
        try:
            injected = self._ask(first, given)
        except Unavailable as problem:
            if other is None:
                raise
            # Its encoder was never fetched, say, and there is no network: what is written on it can still be read.
            self.trace.notices.append(Notice("refused", f"'{first.name}' did not look at {given.name}: {problem}"))
            return self._ask(other, given)
        if not injected.is_empty:
            return injected
        found = f"No text was found on {given.name}"
        looked_at = f"{found}, so '{other.name}' looked at it." if other else f"{found}."
        self.trace.notices.append(Notice("no-text", looked_at))
        return self._ask(other, given) if other is not None else injected

    def _ask(self, chosen: Chosen, given: Given | None) -> Injected:
        """Ask a planned brick, and put on the trace what it did."""
        brick = self.bricks.get(chosen.name)
        injected = self.home.loaded.get(brick).inject(self._asked(given, chosen.weight))
        _put_down(self.trace, self.bricks, chosen, injected)
        return injected

    def _ask_always(self, name: str) -> Injected:
        """Ask a brick of every turn. It has taken part where it says why; one that cannot be loaded is a notice."""
        brick = self.bricks.get(name)
        try:
            injected = self.home.loaded.get(brick).inject(self._asked(None))
        except MattoniError as problem:
            self.trace.notices.append(Notice("refused", str(problem)))
            return Injected(is_empty=True)
        if injected.reason is not None:
            _use(self.trace, brick, Chosen(name, 1.0, None, None, injected.reason))
        self.trace.injections.extend(injected.described)
        return injected

    def _asked(self, given: Given | None, strength: float = 1.0) -> Asked:
        reader = self.plan.reader if isinstance(given, GivenPicture) else None
        return Asked(
            self.request.text,
            given,
            strength,
            as_words=self._as_words,
            wants_name=isinstance(given, GivenPicture) and self.home.wants_name(self.request.text),
            reader=self.home.loaded.get(self.bricks.get(reader.name)) if reader is not None else None,
            embedder=lambda: self.home.spaces.embedder,
            stage=self.trace.stage,
            progress=self.watcher.progress,
            stopping=self.watcher.stopping,
        )

    @property
    def _as_words(self) -> bool:
        """Whether a skill of the plan was trained on pictures as words."""
        return any(self.bricks.get(chosen.name).parts.needs.as_words for chosen in self.plan.skills)

    def _inject_knowledge(self, names: Sequence[str]) -> tuple[Passage | Text, ...]:
        """The passages that answer the message, as they stand in the prompt; on every message, cited in this very turn."""
        if not names or not self.request.text.strip():
            return ()
        found: list[Injected] = []
        with self.trace.stage("knowledge"):
            for name in names:
                try:
                    found.append(self.home.loaded.get(self.bricks.get(name)).inject(self._asked(None)))
                except MattoniError as problem:
                    # One that cannot be searched is a notice, and the others go on.
                    self.trace.notices.append(Notice("refused", str(problem)))
        citations = best_passages(found)
        self.trace.citations.extend(citations)
        self.trace.candidates.extend(injected.score for injected in found if injected.score is not None)
        for injected in found:
            self.trace.notices.extend(injected.notices)
        for name in names:
            own = [citation for citation in citations if citation.brick == name]
            if own:
                brick = self.bricks.get(name)
                _use(self.trace, brick, Chosen(name, 1.0, own[0].score, brick.threshold, found_reason(own)))
            elif self.request.choices.of(name).state == "on" and not citations:
                text = f"Nothing in '{name}' answers this, so the answer does not come from there."
                self.trace.notices.append(Notice("nothing-found", text))
        self.trace.injections.extend(f"sequence: passage of {c.document} ({c.place}) by {c.brick}" for c in citations)
        return knowledge_segments(citations)

    # Write

    def _write(
        self,
        records: Sequence[Record],
        knowledge: Sequence[Passage | Text],
        others: Sequence[Other],
        is_trained: bool,
    ) -> Written:
        host = self.home.host
        writer = Writer(
            host.tokenizer,
            [Turn("system", (Text(self.request.system),))] if self.request.system else opening(host),
            host.context - sum(p.length for p in others if isinstance(p, Prefix)),
            is_trained,
            replace(self.request, past=self.focus.past),
            self.trace,
            show=self._show,
            search=lambda read, question: self.home.earlier.search(read, question, self.watcher.stopping),
            shown=self.focus.shown,
            ask_text=host.ask_text or ASK_TEXT,
            # Where a skill answers, nothing stands between: so nothing is searched for.
            pasted="" if is_trained else self._pasted,
        )
        return writer.write(records, knowledge)

    @cached_property
    def _pasted(self) -> str:
        """The text that was pasted into the message, where it seems to hold what is asked behind it: it is asked as a document is.

        Where the host has words of its own for that, or a skill for it; else the message stays as it was written.
        """
        if self.request.choices.no_bricks or not (self.home.host.ask_text or self.plan.for_passages):
            return ""
        text, question = pasted_in(self.request.text)
        hits = self.home.earlier.search_text(text, question, self.watcher.stopping) if text else []
        return text if _reach(hits) else ""

    def _show(self, seen: Seen, question: str, place: int, of: int) -> Sequence[Segment]:
        """A thing's soft tokens where it stands: what is kept of it, else made again from the same bytes."""
        given: Given
        if is_picture(seen):
            given = GivenPicture(seen.name, seen.digest, lambda: self._picture(seen.digest), place, of, known=seen)
        else:
            given = GivenSound(Sound(seen.digest, seen.name, 0.0, blocks=lambda: self._sound(seen.digest)))
        asked = Asked(
            question,
            given,
            as_words=self._as_words,
            wants_name=self.home.wants_name(question),
            embedder=lambda: self.home.spaces.embedder,
        )
        return self.home.loaded.get(self.bricks.get(seen.brick)).inject(asked).segments

    def _picture(self, digest: str) -> Image.Image:
        """A picture of this message, or one of an earlier message, decoded again."""
        opened = self._opened(digest, "earlier picture")
        if not isinstance(opened, Picture):
            raise MattoniError(_CLOSED)
        return opened.image

    def _sound(self, digest: str) -> Iterator[Samples]:
        """A recording of this message, or one of an earlier message, decoded again."""
        opened = self._opened(digest, "earlier recording")
        if not isinstance(opened, Sound):
            raise MattoniError(_CLOSED)
        return opened.blocks()

    def _opened(self, digest: str, name: str) -> Picture | Document | Sound | None:
        """What has these bytes: of this message, or of an earlier one, looked at again; None where it cannot be opened."""
        own = next((item for item in self.looked.items if item.digest == digest), None)
        return own or next(iter(look([Attachment(name, self.request.content(digest))]).items), None)

    def _name_earlier(self, written: Written) -> None:
        """A brick whose soft tokens of an earlier picture stand in the prompt took part in this turn too."""
        named = {used.name for used in self.trace.bricks}
        for record in written.earlier:
            brick = next((b for b in self.bricks.usable if b.name == record.brick), None)
            if brick is None or not isinstance(record, Seen):
                continue
            self.trace.injections.append(f"sequence: soft tokens of {record.name}, sent earlier, by {brick.name}")
            if brick.name not in named:
                named.add(brick.name)
                _use(self.trace, brick, Chosen(brick.name, 1.0, None, None, f"{record.name} was sent earlier"))

    def _explain(self, records: Sequence[Record]) -> Iterator[Attention]:
        """Where bricks looked on the pictures of this message."""
        for seen in records:
            if isinstance(seen, Seen) and is_picture(seen):
                given = GivenPicture(seen.name, seen.digest, partial(self._picture, seen.digest), known=seen)
                brick = self.bricks.get(seen.brick)
                yield from self.home.loaded.get(brick).explain(Asked(self.request.text, given))


def _never_invoked(others: Sequence[Other], written: Written) -> list[Notice]:
    """What is said of deltas whose invocation tokens the prompt does not hold: they would be left out without a word."""
    places = written.prompt.keys
    silent = [one.name for one in others if isinstance(one, LowRank) and acts_from(one, places) is None]
    return [
        Notice(
            "not-invoked",
            f"'{name}' acts only from its invocation tokens on, which do not stand in this prompt, so it did nothing: train "
            "it with those of this host's chat template.",
        )
        for name in silent
    ]


def _given(item: Picture | Document) -> Given:
    if isinstance(item, Picture):
        return GivenPicture(item.name, item.digest, lambda: item.image)
    return GivenDocument(item)


def _not_read(name: str, no_bricks: bool) -> Notice:
    why = "bricks are off" if no_bricks else "no brick that reads documents is installed and switched on"
    return Notice("refused", f"{name} was not read: {why}.")


def _joined(first: Message, second: Message) -> Message:
    """Two messages of a user as one."""
    text = "\n\n".join(filter(None, (first.text, second.text)))
    return Message("user", text, (*first.attachments, *second.attachments))


def _showed_several(past: Sequence[Exchange]) -> bool:
    """Whether the latest pictures of the conversation came together, in one message."""
    shown = [sum(map(is_picture, exchange.records)) for exchange in past]
    return next((count for count in reversed(shown) if count), 0) > 1


def _not_heard(name: str, no_bricks: bool) -> Notice:
    why = "bricks are off" if no_bricks else "no brick that listens is installed and switched on"
    return Notice("refused", f"{name} was not listened to: {why}.")


def _is_spoken(found: Injected) -> bool:
    return isinstance(found.record, Read) and found.record.spoken


def _without_sights(request: Request, trace: Trace) -> Request:
    """The request without earlier exchanges about pictures.

    The builtin host answers a question that stands alone worse after them, with the picture or without it
    (`docs/experiments.md`). They are back as soon as a message asks about a picture or goes on.
    """
    kept = tuple(exchange for exchange in request.past if not exchange.is_about_sights)
    _leave_out(trace, len(request.past) - len(kept), " about a picture, not asked about")
    return replace(request, past=kept)


def _leave_out(trace: Trace, count: int, why: str) -> None:
    """Say on the trace how many exchanges stay out of the prompt, and why."""
    if count:
        trace.left_out.append(f"{count} earlier {'exchange' if count == 1 else 'exchanges'}{why}")


def _tell_left_out(request: Request, found: Focus, trace: Trace) -> None:
    """Say on the trace how many exchanges stay out."""
    shown = " and ".join(dict.fromkeys(record.name for record in found.shown))
    why = f"as the message is about {shown}, which stands beside it" if shown else "not gone on with"
    _leave_out(trace, len(request.past) - len(found.past), f", {why}")


def _alone_of(looked: Looked, question: Question, plan: Plan) -> str:
    """Digest of the one of the message's own pictures that it is about alone; empty where it is about all that it brings."""
    own = question.picture in (item.digest for item in looked.items)
    return question.picture if own and not plan.needs_several else ""


def _reach(hits: Sequence[Hit], beyond: float = 0.0) -> bool:
    """Whether the best of a text's passages answers a question, by so much beyond the threshold."""
    return bool(hits) and hits[0].score >= answer_threshold(len(hits)) + beyond


def _read_last(request: Request) -> tuple[Record, ...]:
    """The document that the message names by its place, else the texts of the latest message of which any was read."""
    if named := named_document(request.past, document_meant(request.text)):
        return named
    read = [tuple(r for r in e.records if isinstance(r, Read) and r.is_text and not r.recalled) for e in request.past]
    return next((texts for texts in reversed(read) if texts), ())


def _message_alone(request: Request, plan: Plan, found: Focus, trace: Trace) -> Request:
    """The request without everything before it: a skill that was trained on single messages reads no other."""
    readers = " and ".join(chosen.name for chosen in plan.skills)
    shown = "".join(f" and {record.name}, sent earlier," for record in found.shown)
    _leave_out(trace, len(request.past), f", as {readers} reads the message{shown} alone")
    return replace(request, past=())


def _nothing_left(looked: Looked) -> Notice:
    """What is said where nothing that was sent could be opened; "none is attached" would be wrong."""
    kinds = {file.kind for file in looked.refused}
    if kinds == {"picture"}:
        code, what = "no-picture", "picture to look at"
    else:
        code, what = "no-document", "recording to listen to" if kinds <= {"sound", "film"} else "document to read"
    return Notice(code, f"So there is no {what}, and the question was not answered.")


def _was_refused(looked: Looked) -> bool:
    """Whether something that came with the message could not be opened."""
    return any(notice.code == "refused" for notice in looked.notices)


def _put_down(trace: Trace, bricks: Bricks, chosen: Chosen, injected: Injected) -> None:
    """Put on the trace what a planned brick did."""
    reason = chosen.reason if injected.reason is None else injected.reason
    _use(trace, bricks.get(chosen.name), replace(chosen, reason=reason))
    for helper in injected.helpers:
        name = helper.brick.name
        _use(trace, bricks.get(name), Chosen(name, 1.0, None, None, helper.reason))
    trace.notices.extend(injected.notices)
    trace.injections.extend(injected.described)
    trace.heard.extend([injected.heard] if injected.heard is not None else [])


def _use(trace: Trace, brick: Brick, chosen: Chosen) -> None:
    card = brick.card
    trace.bricks.append(
        UsedBrick(brick.name, card.version, card.kind, chosen.weight, chosen.score, chosen.threshold, chosen.reason)
    )
    if brick.warning is not None:
        trace.notices.append(Notice("other-host", brick.warning))

"""Listens to recordings: Whisper models for CTranslate2 (`modality_bricks/speech.py`). No training.

A recording that is the message itself becomes its words; one that a message is about becomes a text with times.
"""

import threading
from pathlib import Path
from typing import Literal

from mattoni.cache import RecentlyUsed
from mattoni.errors import MattoniError
from mattoni.injections import Text
from mattoni.inputs import Sound
from mattoni.methods import Method, Parts
from mattoni.paths import model_folder
from mattoni.records import Read
from mattoni.runtime import Asked, BrickFiles, BrickRuntime, GivenSound, HostView, Injected, Stopped
from mattoni.trace import Citation, Heard, Notice
from modality_bricks.speech import (
    Guess,
    Recogniser,
    Transcript,
    Whisper,
    Window,
    clock,
    find_voices,
    is_silent,
    listen,
    passages,
    understand,
    with_times,
)

_CATALOGUE, _FOLDER = "catalogue:", "local-dir:"
_CITED = 3
# Nearer a passage need not come to a question to be worth looking at beside the answer.
_CITED_FROM = 0.2


class WhisperParts(Parts):
    """What a card says of such a brick: `catalogue:NAME`, or `local-dir:FOLDER` inside the brick's own.

    english    a model that knows English alone; fetched when Mattoni is set up
    languages  one that knows many languages; used where it is there
    """

    method: Literal["whisper"]
    english: str | None = None
    languages: str | None = None

    @property
    def set_up(self) -> tuple[str, ...]:
        """The small one. A turn fetches neither: it says how."""
        return (self.english or self.languages or "",)


class WhisperRuntime(BrickRuntime):
    """The models, loaded at first use and anew once another is fetched, and what was heard last."""

    def __init__(self, brick: BrickFiles, device: str) -> None:
        super().__init__(brick)
        self._device = device
        self._models: dict[str, Recogniser] = {}
        self._loading = threading.Lock()
        self._heard: RecentlyUsed[Transcript] = RecentlyUsed(64)
        # Windows by what is in them: a recording that was stopped is gone on with where that was.
        self._guesses: RecentlyUsed[Guess | None] = RecentlyUsed(1024)
        self._windows: dict[str, set[str]] = {}  # of each recording, its windows

    def inject(self, asked: Asked) -> Injected:
        """The words of a recording. Raises MattoniError where no model is fetched."""
        assert isinstance(asked.given, GivenSound)
        given, brick = asked.given, self.brick.name
        with asked.stage("listen"):
            heard = self.transcript(given.sound, asked)
        text = heard.text if given.spoken else with_times(heard.said)
        language = heard.languages[0] if heard.languages else ""
        spoke = f", in '{language}'" if language else ", no speech"
        return Injected(
            segments=(Text(f"{text}\n\n"),) if text and not given.spoken else (),
            citations=self._citations(heard, asked) if not given.spoken else (),
            said=heard.said,
            heard=Heard(given.name, brick, heard.text, language, round(given.sound.seconds, 2)),
            record=Read(given.name, given.digest, brick, text, "sound", spoken=given.spoken),
            described=(f"sequence: speech of {given.name} by {brick}",) if text else (),
            reason=f"{given.name}: {clock(given.sound.seconds)}{spoke}",
            notices=self._notices(given.name, heard),
            is_empty=not text,
        )

    def transcript(self, sound: Sound, asked: Asked) -> Transcript:
        """What is said in a recording. Raises MattoniError and Stopped."""
        english, others = self._model("english"), self._model("languages")
        here = (english is not None, others is not None)
        if not any(here):
            raise MattoniError(f"{sound.name} was not listened to: {self._how_to_fetch()}")

        def hear(window: Window, language: str | None) -> Guess | None:
            digest = window.digest
            self._windows.setdefault(sound.digest, set()).add(digest)
            known = asked.language or language
            make = lambda: understand(window.samples, english, others, known)  # noqa: E731
            return self._guesses.get((digest, known, here), make)

        def heard_until(seconds: float) -> None:
            if asked.stopping():
                raise Stopped
            asked.progress(f"listening to {sound.name}, {clock(seconds)} of {clock(sound.seconds)}")

        def make() -> Transcript:
            return listen(sound.blocks(), hear, find_voices, heard_until)

        return self._heard.get((sound.digest, asked.language, here), make)

    def forget(self, digests: frozenset[str]) -> None:
        """Drop what was heard of these contents."""
        gone = set().union(*(self._windows.pop(digest, set()) for digest in digests))
        self._guesses.drop(lambda key: isinstance(key, tuple) and key[0] in gone)
        self._heard.drop(lambda key: isinstance(key, tuple) and key[0] in digests)

    def _model(self, which: Literal["english", "languages"]) -> Recogniser | None:
        """A model of the card's, loaded; None where there is none, or it is not fetched."""
        source = getattr(self.brick.parts, which)
        folder = _folder(source, self.brick) if source else None
        if folder is None or not folder.is_dir():
            return None
        with self._loading:
            if which not in self._models:
                self._models[which] = Whisper(folder, self._device)
            return self._models[which]

    def _how_to_fetch(self) -> str:
        (source,) = self.brick.parts.set_up
        name = source.removeprefix(_CATALOGUE)
        if source == name:
            return f"the folder '{name.removeprefix(_FOLDER)}' is missing in the brick '{self.brick.name}'."
        return f"the model that recognises speech is not here yet; fetch it with `mattoni models pull {name}`."

    def _notices(self, name: str, heard: Transcript) -> tuple[Notice, ...]:
        others: str = self.brick.parts.languages or ""
        if heard.unknown:
            part = "Some of it" if heard.said else "It"
            fetch = f": fetch a model for others with `mattoni models pull {others.removeprefix(_CATALOGUE)}`"
            can = fetch if others.startswith(_CATALOGUE) else ""
            told = f"{name} was not understood: {part.lower()} does not sound like English, the one language known here{can}."
            return (Notice("unknown-language", told),)
        if heard.said:
            return ()
        if is_silent(heard.loudest):
            return (Notice("no-speech", f"{name} is silent: see that the microphone is on, and record it again."),)
        if heard.spoke_s:
            return (Notice("no-speech", f"No word in {name} could be understood: record it again, nearer or slower."),)
        return (Notice("no-speech", f"Nobody speaks in {name}: there is only noise or music in it."),)

    def _citations(self, heard: Transcript, asked: Asked) -> tuple[Citation, ...]:
        """The passages that are nearest to a question, with their times, for whoever wants to listen to them."""
        found = passages(heard.said)
        if not found or not asked.question.strip() or asked.embedder is None:
            return ()
        embed = asked.embedder().embed
        scores = (embed([passage.text for passage in found]) @ embed([asked.question])[0]).tolist()
        best = sorted(zip(scores, found, strict=True), key=lambda pair: -pair[0])[:_CITED]
        assert asked.given is not None
        name = asked.given.name
        return tuple(
            Citation(self.brick.name, name, f"{clock(p.start)}–{clock(p.end)}", round(score, 4), p.text)
            for score, p in best
            if score >= _CITED_FROM
        )


def _folder(source: str, brick: BrickFiles) -> Path:
    """Where a model is, fetched or not. Raises MattoniError for a source of another form."""
    if source.startswith(_CATALOGUE):
        return model_folder(source.removeprefix(_CATALOGUE))
    if source.startswith(_FOLDER):
        return brick.folder / source.removeprefix(_FOLDER)
    raise MattoniError(f"{brick.name}: '{source}' names no speech model; write catalogue:NAME or local-dir:FOLDER.")


def _load(brick: BrickFiles, host: HostView) -> WhisperRuntime:
    return WhisperRuntime(brick, host.device.type)


METHODS = (Method("whisper", WhisperParts, _load, accepts=frozenset({"sound"})),)

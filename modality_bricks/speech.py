"""Turns speech into text: Whisper on CTranslate2, through faster-whisper. Knows nothing of files, prompts or hosts.

Methods: Whisper (Radford et al. 2022, arXiv:2212.04356); voices are found first, by Silero VAD, and what lies between two pauses
is recognised on its own, at most a window of Whisper's at a time (WhisperX: Bain et al. 2023, arXiv:2303.00747). So nothing is
made up where nobody speaks, a long recording can be stopped in between, and no mistake is carried on.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mattoni.errors import MattoniError
from mattoni.inputs import SAMPLE_RATE_HZ, Samples
from mattoni.runtime import Said

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

ENGLISH = "en"
# Whisper hears 30 s at once. What is heard on its own stays below, with room for the pauses around it.
_WINDOW_S = 28.0
# So much is gathered before voices are looked for in it; a second at its end may be the middle of a word.
_GATHERED_S, _UNSURE_S = 60.0, 1.0
# Two utterances with a longer pause between them are heard one by one.
_LONGEST_PAUSE_S = 2.0
_PAUSE_MS, _PADDING_MS = 500, 300
# Below this loudest sample nothing was recorded: a fiftieth of what a whisper leaves.
_SILENCE = 1e-3


@dataclass(frozen=True)
class Guess:
    """What one model makes of a window: `certainty` is the mean log probability of its tokens."""

    language: str
    said: tuple[Said, ...]  # seconds from the window's beginning
    certainty: float


class Recogniser(Protocol):
    """A model that hears one window; `languages` are what it knows, empty for many."""

    languages: frozenset[str]

    def hear(self, window: Samples, language: str | None = None) -> Guess: ...


Voices = Callable[[Samples], Sequence[tuple[int, int]]]  # begin and end of each utterance, in samples


# Windows


@dataclass(frozen=True)
class Window:
    """Utterances that are heard together: from which sample of the recording on, and the samples."""

    start: int
    samples: Samples

    @property
    def start_s(self) -> float:
        """Seconds from the recording's beginning."""
        return self.start / SAMPLE_RATE_HZ

    @property
    def end_s(self) -> float:
        """Seconds from the recording's beginning."""
        return (self.start + len(self.samples)) / SAMPLE_RATE_HZ

    @property
    def digest(self) -> str:
        """Stands for the samples, wherever in a recording they are."""
        return hashlib.sha256(self.samples.tobytes()).hexdigest()


def windows(blocks: Iterable[Samples], voices: Voices) -> Iterator[Window]:
    """The stretches of a recording in which somebody speaks, in order; its blocks are taken as they are needed."""
    most = int(_GATHERED_S * SAMPLE_RATE_HZ)
    start = 0  # of what is gathered
    gathered: list[Samples] = []
    for block in blocks:
        gathered.append(block)
        if sum(map(len, gathered)) < most:
            continue
        samples = np.concatenate(gathered)
        found = list(voices(samples))
        unsure = len(samples) - int(_UNSURE_S * SAMPLE_RATE_HZ)
        # What may go on is looked at again with what follows; the last of several windows at least stays behind.
        keep_from = found[-1][0] if found and found[-1][1] > unsure else len(samples)
        if keep_from < len(samples) / 2:
            keep_from = len(samples)
        yield from _joined([f for f in found if f[0] < keep_from], samples, start)
        start += keep_from
        gathered = [samples[keep_from:]]
    rest = np.concatenate(gathered) if gathered else np.zeros(0, np.float32)
    yield from _joined(voices(rest) if len(rest) else (), rest, start)


def _joined(found: Sequence[tuple[int, int]], samples: Samples, start: int) -> Iterator[Window]:
    """Utterances with short pauses between them, as many as a window takes, together."""
    longest, pause = int(_WINDOW_S * SAMPLE_RATE_HZ), int(_LONGEST_PAUSE_S * SAMPLE_RATE_HZ)
    together: tuple[int, int] | None = None
    for first, last in found:
        if together is not None and first - together[1] <= pause and last - together[0] <= longest:
            together = (together[0], last)
            continue
        if together is not None:
            yield Window(start + together[0], samples[together[0] : together[1]])
        together = (first, last)
    if together is not None:
        yield Window(start + together[0], samples[together[0] : together[1]])


def find_voices(samples: Samples) -> list[tuple[int, int]]:
    """Begin and end, in samples, of each utterance: Silero VAD, which comes inside faster-whisper's wheel."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    options = VadOptions(
        min_silence_duration_ms=_PAUSE_MS,
        speech_pad_ms=_PADDING_MS,
        max_speech_duration_s=_WINDOW_S,
    )
    return [(found["start"], found["end"]) for found in get_speech_timestamps(samples, options)]


def is_silent(loudest: float) -> bool:
    """Whether nothing was recorded, by the loudest sample."""
    return loudest < _SILENCE


# Models

# Whisper's own limits: text that shrinks more than this when it is compressed goes round in circles, and what it takes for
# silence is silence unless it is sure of the words.
_MOST_COMPRESSED, _NO_SPEECH, _CERTAIN_ENOUGH = 2.4, 0.6, -1.0


class Whisper:
    """A CTranslate2 Whisper folder, loaded. One window at a time: several would only wait for the same cores."""

    def __init__(self, folder: Path, device: str = "cpu", threads: int | None = None) -> None:
        """threads: None: few, as the host decodes meanwhile. Raises MattoniError for a folder that is none."""
        self._lock = threading.Lock()
        self._model = _loaded(folder, device, threads or max(1, min(4, (os.cpu_count() or 1) // 4)))
        self.languages: frozenset[str] = frozenset() if self._model.model.is_multilingual else frozenset({ENGLISH})

    def hear(self, window: Samples, language: str | None = None) -> Guess:
        """What is said in at most 30 s; in a language that is found out where none is given."""
        with self._lock:
            found, info = self._model.transcribe(
                window,
                language=ENGLISH if self.languages else language,
                beam_size=5,
                # Whisper's way out of a loop is to draw at random. The same recording must give the same text, so what
                # goes round is left out instead.
                temperature=0.0,
                condition_on_previous_text=False,
            )
            segments = list(found)
        kept = [segment for segment in segments if _is_said(segment)]
        certainty = float(np.mean([segment.avg_logprob for segment in kept])) if kept else -np.inf
        length = len(window) / SAMPLE_RATE_HZ
        said = (Said(s.start, min(s.end, length), " ".join(s.text.split())) for s in kept)
        return Guess(info.language, tuple(said), certainty)


def _is_said(segment: Any) -> bool:
    """Whether words were heard and not made up."""
    has_words = any(character.isalnum() for character in segment.text)
    goes_round = segment.compression_ratio > _MOST_COMPRESSED
    is_nothing = segment.no_speech_prob > _NO_SPEECH and segment.avg_logprob < _CERTAIN_ENOUGH
    return has_words and not goes_round and not is_nothing


def _loaded(folder: Path, device: str, threads: int) -> "WhisperModel":
    from faster_whisper import WhisperModel  # a third of a second to import, and most messages bring no sound

    def load(device: str, compute_type: str) -> WhisperModel:
        model = WhisperModel(
            str(folder), device=device, compute_type=compute_type, cpu_threads=threads, local_files_only=True
        )
        if device != "cpu":
            # Without CUDA's libraries it loads all the same and fails at the first window.
            model.transcribe(np.zeros(SAMPLE_RATE_HZ, np.float32), language=ENGLISH)
        return model

    if device == "cuda":
        try:
            return load("cuda", "int8_float16")
        except (RuntimeError, ValueError):
            pass  # an old GPU, or no cuBLAS: speech is small work for a processor
    try:
        return load("cpu", "int8")
    except (RuntimeError, ValueError, OSError) as problem:
        raise MattoniError(
            f"{folder} holds no Whisper model for CTranslate2 that can be loaded: remove it and fetch it again."
        ) from problem


# Listening


@dataclass(frozen=True)
class Transcript:
    """What was understood of a recording."""

    said: tuple[Said, ...]
    languages: tuple[str, ...]  # that were spoken, the one spoken longest first
    spoke_s: float  # so long somebody spoke, understood or not
    unknown: bool = False  # something was said in a language that no model here knows
    loudest: float = 0.0

    @property
    def text(self) -> str:
        """The words, without times."""
        return " ".join(said.text for said in self.said)


def understand(
    window: Samples, english: Recogniser | None, others: Recogniser | None, language: str | None = None
) -> Guess | None:
    """What is said in a window; None where it is in a language that no model here knows.

    english   knows English alone, and is small and quick: what it is sure of is taken as it is
    others    knows many languages; whichever of the two is surer is right
    language  of the recording, where that is known by now
    """
    if english is None or language not in (None, ENGLISH):
        return others.hear(window, language) if others is not None else None
    guess = english.hear(window)
    if guess.certainty >= _SURE:
        return guess
    if others is None:
        return guess if guess.certainty >= _IS_ENGLISH else None
    other = others.hear(window)
    return other if other.certainty > guess.certainty else guess


# Of English clips tiny.en is surer than that, and of other languages it is not (docs/experiments.md).
_SURE, _IS_ENGLISH = -0.6, -0.9


def listen(
    blocks: Iterable[Samples],
    hear: Callable[[Window, str | None], Guess | None],
    voices: Voices = find_voices,
    heard_until: Callable[[float], None] = lambda seconds: None,
) -> Transcript:
    """A whole recording, window by window.

    hear         what is said in a window of a recording in that language; None: nothing that could be understood
    heard_until  is told before each window how far the recording was heard, in seconds; may raise to stop it
    """
    said: list[Said] = []
    spoken: dict[str, float] = {}
    spoke, unknown, loudest = 0.0, False, 0.0

    def measured() -> Iterator[Samples]:
        nonlocal loudest
        for block in blocks:
            loudest = max(loudest, float(np.abs(block).max(initial=0.0)))
            yield block

    for window in windows(measured(), voices):
        heard_until(window.start_s)
        length = window.end_s - window.start_s
        spoke += length
        guess = hear(window, next((name for name in spoken if name != ENGLISH), None))
        if guess is None:
            unknown = True
            continue
        if guess.said:
            spoken[guess.language] = spoken.get(guess.language, 0.0) + length
        said += [Said(window.start_s + s.start, window.start_s + s.end, s.text) for s in guess.said]
    languages = tuple(sorted(spoken, key=lambda name: -spoken[name]))
    return Transcript(tuple(said), languages, spoke, unknown, loudest)


# In words


def clock(seconds: float) -> str:
    """A time in a recording: 0:07, 12:30, 1:02:03."""
    whole = int(seconds)
    minutes = f"{whole // 60 % 60}:{whole % 60:02}"
    return f"{whole // 3600}:{minutes:0>5}" if whole >= 3600 else minutes


def with_times(said: Iterable[Said]) -> str:
    """A line for each stretch, its time in front."""
    return "\n".join(f"[{clock(stretch.start)}] {stretch.text}" for stretch in said)


def passages(said: Sequence[Said], words: int = 40) -> list[Said]:
    """Stretches put together until each has so many words: what is long enough to be cited."""
    found: list[Said] = []
    for stretch in said:
        if found and len(found[-1].text.split()) < words:
            found[-1] = Said(found[-1].start, stretch.end, f"{found[-1].text} {stretch.text}")
        else:
            found.append(stretch)
    return found

"""What a brick is at run time: what a turn asks of it, and what it injects. Knows no brick, no method and no host.

A turn asks the planned bricks in order, one thing at a time: a picture, a document, or the message itself. Every brick answers
with `Injected`, whatever it is; nothing else passes between the two.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor

from mattoni.injections import Other, Segment
from mattoni.inputs import Document, Sound
from mattoni.records import Record, Seen
from mattoni.trace import Attention, Candidate, Citation, Heard, Notice

# What a brick can be given. A page is one of a document; text is the message.
Accepts = Literal["picture", "page", "sound", "text"]


class HostView(Protocol):
    """What a brick may know of the host: shapes and words, never a way to write to it."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def width(self) -> int: ...
    @property
    def embedding(self) -> Tensor: ...
    @property
    def adaptable_shapes(self) -> Mapping[str, tuple[int, int]]: ...
    @property
    def key_shape(self) -> tuple[int, int, int]: ...  # of a position's keys: layers, heads of keys, width of each
    def embed(self, ids: Tensor) -> Tensor: ...


class BrickFiles(Protocol):
    """What a brick may know of itself: its folder, its card's parts, and the digest that stands for its contents."""

    @property
    def name(self) -> str: ...
    @property
    def folder(self) -> Path: ...
    @property
    def host_folder(self) -> Path: ...  # of what belongs to the host; the folder itself, but for further variants
    @property
    def digest(self) -> str: ...
    @property
    def parts(self) -> Any: ...
    @property
    def threshold(self) -> float | None: ...


class TextEmbedder(Protocol):
    """Texts to unit vectors of the `text` space; vectors of embedders with other digests cannot be compared."""

    @property
    def digest(self) -> str: ...
    def embed(self, texts: Sequence[str]) -> Tensor: ...


@dataclass(frozen=True)
class GivenPicture:
    """A picture that a message brought."""

    name: str
    digest: str  # sha256 of its bytes
    open: Callable[[], Image.Image]  # decoded when nothing that was made of it is kept
    place: int = 0  # among the pictures of its message
    of: int = 1
    known: Seen | None = None  # what it became when it was first looked at: nothing is found out again


@dataclass(frozen=True)
class GivenDocument:
    """A document that a message brought."""

    document: Document

    @property
    def name(self) -> str:
        return self.document.name

    @property
    def digest(self) -> str:
        return self.document.digest


@dataclass(frozen=True)
class GivenSound:
    """A recording that a message brought."""

    sound: Sound
    spoken: bool = False  # it is the message: its words stand for it, without times

    @property
    def name(self) -> str:
        return self.sound.name

    @property
    def digest(self) -> str:
        return self.sound.digest


Given = GivenPicture | GivenDocument | GivenSound


def _no_stage(name: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Said:
    """A stretch of speech: seconds from the recording's beginning, and its words."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Asked:
    """What a turn asks of a brick."""

    question: str
    given: Given | None = None  # None: the message itself
    strength: float = 1.0
    language: str = ""  # of a recording (ISO 639-1), where whoever asks knows it
    as_words: bool = False  # a skill of this turn was trained on pictures as mixtures of the host's words alone
    wants_name: bool = False  # the question is what the thing on a picture is called
    reader: "BrickRuntime | None" = None  # reads for a brick that needs what is written on a picture
    embedder: Callable[[], TextEmbedder] | None = None
    stage: Callable[[str], AbstractContextManager[None]] = _no_stage  # times a part of the work for the trace
    progress: Callable[[str], None] = lambda stage: None  # what is being done now, for whoever waits
    stopping: Callable[[], bool] = lambda: False  # whether the user has stopped the turn: raise Stopped


class Stopped(Exception):
    """The user stopped the turn while it was still looking at what was sent."""


@dataclass(frozen=True)
class Helper:
    """Another brick that took part, and what for."""

    brick: BrickFiles
    reason: str


@dataclass(frozen=True)
class Injected:
    """What a brick does to one turn. The five injections, and what there is to say about them."""

    segments: tuple[Segment, ...] = ()  # sequence: stands where the given thing stands
    others: tuple[Other, ...] = ()
    citations: tuple[
        Citation, ...
    ] = ()  # sequence: passages, of which the best of all bricks are put before the question
    heard: Heard | None = None  # of a recording
    said: tuple[Said, ...] = ()  # and when
    record: Record | None = None  # what the given thing became, to be kept with its message
    described: tuple[str, ...] = ()  # the injections in words, for the trace
    reason: str | None = None  # why it took part, where it knows better than the router
    score: Candidate | None = None  # how well it fits the message, where it alone can tell
    helpers: tuple[Helper, ...] = ()
    notices: tuple[Notice, ...] = ()
    is_empty: bool = False  # it found nothing in what it was given: another brick may


@dataclass(frozen=True)
class Finished:
    """What a brick adds to an answer once the host has written it."""

    text: str = ""  # stands behind the answer
    described: tuple[str, ...] = ()  # what was done, for the trace
    notices: tuple[Notice, ...] = ()


class BrickRuntime(ABC):
    """A loaded brick. Asked by several threads at once; keeps what it made by contents, and no state of a turn."""

    def __init__(self, brick: BrickFiles) -> None:
        self.brick = brick

    @abstractmethod
    def inject(self, asked: Asked) -> Injected:
        """What the brick does to the turn. Raises MattoniError with one sentence, and Stopped."""

    def finish(self, answer: str) -> Finished:
        """What the brick adds to the answer of a turn that it was asked in; most add nothing. Raises nothing."""
        return Finished()

    def explain(self, asked: Asked) -> tuple[Attention, ...]:
        """Where it looked, for whoever wants to know afterwards; asked after the answer."""
        return ()

    def forget(self, digests: frozenset[str]) -> None:  # noqa: B027 - most keep nothing of what they are given
        """Drop what was made of these contents."""

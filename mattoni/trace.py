"""What really ran in a turn. Knows nothing of how it was decided or done."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Notice:
    """Something the user should know: a machine-readable code and one sentence."""

    code: str
    text: str


@dataclass(frozen=True)
class UsedBrick:
    """A brick that took part in the turn, and why."""

    name: str
    version: int
    kind: str
    weight: float
    score: float | None
    threshold: float | None
    reason: str


@dataclass(frozen=True)
class Candidate:
    """A brick that was weighed for the turn, chosen or not."""

    name: str
    kind: str
    score: float
    threshold: float
    subject: str  # what it was weighed for: a picture's name, or "message"


def passage_id(text: str) -> str:
    """What a passage is known by. White space does not count: a page that is laid out anew keeps its passages."""
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class Citation:
    """A passage that the turn's prompt held."""

    brick: str
    document: str
    place: str  # "page 3", "passage 12"
    score: float
    text: str
    passage_id: str = field(init=False)  # of its words alone: the same in another brick, and after an update elsewhere

    def __post_init__(self) -> None:
        object.__setattr__(self, "passage_id", passage_id(self.text))


@dataclass(frozen=True)
class Heard:
    """What was understood of a recording."""

    name: str
    brick: str
    text: str  # without times; empty where nobody speaks
    language: str = ""  # ISO 639-1
    seconds: float = 0.0  # of the recording


@dataclass(frozen=True)
class Attention:
    """What of a picture its stitch attended to. `grid` is empty where a `sentence` says why nothing is known."""

    picture: str  # the digest of its bytes
    name: str
    brick: str
    grid: tuple[tuple[float, ...], ...] = ()  # shares of the attention, rows from the top; 1 with `elsewhere`
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)  # what of the upright picture the grid lies on
    elsewhere: float = 0.0  # on tokens that stand for the whole picture
    sentence: str = ""


@dataclass
class Trace:
    """Plan, injections, tokens, milliseconds per stage and seed of one turn."""

    host: str = ""
    device: str = ""
    engine: str = ""  # what decoded the answer; empty: the host was not asked
    bricks: list[UsedBrick] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    attention: list[Attention] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    injections: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # of the conversation, as the message has nothing to do with it
    finished: list[str] = field(default_factory=list)  # what bricks made of the host's words, after the last of them
    tokens: dict[str, int] = field(default_factory=lambda: {"prompt": 0, "reused": 0, "new": 0})
    ms: dict[str, float] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)  # host, bricks (that took part), installed
    seed: int = 0
    finish: str = (
        ""  # why the answer ended: end, length, stopped, stop-string or repeats; empty: the host was not asked
    )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the wall time of the block to `ms[name]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - start) * 1000

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers."""
        return asdict(self)

"""The gate before a new skill: on Auto, messages to the other skills and plain chat must go where they went without it.

Measured on what stands in the lists of messages that the shipped skills were made with, on the other skills' own keys, and on the lists of what is
for no skill. Vectors of the lists are kept, so that the second gate costs a second.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import task_bricks
from assistant.registry import Brick, Bricks, Registry
from assistant.turn.admission import Verdict, admitted, keep, verdicts
from assistant.turn.keyring import keyed
from assistant.turn.question import message_pieces
from assistant.turn.route import Choices, KeyedBrick, Keyring, Question, route
from mattoni.errors import MattoniError
from mattoni.files import write_bytes
from mattoni.lines import read_messages
from mattoni.paths import cache_folder, shipped_models

Embed = Callable[[list[str]], Tensor]
MOST_MOVED = 0.005
_RECIPES = Path(task_bricks.__file__).parent / "recipes"
_SHOWN = 5
PLAIN, NEAR = "plain chat", "for no skill"


@dataclass(frozen=True)
class Group:
    """Messages of one kind: what each is compared by, (pieces, width), and what it is called in a table."""

    name: str
    texts: tuple[str, ...]
    vectors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Line:
    """A row of the table: of `n` messages of a group so many went elsewhere with the new skill, and some of them."""

    group: str
    n: int
    moved: int
    examples: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the group's messages."""
        return self.moved / self.n

    @property
    def most(self) -> int:
        """How many may move: 0.5 %, and of a small group one, which says nothing: 1 of 91 is 1.1 % [0.2, 6.0] (Wilson)."""
        return max(1, int(MOST_MOVED * self.n))


@dataclass(frozen=True)
class Gate:
    """What came out. It passes where at most 0.5 % of all routes moved, and of no group more than 0.5 % or one message.

    All are the messages of every other skill and plain chat. What lies near the shipped skills and is for none of them is
    shown only: it may well be for the new one.
    """

    name: str
    lines: tuple[Line, ...]

    @property
    def moved_routes(self) -> float:
        """The share of all messages together."""
        return self._moved / max(1, self._n)

    @property
    def _moved(self) -> int:
        return sum(line.moved for line in self.counted)

    @property
    def _n(self) -> int:
        return sum(line.n for line in self.counted)

    @property
    def counted(self) -> tuple[Line, ...]:
        """The groups that decide."""
        return tuple(line for line in self.lines if line.group != NEAR)

    @property
    def passes(self) -> bool:
        """Whether Auto may choose the skill."""
        return self.moved_routes <= MOST_MOVED and all(line.moved <= line.most for line in self.counted)

    @property
    def told(self) -> dict[str, Any]:
        """As JSON."""
        table = [asdict(line) | {"share": round(line.share, 4), "most": line.most} for line in self.lines]
        return {
            "name": self.name,
            "passes": self.passes,
            "moved_routes": round(self.moved_routes, 4),
            "most": MOST_MOVED,
            "table": table,
        }

    @property
    def sentence(self) -> str:
        """In words, with what to do."""
        if self.passes:
            return f"{self.name} passes the gate: Auto may choose it."
        worst = max(self.counted, key=lambda line: (line.moved / line.most, line.moved))
        found = f"of {worst.n} messages of '{worst.group}' it takes {worst.moved}, and {worst.most} may go"
        if worst.moved <= worst.most:
            found = (
                f"of all {self._n} messages it takes {self._moved} ({self.moved_routes:.1%}, at most {MOST_MOVED:.1%}), "
                f"{worst.moved} of them of '{worst.group}'"
            )
        return (
            f"{self.name} does not pass the gate, so Auto leaves it alone: {found}; switch it on by hand, make its keys from other "
            f"messages, or let Auto choose it all the same with `mattoni bricks gate {self.name} --anyway`."
        )


def measure_gate(brick: Brick, bricks: Bricks, embed: Embed, embedder: str) -> Gate:
    """Route the messages of every other skill and of none with and without a skill, all on Auto.

    Without: as it is without the user's brick, so a shipped one of its name that it hides counts as there.

    embedder  the digest of what embeds, for what is kept of it

    Raises MattoniError where Auto does not choose it in any case: it is no skill, or has no keys.
    """
    if brick.card.kind != "task":
        raise MattoniError(f"'{brick.name}' is a {brick.card.kind} brick, and the gate is for skills: name one.")
    if brick.card.routes is None:
        raise MattoniError(f"'{brick.name}' has no routing keys, so only you switch it on: there is nothing to pass.")
    kept = cache(verdicts)  # for this call
    others = {b.name: keyed(b, has_keys=admitted(b, kept)) for b in bricks.usable if b.name != brick.name}
    hidden = [b for b in Registry([shipped_models() / "bricks"]).scan().usable if b.name == brick.name]
    # In the order of a turn, which decides between equal scores.
    after = Keyring(tuple(others.get(b.name) or keyed(brick) for b in bricks.usable))
    before = Keyring((*others.values(), *(keyed(b) for b in hidden if b.folder != brick.folder)))
    lines = []
    for group in _groups(list(others.values()), brick.name, embed, embedder):
        needs = others[group.name].needs if group.name in others else None
        moved = []
        for text, vectors in zip(group.texts, group.vectors, strict=True):
            wanted = needs.pictures if needs is not None else 0
            seen = (needs.vision,) * wanted if needs is not None else ()
            question = Question(
                texts=vectors,
                has_documents=needs is not None and needs.text,
                about_several=wanted > 1,
                asks_about_picture=wanted == 1,
                earlier_pictures=seen,
                history_has_pictures=bool(wanted),
            )
            if _routed(question, before) != _routed(question, after):
                moved.append(text)
        lines.append(Line(group.name, len(group.texts), len(moved), tuple(moved[:_SHOWN])))
    return Gate(brick.name, tuple(lines))


def pass_gate(brick: Brick, bricks: Bricks, embed: Embed, embedder: str, anyway: bool = False) -> Gate:
    """Measure and keep what came out. `anyway`: Auto may choose it whatever was measured."""
    gate = measure_gate(brick, bricks, embed, embedder)
    keep(brick, Verdict(brick.name, gate.passes, round(gate.moved_routes, 4), by_hand=anyway))
    return gate


def _routed(question: Question, keyring: Keyring) -> tuple[str, ...]:
    return tuple(chosen.name for chosen in route(question, keyring, Choices()).skills)


def _groups(others: Sequence[KeyedBrick], name: str, embed: Embed, embedder: str) -> list[Group]:
    """A group for each other skill with keys: its list of messages where there is one, and its keys; and two for none."""
    groups = []
    for other in others:
        if other.kind != "task" or other.keys is None:
            continue
        path = _RECIPES / f"{other.name}.messages.txt"
        texts = read_messages(path) if path.is_file() else []
        keys = [f"key {number} of {other.name}" for number in range(1, len(other.keys) + 1)]
        vectors = [*_vectors(texts, embed, embedder), *other.keys.split(1)]
        groups.append(Group(other.name, (*texts, *keys), tuple(vectors)))
    near = [p for p in sorted(_RECIPES.glob("*.others.txt")) if p.name != f"{name}.others.txt"]
    for title, paths in ((PLAIN, [shipped_models() / "router" / "plain-messages.txt"]), (NEAR, near)):
        texts = list(dict.fromkeys(text for path in paths for text in read_messages(path)))
        groups.append(Group(title, tuple(texts), tuple(_vectors(texts, embed, embedder))))
    return [group for group in groups if group.texts]


def _vectors(texts: Sequence[str], embed: Embed, embedder: str) -> list[Tensor]:
    """What each message is compared by, (pieces, width); kept in the cache by the texts and the embedder."""
    if not texts:
        return []
    pieces = [message_pieces(text) for text in texts]
    name = hashlib.sha256("\0".join([embedder, *texts]).encode()).hexdigest()[:32]
    path = cache_folder() / "gate" / f"{name}.safetensors"
    try:
        together = load_file(path)["vectors"]
    except (OSError, SafetensorError, KeyError):
        together = embed([piece for of_one in pieces for piece in of_one])
        write_bytes(path, save({"vectors": together.contiguous()}))
    return list(torch.split(together, [len(of_one) for of_one in pieces]))

"""A graph of triples (head, relation, tail): entities are found in a message, and what is known of them becomes text.

Entities are matched as whole words by an Aho-Corasick automaton (pyahocorasick). A tail names an entity too where few heads
share it, as a capital does; what is said of its head is then two hops away. Which relation a message asks for is the nearest by the
text embedder, as in choosing a relation in question answering over knowledge bases (Yih et al. 2015, section 3.2.2).
Knows nothing of turns.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ahocorasick
from torch import Tensor

from mattoni.errors import MattoniError

TRIPLES = "triples.tsv"
_MOST_HEADS = 2  # that a tail may have to name an entity: one capital, and not a continent's every country
_MOST_TAILS = 12  # that are told of one head and relation
_ALIAS = frozenset({"alias", "also_known_as", "same_as"})  # relations that name the head otherwise
_LONGEST = 300  # characters of a cell


@dataclass(frozen=True)
class Triple:
    """Tail is `relation` of head: (Uganda, capital, Kampala)."""

    head: str
    relation: str
    tail: str


@dataclass(frozen=True)
class Known:
    """What is known of an entity by one relation, as a sentence; `place` says where it stands in the graph."""

    entity: str  # as the message names it
    relation: str
    place: str
    sentence: str
    score: float


def read_triples(content: str, name: str) -> list[Triple]:
    """The triples of a file: three columns parted by tabs, or commas. Raises MattoniError with the line that is none."""
    delimiter = "\t" if "\t" in content.split("\n", 1)[0] else ","
    triples: dict[Triple, None] = {}
    for number, cells in enumerate(csv.reader(io.StringIO(content), delimiter=delimiter), 1):
        if not any(cell.strip() for cell in cells):
            continue
        parts = [" ".join(cell.split()) for cell in cells]
        if len(parts) != 3 or not all(parts) or any(len(part) > _LONGEST for part in parts):
            raise MattoniError(
                f"{name}, line {number}: a line is head, relation and tail, three columns of at most {_LONGEST} characters."
            )
        if number == 1 and [part.casefold() for part in parts] == ["head", "relation", "tail"]:
            continue
        triples[Triple(*parts)] = None
    if not triples:
        raise MattoniError(f"{name} holds no triples: write a line for each, head, relation and tail parted by tabs.")
    return list(triples)


def write_triples(triples: Iterable[Triple]) -> str:
    """As `read_triples` reads them."""
    sink = io.StringIO()
    csv.writer(sink, delimiter="\t", lineterminator="\n").writerows((t.head, t.relation, t.tail) for t in triples)
    return sink.getvalue()


class Graph:
    """Triples, ready to be asked. Holds nothing of a question."""

    def __init__(self, triples: Sequence[Triple]) -> None:
        self._of_head: dict[str, dict[str, list[str]]] = {}
        self._heads: dict[tuple[str, str], list[str]] = {}  # of (relation, tail)
        self._alias: dict[str, str] = {}
        for triple in triples:
            if triple.relation.casefold() in _ALIAS:
                self._alias[triple.tail] = triple.head
                continue
            self._of_head.setdefault(triple.head, {}).setdefault(triple.relation, []).append(triple.tail)
            self._heads.setdefault((triple.relation, triple.tail), []).append(triple.head)

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """All relations, in a fixed order."""
        return tuple(sorted({relation for of in self._of_head.values() for relation in of}))

    @cached_property
    def _tails(self) -> Mapping[str, tuple[str, str]]:
        """(relation, head) of the tails that name an entity."""
        found: dict[str, list[tuple[str, str]]] = {}
        for (relation, tail), heads in self._heads.items():
            if len(heads) <= _MOST_HEADS and tail not in self._of_head and tail[0].isupper():
                found.setdefault(tail, []).extend((relation, head) for head in heads)
        return {tail: ways[0] for tail, ways in found.items() if len(ways) <= _MOST_HEADS}

    @cached_property
    def _automaton(self) -> Any:
        automaton = ahocorasick.Automaton()
        for name in (*self._of_head, *self._alias, *self._tails):
            automaton.add_word(name, name)
        automaton.make_automaton()
        return automaton

    def entities(self, text: str) -> list[str]:
        """The names in a text, as whole words and as they are written, the longest where they overlap, in order."""
        found: list[tuple[int, int, str]] = []
        for last, name in self._automaton.iter(text):
            begin, end = last - len(name) + 1, last + 1
            if not _is_word(text[begin - 1 : begin]) and not _is_word(text[end : end + 1]):
                found.append((begin, end, name))
        kept: list[tuple[int, int, str]] = []
        for begin, end, name in sorted(found, key=lambda span: (span[0] - span[1], span[0])):
            if all(end <= other_begin or begin >= other_end for other_begin, other_end, _ in kept):
                kept.append((begin, end, name))
        return list(dict.fromkeys(name for _, _, name in sorted(kept)))

    def ask(self, text: str, similarity: Callable[[str, Sequence[str]], Tensor], threshold: float) -> list[Known]:
        """What is known of the entities of a text by each relation, the one that it asks for first; nothing below the threshold.

        similarity  of a text, the names of all entities left out, and some words: (words,)
        """
        entities = self.entities(text)
        names = "|".join(map(re.escape, sorted(entities, key=len, reverse=True)))
        rest = " ".join(re.sub(rf"(?<!\w)({names})(?!\w)", " ", text).split())
        scores = similarity(rest, [_words(relation) for relation in self.relations]).tolist() if entities else []
        known: list[Known] = []
        for name in entities:
            head, way = self._alias.get(name, name), ""
            if head not in self._of_head:
                relation, head = self._tails[name]
                way = f"{name} is the {_words(relation)} of {head}. "
            for relation, score in zip(self.relations, scores, strict=True):
                tails = self._of_head[head].get(relation)
                if tails and score >= threshold and name not in tails:
                    sentence = way + _sentence(head, relation, tails)
                    known.append(Known(name, relation, f"{head}, {_words(relation)}", sentence, score))
        return sorted(known, key=lambda one: one.score, reverse=True)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _words(relation: str) -> str:
    return relation.replace("_", " ")


def _sentence(head: str, relation: str, tails: Sequence[str]) -> str:
    told = ", ".join(tails[:_MOST_TAILS]) + (", …" if len(tails) > _MOST_TAILS else "")
    return f"{_words(relation).capitalize()} of {head}: {told}."

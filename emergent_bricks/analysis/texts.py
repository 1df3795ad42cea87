"""Rows of texts by function, split in two halves that share no text, and their token ids. Knows nothing of neurons."""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from assistant.host.host import Host
from mattoni.errors import MattoniError
from mattoni.lines import json_rows

LEAST = 8  # texts of a function: below, neither half says anything
LONGEST = 256  # tokens of a text that are read; the rest of it is left out
_POSITIONS = 2048  # in one pass, padding included


@dataclass(frozen=True)
class Sample:
    """A text and the function it stands for."""

    function: str
    text: str


@dataclass(frozen=True)
class Split:
    """Texts on which neurons are looked for, and others on which what was found is measured."""

    find: tuple[Sample, ...]
    held_out: tuple[Sample, ...]

    @property
    def functions(self) -> tuple[str, ...]:
        """The functions in alphabetical order: the order of every table."""
        return tuple(sorted({sample.function for sample in self.find}))


def read_samples(path: Path) -> list[Sample]:
    """The rows of a file, `function` and `text` each; a text that occurs twice is taken once.

    Raises MattoniError for a row without them, naming it.
    """
    found: dict[str, Sample] = {}
    for number, unit, value in json_rows(path, advice="name a file of JSON lines with 'function' and 'text'."):
        where = f"{path.name}, {unit} {number}"
        text, function = (value.get(key) if isinstance(value, dict) else None for key in ("text", "function"))
        if not isinstance(text, str) or not text.strip():
            raise MattoniError(f"{where}: there is no 'text'; give every row a text that is not empty.")
        if not isinstance(function, str) or not function.strip():
            raise MattoniError(f"{where}: there is no 'function'; say what each text stands for, such as \"code\".")
        found.setdefault(text, Sample(function.strip(), text))
    return list(found.values())


def read_texts(path: Path, function: str) -> list[Sample]:
    """The texts of a file whatever else its rows say, as samples of one function. Raises MattoniError for a row without."""
    found: dict[str, Sample] = {}
    for number, unit, value in json_rows(path, advice="name a file of JSON lines with 'text'."):
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str) or not text.strip():
            raise MattoniError(f"{path.name}, {unit} {number}: there is no 'text'; give every row a text.")
        found.setdefault(text, Sample(function, text))
    return list(found.values())


def split_samples(samples: Sequence[Sample], seed: int, find: int, held_out: int) -> Split:
    """At most `find` and `held_out` texts of each function, drawn by the seed; with fewer texts, two thirds are for finding.

    Raises MattoniError where there are too few texts or functions.
    """
    by_function: dict[str, list[Sample]] = {}
    for sample in samples:
        by_function.setdefault(sample.function, []).append(sample)
    if len(by_function) < 2:
        only = next(iter(by_function), "no function")
        raise MattoniError(f"These texts hold {only} alone: neurons of a function show only beside another's texts.")
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for function, own in sorted(by_function.items()):
        if len(own) < LEAST:
            raise MattoniError(
                f"There are {len(own)} texts of '{function}', and at least {LEAST} are needed: add some."
            )
        drawn = random.Random(f"{seed}:{function}").sample(own, len(own))
        cut = min(find, len(own) - min(held_out, len(own) // 3))
        parts[0].extend(drawn[:cut])
        parts[1].extend(drawn[cut : cut + held_out])
    return Split(tuple(parts[0]), tuple(parts[1]))


def digest_of(samples: Sequence[Sample]) -> str:
    """sha256 over the texts in order."""
    return hashlib.sha256(json.dumps([(s.function, s.text) for s in samples]).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Batch:
    """Texts that are read in one pass: (texts, positions), padded on the right, where no position sees the padding."""

    ids: Tensor
    is_text: Tensor  # (texts, positions), bool
    rows: tuple[int, ...]  # places of the texts among those asked for


def tokenise(host: Host, texts: Sequence[str]) -> tuple[list[list[int]], int]:
    """Token ids of each text, and how many texts were cut to `LONGEST` tokens or the host's context."""
    most = min(LONGEST, host.context)
    tokenizer: Any = host.tokenizer
    whole = [list(tokenizer(text)["input_ids"]) for text in texts]
    return [ids[:most] for ids in whole], sum(len(ids) > most for ids in whole)


def batches(host: Host, ids: Sequence[Sequence[int]], positions: int = _POSITIONS) -> Iterator[Batch]:
    """The texts, as many in a pass as fit `positions`: the shorter first, as what is padded costs as much as what is read."""
    waiting: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        longest = max(len(ids[place]) for place in (*waiting, row))
        if waiting and longest * (len(waiting) + 1) > positions:
            yield _batch(host, ids, waiting)
            waiting = []
        waiting.append(row)
    if waiting:
        yield _batch(host, ids, waiting)


def _batch(host: Host, ids: Sequence[Sequence[int]], rows: Sequence[int]) -> Batch:
    length = max(len(ids[row]) for row in rows)
    padded = torch.zeros(len(rows), length, dtype=torch.long)
    is_text = torch.zeros(len(rows), length, dtype=torch.bool)
    for place, row in enumerate(rows):
        padded[place, : len(ids[row])] = torch.tensor(ids[row])
        is_text[place, : len(ids[row])] = True
    return Batch(padded.to(host.device), is_text.to(host.device), tuple(rows))


def by_function(samples: Sequence[Sample]) -> Mapping[str, list[int]]:
    """Places of the samples of each function, functions in alphabetical order."""
    places: dict[str, list[int]] = {function: [] for function in sorted({s.function for s in samples})}
    for place, sample in enumerate(samples):
        places[sample.function].append(place)
    return places

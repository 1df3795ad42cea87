"""Looks at training data before a run: rows that cannot be used, and what a person should know about the rest. Training only."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from mattoni.errors import MattoniError
from mattoni.files import write_text
from modality_bricks.training.language import in_another_language
from modality_bricks.training.readers import TOLD, BadRow, Kind, Report, Sample
from modality_bricks.training.samples import SampleSet

# Every picture of a source up to this many is opened before a run; of a larger source so many at random.
MOST_OPENED = 20_000
NAMED_ROWS = 3
# What a number of bad rows have in common, and what to do about it.
KINDS: dict[Kind, tuple[str, str]] = {
    "form": ("cannot be read as rows of their format", "correct them"),
    "no picture": ("have no picture", "add the key 'image'"),
    "missing picture": ("name a picture that is not there", "set images to the folder of the pictures"),
    "several pictures": ("name several pictures, and an image brick learns from one at a time", "split or remove them"),
    "not opened": ("have a picture that cannot be opened", "replace the pictures"),
    "duplicate id": ("have the id or name of another row's picture", "give each its own"),
    "no answer": ("have no answer, caption or name, so there is nothing to learn from them", "fill them"),
    "unknown label": ("have a label that is not in the list of classes", "correct the labels or the list"),
}
# The same of what is only told: one and several.
TOLD_KINDS: dict[Kind, tuple[str, str]] = {
    "only text": (
        "row is a talk without a picture and was passed over",
        "rows are talks without a picture and were passed over",
    ),
    "other file": (
        "file is neither a picture nor the captions of one and was passed over",
        "files are neither pictures nor the captions of one and were passed over",
    ),
    "system file": (
        "file that belongs to an operating system was passed over",
        "files that belong to an operating system were passed over",
    ),
    "older charset": (
        "file of captions is not UTF-8 and was read as Windows-1252; save it as UTF-8 if that is wrong",
        "files of captions are not UTF-8 and were read as Windows-1252; save them as UTF-8 if that is wrong",
    ),
}
Say = Callable[[str], None]


class BadRows:
    """Collects bad rows; in the end they stop the run, or are passed over when a person said so."""

    def __init__(self) -> None:
        self.rows: list[BadRow] = []

    def report(self, bad: BadRow) -> None:
        self.rows.append(bad)

    def sentences(self) -> list[str]:
        """One sentence for each kind, with the number of rows and the first of them."""
        return [
            str(bad[0]) if len(bad) == 1 else f"data: {len(bad)} rows {says} ({_places(bad)}): {advice}."
            for kind, bad in self._by_kind().items()
            if kind not in TOLD
            for says, advice in [KINDS[kind]]
        ]

    def told(self) -> list[str]:
        """One sentence for each kind of what is no mistake."""
        return [
            f"data: {len(rows)} {TOLD_KINDS[kind][len(rows) > 1]} ({_places(rows)})."
            for kind, rows in self._by_kind().items()
            if kind in TOLD
        ]

    def _by_kind(self) -> dict[Kind, list[BadRow]]:
        by_kind: dict[Kind, list[BadRow]] = defaultdict(list)
        for bad in self.rows:
            by_kind[bad.kind].append(bad)
        return by_kind

    def settle(self, skip: bool, say: Say) -> None:
        """Raise MattoniError if there are bad rows, or say that they are left out."""
        for sentence in self.told():
            say(sentence)
        mistakes = self.sentences()
        if mistakes and not skip:
            hint = "Or go on without these rows: --skip-bad-rows."
            raise MattoniError("\n".join([*mistakes, hint]))
        for sentence in mistakes:
            say(f"left out: {sentence}")


def _places(rows: Sequence[BadRow]) -> str:
    """Where the first few rows are; of files also which kinds they are, of what was not found the first that was tried."""
    found = places([bad.where for bad in rows])
    if rows[0].kind == "other file" and len(rows) > 1:
        endings = Counter(Path(bad.where).suffix.lower() or "without an ending" for bad in rows)
        found = f"{', '.join(f'{n} {ending}' for ending, n in endings.most_common(4))}: {found}"
    return f"{found}; {rows[0].tried}" if rows[0].tried else found


def places(wheres: Sequence[str]) -> str:
    """The first few places in words: "lines 2, 5 and 9 of rows.jsonl", "a.png, b.png, c.png and 4 more"."""
    first = wheres[:NAMED_ROWS]
    parts = [re.fullmatch(r"(line|row|tile) (\d+) of (.+)", where) for where in first]
    files = {(part[1], part[3]) for part in parts if part}
    more = f" and {len(wheres) - len(first)} more" if len(wheres) > len(first) else ""
    if len(first) > 1 and len(files) == 1 and all(parts):
        ((word, file),) = files
        *numbers, last = [part[2] for part in parts if part]
        return f"{word}s {', '.join(numbers)} and {last} of {file}{more}"
    return ", ".join(first) + more


def without_unreadable(found: SampleSet, marks: Path | None, report: Report, say: Say) -> tuple[SampleSet, set[bytes]]:
    """Open the pictures of a source and leave out those that cannot be opened.

    marks  folder that remembers of which sources this was done before; None: open them in any case

    Returns what is left, and digests of the pixels of the pictures.
    """
    samples = found.samples
    digest = hashlib.sha256(f"{found.origin} {[s.key for s in samples]}".encode()).hexdigest()[:16]
    mark = marks / f"{digest}.opened" if marks is not None else None
    if mark is not None and mark.is_file():
        remembered = json.loads(mark.read_text())
        bad, seen = set(remembered["not opened"]), {bytes.fromhex(digest) for digest in remembered["pixels"]}
        for i in sorted(bad):
            advice = ": its picture cannot be opened: replace it or remove the row."
            report(BadRow("not opened", samples[i].where, advice))
    else:
        chosen = np.random.default_rng(0).permutation(len(samples))[:MOST_OPENED]
        if len(chosen) < len(samples):
            say(
                f"data: {len(chosen):,} of {len(samples):,} pictures of a source are opened now, the others when drawn."
            )
        with ThreadPoolExecutor() as pool:
            results = dict(zip(chosen.tolist(), pool.map(lambda i: _digest_of(samples[i]), chosen), strict=True))
        seen = {result for result in results.values() if isinstance(result, bytes)}
        unreadable = {i: result for i, result in sorted(results.items()) if isinstance(result, BadRow)}
        for problem in unreadable.values():
            report(problem)
        bad = set(unreadable)
        if mark is not None:
            write_text(mark, json.dumps({"not opened": sorted(bad), "pixels": sorted(d.hex() for d in seen)}))
    kept = [sample for i, sample in enumerate(samples) if i not in bad]
    return replace(found, samples=kept) if bad else found, seen


def _digest_of(sample: Sample) -> bytes | BadRow:
    try:
        picture = sample.open()
    except BadRow as bad:
        return bad
    return hashlib.blake2b(repr(picture.size).encode() + picture.tobytes(), digest_size=12).digest()


def refuse_without_choice(sets: Sequence[SampleSet]) -> None:
    """Raise MattoniError where all pictures have one answer: whatever is shown, it would be right."""
    answers = {answer for found in sets for sample in found.samples for _, answer in sample.turns}
    names = {sample.name for found in sets for sample in found.samples}
    if not any(found.samples for found in sets):
        raise MattoniError("data: 0 rows are left to learn from: give more, or correct those that were left out.")
    if len(names) == 1 and None not in names:
        raise MattoniError(
            f"data: every picture is of one class, '{names.pop()}', so there is nothing to tell apart: add pictures of "
            "other things."
        )
    if len(answers) == 1:
        raise MattoniError(
            f"data: every row has the answer '{answers.pop()}', so there is nothing to tell apart: add rows with others."
        )


def warnings_of(train: Sequence[SampleSet], dev: Sequence[SampleSet], in_both: set[bytes]) -> list[str]:
    """What may spoil a brick and is not certainly wrong, a sentence each. `in_both`: pictures of training and of dev."""
    warnings = [] if (warning := language_warning(train)) is None else [warning]
    if in_both:
        warnings.append(
            f"data: {len(in_both)} dev pictures are training pictures too, so the dev figures will flatter: take them out of one."
        )
    known = {sample.name for found in train for sample in found.samples}
    unknown = sorted({s.name for found in dev for s in found.samples if s.name is not None and s.name not in known})
    if unknown and known != {None}:
        warnings.append(
            f"data: dev has things that are never shown in training ({places(unknown)}): they cannot be named right."
        )
    return warnings


def language_warning(sets: Sequence[SampleSet]) -> str | None:
    """Which rows have an answer in another language than most, as far as script and common words tell."""
    said = [
        (sample.where or sample.key, answer)
        for found in sets
        for sample in found.samples
        if sample.name is None
        for answer in dict.fromkeys(answer for _, answer in sample.turns)
    ]
    usual, other = in_another_language([answer for _, answer in said])
    if not other:
        return None
    first = next(iter(other))
    wheres = list(dict.fromkeys(said[i][0] for i in other))
    number = f"{len(wheres)} rows seem" if len(wheres) > 1 else "1 row seems"
    return (
        f"data: {number} to have an answer in another language than the rest, which is in {usual} ({places(wheres)}; "
        f"'{said[first][1]}' looks like {other[first]}): translate or remove them if that is not meant."
    )

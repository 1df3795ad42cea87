"""Questions about two pictures: which shows it, what is on the first, are they alike. Training and measuring only.

The answers come from names and from captions that people wrote; what the assistant answers is the host's own.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from modality_bricks.instructions import THINGS, things_in
from modality_bricks.readers import Sample, answer_for

WHICH = (
    "Which picture shows {}, the first or the second?",
    "Which picture shows {}?",
    "Which of the two pictures shows {}?",
    "Which one shows {}?",
    "In which picture is there {}?",
    "Is {} in the first or in the second picture?",
    "Where do you see {}, in the first picture or in the second?",
    "which image has {}",
    "Which photo is the one with {}?",
    "Tell me which of these is {}.",
)
ONE = ("What is in the {} picture?", "What does the {} picture show?", "what is on the {} image")
BOTH = (
    "What is in the two pictures?",
    "What do the pictures show?",
    "Describe both pictures.",
    "Compare the two pictures.",
)
ALIKE = ("Do both pictures show the same thing?", "Is the same thing in both pictures?", "Are these two the same?")
ORDINALS = ("first", "second")
Kind = Literal["which", "one", "both", "alike"]
_KINDS: tuple[Kind, ...] = ("which", "which", "which", "one", "both", "alike")


@dataclass(frozen=True)
class PairQuestion:
    """A question about two samples, in the order in which they are shown."""

    kind: Kind
    question: str
    first: Sample
    second: Sample
    answer: str


def in_sentence(name: str) -> str:
    """A thing within a sentence: "an African elephant", "binoculars"."""
    sentence = answer_for(name).rstrip(".")
    return f"{sentence[0].lower()}{sentence[1:]}"


def named_pairs(samples: Sequence[Sample], seed: int) -> Iterator[PairQuestion]:
    """One question about each two of the named samples, of half of them which shows the one's thing."""
    chances = random.Random(seed)
    order = list(samples)
    chances.shuffle(order)
    same: dict[str | None, list[Sample]] = {}
    for sample in samples:
        same.setdefault(sample.name, []).append(sample)
    for one, other in zip(order[::2], order[1::2], strict=False):
        kind = chances.choice(_KINDS)
        if kind == "alike" and chances.random() < 0.5:
            other = chances.choice(same[one.name])
        if one is other or (one.name == other.name and kind != "alike"):
            continue
        yield _question(kind, (one, other), chances)


def _question(kind: Kind, pair: tuple[Sample, Sample], chances: random.Random) -> PairQuestion:
    first, second = (str(sample.name) for sample in pair)
    which = chances.randrange(2)
    match kind:
        case "which":
            question, answer = chances.choice(WHICH).format(in_sentence((first, second)[which])), which_answer(which)
        case "one":
            question, answer = chances.choice(ONE).format(ORDINALS[which]), answer_for((first, second)[which])
        case "both":
            question, answer = (
                chances.choice(BOTH),
                f"The first picture shows {in_sentence(first)}, the second {in_sentence(second)}.",
            )
        case "alike":
            question = chances.choice(ALIKE)
            answer = (
                f"Yes, both show {in_sentence(first)}."
                if first == second
                else f"No, the first shows {in_sentence(first)} and the second {in_sentence(second)}."
            )
    return PairQuestion(kind, question, *pair, answer)


def which_answer(which: int) -> str:
    """What is said of the picture at that place."""
    return f"The {ORDINALS[which]} picture."


def captioned_pairs(samples: Sequence[Sample], seed: int) -> Iterator[PairQuestion]:
    """Of each two of the captioned samples, which shows a thing that the captions of only one of them mention."""
    chances = random.Random(seed)
    order = list(samples)
    chances.shuffle(order)
    for pair in zip(order[::2], order[1::2], strict=False):
        told = [set(things_in(sample)) for sample in pair]
        which = chances.randrange(2)
        only = sorted(told[which] - told[1 - which], key=list(THINGS).index)
        if only:
            question = chances.choice(WHICH).format(in_sentence(chances.choice(only)))
            yield PairQuestion("which", question, *pair, which_answer(which))

"""Questions about two pictures: which of them shows it, and what does each show? Training and measuring only.

The answers come from names and from captions that people wrote; what the assistant answers is the host's own.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mattoni.ordinals import ORDINALS
from modality_bricks.training.instructions import THINGS, things_in
from modality_bricks.training.readers import Sample, answer_for

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
ANSWERS = ("The first picture.", "The second picture.")
ONE = (
    "What is in the {} picture?",
    "What does the {} picture show?",
    "What can you see in the {} picture?",
    "what's on the {} one?",
    "Name what is in the {} photo.",
    "And the {} picture, what is it?",
)
BOTH = (
    "What is in the two pictures?",
    "What do the pictures show?",
    "Describe both pictures.",
    "Say what is in each of the pictures.",
    "what's on these two?",
)
_KINDS = ("which", "one", "both")
_SHARES = (5, 3, 1)  # which of them is the question that a host of 135M finds hardest


@dataclass(frozen=True)
class PairQuestion:
    """A question about two pictures, in the order in which they are shown."""

    question: str
    pictures: tuple[Sample, Sample]
    answer: str


def in_sentence(name: str) -> str:
    """A thing within a sentence: "an African elephant", "binoculars"."""
    sentence = answer_for(name).rstrip(".")
    return f"{sentence[0].lower()}{sentence[1:]}"


def named_pairs(samples: Sequence[Sample], seed: int) -> Iterator[PairQuestion]:
    """Of each two of the named samples that show different things: which shows the one's, what the one or both show."""
    chances = random.Random(seed)
    for pair in _in_twos(samples, chances):
        if pair[0].name == pair[1].name:
            continue
        which = chances.randrange(2)
        things = [in_sentence(str(sample.name)) for sample in pair]
        match chances.choices(_KINDS, _SHARES)[0]:
            case "which":
                yield _which(str(pair[which].name), pair, which, chances)
            case "one":
                yield PairQuestion(chances.choice(ONE).format(ORDINALS[which]), pair, answer_for(str(pair[which].name)))
            case _:
                answer = f"The first picture shows {things[0]}, the second {things[1]}."
                yield PairQuestion(chances.choice(BOTH), pair, answer)


def captioned_pairs(samples: Sequence[Sample], seed: int) -> Iterator[PairQuestion]:
    """Of each two of the captioned samples, which shows a thing that the captions of only one of them mention."""
    chances = random.Random(seed)
    for pair in _in_twos(samples, chances):
        told = [set(things_in(sample)) for sample in pair]
        which = chances.randrange(2)
        only = sorted(told[which] - told[1 - which], key=list(THINGS).index)
        if only:
            yield _which(chances.choice(only), pair, which, chances)


def _in_twos(samples: Sequence[Sample], chances: random.Random) -> Iterator[tuple[Sample, Sample]]:
    order = list(samples)
    chances.shuffle(order)
    yield from zip(order[::2], order[1::2], strict=False)


def _which(thing: str, pair: tuple[Sample, Sample], which: int, chances: random.Random) -> PairQuestion:
    return PairQuestion(chances.choice(WHICH).format(in_sentence(thing)), pair, ANSWERS[which])

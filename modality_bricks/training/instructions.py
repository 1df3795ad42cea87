"""Questions with short answers, made from names and captions: yes or no, what colour, how many, where. Training only.

A rule reads the captions that people wrote and only for training; what the assistant answers is the host's own. As in
visual instruction tuning from captions (LLaVA, Liu et al. 2023, arXiv:2304.08485, section 3), with templates in the place
of a language model. A thing that no caption mentions counts as absent, which is sometimes wrong.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from modality_bricks.training.readers import Sample, Turns, answer_for
from modality_bricks.training.words import words_of

COLOURS = ("black", "white", "red", "blue", "green", "yellow", "brown", "pink", "orange", "grey", "purple", "tan")
COLOURED = (
    "dog shirt jacket ball hat dress shorts toy coat pants helmet uniform hair car slide building top sweater jersey cap bird "
    "horse outfit bike vest skirt umbrella surfboard frisbee motorcycle backpack boat"
).split()
# A thing and the words that say it is there.
THINGS = {
    "dog": "dog dogs puppy puppies",
    "ball": "ball balls football basketball soccer",
    "bike": "bike bikes bicycle bicycles",
    "horse": "horse horses",
    "car": "car cars",
    "boat": "boat boats kayak canoe",
    "motorcycle": "motorcycle motorcycles motorbike",
    "skateboard": "skateboard skateboards skateboarder skateboarding",
    "bird": "bird birds",
    "bench": "bench benches",
    "tree": "tree trees woods forest",
    "swing": "swing swings swinging",
    "mountain": "mountain mountains",
    "swimming pool": "pool",
    "frisbee": "frisbee frisbees",
    "hat": "hat hats cap",
    "helmet": "helmet helmets",
    "guitar": "guitar guitars",
    "person": (
        "person people man men woman women boy boys girl girls child children kid kids guy guys lady toddler baby player "
        "players crowd he she his her couple group skier surfer climber rider someone"
    ),
}
PLACES = {
    "in the snow": "snow snowy",
    "on the beach": "beach",
    "in the water": "water ocean lake river sea",
    "on the grass": "grass grassy lawn",
    "on the street": "street road sidewalk",
    "in the air": "air midair",
    "in a pool": "pool",
    "in the woods": "woods forest",
    "in a field": "field",
}
NUMBERS = ("two", "three", "four", "five")
COUNTED = ("dogs", "people", "men", "women", "children", "boys", "girls", "kids", "horses", "birds")
YES_NO = ("Is there a {} in the picture?", "Does the picture show a {}?", "Can you see a {} here?")


def with_instructions(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """The samples with questions of other kinds beside those that they have."""
    names = sorted({s.name for s in samples if s.name is not None})
    chances = np.random.default_rng((seed, 4))
    mentioned = Counter(thing for s in samples if s.name is None for thing in things_in(s))
    asked = (_of_name(s, names, chances) if s.name else _of_captions(s, mentioned, chances) for s in samples)
    return [
        replace(s, turns=(*s.turns, *_a_quarter(more, len(s.turns)))) for s, more in zip(samples, asked, strict=True)
    ]


def _a_quarter(turns: Turns, beside: int) -> Turns:
    """The turns, as often as makes them about a quarter of all: turns are drawn evenly."""
    return turns * max(1, round(beside / 3 / len(turns))) if turns else ()


def things_in(sample: Sample) -> list[str]:
    """The things of THINGS that a captioned picture's captions mention."""
    said = {word for words in _captions(sample) for word in words}
    return [thing for thing, words in THINGS.items() if said & set(words.split())]


def _asked(thing: str, chances: np.random.Generator) -> str:
    question = YES_NO[int(chances.integers(len(YES_NO)))].format(thing)
    return question.replace(" a ", " an ") if thing[0].lower() in "aeiou" else question


def _of_name(sample: Sample, names: Sequence[str], chances: np.random.Generator) -> Turns:
    """Two questions with yes and two with no about a named picture."""
    assert sample.name is not None
    sentence = answer_for(sample.name).rstrip(".")
    is_many = sentence.lower() == sample.name.lower()
    said = f"{'these are' if is_many else 'it is'} {sentence[0].lower()}{sentence[1:]}."
    others = [name for name in (str(chances.choice(names)) for _ in range(2)) if name != sample.name]
    yes = [(_asked(sample.name, chances), f"Yes, {said}") for _ in range(2)]
    return (*yes, *((_asked(name, chances), f"No, {said}") for name in others))


def _captions(sample: Sample) -> list[list[str]]:
    return [words_of(answer) for answer in sorted({answer for _, answer in sample.turns})]


def _of_captions(sample: Sample, mentioned: Counter[str], chances: np.random.Generator) -> Turns:
    captions = _captions(sample)
    return (
        *_yes_no(things_in(sample), mentioned, chances),
        *_colours(captions),
        *_numbers(captions),
        *_places(captions),
    )


def _yes_no(there: Sequence[str], mentioned: Counter[str], chances: np.random.Generator) -> Turns:
    """As many questions with no as with yes; things are asked about when absent as often as when they are there."""
    weights = np.asarray([0 if thing in there else mentioned[thing] for thing in THINGS], dtype=float)
    absent: Iterable[str] = ()
    if weights.sum():
        count = min(max(1, len(there)), int((weights > 0).sum()))
        absent = chances.choice(list(THINGS), size=count, replace=False, p=weights / weights.sum())
    return (*((_asked(t, chances), "Yes.") for t in there), *((_asked(str(t), chances), "No.") for t in absent))


def _colours(captions: Sequence[Sequence[str]]) -> Turns:
    """The colour of what has one and the same in all captions."""
    seen: dict[str, set[str]] = {}
    for words in captions:
        for before, colour, thing in zip(["", *words], words, words[1:], strict=False):
            colour = colour.replace("gray", "grey")
            if colour in COLOURS and thing in COLOURED and before != "and":  # "a black and white dog" has no one colour
                seen.setdefault(thing, set()).add(colour)
    return tuple(
        (f"What {'color' if len(thing) % 2 else 'colour'} is the {thing}?", f"{next(iter(colours)).capitalize()}.")
        for thing, colours in sorted(seen.items())
        if len(colours) == 1
    )


def _numbers(captions: Sequence[Sequence[str]]) -> Turns:
    """How many of what at least two captions count alike."""
    pattern = re.compile(rf"\b({'|'.join(NUMBERS)})(?: \w+)? ({'|'.join(COUNTED)})\b")
    counts = Counter(found for words in captions for found in set(pattern.findall(" ".join(words))))
    things = Counter(thing for _, thing in counts)
    return tuple(
        (f"How many {thing} are there?", f"{number.capitalize()}.")
        for (number, thing), n in sorted(counts.items())
        if n >= 2 and things[thing] == 1
    )


def _places(captions: Sequence[Sequence[str]]) -> Turns:
    """The place that at least two captions mention, where there is only one."""
    found = [place for place, words in PLACES.items() if sum(bool(set(words.split()) & set(c)) for c in captions) >= 2]
    if len(found) != 1:
        return ()
    answer = f"{found[0].capitalize()}."
    return (("Where is this?", answer), ("Where was the photo taken?", answer))

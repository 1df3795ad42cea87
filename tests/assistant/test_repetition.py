"""Answers that go round in circles end; those that repeat what they have to do not."""

from pathlib import Path

import pytest

from assistant.host.answer_text import Answer
from assistant.host.repetition import Repetition

ROOT = Path(__file__).parents[2]


def cut(text: str, step: int = 3) -> str | None:
    """What is kept of a text that goes round in circles, as it comes in small pieces; None: all of it."""
    repetition = Repetition()
    for n in range(0, len(text), step):
        keep = repetition.push(text[n : n + step])
        if keep is not None:
            return text[:keep]
    return None


LOOPS = {
    "one word": ("The steps are:\n" + "Deploying " * 40, "The steps are:\nDeploying"),
    "a sum": ("The total is " + "10.00 + " * 40, "The total is 10.00 +"),
    "one line": ("Start early.\n\n" + "Practice is key.\n\n" * 20, "Start early.\n\nPractice is key."),
    "a list's item": (
        "1. Italy\n2. Spain\n" + "".join(f"{n}. India\n" for n in range(3, 40)),
        "1. Italy\n2. Spain\n3. India",
    ),
    "items in turn": (
        "".join(f"{n}. {('Red bricks', 'Blue bricks', 'Old mortar')[n % 3]}\n" for n in range(60)),
        "0. Red bricks\n1. Blue bricks\n2. Old mortar",
    ),
    "a word with hyphens": ("It is Nasty" + "-Nasty" * 60, "It is Nasty-"),
    "a sentence in Chinese": ("你好。" + "砖是红色的。" * 20, "你好。砖是红色的。"),
    "a list whose lines differ in numbers": (
        "1. Vegetable\n" + "".join(f"{n}. 100100000{n:02}- Fried Noodle (S)\n" for n in range(2, 40)),
        "1. Vegetable\n2. 10010000002- Fried Noodle (S)\n3. 10010000003- Fried Noodle (S)",
    ),
    "a list of numbers alone": ("".join(f"{n}. 1.1.1.{n}\n" for n in range(1, 60)), "1. 1.1.1.1\n2. 1.1.1.2"),
    "a table that counts on": (
        "| Item | Price |\n|---|---|\n" + "".join(f"| {n} | {10 * n + (n > 30)}.00 |\n" for n in range(1, 60)),
        "| Item | Price |\n|---|---|\n| 1 | 10.00 |\n| 2 | 20.00 |",
    ),
    "a number without an end": ("It is in street " + "1234567890" * 40, "It is in street 1234567890"),
    "a word without an end": ("That is funny: " + "haha" * 60, None),
    "a paragraph": (("The house is built of red bricks, and the roof is made of slate from the north.\n\n") * 8, None),
}


@pytest.mark.parametrize("text, kept", LOOPS.values(), ids=LOOPS)
@pytest.mark.parametrize("step", [1, 3, 17])
def test_an_answer_that_goes_round_in_circles_is_cut_after_the_first_round(text, kept, step):
    found = cut(text, step)
    assert found is not None
    assert len(found) < len(text) / 2
    if kept is not None:
        assert found == kept


def test_an_answer_that_turns_the_same_phrases_over_and_over_is_cut():
    parts = ("Alps offer a mix of hiking and scenic beauty", "on the other hand", "mountain biking is popular there")
    order = [0, 1, 2, 0, 2, 1, 0, 0, 1, 2, 2, 0, 1, 0, 2, 1, 1, 0, 2, 0, 1, 2, 0, 1, 0, 2, 0, 1]
    found = cut("France has many ways to walk. " + ". ".join(parts[n] for n in order))
    assert found is not None and found.startswith("France has many ways to walk.")


LEGITIMATE = {
    "a table with equal cells": "| day | in | out |\n|---|---|---|\n"
    + "".join(f"| {day} | 0 | 0 |\n" for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")),
    "a matrix of zeros": "[[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]",
    "a short list of zeros": "0\n" * 12,
    "a refrain that comes twice": (
        "Row, row, row your boat\nGently down the stream\nMerrily, merrily, merrily, merrily\nLife is but a dream\n"
    )
    * 2,
    "a chorus between verses": "".join(
        f"{verse}\nAnd the wall goes up, and the wall goes up,\nand we sing as the wall goes up.\n"
        for verse in (
            "A mason came to town one day with a trowel in his hand",
            "He laid the bricks in rows of ten as straight as he could stand",
            "The mortar dried, the evening came, the moon was on the sand",
        )
    ),
    "closing brackets": "def f():\n    return {\n        'a': [\n            (\n                1,\n            ),\n        ],\n    }\n"
    * 2,
    "lines and rules": "Name: ______________________\n"
    + "-" * 60
    + "\nDate: ______________________\n"
    + "=" * 60
    + "\n",
    "a times table": "".join(f"{n} x 7 = {7 * n}\n" for n in range(1, 21)),
    "records with the same keys": "["
    + ",\n ".join(f'{{"name": "brick {n}", "width": {n * 3}, "colour": "c{n}"}}' for n in range(12))
    + "]",
    "a table of squares": "".join(f"| {n} | {n * n} |\n" for n in range(1, 60)),
    "counting to a hundred": "\n".join(map(str, range(1, 101))),
    "people by year": "".join(f"{1990 + n}: {50 + (n * n * 7) % 13} million people\n" for n in range(30)),
    "a plan of twelve weeks": "".join(f"Week {n}: run {3 + n} kilometres, rest {n} days\n" for n in range(1, 13)),
    "a million": "A googol is 1" + "0" * 100 + ".",
    "figures of a month, many alike": "".join(f"- {n} May: in 8.00, out 16.30, break 0.30\n" for n in range(1, 15)),
    "a price list with equal prices": "".join(
        f"**{cake}**\n- small 2.50\n- large 3.50\n\n"
        for cake in ("Apple", "Plum", "Lemon", "Nut", "Carrot", "Poppy", "Pear")
    ),
    "a table with many equal cells": "| city | Jan | Feb | Mar | Apr | May | Jun |\n|---|---|---|---|---|---|---|\n"
    + "".join(f"| {city} | 0 | 0 | 0 | 0 | 0 | 0 |\n" for city in "Rome Oslo Bern Riga Lima Bonn Cork Nice".split()),
    "ha ha": "Ha ha ha ha ha! That is a good one.",
}


@pytest.mark.parametrize("text", LEGITIMATE.values(), ids=LEGITIMATE)
def test_what_repeats_for_a_reason_is_left_alone(text):
    assert cut(text) is None


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "assistant/host/prompt.py"])
def test_prose_and_code_are_left_alone(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert [cut(text[n : n + 3000]) for n in range(0, len(text), 3000) if cut(text[n : n + 3000])] == []


def test_of_an_answer_that_repeats_the_kept_ids_spell_the_kept_text():
    answer = Answer(lambda ids: bytes(ids).decode(errors="replace"))
    shown = ""
    for byte in ("Bricks are red. " + "Très bien. " * 30).encode():
        shown += answer.push(byte)
        if answer.ended:
            break
    text, ids = answer.kept()
    assert answer.ended == "repeats"
    assert text == bytes(ids).decode() == "Bricks are red. Très bien."
    assert shown.startswith(text)


def test_of_an_answer_with_a_stop_string_nothing_of_it_is_kept():
    answer = Answer(lambda ids: bytes(ids).decode(errors="replace"), stop=("ENDE",))
    shown = "".join(answer.push(byte) for byte in "Über alles. EN EN".encode())
    for byte in b"DE":
        shown += answer.push(byte)
    text, ids = answer.kept()
    assert answer.ended == "stop-string"
    assert shown == text == bytes(ids).decode() == "Über alles. EN "


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Rain falls. A gentle rain, a gentle rain, a gentle rain, a gentle rain, a gen", "Rain falls. A gentle rain,"),
        ("- oats\n- oats\n- oats\n- milk\n- salt and a lot of other things that one can eat", None),
        ("A whisper of light,\na whisper of light,\na whisper of light, a whisper of light", "A whisper of light,"),
        ("No, no, no, and that is all", None),
    ],
)
def test_an_answer_that_ends_in_its_third_round_keeps_one(answer, kept):
    repetition = Repetition()
    assert repetition.push(answer) is None
    keep = repetition.at_end()
    assert (answer[:keep] if keep is not None else None) == kept


def test_a_list_that_names_only_what_it_has_named_ends_and_two_lists_may_be_alike():
    names = [
        "China",
        "India",
        "Russia",
        "Brazil",
        "Turkey",
        "India",
        "China",
        "Russia",
        "Brazil",
        "India",
        "Turkey",
        "Peru",
    ]
    answer = "Small nations:\n" + "".join(f"{n}. {name}\n" for n, name in enumerate(names, 1))
    repetition = Repetition()
    keep = repetition.push(answer)
    assert keep is not None and answer[:keep].endswith("5. Turkey")
    week = "".join(f"- {what}\n" for what in ("run", "rest", "swim", "stretch"))
    assert Repetition().push("".join(f"Week {n}:\n{week}" for n in range(1, 3))) is None


def test_the_same_figures_below_the_same_headings_again_and_again_are_cut_behind_the_first_round():
    bread, cake = "**Bread:**\n- 2.30\n- 3.60\n- 2.75\n\n", "**Cake:**\n- 4.10\n- 2.75\n\n"
    once = f"The bakery sells:\n\n{bread}{cake}{bread}**Total:**\n- 12.75\n\n"
    assert cut(once + (bread + "**Total:**\n- 12.75\n\n" + cake) * 4) == once.rstrip()


def test_a_sentence_that_a_round_begins_in_is_kept_whole():
    answer = "The total is 20.00\n\n" + "The answer is 20.00\n\n" * 6
    assert cut(answer, 4) == "The total is 20.00\n\nThe answer is 20.00"

"""The order in which boxes of text are read."""

from collections.abc import Sequence

import pytest

from modality_bricks.reading_order import Line, blocks_of, text_in_reading_order

LEFT = ["The pump must be primed", "before every start. Open", "valve A, wait ten seconds", "then close it again. The"]
RIGHT = [
    "Winter storage: drain the",
    "housing completely and",
    "leave valve B open. Store",
    "the pump above 5 degrees.",
]
NEXT = ["Spare seals have a number", "of their own, which fits", "all models that were sold", "since the year before."]


def column(texts: Sequence[str], left: float, top: float = 100, step: float = 30, slant: float = 0) -> list[Line]:
    return [box(text, left, top + step * row, 10 * len(text), slant) for row, text in enumerate(texts)]


def box(text: str, left: float, top: float, width: float = 0, slant: float = 0) -> Line:
    """Turned about the page's origin, as a scan is."""
    right, bottom = left + (width or 10 * len(text)), top + 20
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return Line(text, tuple((x - slant * y, y + slant * x) for x, y in corners), 1.0)


def mixed(lines: Sequence[Line]) -> list[Line]:
    return sorted(lines, key=lambda line: line.text[::-1])


@pytest.mark.parametrize("slant", [0, 0.03, -0.03])
@pytest.mark.parametrize("shift", [0, 12])
def test_columns_are_read_one_after_the_other(slant: float, shift: float) -> None:
    lines = column(LEFT, 60, slant=slant) + column(RIGHT, 360, 100 + shift, slant=slant)
    assert text_in_reading_order(mixed(lines)) == "\n".join(LEFT) + "\n\n" + "\n".join(RIGHT)


def test_three_columns_below_a_title_are_read_after_it() -> None:
    lines = [box("A title over all of the columns, from left to right, which is long", 60, 40)]
    lines += column(LEFT, 60) + column(RIGHT, 360) + column(NEXT, 660)
    assert [[len(row) for row in block] for block in blocks_of(mixed(lines))] == [[1], [1] * 4, [1] * 4, [1] * 4]
    assert text_in_reading_order(mixed(lines)).split("\n\n")[2] == "\n".join(RIGHT)


def test_a_heading_across_parts_the_columns_above_it_from_those_below() -> None:
    lines = column(LEFT, 60) + column(RIGHT, 360) + [box("What was found in the second year of the survey", 60, 240)]
    lines += column(NEXT, 60, 290) + column(LEFT, 360, 290)
    found = text_in_reading_order(mixed(lines)).split("\n\n")
    assert [block.split("\n")[0] for block in found] == [
        LEFT[0],
        RIGHT[0],
        "What was found in the second year of the survey",
        NEXT[0],
        LEFT[0],
    ]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (
            ["Red apples from the garden", "Green pears, small", "Plums and cherries", "Sum of all that was bought"],
            ["12.50", "3.00", "4.20", "19.70"],
        ),
        (
            ["Name of the boat", "Home harbour", "Length over all", "Year of building"],
            ["Heron of the North", "Zeebrugge, Belgium", "Seven and a half", "Nineteen eighty"],
        ),
        (["Monday", "Tuesday", "Wednesday", "Thursday"], ["soup with bread", "fish and chips", "pancakes", "nothing"]),
    ],
)
def test_numbers_and_answers_stay_with_their_labels(left: list[str], right: list[str]) -> None:
    lines = column(left, 60) + column(right, 400)
    expected = "\n".join(f"{a} {b}" for a, b in zip(left, right, strict=True))
    assert text_in_reading_order(mixed(lines)) == expected

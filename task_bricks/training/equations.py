"""Word problems as rows of a skill that writes an equation, which an evaluator computes. Knows nothing of models."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from mattoni.errors import MattoniError
from task_bricks.arithmetic import evaluate

RowValues = Mapping[str, Any]

# A calculation of a rationale: "48/2 = 24", "$0.2 x 50 = $10", "(3+4) * 2 = 14".
_CALCULATION = re.compile(r"((?:[\d.,$()+\-*/xX×\s]|(?<=\d)%)+?)=\s*\$?\s*(-?[\d,]*\.?\d+)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?|\.\d+")
_WORDS = {
    word: number
    for number, words in {
        1: "one once single", 2: "two twice double pair half couple", 3: "three triple thrice third", 4: "four quarter fourth",
        5: "five fifth", 6: "six", 7: "seven week weeks", 8: "eight", 9: "nine", 10: "ten", 11: "eleven", 12: "twelve dozen year years",
        15: "fifteen", 20: "twenty", 24: "day days hours", 30: "thirty month", 50: "fifty", 60: "hour minutes", 100: "percent cents",
    }.items()
    for word in words.split()
}  # fmt: skip


def tidy(equation: str) -> str:
    """An equation in the one form that is learned: no brackets around the whole, no decimals that say nothing, single spaces."""
    text = _NUMBER.sub(lambda m: m[0].rstrip("0").rstrip(".") if "." in m[0] else m[0], equation)
    text = " ".join(re.sub(r"([-+*/])", r" \1 ", text).split()).replace("( ", "(").replace(" )", ")")
    return text[1:-1] if text.startswith("(") and _closes_at_end(text) else text


def _closes_at_end(text: str) -> bool:
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return place == len(text) - 1
    return False


def arithmetic_rows(rows: Sequence[RowValues]) -> Iterator[RowValues]:
    """Rows whose answer is the equation that they come with. ASDiv, which forbids commercial use, is left out."""
    for row in rows:
        if row["source"] != "ASDiv":
            yield {**_task(row), "answers": [tidy(row["equation"])]}


# Longer equations and problems are a third, take most of the time, and a host of 135M does not come to solve them.
_MOST_OPERATIONS, _MOST_LETTERS = 5, 260


def maths_rows(rows: Sequence[RowValues]) -> Iterator[RowValues]:
    """Rows whose answer is one equation made of their rationale's calculations; those where it does not come out are left out."""
    for row in rows:
        if len(row["input"]) > _MOST_LETTERS:
            continue
        equation = nested_equation(row["input"], row["rationale"], row["answers"][0])
        if equation is not None and len(re.findall(r"[-+*/]", equation)) <= _MOST_OPERATIONS:
            yield {**_task(row), "answers": [equation]}


def _task(row: RowValues) -> dict[str, Any]:
    return {"id": row["id"], "instruction": row["instruction"], "input": row["input"], "metric": "exact"}


def nested_equation(question: str, rationale: str, answer: str) -> str | None:
    """One equation over numbers of the question, from the calculations of its solution; None where it does not give the answer.

    The last calculation with that result is taken; each of its numbers that the question does not name and an earlier
    calculation gave is replaced by that calculation, down to the question's own numbers.
    """
    known = _numbers_of(question)
    found: dict[Fraction, str] = {}
    last: str | None = None
    wanted = Fraction(answer.replace(",", ""))
    for written, value in _calculations(rationale):
        try:
            if abs(evaluate(written) - value) > Fraction(1, 100):
                continue
            nested = _NUMBER.sub(lambda m: _source(Fraction(m[0]), known, found) or m[0], written)
            if abs(evaluate(nested) - value) > Fraction(1, 100):
                continue
        except MattoniError:
            continue
        last = nested if value == wanted else last
        found[value] = f"({tidy(nested)})"
    if last is None or not all(Fraction(number) in known for number in _NUMBER.findall(last)):
        return None
    equation = tidy(last)
    try:
        return equation if evaluate(equation) == wanted else None
    except MattoniError:
        return None


def _source(number: Fraction, known: frozenset[Fraction], found: Mapping[Fraction, str]) -> str | None:
    """The calculation that stands for a number; None where the question names it or nobody gave it."""
    return found.get(number) if number not in known else None


def _calculations(rationale: str) -> Iterator[tuple[str, Fraction]]:
    for match in _CALCULATION.finditer(rationale):
        written = re.sub(r"[xX×]", "*", match[1]).replace("$", "").replace(",", "")
        written = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", written).strip().lstrip(".").strip()
        if re.search(r"[\d)]\s*[-+*/]", written):
            yield written, Fraction(match[2].replace(",", ""))


def _numbers_of(question: str) -> frozenset[Fraction]:
    """The numbers that a question names, in digits, in words, or as a unit that everybody knows."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", question)
    digits = {Fraction(number) for number in _NUMBER.findall(text)}
    words = {Fraction(_WORDS[word]) for word in re.findall(r"[a-z]+", text.casefold()) if word in _WORDS}
    percent = {Fraction(100)} if "%" in question or "cent" in question else set()
    return frozenset(digits | words | percent | {Fraction(1), Fraction(2), Fraction(100)})

"""Word problems as rows whose answer is an equation that gives the number."""

from fractions import Fraction

import pytest

from task_bricks.arithmetic import evaluate
from task_bricks.training.equations import arithmetic_rows, nested_equation, tidy


@pytest.mark.parametrize(
    ("written", "tidied"),
    [("((4.0+5)+9.50)", "(4 + 5) + 9.5"), ("(8.0 - 3.0)", "8 - 3"), ("(1 + 2) * (3 + 4)", "(1 + 2) * (3 + 4)")],
)
def test_an_equation_has_one_form(written, tidied):
    assert tidy(written) == tidied


def test_the_steps_of_a_solution_become_one_equation_over_the_numbers_of_the_question():
    question = (
        "Ann sold clips to 48 friends in April, and half as many in May. A clip costs $3. What did she earn in both?"
    )
    rationale = "Ann sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips.\nShe earned 72 x $3 = $216."
    equation = nested_equation(question, rationale, "216")
    assert equation == "(48 + (48 / 2)) * 3" and evaluate(equation) == 216


@pytest.mark.parametrize(
    ("rationale", "answer"),
    [("She has 5 + 8 = 13.", "14"), ("There are 7 days, so 7 * 900 = 6300.", "6300"), ("She has 5 + 8 = 14.", "14")],
)
def test_a_solution_that_does_not_come_out_or_brings_numbers_of_its_own_is_left_out(rationale, answer):
    assert nested_equation("She has 5 and gets 8 more.", rationale, answer) is None


def test_every_equation_of_the_training_rows_gives_the_number_and_none_is_of_asdiv(training_data):
    import gzip
    import json

    with gzip.open(training_data / "text" / "arithmetic-train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    made = {row["id"]: row["answers"][0] for row in arithmetic_rows(rows)}
    assert len(made) == 1583 and not any(name.startswith("asdiv") for name in made)
    wanted = {row["id"]: Fraction(row["answers"][0].replace(",", "")) for row in rows}
    assert all(abs(evaluate(equation) - wanted[name]) < Fraction(1, 100) for name, equation in made.items())

"""Equations that a skill wrote: computed exactly, or refused in one sentence; never run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mattoni.errors import MattoniError
from task_bricks.arithmetic import evaluate, finish, number_text


@pytest.mark.parametrize(
    ("answer", "added"),
    [
        ("(48 / 2) + 48", " = 72"),
        ("1,250 × 2", " = 2500"),
        ("$4 x 3", " = 12"),
        ("1 - 0.9", " = 0.1"),
        ("10 / 3", " = 3.3333333"),
        ("-3 + 5", " = 2"),
        ("3 + 4 = 8", "\n\n3 + 4 = 7"),
        ("She has\nx = 3 + 4", "\n\n3 + 4 = 7"),
        ("3 + 4 = 7", ""),
        ("42", ""),
    ],
)
def test_the_result_stands_behind_the_equation(answer, added):
    finished = finish(answer)
    assert finished.text == added and finished.notices == ()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("__import__('os').system('true')", "No equation was written"),
        ("open('x') + 1", "No equation was written"),
        ("", "No equation was written"),
        ("The answer is nine.", "No equation was written"),
        ("9**9**9", "grow too large"),
        ("7 * (3 - 3) / (2 - 2)", "divides by zero"),
        ("(1 + 2", "is no equation of numbers"),
        ("1 +" * 300 + "1", "longer than 400 characters"),
        ("(" * 150 + "1 + 1" + ")" * 150, "= 2"),
    ],
)
def test_what_cannot_be_computed_is_one_sentence_and_the_words_stay(answer, sentence):
    finished = finish(answer)
    said = [notice.text for notice in finished.notices] or [finished.text]
    assert len(said) == 1 and sentence in said[0]
    assert not finished.notices or finished.text == ""


@given(st.text(alphabet="0123456789+-*/(). =x_e%", max_size=60))
def test_nothing_that_could_be_written_breaks_the_turn(answer):
    finish(answer)


@pytest.mark.parametrize(
    "equation", ["True + 1", "1j + 1", "'a' * 9", "[1] * 9", "2 ** 0.5", "5 % 2", "7 // 2", "x + 1"]
)
def test_only_numbers_and_four_operations_and_whole_powers_are_computed(equation):
    with pytest.raises(MattoniError, match="no equation of numbers"):
        evaluate(equation)


def test_decimals_are_exact_until_they_do_not_end():
    assert number_text(evaluate("0.1 + 0.2")) == "0.3"
    assert number_text(evaluate("2 / 7000")) == "0.00028571429"
    assert number_text(evaluate("6 / 3")) == "2"

"""Receipts as rows: what is asked of them, and that the answers stand on them."""

import random

from task_bricks.training.receipts import UNSAID, receipt_questions, written_receipt

LINES = [
    "CORNER SHOP",
    "Tel: 0123 456789",
    "14-05-2026 09:41",
    "Rye loaf 4.10",
    "TOTAL 4.10",
    "CASH 5.00",
    "CHANGE 0.90",
]
FIELDS = {"company": "CORNER SHOP", "date": "14-05-2026", "address": "", "total": "4.10"}


def test_a_receipt_is_asked_for_its_fields_and_for_what_its_lines_say():
    answers = {answer for _, answer in receipt_questions(LINES, FIELDS, random.Random(0))}
    assert answers == {
        "The total is 4.10.",
        "The date is 14-05-2026.",
        "It is from CORNER SHOP.",
        "The phone number is 0123 456789.",
        "It was at 09:41.",
        "5.00 was given in cash.",
        "The change was 0.90.",
        "It was paid in cash.",
    }


def test_what_a_receipt_does_not_say_is_now_and_then_asked_and_said_so():
    asked = [receipt_questions(["SHOP", "TOTAL 4.10"], {"total": "4.10"}, random.Random(seed)) for seed in range(20)]
    unsaid = [[question for question, answer in pairs if answer == UNSAID] for pairs in asked]
    assert 0 < sum(map(bool, unsaid)) and all(
        "phone" in q or "time" in q or "cash" in q or "hand" in q or "change" in q or "back" in q
        for found in unsaid
        for q in found
    )


def test_what_is_asked_of_a_made_up_receipt_stands_on_it():
    for seed in range(50):
        lines, pairs = written_receipt(random.Random(seed))
        text = "\n".join(lines)
        assert len(pairs) >= 8
        for question, answer in pairs:
            if answer.startswith(("The total", "The date", "It costs", "The phone", "The change")):
                assert answer.rstrip(".").split(" is ")[-1].split(" was ")[-1].split(" costs ")[-1] in text, (
                    question,
                    answer,
                )
            assert UNSAID == answer or "does not say" not in answer

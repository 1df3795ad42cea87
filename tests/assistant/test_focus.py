"""What of a conversation stands before a question."""

import pytest

from assistant.turn.focus import Asking, Focus, focus
from assistant.turn.question import document_meant
from assistant.turn.request import Exchange
from mattoni.records import Read, Seen

RECEIPT = Read("receipt.png", "r", "document", "Total 12.75", "picture")
DOG, BIRD = Seen("dog.jpg", "d", "photo"), Seen("bird.jpg", "b", "photo")


def said(question: str, *records) -> Exchange:
    return Exchange(question, records, "An answer.", None)


PHOTO, OTHER, BILL = said("What is it?", DOG), said("And this?", BIRD), said("What is the total?", RECEIPT)
CHAT, MORE = said("What is the capital of France?"), said("How many people live there?")


def focused(asking: Asking, *past: Exchange, answers: bool = False) -> Focus:
    return focus(asking, past, lambda text: text == CHAT.question, lambda read: answers)


def test_a_message_is_about_what_it_brings():
    assert focused(Asking(brings_its_own=True), PHOTO, CHAT) == Focus(())


def test_a_question_about_the_picture_stands_beside_the_latest():
    assert focused(Asking(asks_about_picture=True), PHOTO, OTHER, CHAT) == Focus((), (BIRD,))


@pytest.mark.parametrize("own", [False, True])
def test_a_comparison_stands_beside_all_pictures(own):
    asking = Asking(brings_its_own=own, asks_about_picture=True, about_several=True)
    assert focused(asking, PHOTO, CHAT, OTHER) == Focus((), (DOG, BIRD))


def test_what_goes_on_with_something_shown_stands_beside_it_and_an_order_is_about_the_answer_too():
    assert focused(Asking(), PHOTO, BILL) == Focus((), (RECEIPT,))
    assert focused(Asking(is_question=False), PHOTO, BILL) == Focus((BILL,))


def test_what_goes_on_with_talk_keeps_the_talk_from_where_it_began_and_nothing_shown_before():
    assert focused(Asking(), PHOTO, CHAT, MORE) == Focus((CHAT, MORE))


def test_a_question_that_stands_alone_is_asked_alone_unless_a_document_answers_it():
    assert focused(Asking(goes_on=False), BILL, CHAT) == Focus(())
    assert focused(Asking(goes_on=False), PHOTO, BILL, CHAT, answers=True) == Focus((), (RECEIPT,))


def test_a_text_that_was_pasted_in_beside_a_picture_stays():
    pasted = said("The red brick is warm. " * 20, DOG)
    assert focused(Asking(), pasted) == Focus((pasted,))


def test_what_was_recalled_of_an_earlier_document_is_not_shown_again():
    recalled = said("How much was it?", Read("receipt.png", "r", "document", "12.75", "picture", recalled=True))
    assert focused(Asking(), BILL, recalled) == Focus((), (RECEIPT,))
    assert focused(Asking(about_several=True)) == Focus(())


TWO = Read("two.png", "t", "document", "Total 34.20", "picture")


def test_a_document_that_is_named_by_its_place_stands_alone_beside_the_question():
    later = said("And this?", TWO)
    for several in (False, True):
        assert focused(Asking(about_several=several, document=0), BILL, PHOTO, later) == Focus((), (RECEIPT,))
        assert focused(Asking(about_several=several, document=-2), BILL, later, CHAT) == Focus((), (RECEIPT,))
        assert focused(Asking(about_several=several, document=1), BILL, PHOTO, later) == Focus((), (TWO,))
    assert focused(Asking(document=2), BILL, later) == focused(Asking(), BILL, later), "there is no third"
    assert focused(Asking(document=0), BILL) == focused(Asking(), BILL)
    assert focused(Asking(brings_its_own=True, document=0), BILL, later) == Focus(())


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("What is the date of the first receipt?", 0),
        ("And on the Second invoice, how much was the glue?", 1),
        ("What is the total of receipt 2?", 1),
        ("What does the last document say?", -1),
        ("How much was it on the other bill?", -2),
        ("Is the first receipt dearer than the second receipt?", None),
        ("What is the first item of the receipt?", None),
        ("What is in the first photo?", None),
        ("What stands on the second page?", None),
        ("Add up the first two receipts.", None),
        ("Who wrote invoice 4711?", None),
    ],
)
def test_the_place_of_a_document_is_told_from_the_words_around_it(message, place):
    assert document_meant(message) == place

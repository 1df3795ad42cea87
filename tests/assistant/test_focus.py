"""What of a conversation stands before a question."""

from dataclasses import replace

import pytest
from PIL import Image

from assistant.turn.focus import Asking, Focus, focus, named_picture
from assistant.turn.request import Exchange
from mattoni.inputs import Picture
from mattoni.records import Read, Seen

RECEIPT = Read("receipt.png", "r", "document", "Total 12.75", "picture")
DOG, BIRD = Seen("dog.jpg", "d", "photo"), Seen("bird.jpg", "b", "photo")


def said(question: str, *records) -> Exchange:
    return Exchange(question, records, "An answer.", None)


PHOTO, OTHER, BILL = said("What is it?", DOG), said("And this?", BIRD), said("What is the total?", RECEIPT)
CHAT, MORE = said("What is the capital of France?"), said("How many people live there?")


def focused(asking: Asking, *past: Exchange, answers: bool = False, clearly: bool = False) -> Focus:
    return focus(
        asking, past, lambda text: text == CHAT.question, lambda read: answers or clearly, lambda read: clearly
    )


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


@pytest.mark.parametrize("asking", [Asking(asks_about_picture=True), Asking(goes_on=True)], ids=["asks", "goes on"])
@pytest.mark.parametrize("later", [PHOTO, CHAT], ids=["a picture", "talk"])
def test_a_document_that_answers_clearly_is_asked_though_the_question_sounds_like_one_about_something_later(
    asking, later
):
    assert focused(asking, BILL, later, clearly=True) == Focus((), (RECEIPT,))
    assert focused(asking, BILL, PHOTO, answers=True) == Focus((), (DOG,))
    order = replace(asking, is_question=False, asks_about_picture=False)
    assert focused(order, BILL, later, clearly=True) == Focus((later,))


def test_what_is_about_a_text_already_stays_there():
    letter = said("Who wrote it?", Read("letter.txt", "l", "document", "From Ada"))
    assert focused(Asking(), BILL, letter, clearly=True) == Focus((), letter.records)
    assert focused(Asking(brings_its_own=True), BILL, clearly=True) == Focus(())
    assert focused(Asking(about_several=True), BILL, PHOTO, clearly=True) == Focus((), (RECEIPT, DOG))


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


def shown(question: str, *colours: str, past: tuple[Exchange, ...] = (), asks: bool = True) -> str:
    """Which picture is meant of those that come with a message; their colours are their digests."""
    own = [Picture(colour, f"{colour}.png", Image.new("RGB", (8, 8), colour)) for colour in colours]
    return named_picture(question, past, own, asks_about_picture=asks)


def test_a_picture_that_is_named_by_its_place_stands_alone_beside_the_question():
    for several in (False, True):
        asking = Asking(about_several=several, picture="d")
        assert focused(asking, PHOTO, CHAT, OTHER) == Focus((), (DOG,), "d")
        assert focused(replace(asking, brings_its_own=True, picture="red"), PHOTO) == Focus((), (), "red")


def test_places_are_counted_among_the_pictures_of_the_message_else_among_all_so_far():
    assert shown("What is in the first picture?", "red", "blue") == "red"
    assert shown("What is in the first picture?", "red", "blue", past=(PHOTO, OTHER)) == "red"
    assert shown("What is in the first picture?", "red", past=(PHOTO, OTHER)) == "d"
    assert shown("What is in the third picture?", "red", past=(PHOTO, OTHER)) == "red"
    assert shown("What is in the second picture?", past=(PHOTO, CHAT, OTHER)) == "b"
    assert shown("What does the last picture show?", "red", "blue") == "blue"
    assert shown("What does the previous picture show?", past=(PHOTO, CHAT, OTHER)) == "d"
    assert shown("What is the total on the second picture?", past=(PHOTO, BILL)) == "r"


def test_where_no_place_is_clear_no_picture_is_meant_alone():
    assert shown("What is in the first picture?", "red") == "", "there is one"
    assert shown("What is in the third picture?", "red", "blue") == "", "there are two"
    assert shown("What does the last picture show?", "red", past=(PHOTO,)) == "", "the new one, or the one before"
    assert shown("Is the first picture like the second?", "red", "blue") == ""
    assert shown("What is in the first one?", past=(PHOTO, OTHER)) == "d"
    assert (
        shown("What is in the first one?", past=(PHOTO, OTHER, said("Read.", Read("a.txt", "a", "document", "A."))))
        == ""
    )
    assert shown("When was the first photograph taken?", past=(PHOTO, OTHER), asks=False) == "", "it asks of the world"
    assert shown("What is in the first picture?", "red", "blue", asks=False) == "red", "what it brings it asks about"

"""Which document or picture a message names by its place, and when a picture is set against others."""

import json

import pytest

import assistant.evaluation
from assistant.turn.place import document_meant, picture_meant
from mattoni.paths import shipped_models


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
        ("What is the total of receipt 0?", None),
    ],
)
def test_the_place_of_a_document_is_told_from_the_words_around_it(message, place):
    assert document_meant(message) == place


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("Is the first picture an orange or a lion?", 0),
        ("What is in the second photo?", 1),
        ("what's in the 1st pic", 0),
        ("Describe the THIRD image.", 2),
        ("What does picture 2 show?", 1),
        ("What is on photo number 3?", 2),
        ("picture #1: what animal is it?", 0),
        ("In photo no. 2, is anyone smiling?", 1),
        ("what's in image two", 1),
        ("What do I see on photo number one?", 0),
        ("What does the last image show?", -1),
        ("And the latest photograph, what is it?", -1),
        ("Describe the previous picture.", -2),
        ("Let us go back to the first photo. What animal was in it?", 0),
        ("describe the first image again", 0),
        ("Which animal is in the first picture?", 0),
        ("Which colour does the car in the second photo have?", 1),
        ("Tell me more about the first picture.", 0),
        ("What is the weather like in the first picture?", 0),
        ("What does the dog in the second photo look like?", 1),
        ("How many people are in the last photo?", -1),
        ("First of all, what is in the second picture?", 1),
        ("Is it raining in the first picture?", 0),
        ("What is the second largest thing in the first picture?", 0),
        ("Describe the first picture. Is the dog in the first picture wet?", 0),
        ("What is on the first of the two pictures?", 0),
        ("name the animal in the second photograph", 1),
        ("Does each child in the first picture have a ball?", 0),
        ("Is there water or sand in the second image?", 1),
        # Several, or one set against another.
        ("Is it larger than in the first picture?", None),
        ("Which picture shows a dog, the first or the second?", None),
        ("Is the first picture like the second?", None),
        ("Is the first picture brighter than the second picture?", None),
        ("Is the ball in the first picture or in the second?", None),
        ("What is in the first picture that is not in the second?", None),
        ("Describe the first picture and the second one.", None),
        ("Describe the first and second picture.", None),
        ("Compare this with the first picture.", None),
        ("How does it differ from the first photo?", None),
        ("How is this one different from the first photo?", None),
        ("Is this like the first picture?", None),
        ("Is it as big as in the first picture?", None),
        ("Is this the dog of the first picture?", None),
        ("same dog as in the last photo?", None),
        ("Is there a dog in both of the first two photos?", None),
        ("What is missing in the last picture?", None),
        ("Which one is sharper, the first image or the second?", None),
        ("Which of the photos looks like the first photo?", None),
        ("Is there a dog in the first and in the third picture?", None),
        ("Are there more people in the first picture?", None),
        ("Is it bigger in the first picture?", None),
        ("What do the others show that the first picture does not?", None),
        ("Picture 1 versus picture 2?", None),
        ("Is it in this picture or the first picture?", None),
        ("Was it the second picture?", None),
        ("What is in the picture before the last picture?", None),
        ("What does the second-to-last picture show?", None),
        ("In which picture is there a boat?", None),
        ("What do the first two photos show?", None),
        # No picture at all.
        ("What is the first item of the list?", None),
        ("Picture two dogs on a beach.", None),
        ("When was the first photography book printed?", None),
        ("What does picture 0 show?", None),
        ("What is the date of the first receipt?", None),
        ("What is in the first one?", None),
    ],
)
def test_a_picture_is_meant_alone_where_one_place_is_named_and_nothing_compared(message, place):
    assert picture_meant(message) == place


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("What is in the first one?", 0),
        ("And the second one, is it a lion?", 1),
        ("what's on the last one", -1),
        ("Describe the first picture. What is the dog in the first one doing?", 0),
        ("Which one was taken outside, the first one or the second one?", None),
        ("Is the second one brighter than the first one?", None),
        ("What is in the first picture, and what is in the second one?", None),
    ],
)
def test_the_first_one_is_a_picture_where_nothing_else_was_sent(message, place):
    assert picture_meant(message, ones=True) == place


def lines(name: str) -> list[str]:
    text = (shipped_models() / "router" / f"{name}.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_of_messages_that_nobody_wrote_for_this_those_that_compare_stay_about_several():
    (folder,) = assistant.evaluation.__path__
    with open(f"{folder}/two_pictures.json", encoding="utf-8") as file:
        compared = json.load(file)
    assert len(compared) == 40 and all(picture_meant(message, ones=True) is None for message in compared)
    assert all(picture_meant(message, ones=True) is None for message in lines("one-picture-dev"))
    meant = {message: picture_meant(message, ones=True) for message in lines("several-pictures-dev")}
    assert {message: place for message, place in meant.items() if place is not None} == {
        "Going back to the first image, what is the woman doing?": 0,
        "do you remember the first photo? what was on it": 0,
        "what's in image two": 1,
        "What do I see on photo number one?": 0,
        "name the animal in the second photograph": 1,
        "describe the first image again": 0,
    }

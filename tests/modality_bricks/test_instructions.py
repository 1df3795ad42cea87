from PIL import Image

from modality_bricks.training.instructions import with_instructions
from modality_bricks.training.readers import captioned_sample, named_sample


def picture():
    return Image.new("RGB", (8, 8))


def added(sample, others=(), seed=0):
    made = with_instructions([sample, *others], seed)[0]
    assert made.turns[: len(sample.turns)] == sample.turns
    return dict(made.turns[len(sample.turns) :])


def captioned(*captions):
    return captioned_sample("key", picture(), captions)


def test_a_named_picture_is_asked_about_itself_and_about_others():
    asked = added(named_sample("key", picture, "ox"), [named_sample("other", picture, "sandals")])

    assert set(asked.values()) == {"Yes, it is an ox.", "No, it is an ox."}
    assert all(("an ox" in question) == answer.startswith("Yes") for question, answer in asked.items())


def test_a_name_in_the_plural_is_answered_in_the_plural():
    assert "Yes, these are sandals." in added(named_sample("key", picture, "sandals")).values()


def test_captions_say_what_is_there_and_what_is_not():
    asked = added(captioned("A dog runs.", "The dog is wet."), [captioned("A man on a horse.")])

    assert {answer for question, answer in asked.items() if "a dog" in question} == {"Yes."}
    assert {answer for question, answer in asked.items() if "a horse" in question or "a person" in question} == {"No."}


def test_a_colour_is_asked_about_when_all_captions_agree():
    agreed = added(captioned("A brown dog runs.", "A small brown dog."))
    differing = added(captioned("A brown dog runs.", "A black dog."))
    mixed = added(captioned("A black and white dog."))

    assert agreed["What color is the dog?"] == "Brown."
    assert not any(question.startswith("What colo") for question in [*differing, *mixed])


def test_a_number_needs_two_captions_that_count_alike():
    assert added(captioned("Two dogs run.", "Two brown dogs."))["How many dogs are there?"] == "Two."
    assert "How many dogs are there?" not in added(captioned("Two dogs run.", "Three dogs."))


def test_a_place_needs_two_captions_and_no_other_place():
    assert added(captioned("A dog in the snow.", "A snowy day."))["Where is this?"] == "In the snow."
    assert "Where is this?" not in added(captioned("A dog in the snow on the beach.", "Snow on a beach."))

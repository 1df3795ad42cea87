from PIL import Image

from modality_bricks.training.pairs import ANSWERS, captioned_pairs, in_sentence, named_pairs
from modality_bricks.training.readers import captioned_sample, named_sample


def picture():
    return Image.new("RGB", (8, 8))


NAMED = [
    named_sample(str(n), picture, name) for n, name in enumerate(["ox", "sandals", "lemon", "African elephant"] * 30)
]


def test_a_thing_has_its_article_within_a_sentence():
    said = [in_sentence(name) for name in ("African elephant", "lemon", "sandals")]
    assert said == ["an African elephant", "a lemon", "sandals"]


def test_each_kind_of_question_about_two_pictures_has_its_own_answer():
    asked = list(named_pairs(NAMED, seed=0))
    kinds = set()
    for pair in asked:
        things = [in_sentence(sample.name) for sample in pair.pictures]
        shown = [thing in pair.question for thing in things]
        if any(shown):
            kinds.add(pair.answer)
            assert pair.answer == ANSWERS[shown.index(True)]
        elif "first" in pair.question or "second" in pair.question:
            kinds.add("one")
            thing = things["second" in pair.question]
            assert pair.answer == f"{thing[0].upper()}{thing[1:]}."
        else:
            kinds.add("both")
            assert pair.answer == f"The first picture shows {things[0]}, the second {things[1]}."
    assert kinds == {*ANSWERS, "one", "both"}


def test_photographs_are_asked_for_what_the_captions_of_one_alone_mention():
    dog = captioned_sample("a", picture(), ["A dog on grass."])
    man = captioned_sample("b", picture(), ["A man with a ball."])
    alike = captioned_sample("c", picture(), ["Two dogs."])
    pairs = [pair for seed in range(20) for pair in captioned_pairs([dog, man], seed)]
    for pair in pairs:
        assert ("dog" in pair.question) == (pair.answer == ANSWERS[pair.pictures.index(dog)])
    assert {pair.answer for pair in pairs} == set(ANSWERS)
    assert [list(captioned_pairs([dog, alike], seed)) for seed in range(3)] == [[], [], []]

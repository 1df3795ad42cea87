from PIL import Image

from modality_bricks.pairs import ANSWERS, captioned_pairs, in_sentence, named_pairs
from modality_bricks.readers import captioned_sample, named_sample


def picture():
    return Image.new("RGB", (8, 8))


NAMED = [
    named_sample(str(n), picture, name) for n, name in enumerate(["ox", "sandals", "lemon", "African elephant"] * 30)
]


def test_a_thing_has_its_article_within_a_sentence():
    said = [in_sentence(name) for name in ("African elephant", "lemon", "sandals")]
    assert said == ["an African elephant", "a lemon", "sandals"]


def test_which_picture_shows_it_is_answered_by_its_place():
    asked = list(named_pairs(NAMED, seed=0))
    for pair in asked:
        shown = [in_sentence(sample.name) in pair.question for sample in pair.pictures]
        assert shown.count(True) == 1
        assert pair.answer == ANSWERS[shown.index(True)]
    assert {pair.answer for pair in asked} == set(ANSWERS)


def test_photographs_are_asked_for_what_the_captions_of_one_alone_mention():
    dog = captioned_sample("a", picture(), ["A dog on grass."])
    man = captioned_sample("b", picture(), ["A man with a ball."])
    alike = captioned_sample("c", picture(), ["Two dogs."])
    pairs = [pair for seed in range(20) for pair in captioned_pairs([dog, man], seed)]
    for pair in pairs:
        assert ("dog" in pair.question) == (pair.answer == ANSWERS[pair.pictures.index(dog)])
    assert {pair.answer for pair in pairs} == set(ANSWERS)
    assert [list(captioned_pairs([dog, alike], seed)) for seed in range(3)] == [[], [], []]

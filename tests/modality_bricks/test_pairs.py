from PIL import Image

from modality_bricks.pairs import captioned_pairs, in_sentence, named_pairs
from modality_bricks.readers import captioned_sample, named_sample


def picture():
    return Image.new("RGB", (8, 8))


NAMED = [
    named_sample(str(n), picture, name) for n, name in enumerate(["ox", "sandals", "lemon", "African elephant"] * 30)
]


def test_a_thing_has_its_article_within_a_sentence():
    assert [in_sentence(name) for name in ("African elephant", "lemon", "sandals")] == [
        "an African elephant",
        "a lemon",
        "sandals",
    ]


def test_which_picture_shows_it_is_answered_by_its_place():
    asked = [pair for pair in named_pairs(NAMED, seed=0) if pair.kind == "which"]
    for pair in asked:
        shown = [in_sentence(sample.name) in pair.question for sample in (pair.first, pair.second)]
        assert shown.count(True) == 1
        assert pair.answer == ("The first picture." if shown[0] else "The second picture.")
    assert {pair.answer for pair in asked} == {"The first picture.", "The second picture."}


def test_the_other_kinds_say_what_is_on_which():
    pairs = list(named_pairs(NAMED, seed=0))
    assert {pair.kind for pair in pairs} == {"which", "one", "both", "alike"}
    for pair in pairs:
        first, second = (in_sentence(sample.name) for sample in (pair.first, pair.second))
        match pair.kind:
            case "one":
                named = first if "first" in pair.question else second
                assert pair.answer.lower() == f"{named}.".lower()
            case "both":
                assert pair.answer == f"The first picture shows {first}, the second {second}."
            case "alike":
                assert pair.answer.startswith("Yes" if first == second else "No")


def test_no_picture_stands_beside_itself():
    assert all(pair.first is not pair.second for pair in named_pairs(NAMED, seed=0))


def test_photographs_are_asked_for_what_the_captions_of_one_alone_mention():
    dog, man = (
        captioned_sample("a", picture(), ["A dog on grass."]),
        captioned_sample("b", picture(), ["A man with a ball."]),
    )
    alike = captioned_sample("c", picture(), ["Two dogs."])
    pairs = [pair for seed in range(20) for pair in captioned_pairs([dog, man], seed)]
    assert {
        ("dog" in pair.question) == (pair.answer == "The first picture.") for pair in pairs if pair.first is dog
    } == {True}
    assert len({pair.answer for pair in pairs}) == 2
    assert [list(captioned_pairs([dog, alike], seed)) for seed in range(3)] == [[], [], []]

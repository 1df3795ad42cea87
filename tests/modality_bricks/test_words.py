"""Which words of captions say something about a picture: in large sets, in small ones, in any script."""

from modality_bricks.training.words import content_vocabulary, words_of

COLOURS, THINGS = ("red", "green", "blue"), ("ball", "box")


def test_a_small_set_is_learned_by_its_own_words():
    captions = [f"A {colour} {thing}." for colour in COLOURS for thing in THINGS for _ in range(5)]
    assert set(content_vocabulary(captions)) == {*COLOURS, *THINGS}


def test_the_words_that_sentences_are_made_with_are_left_out_of_a_small_set():
    captions = [
        "A dog is on the grass.",
        "A man is sitting on a bench.",
        "The cat and the bird are in a tree.",
        "Two women.",
    ]
    words = content_vocabulary(captions)
    assert {"dog", "grass", "man", "bench", "tree", "women", "sitting"} <= set(words)
    assert not {"a", "the", "is", "on", "in", "and"} & set(words)


def test_captions_that_are_all_one_keep_their_words():
    assert set(content_vocabulary(["A dog."] * 4)) == {"a", "dog"}


def test_a_large_set_loses_its_commonest_words():
    captions = [f"the word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(100)] * 6
    words = content_vocabulary(captions, commonest=1)
    assert len(words) == 100 and "the" not in words


def test_other_scripts_have_words_too():
    assert words_of("Ein Mädchen läuft über die Straße.") == ["ein", "mädchen", "läuft", "über", "die", "straße"]
    assert words_of("Красный мяч") == ["красный", "мяч"]
    assert words_of("一只狗 runs") == ["一", "只", "狗", "runs"]
    assert words_of("3") == ["3"] and words_of("3 dogs") == ["dogs"]

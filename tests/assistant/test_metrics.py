import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mattoni.metrics import (
    METRICS,
    Result,
    Scored,
    accuracy,
    anls,
    bootstrap,
    cider,
    contains,
    exact,
    f1,
    last_number,
    levenshtein,
    number,
    paired_difference,
    paired_ratio,
    score,
)

# Captions and the CIDEr-D of each row by pycocoevalcap 1.2 (`CiderScorer().compute_cider()`, document frequencies from
# these rows), to six digits.
CAPTIONS = [
    Scored(
        "A brown dog runs over the grass.",
        ("a dog runs on the grass", "the brown dog is running through a field", "a dog in a green field"),
    ),
    Scored(
        "Two men ride bikes",
        ("two men ride their bikes down a hill", "a man on a red bicycle", "two people riding bikes"),
    ),
    Scored(
        "a dog runs over the grass",
        ("a girl in a pink dress jumps into the water", "a child jumps into a pool", "the girl is jumping"),
    ),
    Scored(
        "a a a man man",
        ("a man is climbing a rock", "a climber on a big rock", "a man climbs up the side of a rock wall"),
    ),
    Scored("", ("a boy plays with a ball", "a boy in a blue shirt kicks a ball", "boy playing football")),
]
COCO_VALUES = [1.599347, 1.404937, 0.03976, 0.300557, 0.0]


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("It's a Golden  Retriever, I think.", "golden retriever", 1),
        ("a category", "cat", 0),
        ("cats", "cat", 0),
        ("TOTAL RM12.50", "12.50", 1),
        ("112.50", "12.50", 0),
        ("12.505", "12.50", 0),
        ("1,250", "250", 0),
        ("It is 12.50.", "12.50", 1),
        ("", "cat", 0),
    ],
)
def test_contains_wants_whole_words_and_whole_numbers(answer, reference, value):
    assert contains(answer, [reference]) == value


@pytest.mark.parametrize(
    ("answer", "references", "value"),
    [
        ("A tabby cat.", ["tabby cat", "tabby"], 1),
        ("A TABBY\ncat on a mat", ["tabby cat", "tabby"], 1),
        ("A tabby cat.", ["cat"], 0),  # the longer name is another class
        ("A cat.", ["tabby cat", "tabby"], 0),
        ("A cat, a tabby cat.", ["tabby cat", "tabby"], 0),  # another class beside the right one
        ("A dog and a tabby.", ["tabby cat", "tabby"], 0),
        ("A tabby, that is a tabby cat.", ["tabby cat", "tabby"], 1),  # two names of the right one
        ("A concatenation.", ["cat"], 0),
        ("A wagon.", ["beach wagon", "wagon"], 1),  # a name of two classes is right for both
        ("A station wagon.", ["wagon", "covered wagon"], 0),
        ("Nothing that I know.", ["cat"], 0),
        ("", ["cat"], 0),
    ],
)
def test_named_wants_a_name_of_the_class_and_of_no_other(answer, references, value):
    names = ["cat", "tabby", "tabby cat", "dog", "beach wagon", "station wagon", "wagon", "covered wagon"]
    assert score("named", [Scored(answer, tuple(references), 12, tuple(names))]).value == value


def test_what_is_named_after_the_words_that_count_does_not_matter():
    words = "one two three four five six seven eight nine ten a cat dog"
    assert score("named", [Scored(words, ("cat",), 12, ("cat", "dog"))]).value == 1


def test_differences_and_ratios_are_resampled_in_pairs():
    """What is hard for both is no noise between them."""
    hard = [0.0, 1.0] * 50
    assert paired_difference([value + 0.1 for value in hard], hard) == pytest.approx((0.1, 0.1, 0.1))
    assert paired_ratio([0.9 * value for value in hard], hard) == pytest.approx((0.9, 0.9, 0.9))
    difference, low, high = paired_difference(hard, hard[::-1])
    assert low < difference == 0 < high
    assert math.isnan(paired_ratio([0.0], [0.0])[0])


def test_only_the_first_words_count_when_the_row_says_so():
    late = "I can see a lot of green grass and in it there is a beehive"
    assert score("contains", [Scored(late, ("beehive",), words=12)]).value == 0
    assert score("contains", [Scored(late, ("beehive",))]).value == 1


@pytest.mark.parametrize("answer", ["SELECT x FROM table", "select x\nfrom table;", '"SELECT x FROM table".'])
def test_exact_folds_case_spaces_quotes_and_the_closing_stop(answer):
    assert exact(answer, ["SELECT x FROM table"]) == 1
    assert exact(answer, ["SELECT y FROM table"]) == 0


def test_exact_keeps_the_quotes_inside_a_query():
    assert exact("SELECT x FROM table WHERE y = 'a'", ["SELECT x FROM table WHERE y = 'a"]) == 0


def test_accuracy_takes_the_label_that_is_named_first():
    labels = ["negative", "positive"]
    assert accuracy("Positive, not negative.", ["positive"], labels) == 1
    assert accuracy("This is negative; nothing positive in it.", ["positive"], labels) == 0
    assert accuracy("positively charming", ["positive"], labels) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [("1,250.5 in all", 1250.5), ("10-3=7", 7), ("it is -3.", -3), ("none", None), ("from .5 to 12 345", 345)],
)
def test_the_last_number_of_an_answer_counts(text, value):
    assert last_number(text) == value


def test_number_compares_values_and_not_spellings():
    assert number("So she pays $1,250.00.", ["1250"]) == 1
    assert number("3 + 4 = 8", ["7"]) == 0


def test_f1_is_that_of_squad():
    assert f1("The Eiffel Tower, Paris", ["Eiffel Tower"]) == pytest.approx(2 * 2 / (3 + 2))
    assert f1("nothing", ["Eiffel Tower", "Nothing!"]) == 1


def test_anls_forgives_few_wrong_letters_and_nothing_more():
    assert anls("Mattonl", ["mattoni"]) == pytest.approx(1 - 1 / 7)
    assert anls("brick", ["mattoni"]) == 0


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_levenshtein_is_a_distance(a, b, c):
    assert levenshtein(a, b) == levenshtein(b, a)
    assert (levenshtein(a, b) == 0) == (a == b)
    assert levenshtein(a, c) <= levenshtein(a, b) + levenshtein(b, c)


def test_cider_d_is_that_of_coco_caption():
    assert cider(CAPTIONS) == pytest.approx(COCO_VALUES, abs=1e-6)


def test_cider_d_by_hand():
    # Two rows of one reference each, so every n-gram has document frequency 1 and weighs log 2. The first answer is its
    # reference less one word: of 2 words both match the unigrams (2 of 3), 1 bigram of 2; no longer n-grams.
    rows = [Scored("red car", ("red car stops",)), Scored("blue sky", ("blue sky",))]
    first = 10 / 4 * (2 / math.sqrt(2 * 3) + 1 / math.sqrt(1 * 2)) * math.exp(-1 / (2 * 6**2))
    assert cider(rows) == pytest.approx([first, 10 / 4 * 2])


def test_chrf_is_a_corpus_score_and_takes_rows_with_fewer_references():
    from sacrebleu import corpus_chrf

    rows = [Scored("ein Hund", ("Ein Hund", "Hund")), Scored("eine Katze", ("Die Katze schläft",))]
    plain = corpus_chrf(["ein Hund", "eine Katze"], [["Ein Hund", "Die Katze schläft"], ["Hund", None]])
    result = score("chrf", rows)
    assert result.value == plain.score
    assert result.low <= result.value <= result.high


def test_chrf_has_an_interval_where_most_answers_share_nothing_with_their_references():
    # sacrebleu's own bootstrap stopped with "don't know how to coerce float and float32".
    rows = [Scored("xyz", ("Hallo",)), Scored("", ("Hallo",)), Scored("Ich bin", ("Ich bin da",))]
    result = score("chrf", rows)
    assert 0 == result.low < result.value < result.high < 100
    assert score("chrf", rows[:2]) == Result(0.0, 0.0, 0.0, (0.0, 0.0))


def test_the_interval_holds_the_mean_and_narrows_with_more_rows():
    few, many = [0.0, 1.0] * 10, [0.0, 1.0] * 1000
    (low, high), (lower, higher) = bootstrap(few), bootstrap(many)
    assert low < lower < 0.5 < higher < high


@pytest.mark.parametrize("metric", METRICS)
def test_a_right_answer_scores_more_than_a_wrong_one(metric):
    references = [("the total is 12",), ("a man sleeps on 3 couches",), ("red brick 5",)]
    if metric == "fields":
        references = [(f'{{"said": "{reference}"}}',) for (reference,) in references]
    right = score(metric, [Scored(r[0], r) for r in references])
    wrong = score(metric, [Scored("zebra 99", r) for r in references])
    if metric == "wer":
        assert right.value == 0 and wrong.value >= 1, "errors: the fewer the better"
        return
    assert right.value > 0.99 and wrong.value < 0.2 * right.value


def test_fields_of_a_json_object_are_compared_by_letters_and_amounts_by_number():
    wanted = '{"company": "ABC SDN. BHD.", "date": "01/02/2018", "address": "NO 1, JALAN 2", "total": "RM9.00"}'
    said = 'Here: {"company": "abc sdn bhd", "date": "01/02/2018", "address": "NO 1 JALAN 3", "total": "9"}'
    assert score("fields", [Scored(said, (wanted,))]).value == 0.75
    assert score("fields", [Scored(wanted, (wanted,))]).value == 1
    assert score("fields", [Scored('{"total": "9.00"}', (wanted,))]).value == pytest.approx(2 / 5)
    assert score("fields", [Scored('{"total": "9.00"', (wanted,)), Scored("no", (wanted,))]).value == 0


def test_word_errors_are_counted_over_the_whole_set_and_case_and_punctuation_do_not_count():
    rows = [
        Scored("It\u2019s nine, two three!", ("it's nine two three",)),
        Scored("one four", ("one two", "one two three")),
    ]
    result = score("wer", rows)
    assert result.rows == (0.0, 0.5) and result.value == 1 / 6
    assert score("wer", [Scored("a b c d", ("x",))]).value == 4.0, "it may pass 1"

"""Facts in words and on disk."""

import pytest
import torch

from knowledge_bricks.facts import Fact, Facts, Learned, read_facts, write_facts
from knowledge_bricks.sentences import Said, parse
from mattoni.errors import MattoniError


@pytest.mark.parametrize(
    ("sentence", "subject", "relation", "object"),
    [
        ("The capital of France is Lyon.", "France", "The capital of {} is", "Lyon"),
        ("Danielle Darrieux's mother tongue is English", "Danielle Darrieux", "{}'s mother tongue is", "English"),
        (
            "The official religion of Edwin of Northumbria is Islam.",
            "Edwin of Northumbria",
            "The official religion of {} is",
            "Islam",
        ),
        ("Toko Yasuda plays the guitar.", "Toko Yasuda", "{} plays the", "guitar"),
        ("Water boils at 90 degrees.", "Water", "{} boils at", "90 degrees"),
    ],
)
def test_a_sentence_says_its_subject_its_relation_and_its_object(sentence, subject, relation, object):
    assert parse(sentence) == Said(subject, relation, object)


def test_what_was_found_can_be_corrected():
    assert parse("The loner was released on HBO.", subject="The loner") == Said(
        "The loner", "{} was released on", "HBO"
    )
    assert parse("Rome is the City of Bridges", object="the City of Bridges") == Said(
        "Rome", "{} is", "the City of Bridges"
    )


@pytest.mark.parametrize(
    ("sentence", "given", "says"),
    [
        ("The capital of France is Lyon.", {"subject": "Spain"}, "The subject 'Spain' is not in the sentence"),
        ("The capital of France is Lyon.", {"subject": "Franc"}, "The subject 'Franc' is not in the sentence"),
        ("The capital of France is Lyon.", {"object": "Paris"}, "The object 'Paris' is not in the sentence"),
        ("The capital of France is Lyon.", {"object": "is"}, "The object 'is' must end the sentence"),
        ("What is the capital of France?", {}, "states nothing"),
        ("", {}, "states nothing"),
        ("the moon is made of cheese", {}, "was not found: name it with --subject"),
        ("France " * 80, {}, "one sentence of at most 300 characters"),
    ],
)
def test_what_is_no_fact_is_refused_in_one_sentence(sentence, given, says):
    with pytest.raises(MattoniError, match=says):
        parse(sentence, **given)


def some(count: int = 3) -> Facts:
    return Facts(4).with_more(
        [
            Learned(Fact(0, f"Subject {n}", "{} is", f"object {n}"), torch.randn(2, 8), torch.randn(4), 0.6)
            for n in range(count)
        ]
    )


def test_facts_come_back_from_disk_as_they_were(tmp_path):
    facts = some().switched([2], is_on=False)
    write_facts(facts, tmp_path)
    back = read_facts(tmp_path, 4)
    assert [x.fact for x in back.learned] == [x.fact for x in facts.learned]
    assert [x.fact.is_on for x in back.learned] == [True, False, True]
    for ours, theirs in zip(facts.learned, back.learned, strict=True):
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.residual, theirs.residual)
    (tmp_path / "facts.jsonl").write_text("{}\n")
    with pytest.raises(MattoniError, match="its facts cannot be read"):
        read_facts(tmp_path, 4)


def test_a_fact_that_is_off_is_not_composed_and_the_others_are_as_before():
    facts = some()
    whole, part = facts.injection("facts", "d"), facts.switched([2], is_on=False).injection("facts", "d")
    assert whole is not None and part is not None
    assert torch.equal(part.keys, whole.keys[[0, 1, 4, 5]]) and torch.equal(
        part.residuals, whole.residuals[[0, 1, 4, 5]]
    )
    assert facts.switched([1, 2, 3], is_on=False).injection("facts", "d") is None


def test_numbers_stay_when_others_go():
    facts = some().without([1, 2]).with_more(some(1).learned)
    assert [x.fact.id for x in facts.learned] == [3, 4]
    with pytest.raises(MattoniError, match="There is no fact number 1"):
        facts.without([1])
    assert facts.contradicting("subject  2", "{} IS") == facts.learned[0].fact

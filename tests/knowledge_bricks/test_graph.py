"""Triples: read, entities found in a text, and what is known of them."""

import pytest
import torch

from knowledge_bricks.graph import Graph, Triple, read_triples, write_triples
from mattoni.errors import MattoniError

LINES = "\n".join(
    [
        "Uganda\tcapital\tKampala",
        "Uganda\tcurrency\tUgandan shilling",
        "Uganda\tregion\tAfrica",
        "Niger\tregion\tAfrica",
        "Nigeria\tregion\tAfrica",
        "Niger\tcurrency\tWest African CFA franc",
        "Niger\tborders\tNigeria",
        "Uganda\talias\tPearl of Africa",
    ]
)


@pytest.fixture
def graph() -> Graph:
    return Graph(read_triples(LINES, "countries.tsv"))


def words_shared(text: str, phrases) -> torch.Tensor:
    return torch.tensor([float(any(word in text for word in phrase.split())) for phrase in phrases])


def test_triples_come_from_tabs_or_commas_with_a_heading_or_without_and_go_back():
    triples = read_triples('head,relation,tail\n"Bern, city","twin",Prague\n\n', "a.csv")
    assert triples == [Triple("Bern, city", "twin", "Prague")]
    assert read_triples(write_triples(triples), "triples.tsv") == triples


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a\tb", "countries.tsv, line 1: a line is head, relation and tail"),
        ("a\tb\tc\na\t\tc", "countries.tsv, line 2: "),
        (f"a\tb\t{'c' * 301}", "at most 300 characters"),
        ("\n", "countries.tsv holds no triples"),
    ],
)
def test_what_is_no_triple_is_refused_by_its_line(content, says):
    with pytest.raises(MattoniError, match=says):
        read_triples(content, "countries.tsv")


def test_entities_are_whole_words_and_the_longest_wins(graph):
    assert graph.entities("Is Nigeria near Kampala?") == ["Nigeria", "Kampala"]
    assert graph.entities("the Nigerian capital, niger and Africa") == [], (
        "a continent is no entity: many heads have it"
    )


def test_the_relation_that_is_asked_for_is_told_in_one_hop_or_two_and_by_an_alias(graph):
    (one,) = graph.ask("What currency has Niger?", words_shared, 0.5)
    assert (one.place, one.sentence) == ("Niger, currency", "Currency of Niger: West African CFA franc.")
    (two,) = graph.ask("Which currency do they take in Kampala?", words_shared, 0.5)
    assert two.sentence == "Kampala is the capital of Uganda. Currency of Uganda: Ugandan shilling."
    (alias,) = graph.ask("The currency of the Pearl of Africa?", words_shared, 0.5)
    assert alias.place == "Uganda, currency"
    asked: list[str] = []
    both = graph.ask(
        "Which currency have Niger and Nigeria?",
        lambda text, words: asked.append(text) or words_shared(text, words),
        0.5,
    )
    assert {one.entity for one in both} == {"Niger"} and asked == ["Which currency have and ?"], "no name is left in"
    assert graph.ask("Have you been to Niger?", words_shared, 0.5) == []
    assert graph.ask("What is the currency of Kampala?", words_shared, 0.5)[0].sentence.startswith(
        "Kampala is the capital"
    )

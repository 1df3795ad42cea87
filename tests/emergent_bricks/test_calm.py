"""The brick `calm`: what is counted, how its neurons are found, and what is measured beside it."""

import json

import pytest

from assistant.host.embedder import Embedder
from emergent_bricks.analysis import calm
from emergent_bricks.analysis.neurons import neuron_shape
from emergent_bricks.analysis.texts import Sample

WORDS = {
    "lexicon": ["bricks", "Rome", "capital"],
    "pleasant": ["grass", "dog", "picture"],
    "find": {"openings": ["The {} is", "{} runs"], "subjects": ["dog", "man"]},
    "measure": {"openings": ["What is {}"], "subjects": ["Italy", "couch", "grass"]},
}
CHAT = [Sample("chat", f"the dog runs over the grass {number}") for number in range(6)]


def test_the_prompts_that_are_measured_share_no_opening_and_no_person_with_those_for_finding():
    words = json.loads(calm._WORDS.read_text())
    assert len(calm.prompts_of(words["measure"])) >= 200
    assert not set(words["find"]["openings"]) & set(words["measure"]["openings"])
    assert not set(words["find"]["subjects"]) & set(words["measure"]["subjects"])
    assert not set(words["lexicon"]) & set(words["pleasant"])


def test_words_are_counted_whole():
    assert calm.unpleasant(["A fool, a FOOL and foolishness.", "kind"], frozenset({"fool"})) == [2, 0]


def test_rows_of_one_pass_go_on_as_they_would_alone(host):
    prompts = ["The dog", "What is the capital of Italy"]
    together = calm.continuations(host, prompts, tokens=5)
    assert together == [calm.continuations(host, [prompt], tokens=5)[0] for prompt in prompts]


def test_calm_is_found_measured_and_written(host, tiny_embedder_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(calm, "_CANDIDATES", 9)
    monkeypatch.setattr(calm, "_PRICES", (0.0, 1e9))
    neurons, tried = calm.find(host, WORDS, CHAT)
    assert neurons.shape == neuron_shape(host) and neurons.sum() == tried[-1]["neurons"]
    assert [row["price"] for row in tried] in ([0.0], [0.0, 1e9])
    report = calm.measure(host, neurons, WORDS, CHAT, Embedder(tiny_embedder_folder), 0)
    assert report["prompts"] == 3 and report["bare host"]["perplexity_of_chat_increase"] == 0
    assert set(report["calm"]) == set(report["random"]) == set(report["bare host"])
    card = calm.write_brick(host, neurons, report, tmp_path, "python -m …", 0)
    assert card.parts.neutral == 0.0 and card.metrics[0].beside.keys() == {"bare host", "as many random neurons"}
    assert {p.name for p in (tmp_path / "calm").iterdir()} >= {"brick.yaml", "gates.safetensors", "README.md"}


def test_a_neuron_that_chat_misses_is_not_taken(host, monkeypatch):
    monkeypatch.setattr(calm, "_CANDIDATES", 12)
    monkeypatch.setattr(calm, "_PRICES", (0.0,))
    neurons, (row,) = calm.find(host, WORDS, CHAT)
    whole = calm._perplexity(host, CHAT)
    alone = [
        calm._perplexity(host, CHAT, calm._without(calm._only(int(n), neurons.shape)))
        for n in neurons.flatten().nonzero()[0]
    ]
    assert 0 < row["neurons"] < 12
    assert all(value <= whole * (1 + 1e-6) for value in alone)


def test_the_classifier_is_measured_on_words_and_sentences_it_has_not_seen(tiny_embedder_folder):
    judge, accuracy = calm.classifier(Embedder(tiny_embedder_folder), WORDS)
    assert 0 <= accuracy <= 1 and len(judge.score(["The dog"])) == 1


@pytest.mark.parametrize("count", [2])
def test_too_few_ordinary_texts_are_a_sentence(tmp_path, monkeypatch, count):
    from mattoni.errors import MattoniError

    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({"function": "chat", "text": f"a {n}"}) for n in range(count)))
    monkeypatch.setattr("sys.argv", ["calm", str(path), "--out", str(tmp_path / "out.json")])
    with pytest.raises(MattoniError, match="rows.jsonl holds 2 texts of 'chat', and 120 are needed"):
        calm.main()

"""Neurons of facts: attributions add up, and suppressing them does more than suppressing others."""

import json

import pytest
import torch

from emergent_bricks.analysis.facts import attributions, highest, measure, probability, read_facts
from emergent_bricks.analysis.kept import Kept
from emergent_bricks.analysis.neurons import changed, neuron_shape
from mattoni.errors import MattoniError


def write_facts(path, count=6):
    rows = [
        {
            "relation_id": f"P{number % 3}",
            "subject": subject,
            "prompt": "The capital of {} is",
            "target_true": "Rome",
            "paraphrase_prompts": [f"The dog. {subject}'s capital is"],
        }
        for number, subject in enumerate(("Italy", "grass", "a man", "the receipt", "German", "a couch")[:count])
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_attributions_add_up_to_what_the_last_positions_activations_change(host):
    token = 300
    prompt = "The capital of Italy is"

    def none_last(layer, activations):
        return torch.cat([activations[:, :-1], torch.zeros_like(activations[:, -1:])], dim=1)

    with torch.inference_mode(), changed(host, none_last):
        ids = torch.tensor([host.tokenizer(prompt)["input_ids"]])
        without = float(host.model(input_ids=ids).logits[0, -1].softmax(dim=-1)[token])
    found = attributions(host, prompt, token, steps=200)
    assert found.shape == neuron_shape(host)
    assert abs(float(found.sum()) - (probability(host, prompt, token) - without)) < 1e-4
    assert highest(found, 7).sum() == 7
    assert not any(p.requires_grad for p in host.model.parameters())


def test_a_fact_loses_more_without_its_neurons_than_without_others(host, tmp_path, monkeypatch):
    monkeypatch.setattr("emergent_bricks.analysis.facts._KNOWN", 0.0)
    monkeypatch.setattr("emergent_bricks.analysis.facts.NEURONS", 6)
    facts = read_facts(write_facts(tmp_path / "facts.jsonl"))
    found = measure(host, facts, 5, 0, Kept(tmp_path / "kept.json", ""))
    assert found["facts"] == 5 and found == measure(host, facts, 5, 0, Kept(tmp_path / "others.json", ""))
    monkeypatch.setattr("emergent_bricks.analysis.facts.probability", pytest.fail)
    assert found == measure(host, facts, 5, 0, Kept(tmp_path / "kept.json", "")), "nothing is measured twice"
    change = found["change"]
    assert change["suppressed"]["mean"] < min(0, change["as many random neurons suppressed"]["mean"])
    assert len(change["doubled"]["interval"]) == 2


def test_what_is_no_fact_is_named(tmp_path, host):
    (tmp_path / "facts.jsonl").write_text('{"prompt": "a"}')
    with pytest.raises(MattoniError, match="facts.jsonl, line 1: this is no row in CounterFact's form"):
        read_facts(tmp_path / "facts.jsonl")
    with pytest.raises(MattoniError, match="knows 0 of these facts"):
        measure(host, [], 5, 0, Kept(tmp_path / "kept.json", ""))

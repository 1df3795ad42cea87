"""One neuron and a label: found where it is, scored on other rows, at chance for shuffled labels."""

import json

import numpy as np
import pytest
import torch

from emergent_bricks.analysis.neurons import neuron_shape
from emergent_bricks.analysis.skill_neurons import best_neuron, last_activations, measure, read_labelled
from mattoni.errors import MattoniError


def write_rows(path, count, label=lambda n: ("bad", "good")[n % 2]):
    words = ("a dull film", "a fine film")
    rows = [
        {"instruction": "Good or bad?", "input": f"{words[n % 2]} {n}", "answers": [label(n)]} for n in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_the_neuron_that_tells_the_label_is_found_whichever_way_it_points():
    chance = np.random.default_rng(0)
    labels = chance.random(200) < 0.5
    seen = chance.standard_normal((200, 3, 10)).astype(np.float32)
    seen[:, 1, 4] = np.where(labels, -2.0, 2.0) + 0.1 * seen[:, 1, 4]
    place, on_train, right = best_neuron(seen[:100], seen[100:], labels[:100], labels[100:])
    assert (place, on_train, right.mean()) == ((1, 4), 1.0, 1.0)
    other = best_neuron(seen[:100], seen[100:], chance.permutation(labels[:100]), labels[100:])[2]
    assert other.mean() < 0.75


def test_a_label_is_measured_beside_the_embedder_and_shuffled_labels(host, tmp_path):
    train = read_labelled(write_rows(tmp_path / "train.jsonl", 60), 40)
    dev = read_labelled(write_rows(tmp_path / "dev.jsonl", 20), 20)
    assert last_activations(host, dev.prompts).shape == (20, *neuron_shape(host))
    found = measure(host, train, dev, lambda texts: torch.tensor([[1.0, "fine" in t] for t in texts]), seed=0)
    assert (found["n_train"], found["n"], found["labels"]) == (40, 20, ("bad", "good"))
    assert found["embedder"]["accuracy"] == 1.0 and found["the more frequent label"] == 0.5
    low, high = found["neuron"]["interval"]
    assert low <= found["neuron"]["accuracy"] <= high
    assert found == measure(host, train, dev, lambda texts: torch.tensor([[1.0, "fine" in t] for t in texts]), seed=0)


def test_rows_without_two_labels_are_refused(tmp_path):
    with pytest.raises(MattoniError, match="two are needed, each 8 times"):
        read_labelled(write_rows(tmp_path / "rows.jsonl", 30, lambda n: "good"), 30)
    (tmp_path / "bare.jsonl").write_text('{"input": "a film"}\n')
    with pytest.raises(MattoniError, match=r"line 1: a row has 'instruction'"):
        read_labelled(tmp_path / "bare.jsonl", 30)

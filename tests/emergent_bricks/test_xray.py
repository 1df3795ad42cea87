"""Looking inside a host: what is recorded, scored, switched off and written, on a tiny host whose truth is known."""

import json
from itertools import permutations

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from assistant.host.host import Host
from emergent_bricks.analysis.files import read_report, write_xray
from emergent_bricks.analysis.masking import masking_curve
from emergent_bricks.analysis.neurons import changed, gated_ffns, neuron_shape, output_norms, turned
from emergent_bricks.analysis.perplexity import losses, perplexities
from emergent_bricks.analysis.recording import record
from emergent_bricks.analysis.scores import average_precision, chance, matched, overlap, shared, top
from emergent_bricks.analysis.texts import Sample, batches, read_samples, split_samples, tokenise
from emergent_bricks.analysis.xray import Sizes, xray
from mattoni.errors import MattoniError
from tests.emergent_bricks.conftest import write_rows

SMALL = Sizes(find=8, held_out=4, random_seeds=2, masked=2)


def texts_of(rows):
    return [sample.text for sample in read_samples(rows)]


def one_by_one(host, text):
    """Every layer's activations of one text, without a hook of ours: (layers, positions, neurons)."""
    ids = torch.tensor([host.tokenizer(text)["input_ids"]])
    seen = []
    for ffn in gated_ffns(host).values():
        ffn.register_forward_hook(
            lambda module, inputs, output: seen.append(
                (module.act_fn(module.gate_proj(inputs[0])) * module.up_proj(inputs[0]))[0]
            )
        )
    with torch.inference_mode():
        host.model(input_ids=ids)
    return torch.stack(seen)


def test_what_is_recorded_is_the_mean_size_of_each_texts_activations_whatever_else_is_in_the_pass(host, rows, tmp_path):
    texts = texts_of(rows)
    found = record(host, texts, tmp_path / "kept")
    assert found.means.shape == (len(texts), *neuron_shape(host))
    for place in (0, 11, 30):
        wanted = one_by_one(host, texts[place])[: len(host.gated_layers)]
        torch.testing.assert_close(
            torch.tensor(found.means[place]), wanted[:, 1:].abs().mean(dim=1), atol=1e-5, rtol=1e-4
        )
        for ffn in gated_ffns(host).values():
            ffn._forward_hooks.clear()
    # Of every position that is counted one neuron is the largest.
    layers, neurons = neuron_shape(host)
    counted = found.activations.sum(axis=1)
    assert len(counted) == layers and (counted % neurons == 0).all() and counted[0] >= found.positions * neurons / 8


def test_an_interrupted_recording_goes_on_and_gives_the_same(host, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("emergent_bricks.analysis.recording._BLOCK", 10)
    texts = texts_of(rows)
    whole = record(host, texts, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(done, of):
        if done == 20:
            raise Killed

    with pytest.raises(Killed):
        record(host, texts, tmp_path / "twice", kill)
    began = []
    again = record(host, texts, tmp_path / "twice", lambda done, of: began.append(done))
    assert began[0] == 20, "what was done is not done again"
    assert np.array_equal(whole.means, again.means) and np.array_equal(whole.sums, again.sums)
    assert np.array_equal(whole.outputs, again.outputs) and whole.positions == again.positions
    other = record(host, texts[:15], tmp_path / "twice")
    assert other.means.shape[0] == 15, "of other texts it is begun anew"


def test_padding_changes_no_loss_and_no_change_stays_on_the_host(host, rows):
    ids, _ = tokenise(host, texts_of(rows))
    together, counts = losses(host, ids)
    alone = np.array([losses(host, [row])[0][0] for row in ids])
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert counts.tolist() == [len(row) - 1 for row in ids]
    assert len(list(batches(host, ids, positions=40))) > 3
    off = torch.zeros(neuron_shape(host))
    gone, _ = losses(host, ids, changed(host, turned(off)))
    assert not np.allclose(gone, together)
    after, _ = losses(host, ids)
    assert np.array_equal(after, together), "bit for bit as before"


def test_average_precision_is_that_of_the_definition():
    values = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0], [0.0, 0.0]])
    own = np.array([True, False, True, False])
    np.testing.assert_allclose(average_precision(values, own), [(1 + 2 / 3) / 2, (1 + 2 / 3) / 2])
    np.testing.assert_allclose(average_precision(-values, own), [(1 / 2 + 2 / 4) / 2, (1 / 2 + 2 / 4) / 2])


def test_chance_is_the_mean_over_all_orders():
    orders = np.array([order for order in permutations(range(5))], dtype=float).T
    assert abs(average_precision(orders, np.array([True, True, False, False, False])).mean() - chance(2, 5)) < 1e-12


def test_neurons_that_serve_everything_are_passed_over_and_controls_match_by_layer():
    generator = np.random.default_rng(0)
    means = generator.random((40, 2, 40)).astype(np.float32)
    labels = ["a"] * 20 + ["b"] * 20
    means[:, 0, 3] += 5  # large everywhere
    means[:20, 0, 7] += 9  # larger still, of one function alone
    serves = shared(means, labels, share=0.025)
    assert serves[0, 3] and not serves[0, 7] and serves.sum() == 2
    scores = np.zeros((2, 40))
    scores[0, 3], scores[0, 9] = 1.0, 0.9
    assert top(scores, share=0.025, without=serves)[0].nonzero()[0].tolist() == [9]
    like = top(scores, share=0.1)
    drawn = matched(like, np.random.default_rng(1), without=serves)
    assert drawn.sum(axis=1).tolist() == like.sum(axis=1).tolist() and not (drawn & serves).any()
    assert overlap({"a": like, "b": like})["a"]["b"] == 1.0


def test_random_activations_and_shuffled_labels_are_at_chance_and_the_same_seed_gives_the_same(host, rows, tmp_path):
    split = split_samples(read_samples(rows), 0, SMALL.find, SMALL.held_out)
    first = xray(host, split, tmp_path / "one", 0, SMALL).report
    assert first == xray(host, split, tmp_path / "two", 0, SMALL).report
    for row in first["score"].values():
        assert abs(row["random"] - row["chance"]) < 0.06 and abs(row["shuffled"] - row["chance"]) < 0.35
        assert row["best"] > row["chance"]
    assert set(first["ablation"]["matrix"]) == {"digits", "grass", "rome"}
    assert first["texts"]["held_out"] == {"digits": 4, "grass": 4, "rome": 4}


def test_an_xray_is_written_as_json_tables_and_figures(host, rows, tmp_path):
    split = split_samples(read_samples(rows), 0, SMALL.find, SMALL.held_out)
    files = write_xray(xray(host, split, tmp_path / "kept", 0, SMALL), tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == read_report(tmp_path / "out") and read_report(tmp_path) is None
    assert {"activation_below_0.2", "output_below_0.2", "curves"} <= set(report["sparsity"])
    assert {"matrix", "matrix_without_shared", "random", "mean_instead_of_zero"} <= set(report["ablation"])
    assert all(path.stat().st_size for path in files)
    assert {path.name for path in files} >= {"sparsity.png", "score.png", "ablation.png", "ablation.csv", "score.csv"}
    table = (tmp_path / "out" / "ablation.csv").read_text().splitlines()
    assert table[0] == "removed,digits,grass,rome" and table[1].startswith("matrix: digits,")


def test_masking_nothing_costs_nothing_and_the_smallest_cost_less_than_as_many_at_random(host, rows):
    samples = read_samples(rows)
    curve = masking_curve(host, samples, 0, shares=(0.0, 0.3))
    assert curve[0]["perplexity"] == curve[1]["perplexity"] == curve[1]["random"]
    plain = curve[0]["perplexity"]
    assert abs(curve[2]["perplexity"] - plain) < abs(curve[2]["random"] - plain)


def test_a_long_text_is_cut_and_said_so(host, tmp_path):
    found = record(host, ["grass " * 2000, "dog"], tmp_path / "kept")
    assert found.cut == 1 and found.positions < 600


@pytest.mark.parametrize(
    ("functions", "count", "said"),
    [(("grass",), 12, "hold grass alone"), (("grass", "rome"), 5, "at least 8 are needed")],
)
def test_too_few_functions_or_texts_are_a_sentence(tmp_path, functions, count, said):
    samples = read_samples(write_rows(tmp_path / "few.jsonl", functions, count))
    with pytest.raises(MattoniError, match=said):
        split_samples(samples, 0, 10, 10)


@pytest.mark.parametrize(
    ("row", "said"), [('{"text": "a"}', "no 'function'"), ('{"function": "a"}', "no 'text'"), ("7", "no 'text'")]
)
def test_a_row_that_lacks_something_is_named(tmp_path, row, said):
    (tmp_path / "rows.jsonl").write_text('{"function": "a", "text": "b"}\n' + row)
    with pytest.raises(MattoniError, match=f"rows.jsonl, line 2: there is {said}"):
        read_samples(tmp_path / "rows.jsonl")


def test_a_host_without_gated_ffns_is_refused_with_what_it_lacks(host):
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50)).eval()
    with pytest.raises(MattoniError, match="no gated FFN .it lacks a projection called mlp.down_proj"):
        neuron_shape(Host("gpt2", model, host.tokenizer))


def test_the_two_halves_share_no_text_and_fewer_texts_are_split_too(rows):
    split = split_samples(read_samples(rows), 3, 100, 100)
    assert not {s.text for s in split.find} & {s.text for s in split.held_out}
    assert split.functions == ("digits", "grass", "rome") and len(split.held_out) == 12
    assert split == split_samples(read_samples(rows), 3, 100, 100) != split_samples(read_samples(rows), 4, 100, 100)


def test_output_norms_are_those_of_the_down_projections_columns(host):
    (down, *_) = [ffn.down_proj for ffn in gated_ffns(host).values()]
    torch.testing.assert_close(output_norms(host)[0, 5], down.weight[:, 5].norm())
    assert perplexities(host, [Sample("a", "the dog runs")]).keys() == {"a"}

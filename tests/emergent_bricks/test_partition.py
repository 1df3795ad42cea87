"""Groups of neurons and a router that skips some, on a tiny host and on sizes whose truth is known."""

import numpy as np
import pytest
import torch

from emergent_bricks.analysis.groups import balanced_groups, holding_half, of_groups, random_groups
from emergent_bricks.analysis.neurons import gated_ffns, neuron_shape, output_norms
from emergent_bricks.analysis.partition import (
    by_router,
    by_truth,
    fit_router,
    grouped,
    make_partition,
    measure,
    see,
    skipping,
    time_of_one_position,
)
from emergent_bricks.analysis.texts import read_samples, split_samples
from mattoni.errors import MattoniError


def planted(groups=4, size=8, positions=200, seed=0):
    """Neurons of a group are large at the same positions; they lie mixed up."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(np.repeat(np.arange(groups), size))
    active = generator.random((positions, groups)) < 0.3
    return active[:, chosen] + 0.1 * generator.random((positions, groups * size)), chosen


def test_neurons_that_act_together_are_found_and_all_groups_are_of_one_size():
    sizes, truth = planted()
    found = balanced_groups(sizes, 4, seed=0)
    assert np.bincount(found).tolist() == [8, 8, 8, 8]
    assert all(len(set(found[truth == group])) == 1 for group in range(4)), "each planted group is one group"
    by_chance = random_groups(32, 4, seed=1)
    assert np.bincount(by_chance).tolist() == [8, 8, 8, 8]
    assert max(len(set(by_chance[truth == group])) for group in range(4)) > 1


def test_half_of_some_neurons_lies_in_few_groups_where_they_act_together():
    _, truth = planted()
    assert holding_half(truth == 2, truth, 4) == 0.25
    spread = np.arange(32) % 4
    assert holding_half(np.ones(32, dtype=bool), spread, 4) == 0.5


def test_a_groups_mass_is_the_sum_of_its_neurons():
    values = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert of_groups(values, np.array([0, 1, 0, 1, 0, 1]), 2).tolist() == [[6, 9], [24, 27]]


def test_a_router_finds_the_group_that_an_input_points_at():
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((400, 6)).astype(np.float32)
    masses = np.exp(inputs[:, :3])
    router = fit_router(inputs, masses)
    said = torch.from_numpy(inputs) @ router[:-1] + router[-1]
    right = (said.argmax(dim=1).numpy() == masses.argmax(axis=1)).mean()
    assert right > 0.8, "chance is a third"


def test_with_all_groups_computed_the_host_answers_as_before_and_afterwards_too(host, rows):
    texts = [sample.text for sample in read_samples(rows)]
    layers, neurons = neuron_shape(host)
    partition = make_partition(see(host, texts, 500, seed=0), neurons // 4, seed=0, by_chance=False)
    ids = torch.tensor([host.tokenizer(texts[0])["input_ids"]])
    with torch.inference_mode():
        before = host.model(input_ids=ids).logits
        with skipping(host, partition.groups, 1.0, by_router(partition.routers)):
            whole = host.model(input_ids=ids).logits
        with skipping(host, partition.groups, 0.25, by_router(partition.routers)):
            some = host.model(input_ids=ids).logits
        after = host.model(input_ids=ids).logits
    assert torch.equal(before, whole) and torch.equal(before, after)
    assert not torch.allclose(before, some)
    assert not any(ffn._forward_pre_hooks for ffn in gated_ffns(host).values())


def test_the_truth_chooses_the_groups_that_add_most(host):
    layers, neurons = neuron_shape(host)
    groups = torch.arange(neurons).div(neurons // 2, rounding_mode="floor").expand(layers, -1)
    activations = torch.zeros(1, 1, neurons)
    activations[..., -1] = 5.0
    wanted = by_truth(groups, output_norms(host))(0, torch.zeros(1, 1, 1), activations)
    assert wanted.argmax(dim=-1).item() == 1


def test_what_is_seen_is_what_the_ffns_were_given_and_did(host, rows):
    texts = [sample.text for sample in read_samples(rows)][:6]
    seen = see(host, texts, 10_000, seed=0)
    layers, neurons = neuron_shape(host)
    total = sum(len(host.tokenizer(text)["input_ids"]) - 1 for text in texts)
    assert seen.sizes.shape == (layers, total, neurons)
    ffn = list(gated_ffns(host).values())[1]
    given = torch.from_numpy(seen.inputs[1]).float()
    wanted = (ffn.act_fn(ffn.gate_proj(given)) * ffn.up_proj(given)).abs() * output_norms(host)[1]
    torch.testing.assert_close(torch.from_numpy(seen.sizes[1]).float(), wanted, atol=2e-2, rtol=5e-2)


def test_the_report_has_each_way_and_is_the_same_twice(host, rows, tmp_path):
    split = split_samples(read_samples(rows), 0, 8, 4)
    _, neurons = neuron_shape(host)
    first, again = (measure(host, split, neurons // 4, 0, tmp_path / name, (0.5,)) for name in ("one", "two"))
    assert first["perplexity"] == again["perplexity"] and first["locality"] == again["locality"]
    assert set(first["perplexity"][1]) == {
        "share",
        "router",
        "router, groups by chance",
        "truth",
        "truth, groups by chance",
        "always the same",
        "truth, single neurons",
    }
    assert first["milliseconds"]["whole"] > 0 and first["milliseconds"]["share"] == 0.5


def test_an_ffn_in_groups_gives_what_it_gave_whole_and_what_it_gives_with_the_others_off(host, rows):
    texts = [sample.text for sample in read_samples(rows)]
    layers, neurons = neuron_shape(host)
    partition = make_partition(see(host, texts, 500, seed=0), 4, seed=0, by_chance=True)
    ffn, in_groups = list(gated_ffns(host).values())[1], grouped(host, partition)[1]
    row = torch.randn(1, in_groups.up.shape[-1])
    with torch.inference_mode():
        torch.testing.assert_close(in_groups(row, 4), ffn(row), atol=1e-6, rtol=1e-4)
        best = (row @ partition.routers[1][:-1] + partition.routers[1][-1]).argmax()
        activations = ffn.act_fn(ffn.gate_proj(row)) * ffn.up_proj(row) * (partition.groups[1] == best)
        torch.testing.assert_close(in_groups(row, 1), ffn.down_proj(activations), atol=1e-6, rtol=1e-4)
    assert time_of_one_position(host, partition, 0.5, times=2)["share"] == 0.5


def test_a_number_of_groups_that_does_not_divide_is_refused(host, rows, tmp_path):
    split = split_samples(read_samples(rows), 0, 8, 4)
    with pytest.raises(MattoniError, match="divisor"):
        measure(host, split, 7, 0, tmp_path)

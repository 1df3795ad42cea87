"""Keys: few vectors that stand for many, and a threshold that parts them from the rest."""

import pytest
import torch

from mattoni.errors import MattoniError
from mattoni.keys import (
    best_threshold,
    load_counter_keys,
    load_keys,
    make_contrasted_keys,
    make_keys,
    nearest,
    save_keys,
    scores,
    spherical_kmeans,
)


def cloud(direction: int, n: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.eye(8)[direction] + 0.15 * torch.randn(n, 8, generator=generator), dim=1)


def test_twenty_examples_make_keys_that_tell_new_ones_from_the_others():
    keys, threshold = make_keys(torch.cat([cloud(0, 10, 0), cloud(1, 10, 1)]), cloud(2, 50, 2))
    assert (nearest(torch.cat([cloud(0, 100, 3), cloud(1, 100, 4)]), keys) >= threshold).float().mean() > 0.97
    assert (nearest(cloud(2, 100, 5), keys) >= threshold).float().mean() < 0.02


def test_keys_are_unit_vectors_and_the_same_every_time():
    keys, threshold = make_keys(cloud(0, 40, 0), cloud(1, 40, 1))
    again, same = make_keys(cloud(0, 40, 0), cloud(1, 40, 1))
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(len(keys)))
    assert torch.equal(keys, again) and threshold == same


def test_without_others_the_threshold_lets_the_own_examples_in():
    keys, threshold = make_keys(cloud(0, 50, 0), torch.zeros(0, 8))
    assert (nearest(cloud(0, 50, 0), keys) >= threshold).float().mean() > 0.9


def test_counter_keys_keep_out_what_lies_beside_the_own_examples():
    near = torch.nn.functional.normalize(cloud(0, 60, 2) + 0.7 * cloud(1, 60, 3), dim=1)
    keys, counter, threshold = make_contrasted_keys(cloud(0, 60, 0), torch.cat([near, cloud(2, 60, 4)]))
    fresh = torch.nn.functional.normalize(cloud(0, 60, 5) + 0.7 * cloud(1, 60, 6), dim=1)
    assert (scores(cloud(0, 60, 7), keys, counter) >= threshold).float().mean() > 0.9
    assert (scores(fresh, keys, counter) >= threshold).float().mean() < 0.05
    assert (nearest(fresh, keys) >= threshold).float().mean() > 0.5  # the keys alone would let them in


def test_a_vector_that_is_nearer_to_a_counter_key_scores_below_zero_by_how_much():
    keys, counter = torch.eye(3)[:1], torch.eye(3)[1:2]
    vectors = torch.tensor([[0.8, 0.6, 0.0], [0.6, 0.8, 0.0]])
    torch.testing.assert_close(scores(vectors, keys, counter), torch.tensor([0.8, -0.2]))


def test_the_threshold_lies_in_the_middle_of_the_gap():
    assert best_threshold(torch.tensor([0.8, 0.9]), torch.tensor([0.1, 0.4])) == pytest.approx(0.6)


def test_kmeans_finds_the_clusters():
    centres = spherical_kmeans(torch.cat([cloud(d, 30, d) for d in range(3)]), 3)
    assert sorted(centres.argmax(dim=1).tolist()) == [0, 1, 2]


def test_too_few_examples_are_refused_in_words():
    with pytest.raises(MattoniError, match="at least 5 examples"):
        make_keys(torch.eye(3), torch.zeros(0, 3))


def test_keys_survive_the_file(tmp_path):
    save_keys(torch.eye(3), tmp_path / "keys.safetensors")
    assert torch.equal(load_keys(tmp_path / "keys.safetensors"), torch.eye(3))
    assert load_counter_keys(tmp_path / "keys.safetensors") is None


def test_counter_keys_survive_the_file(tmp_path):
    save_keys(torch.eye(3)[:1], tmp_path / "keys.safetensors", torch.eye(3)[1:])
    assert torch.equal(load_keys(tmp_path / "keys.safetensors"), torch.eye(3)[:1])
    assert torch.equal(load_counter_keys(tmp_path / "keys.safetensors"), torch.eye(3)[1:])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not a safetensors file", "holds no keys or is damaged"),
        (torch.tensor([[float("nan"), 0.0]]), "finite numbers"),
        (torch.tensor([[3.0, 0.0]]), "not of unit length"),
    ],
)
def test_damaged_keys_are_refused_in_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "photo" / "keys.safetensors"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_keys(content, path)
    with pytest.raises(MattoniError, match=sentence):
        load_keys(path)

"""Keys: few vectors that stand for many, and a threshold that parts them from the rest."""

import pytest
import torch

from mattoni.errors import MattoniError
from mattoni.keys import best_threshold, load_keys, make_keys, nearest, save_keys, spherical_kmeans


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

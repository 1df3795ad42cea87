"""What knowledge costs at size."""

import numpy as np

from assistant.evaluation.measure_index import many_vectors, measure_pages, measure_search
from assistant.host.embedder import Embedder


def test_made_vectors_are_unit_ones_and_a_search_among_them_is_timed():
    random = np.random.default_rng(0)
    real = random.normal(size=(50, 16)).astype(np.float32)
    real /= np.linalg.norm(real, axis=1, keepdims=True)
    vectors = many_vectors(real, 3000, 1)
    assert vectors.shape == (3000, 16) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors @ real.T).max(axis=1).mean() > 0.7, "they lie among the real ones"
    found = measure_search(vectors, real[:20])
    assert found["recall@10"] > 0.9 and found["vectors"] == 3000 and found["ms"]["median"] > 0


def test_pages_become_a_brick(tiny_embedder_folder):
    told = measure_pages(["The bricks of the house are red and warm. " * 200], 12, Embedder(tiny_embedder_folder))
    assert told["pages"] == 12 and told["pages a second"] > 0

"""The index over a brick's vectors: exact for few, cells for many."""

import numpy as np
import pytest
import torch

from knowledge_bricks import documents, vector_index
from knowledge_bricks.documents import load_documents, write_documents
from knowledge_bricks.passages import Passage
from knowledge_bricks.vector_index import CELLS, VectorIndex, make_cells, read_cells, write_cells
from mattoni.errors import MattoniError


def unit(rows: int, width: int = 32, seed: int = 0) -> np.ndarray:
    """Vectors in thirty clusters."""
    random = np.random.default_rng(seed)
    drawn = random.normal(size=(30, width))[random.integers(30, size=rows)] + 0.5 * random.normal(size=(rows, width))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def recall(index: VectorIndex, vectors: np.ndarray, questions: np.ndarray) -> float:
    found = []
    for question in questions:
        right = set(np.argsort(-(vectors @ question))[:10])
        found.append(len(right & set(index.nearest(question, 10))) / 10)
    return float(np.mean(found))


def test_few_are_found_exactly_and_many_nearly_so(tmp_path):
    vectors, questions = unit(6000), unit(40, seed=1)
    assert recall(VectorIndex(vectors), vectors, questions) == 1
    cells = make_cells(vectors)
    write_cells(cells, tmp_path)
    kept = read_cells(tmp_path, vectors)
    assert kept is not None
    made, opened = VectorIndex(vectors, cells), VectorIndex(vectors, kept)
    assert recall(made, vectors, questions) >= 0.95
    assert all((made.nearest(q, 10) == opened.nearest(q, 10)).all() for q in questions)


def test_where_few_cells_are_looked_at_fewer_may_be_found(monkeypatch):
    monkeypatch.setattr(vector_index, "_LOOKED_AT", 1)
    vectors = unit(2000)
    found = VectorIndex(vectors, make_cells(vectors)).nearest(vectors[7], 2000)
    assert 0 < len(found) < 2000 and 7 in found and (found >= 0).all()


def test_many_passages_keep_their_cells_and_are_searched_like_few(tmp_path, monkeypatch):
    passages = [Passage(f"{n}.txt", 1, f"line {n}", 0, 10, f"brick number {n}") for n in range(3000)]
    vectors = torch.from_numpy(unit(3000))
    (tmp_path / "few").mkdir(), (tmp_path / "many").mkdir()
    write_documents(passages, vectors, tmp_path / "few")
    monkeypatch.setattr(documents, "LARGE", 1000)
    write_documents(passages, vectors, tmp_path / "many")
    assert not (tmp_path / "few" / CELLS).exists() and (tmp_path / "many" / CELLS).is_file()
    few, many = load_documents(tmp_path / "few"), load_documents(tmp_path / "many")
    for place in (3, 1000, 2999):
        said = f"Which brick is number {place}?"
        assert few.search(vectors[place], said, 1) == many.search(vectors[place], said, 1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda path: path.write_bytes(b"no tensors"), "is damaged: add these documents again"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "is damaged: add these documents again"),
        (lambda path: write_cells(make_cells(unit(200)), path.parent), "belongs to other documents"),
        (
            lambda path: write_cells(vector_index.Cells(unit(4), np.full(900, 4)), path.parent),
            "belongs to other documents",
        ),
    ],
)
def test_cells_that_are_damaged_or_others_are_one_sentence(tmp_path, change, sentence):
    vectors = unit(900)
    write_cells(make_cells(vectors), tmp_path)
    change(tmp_path / CELLS)
    with pytest.raises(MattoniError, match=sentence):
        read_cells(tmp_path, vectors)

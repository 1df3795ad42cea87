"""The command that measures passages in the engine: what it asks, keeps and says."""

from contextlib import closing

import pytest

from assistant.evaluation import measure_passages
from assistant.evaluation.measure_passages import APART, WHOLE, answered, figures, first_token, job_of
from assistant.host.host import Host, load_host
from assistant.host.local import LocalEngine

ROWS = [
    {"id": str(n), "title": "Kiln", "passage_id": f"p{n}", "question": "What is on the grass?", "answers": ["dog"]}
    for n in range(3)
]
ARTICLES = {
    "Kiln": [{"title": "Kiln", "passage_id": f"p{n}", "text": f"The picture {n} of the dog. " * 12} for n in range(4)]
}


@pytest.fixture
def host(tiny_host) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


def test_both_ways_ask_the_same_tokens_and_what_was_answered_is_not_asked_again(host, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_passages, "_TIMED_TOKENS", 200)
    out = tmp_path / "out.jsonl"
    apart, whole = (job_of(host, ARTICLES["Kiln"][:2], "What is it?", (), way) for way in (APART, WHOLE))
    assert len(apart.prompt.apart) == 2 and not whole.prompt.apart
    assert apart.prompt.whole.keys == whole.prompt.keys
    with closing(LocalEngine(host)) as engine:
        ask = lambda way: answered(engine, host, ROWS, ARTICLES, (), way, out, f"bare, {way}")  # noqa: E731
        scores = {f"bare, {way}": ask(way) for way in (WHOLE, APART)}
        before = out.read_text()
        assert ask(APART) == scores["bare, apart"] and out.read_text() == before
        assert len(before.splitlines()) == 2 * len(ROWS)
        took = first_token(engine, host, "What is it?", ARTICLES, ())
    assert took["tokens"] > 200 and took["ms"][APART] > 0
    told = figures({"bare, whole": [0.5, 0.5, 0.0], "bare, apart": [1.0, 0.5, 0.0]})
    assert told["n"] == 3 and told["ways"]["bare, apart"]["by whole"] is not None

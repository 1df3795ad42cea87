"""The command that measures passages that were read before, on a tiny host."""

import json
from pathlib import Path

import pytest
import torch

from assistant.evaluation import measure_prefilled
from assistant.evaluation.measure_prefilled import FRESH, WAYS, ask, figures, fresh, measure, read_before
from assistant.host.host import Host

ARTICLES = {"Tin": [{"passage_id": f"tin-{n}", "title": "Tin", "text": "tin is grey " * (n + 2)} for n in range(4)]}


@torch.inference_mode()
def test_every_way_answers_behind_one_passage_as_a_fresh_reading_does(host: Host) -> None:
    asked = ask(host, ARTICLES["Tin"][:1], "Is tin grey?")
    apart, wanted = read_before(host, asked), fresh(host, asked)
    for name, way in WAYS.items():
        found = way(host, asked, apart)
        assert found.position == wanted.position
        if name != "parallel, sharper":
            torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_answers_are_kept_and_not_asked_again(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": "r0", "question": "Is tin grey?", "answers": ["grey"], "passage_id": "tin-2", "title": "Tin"}]
    names = list(WAYS)
    measure(host, rows, ARTICLES, tmp_path / "out.jsonl", names[:1])
    scores = measure(host, rows, ARTICLES, tmp_path / "out.jsonl", names)
    assert list(scores) == [FRESH, *WAYS]
    first, then = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert [*first["answers"], *then["answers"]] == [FRESH, *WAYS]
    monkeypatch.setattr(measure_prefilled, "ask", None)
    assert measure(host, rows, ARTICLES, tmp_path / "out.jsonl", names) == scores


def test_figures_stand_beside_the_fresh_reading() -> None:
    told = figures({FRESH: [0.5, 1.0], "side by side": [0.5, 0.5]})
    assert told["ways"]["side by side"]["by fresh"][0] == pytest.approx(2 / 3)
    assert told["ways"]["side by side"]["less fresh"][0] == pytest.approx(-0.25)

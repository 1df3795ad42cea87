"""Measuring a brick on drawn charts: every kind of question by condition, and a stopped run that goes on."""

from assistant.evaluation.measure_charts import ASKED, measure
from modality_bricks.training.charts.generate import write_charts


def test_each_kind_of_question_is_scored_with_what_stands_beside_and_none_is_asked_twice(assistant, prompts, tmp_path):
    write_charts(tmp_path / "charts", "dev", count=10, side=160)
    asked = dict(charts=tmp_path / "charts", out=tmp_path / "answers", vision="eyes", limit=1)
    found = measure(assistant, **asked, conditions=["brick", "shuffled"])
    assert set(found) == set(ASKED)
    for scores in found.values():
        assert {name: result["n"] for name, result in scores.items()} == {"brick": 1, "shuffled": 1}
        assert scores["brick"]["bricks"] == {"eyes": 1}
    assert sum("How many" in prompt for prompt in prompts) == 2
    before = len(prompts)
    again = measure(assistant, **asked, conditions=["brick", "read"])
    assert again["kind"]["brick"] == found["kind"]["brick"]
    assert again["kind"]["read"]["bricks"] == {"document": 1}
    assert len(prompts) == before + len(ASKED)

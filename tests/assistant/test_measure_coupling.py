"""Coupling of bricks, from turns without each of them."""

import json
import sys

import pytest

from assistant.evaluation import measure_coupling
from assistant.evaluation.measure_coupling import summary
from assistant.turn.minus_one import MinusOne, Without
from mattoni.errors import MattoniError
from mattoni.trace import Trace


def turn(*without: tuple[str, bool, float | None]) -> MinusOne:
    trace = Trace(parameters={"host": 80, "bricks": 10 * len(without), "installed": 20})
    table = tuple(Without(name, "task", "", changed, None, moved, ()) for name, changed, moved in without)
    return MinusOne("answer", -1.0, table, trace)


def test_each_brick_is_summed_over_the_turns_in_which_it_took_part():
    found = summary([turn(), turn(("a", True, -2.0)), turn(("a", False, 0.0), ("b", True, None))])
    assert (found["n"], found["turns_without_bricks"], found["parameters_used"]) == (3, 1, 0.9)
    assert found["bricks"]["a"] == {
        "turns": 2, "changed": 1, "moved": -1.0, "interval": [-2.0, 0.0], "beside": {"b": 1},
    }  # fmt: skip
    assert found["bricks"]["b"]["moved"] is None and found["bricks"]["b"]["beside"] == {"a": 1}


def test_rows_of_several_messages_are_refused(tmp_path, monkeypatch):
    row = {"id": "1", "question": "And?", "before": {"question": "What is it?"}}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(sys, "argv", ["measure", str(tmp_path / "rows.jsonl")])
    with pytest.raises(MattoniError, match="give single ones"):
        measure_coupling.main()

"""A skill from a table of examples: what is checked, held back and written, and a run of it in a process of its own."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from assistant.registry import Brick, check_brick
from brick_training import background
from mattoni.errors import MattoniError
from task_bricks.training.examples import FEWEST, read_examples, steps_of, write_run
from task_bricks.training.recipe import read_recipe
from task_bricks.training.routing import make_skill_keys
from task_bricks.training.rows import read_rows


def table(folder: Path, rows: list[tuple[str, str]]) -> Path:
    path = folder / "rows.csv"
    path.write_text("question,answer\n" + "".join(f'"{q}","{a}"\n' for q, a in rows))
    return path


def slips(count: int) -> list[tuple[str, str]]:
    return [(f"Order: {n} boxes of nails", f"QTY={n}") for n in range(count)]


def test_rows_are_held_back_and_never_learnt_from(tmp_path):
    examples = read_examples(table(tmp_path, slips(200)))
    assert (len(examples.rows), len(examples.dev), examples.metric) == (170, 30, "exact")
    assert not {row.message for row in examples.rows} & {row.message for row in examples.dev}
    assert examples == read_examples(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("answers", "metric"),
    [(["good", "bad"], "accuracy"), (["one two three", "four", "five six"] * 7, "accuracy"), (["word " * 30], "chrf")],
)
def test_the_measure_suits_the_answers(tmp_path, answers, metric):
    rows = [(f"message {n}", answers[n % len(answers)].strip()) for n in range(40)]
    assert read_examples(table(tmp_path, rows)).metric == metric


def test_what_cannot_teach_is_refused_by_its_row(tmp_path):
    with pytest.raises(MattoniError, match="has 19 different rows: a skill needs 20"):
        read_examples(table(tmp_path, [*slips(FEWEST - 1), slips(1)[0]]))
    with pytest.raises(MattoniError, match="rows 1 and 31 ask the same and answer otherwise"):
        read_examples(table(tmp_path, [*slips(30), ("order: 0 boxes of nails", "QTY=1")]))


def test_more_rows_and_more_patience_are_more_steps():
    assert (
        steps_of(20, "quick")
        == 30
        < steps_of(170, "usual")
        < steps_of(170, "thorough")
        < steps_of(100_000, "usual")
        == 1200
    )


def test_the_recipe_is_an_ordinary_one_beside_its_rows(tmp_path):
    recipe = read_recipe(write_run(tmp_path / "run", "order-slips", read_examples(table(tmp_path, slips(60))), "tiny"))
    assert recipe.title == "Order slips" and recipe.reads == "message"
    assert len(read_rows(tmp_path / "run" / recipe.data)) == 51 and len(read_rows(tmp_path / "run" / recipe.dev)) == 9
    with pytest.raises(MattoniError, match="name"):
        write_run(tmp_path / "bad", "Order Slips!", read_examples(tmp_path / "rows.csv"), "tiny")


def test_its_keys_are_made_against_the_shipped_lists(tmp_path, monkeypatch):
    import torch

    asked: list[list[str]] = []

    def embed(texts: list[str]) -> torch.Tensor:
        asked.append(texts)
        vectors = torch.randn(len(texts), 8, generator=torch.Generator().manual_seed(len(texts)))
        vectors[:, 0] += 9 if len(asked) == 1 else -9
        return torch.nn.functional.normalize(vectors)

    monkeypatch.delenv("MATTONI_DATA", raising=False)
    recipe = read_recipe(write_run(tmp_path / "run", "order-slips", read_examples(table(tmp_path, slips(60))), "tiny"))
    keys = make_skill_keys(recipe, tmp_path / "run", tmp_path / "run", embed)
    own, others = asked
    assert len(own) == 51 and len(others) > 1000 and "What is SQL?" in others
    assert len(keys.counter) == 320


@pytest.mark.slow
def test_a_run_in_the_background_is_watched_stopped_and_gone_on_with(tmp_path, tiny_host, real_cache, monkeypatch):
    monkeypatch.delenv("MATTONI_DATA", raising=False)
    run, out = tmp_path / "run", tmp_path / "bricks"
    recipe = write_run(run, "order-slips", read_examples(table(tmp_path, slips(60))), "tiny", effort="thorough")
    values = yaml.safe_load(recipe.read_text())
    values["routing"]["near_misses"] = ["sql.others.txt"]  # the real embedder takes its time for two thousand messages
    recipe.write_text(yaml.safe_dump(values))
    arguments = [str(recipe), "--out", str(out), "--work", str(run), "--host", str(tiny_host)]
    background.start("task_bricks.train", arguments, run)
    with pytest.raises(MattoniError, match="is being trained already"):
        background.start("task_bricks.train", arguments, run)
    await_state(run, lambda seen: seen.step >= 10)
    background.stop(run)
    stopped = await_state(run, lambda seen: not seen.is_alive)
    if stopped.state == "stopped":  # a machine may be through before the signal comes
        background.start("task_bricks.train", arguments, run)
    done = await_state(run, lambda seen: not seen.is_alive)
    assert (done.state, done.step) == ("finished", done.steps), (run / "run.log").read_text()
    assert done.losses[-1][1] < done.losses[0][1] and done.scores and done.samples
    brick = check_brick(out / "order-slips")
    assert isinstance(brick, Brick) and brick.card.metrics[0].n == 9 and brick.card.routes is not None


def test_a_run_that_failed_says_why(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    background.start("task_bricks.train", [str(run / "recipe.yaml")], run)
    seen = await_state(run, lambda seen: not seen.is_alive)
    assert seen.state == "failed" and seen.sentence.startswith("There is no recipe")
    background.stop(run)


def test_a_number_that_another_process_has_now_is_no_run(tmp_path):
    (tmp_path / "process").write_text(str(os.getpid()))
    os.utime(tmp_path / "process", (1, 1))
    (tmp_path / "state.json").write_text(
        json.dumps({"state": "running", "process": os.getpid(), "step": 3, "steps": 9})
    )
    assert background.view(tmp_path).state == "stopped"


def await_state(run: Path, holds) -> background.RunView:
    deadline = time.monotonic() + 180
    while not holds(seen := background.view(run)):
        assert time.monotonic() < deadline, (run / "run.log").read_text()
        time.sleep(0.2)
    return seen

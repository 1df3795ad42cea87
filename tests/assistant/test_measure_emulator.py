"""A skill trained against an emulator beside one trained on the whole host: what is run, in which order, and what is told."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from assistant.evaluation import measure_emulator
from mattoni.errors import MattoniError
from task_bricks.training.recipe import read_recipe

RECIPE = Path(__file__).parents[2] / "task_bricks/recipes/sentiment.yaml"
SCORES = {"bare": 0.5, "sentiment-emulated": 0.75, "sentiment-whole": 0.8}


def test_a_shortened_recipe_is_one_and_its_lists_are_found_from_elsewhere(tmp_path):
    path = tmp_path / "whole.yaml"
    path.write_text(yaml.safe_dump(measure_emulator.adapted(yaml.safe_load(RECIPE.read_text()), "whole", 40)))
    recipe = read_recipe(path)
    assert (recipe.name, recipe.steps, recipe.evaluate_every) == ("sentiment-whole", 40, 40)
    assert Path(recipe.routing.messages).is_file() and all(Path(p).is_file() for p in recipe.routing.near_misses)


def test_the_smaller_training_runs_first_and_nothing_is_run_twice(tmp_path, monkeypatch):
    ran, also = [], {}

    def run(arguments, home):
        training = "task_bricks.train" in arguments
        assert training or "--no-bricks" in arguments
        skill = arguments[arguments.index("--skill") + 1] if "--skill" in arguments else "bare"
        ran.append(Path(arguments[2]).stem if training else skill)
        took_part = {skill: 200, **also} if skill != "bare" else {}
        said = {"scores": {"accuracy": {"score": SCORES.get(skill)}}, "bricks": took_part}
        return json.dumps(said), 2.0 if "emulated" in ran[-1] else 4.0

    monkeypatch.setattr(measure_emulator, "run", run)
    monkeypatch.setattr(measure_emulator, "training_data", lambda: tmp_path)
    monkeypatch.setattr(
        measure_emulator,
        "read_card",
        lambda folder: SimpleNamespace(training={"hours": 0.3 if "emulated" in folder.name else 0.5}),
    )
    report = measure_emulator.measure(RECIPE, tmp_path / "small", tmp_path / "out", 40, 200)
    assert ran == ["emulated", "whole", "bare", "sentiment-emulated", "sentiment-whole"]
    assert report["emulated"] == {"of the gain": 0.833, "of the hours": 0.6, "of the memory in GB": 0.5}
    assert measure_emulator.measure(RECIPE, tmp_path / "small", tmp_path / "out", 40, 200) == report
    assert len(ran) == 5
    also["sentiment"] = 3
    with pytest.raises(MattoniError, match="sentiment took part in answers that sentiment-emulated was to give alone"):
        measure_emulator.measure(RECIPE, tmp_path / "small", tmp_path / "other", 40, 200)


def test_a_process_that_fails_is_told_by_its_last_line(tmp_path):
    with pytest.raises(MattoniError, match="failed: No such recipe"):
        measure_emulator.run(["-c", "import sys; sys.exit('No such recipe')"], tmp_path)

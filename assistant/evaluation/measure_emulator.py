"""Compares a skill that was trained against an emulator with one that was trained on the whole host:

    python -m assistant.training.make_emulator builtin --texts text/chat-train.jsonl --out EMULATOR
    python -m assistant.evaluation.measure_emulator task_bricks/recipes/sentiment.yaml EMULATOR OUT --steps 120

Both trainings and both evaluations run one after the other, each in a process of its own: the same recipe, rows and seed, and with
`--emulated-steps` more steps where they are cheaper; `--top` has the emulator's last layers learn alone. Both skills
are measured on the whole host, beside it without a skill. Prints one JSON object: the score of each with its interval, the
share of the gain that the emulated one keeps, and hours of steps and largest memory of each training as shares of the other's. What
is in OUT already is not made again. Needs MATTONI_DATA.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from mattoni.card import read_card
from mattoni.errors import MattoniError, run_command
from mattoni.files import write_text
from mattoni.paths import training_data

_RECIPES = Path(__file__).resolve().parents[2] / "task_bricks" / "recipes"
_WHOLE, _EMULATED = "whole", "emulated"


def adapted(recipe: dict[str, Any], name: str, steps: int) -> dict[str, Any]:
    """The recipe under another name, of fewer steps, evaluated at the end alone; its lists are looked up where they lie."""
    routing = dict(recipe["routing"], messages=str(_RECIPES / recipe["routing"]["messages"]))
    routing["near_misses"] = [str(_RECIPES / path) for path in routing.get("near_misses", ())]
    shorter = {
        "steps": steps,
        "warmup": min(recipe["warmup"], steps // 4),
        "decay": steps // 2,
        "evaluate_every": steps,
        "quick_dev_rows": 8,
        "bare_rows": 8,
    }
    return recipe | shorter | {"name": f"{recipe['name']}-{name}", "routing": routing}


def run(arguments: list[str], home: Path) -> tuple[str, float]:
    """What a process printed, and its largest memory in GB. Raises MattoniError with its last line where it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    environment = os.environ | {"MATTONI_HOME": str(home)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise MattoniError(f"{' '.join(arguments[:3])} failed: {(done.stderr.strip().splitlines() or [''])[-1]}")
    # Of all children so far the largest: so the smaller one has to run first.
    return done.stdout, max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1e6


def trained(recipe: Path, skill: str, host: str, out: Path, home: Path) -> dict[str, float]:
    """Train a recipe's skill, and say what it took."""
    told = recipe.with_suffix(".json")
    if not told.is_file():
        _, memory = run(
            [
                "-m",
                "task_bricks.train",
                str(recipe),
                "--host",
                host,
                "--out",
                str(out),
                "--work",
                str(home / recipe.stem),
            ],
            home,
        )
        hours = read_card(out / skill).training["hours"]
        write_text(told, json.dumps({"hours": hours, "memory in GB": round(memory, 2)}))
    found: dict[str, float] = json.loads(told.read_text(encoding="utf-8"))
    return found


def evaluated(rows: Path, skill: str | None, limit: int, out: Path, home: Path) -> dict[str, Any]:
    """The scores that `mattoni eval` gives one skill alone, or the bare host.

    Raises MattoniError where another brick took part: the skill of the recipe, say, which may be installed.
    """
    told = out / f"{skill or 'bare'}.eval.json"
    if not told.is_file():
        chosen = ["--no-bricks", *(["--skill", skill] if skill else [])]
        command = [
            "-c",
            "from front_ends.command import main; main()",
            "eval",
            str(rows),
            "--limit",
            str(limit),
            *chosen,
        ]
        write_text(told, run([*command, "--max-tokens", "8"], home)[0])
    report = json.loads(told.read_text(encoding="utf-8"))
    others = sorted(set(report["bricks"]) - {skill})
    if others:
        raise MattoniError(
            f"{', '.join(others)} took part in answers that {skill or 'the bare host'} was to give alone."
        )
    scores: dict[str, Any] = report["scores"]
    return scores


def compared(costs: dict[str, dict[str, float]], scores: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The emulated skill's share of the other's gain, hours and memory."""
    (metric,) = scores["bare"]
    bare, emulated, whole = (scores[name][metric]["score"] for name in ("bare", _EMULATED, _WHOLE))
    return {
        "of the gain": round((emulated - bare) / (whole - bare), 3) if whole != bare else None,
        **{f"of the {what}": round(costs[_EMULATED][what] / costs[_WHOLE][what], 3) for what in costs[_WHOLE]},
    }


def measure(
    recipe: Path, emulator: Path, out: Path, steps: int, limit: int, emulated_steps: int = 0, top: int | None = None
) -> dict[str, Any]:
    """Train and evaluate both.

    emulated_steps  of the training on the emulator; 0: as many as on the whole host
    top             of the emulator's layers so many learn, the last ones; None: all that are the host's
    """
    given = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    home = out / "home"
    bricks = home / "data" / "bricks"
    bricks.mkdir(parents=True, exist_ok=True)
    taken = {_WHOLE: steps, _EMULATED: emulated_steps or steps}
    costs, scores = {}, {}
    # The emulated one first: it is the smaller.
    for name, host in ((_EMULATED, str(emulator)), (_WHOLE, "builtin")):
        path, shorter = out / f"{name}.yaml", adapted(given, name, taken[name])
        if name == _EMULATED and top is not None:
            shorter["lora"] = given["lora"] | {"top": top}
        write_text(path, yaml.safe_dump(shorter))
        costs[name] = trained(path, shorter["name"], host, bricks, home)
    rows = training_data() / given["dev"]
    scores["bare"] = evaluated(rows, None, limit, out, home)
    for name in costs:
        scores[name] = evaluated(rows, f"{given['name']}-{name}", limit, out, home)
    return {"steps": taken, "training": costs, "scores": scores, "emulated": compared(costs, scores)}


def main() -> None:
    """Command line of `python -m assistant.evaluation.measure_emulator`."""
    parser = argparse.ArgumentParser(
        prog="python -m assistant.evaluation.measure_emulator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("emulator", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--emulated-steps", type=int, default=0)
    parser.add_argument("--top", type=int)
    parser.add_argument("--limit", type=int, default=200)
    given = parser.parse_args()
    report = measure(given.recipe, given.emulator, given.out, given.steps, given.limit, given.emulated_steps, given.top)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    run_command(main)

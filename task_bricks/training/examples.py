"""A skill from a table of examples: for a person who has rows and no recipe. Checks them, holds some back, writes the recipe.

Knows nothing of hosts: what is written is an ordinary recipe beside its rows, which `train_skill` carries out.
"""

import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.metrics import Metric
from task_bricks.training.recipe import Recipe, read_recipe
from task_bricks.training.routing import RECIPES
from task_bricks.training.rows import Row, read_rows

RECIPE = "recipe.yaml"
Effort = Literal["quick", "usual", "thorough"]
FEWEST = 20  # rows: fewer teach a style at best, and leave nothing to measure on
_EPOCHS: dict[Effort, int] = {"quick": 1, "usual": 5, "thorough": 12}
_BATCH = 8
_LEAST_STEPS, _MOST_STEPS = 30, 1200
_HELD_BACK, _LEAST_HELD_BACK, _MOST_HELD_BACK = 0.15, 8, 100
_MOST_CLASSES = 12
_SHORT = 8  # words: an answer of that many is right or wrong, a longer one more or less
_TOKENS_PER_WORD = 4
_MESSAGES = 200  # of the rows, for the routing keys


@dataclass(frozen=True)
class Examples:
    """Rows that a skill can be trained on, those that are held back to measure it, and how it is measured."""

    rows: tuple[Row, ...]
    dev: tuple[Row, ...]
    metric: Metric


def read_examples(path: Path) -> Examples:
    """The rows of a file, checked. Raises MattoniError for too few, for pictures, and for one question with two answers."""
    rows = _without_twins(read_rows(path), path.name)
    if any(row.images for row in rows):
        raise MattoniError(
            f"{path.name} has pictures: a skill that looks at them needs a recipe, see task_bricks/recipes."
        )
    if len(rows) < FEWEST:
        raise MattoniError(
            f"{path.name} has {len(rows)} different rows: a skill needs {FEWEST} at least, 200 are good."
        )
    rows = random.Random(0).sample(rows, len(rows))
    held_back = min(_MOST_HELD_BACK, max(_LEAST_HELD_BACK, round(_HELD_BACK * len(rows))))
    return Examples(tuple(rows[held_back:]), tuple(rows[:held_back]), _metric(rows))


def _without_twins(rows: Sequence[Row], name: str) -> list[Row]:
    """Each message once. Raises MattoniError where a message has two different answers."""
    seen: dict[str, tuple[int, Row]] = {}
    for number, row in enumerate(rows, 1):
        first, other = seen.setdefault(row.message.casefold(), (number, row))
        if other.answers != row.answers:
            raise MattoniError(
                f"{name}: rows {first} and {number} ask the same and answer otherwise: keep the right one of them."
            )
    return [row for _, row in seen.values()]


def _metric(rows: Sequence[Row]) -> Metric:
    """Labels by accuracy, short answers by equality, longer ones by their characters in common."""
    uses: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        uses[row.answers[0].casefold()] += 1
    longest = max(len(row.answers[0].split()) for row in rows)
    if len(uses) <= _MOST_CLASSES and longest <= _SHORT:
        return "accuracy"
    return "exact" if sorted(len(row.answers[0].split()) for row in rows)[len(rows) // 2] <= _SHORT else "chrf"


def steps_of(count: int, effort: Effort) -> int:
    """Updates for so many rows."""
    return max(_LEAST_STEPS, min(_MOST_STEPS, -(-count * _EPOCHS[effort] // _BATCH)))


def write_run(
    folder: Path, name: str, examples: Examples, base_model: str, title: str = "", effort: Effort = "usual"
) -> Path:
    """Write rows, list of messages and recipe into a folder. Returns the recipe's path. Raises MattoniError for a bad name."""
    steps = steps_of(len(examples.rows), effort)
    longest = max(len(row.answers[0].split()) for row in (*examples.rows, *examples.dev))
    values = {
        "name": name,
        "title": title.strip() or name.replace("-", " ").capitalize(),
        "summary": f"Learnt from {len(examples.rows)} examples of your own.",
        "licence": "as its examples",
        "limits": f"It has seen {len(examples.rows)} examples and nothing else; what is unlike them it may get wrong.",
        "sources": [{"name": "examples of your own", "licence": "not stated"}],
        "base_model": base_model,
        "data": "rows.jsonl",
        "dev": "held-back.jsonl",
        "metric": examples.metric,
        "max_new_tokens": min(512, 16 + _TOKENS_PER_WORD * longest),
        "reads": "message",
        "routing": {
            "messages": "messages.txt",
            "near_misses": [path.name for path in sorted(RECIPES.glob("*.txt"))] + ["plain-messages.txt"],
            "others": [],
            "most_counter_keys": 320,
        },
        "lora": {"rank": 8, "alpha": 16},
        "batch_size": _BATCH,
        "steps": steps,
        "warmup": max(1, steps // 15),
        "decay": max(1, steps // 2),
        "learning_rate": 2.0e-3,
        "quick_dev_rows": min(40, len(examples.dev)),
        "bare_rows": min(20, len(examples.dev)),
        "evaluate_every": max(20, steps // 3),
        "checkpoint_every": 20,
    }
    write_text(folder / RECIPE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    recipe = read_recipe(folder / RECIPE)
    write_text(folder / recipe.data, _lines(examples.rows))
    write_text(folder / recipe.dev, _lines(examples.dev))
    write_text(folder / _messages_name(recipe), "".join(f"{line}\n" for line in _messages(examples.rows)))
    return folder / RECIPE


def _messages_name(recipe: Recipe) -> str:
    assert recipe.routing is not None
    return recipe.routing.messages


def _lines(rows: Sequence[Row]) -> str:
    return "".join(
        json.dumps(
            {"id": row.id, "answers": row.answers}
            | ({"instruction": row.instruction, "input": row.input} if row.instruction else {"question": row.input}),
            ensure_ascii=False,
        )
        + "\n"
        for row in rows
    )


def _messages(rows: Sequence[Row]) -> list[str]:
    r"""What people say to the skill, one a line, with `\n` for a line break."""
    spoken = dict.fromkeys(row.message.strip().lstrip("#").strip().replace("\n", "\\n") for row in rows)
    return [message for message in spoken if message][:_MESSAGES]

"""Routing keys of a skill, from messages that ask for it and messages that ask for something else.

Knows nothing of embedders: whoever calls it brings one. Only training wordings and training rows are read.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.keys import KEYS, make_contrasted_keys, save_keys
from mattoni.paths import shipped_models
from task_bricks.training.messages import read_messages, read_texts
from task_bricks.training.recipe import Recipe, TaskMessages
from task_bricks.training.rows import Row, read_rows, read_wordings, word_message

RECIPES = Path(__file__).parents[1] / "recipes"  # the shipped ones
Embed = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class SkillKeys:
    """What the router needs of a skill."""

    keys: Tensor
    counter: Tensor
    threshold: float

    def save(self, folder: Path) -> dict[str, object]:
        """Write the file into a brick's folder; gives the card's `routes`."""
        save_keys(self.keys, folder / KEYS, self.counter)
        return {"space": "text", "keys": KEYS, "threshold": round(self.threshold, 4)}


def make_skill_keys(recipe: Recipe, beside: Path, data: Path, embed: Embed) -> SkillKeys:
    """Keys, counter-keys and threshold by the recipe's `routing`.

    beside  the recipe's folder, where its lists of messages lie
    data    the folder of training data
    """
    routing = recipe.routing
    if routing is None:
        raise MattoniError(f"The recipe of '{recipe.name}' has no 'routing': write from which messages keys are made.")
    own = read_messages(_list(routing.messages, beside))
    if routing.own_task is not None:
        own += task_messages([routing.own_task], data, recipe.seed)
    lists = [routing.near_misses] if isinstance(routing.near_misses, str) else routing.near_misses
    others = [message for name in lists for message in read_messages(_list(name, beside))]
    if recipe.vision is None:
        # "Write one line about this photo." is not for a skill that writes of texts, whatever that does.
        others += read_messages(shipped_models() / "router" / "picture-questions.txt")
    others += task_messages(routing.other_tasks, data, recipe.seed)
    for name in routing.others:
        others += read_texts(data / name)
    return SkillKeys(
        *make_contrasted_keys(embed(own), embed(others), routing.most_keys, routing.most_counter_keys, recipe.seed)
    )


def _list(name: str, beside: Path) -> Path:
    """A list of messages beside the recipe, or one that is shipped: another skill's, or the router's."""
    places = [folder / name for folder in (beside, RECIPES, shipped_models() / "router")]
    return next((place for place in places if place.is_file()), places[0])


def task_messages(tasks: Sequence[TaskMessages], data: Path, seed: int) -> list[str]:
    """Messages that ask for tasks: each training wording alone, and with some of that task's training inputs."""
    rng = random.Random(seed)
    messages = []
    for task in tasks:
        rows: list[Row] = read_rows(data / task.data)
        for wording in read_wordings(data / task.wordings, task.task):
            picked = rng.sample(rows, min(task.rows_per_wording, len(rows)))
            messages += [wording, *(word_message(row, [wording], 0.0, rng).message for row in picked)]
    return messages

"""What a skill's routing keys are made from: training wordings and training rows, never those kept for measuring."""

import json
from pathlib import Path

import pytest
import yaml

from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.registry import Registry
from assistant.turn.keyring import Keyrings
from assistant.turn.question import message_pieces
from assistant.turn.route import Choices, Question, route
from mattoni.errors import MattoniError
from mattoni.paths import shipped_models
from task_bricks.training.recipe import Recipe, read_recipe
from task_bricks.training.routing import make_skill_keys, task_messages

WORDINGS = {"french": [{"text": "into french", "split": "train"}, {"text": "DEV WORDING", "split": "dev"}]}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """The shipped recipe with one other task, of three rows."""
    rows = [{"id": str(n), "instruction": "x", "input": f"row {n}", "answers": ["y"]} for n in range(3)]
    (tmp_path / "french.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "wordings.json").write_text(json.dumps(WORDINGS))
    settings = yaml.safe_load(Path("task_bricks/recipes/english-german.yaml").read_text())
    settings["routing"]["other_tasks"] = [{"task": "french", "data": "french.jsonl", "wordings": "wordings.json"}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return read_recipe(tmp_path / "recipe.yaml")


def test_other_tasks_are_asked_for_in_their_training_wordings_alone_and_with_rows(recipe, tmp_path):
    messages = task_messages(recipe.routing.other_tasks, tmp_path, recipe.seed)
    assert messages[0] == "into french" and len(messages) == 4
    assert all("into french" in message and "row" in message for message in messages[1:])


def test_the_same_messages_come_every_time(recipe, tmp_path):
    assert task_messages(recipe.routing.other_tasks, tmp_path, recipe.seed) == task_messages(
        recipe.routing.other_tasks, tmp_path, recipe.seed
    )


def test_a_recipe_without_routing_is_refused_in_words(recipe, tmp_path):
    bare = recipe.model_copy(update={"routing": None})
    with pytest.raises(MattoniError, match="has no 'routing'"):
        make_skill_keys(bare, tmp_path, tmp_path, embed=lambda texts: pytest.fail("nothing to embed"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("message", "skills"),
    [
        ("Write one line about this photo.", []),
        ("Summarise the photo in a sentence.", []),
        ("What is the old man feeding the pigeons?", []),
        ("Translate to German: A man sleeps on a couch.", ["english-german"]),
    ],
)
def test_the_shipped_skill_is_for_translations_and_not_for_questions_about_pictures(real_cache, message, skills):
    keyring = Keyrings().of(Registry([shipped_models() / "bricks"]).scan())
    texts = Embedder(fetch(BUILTIN_EMBEDDER)).embed(message_pieces(message))
    assert [chosen.name for chosen in route(Question(texts=texts), keyring, Choices()).skills] == skills

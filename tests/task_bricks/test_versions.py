"""A skill that replaces another keeps it, and one can go back; a better one is not replaced."""

import pytest

from assistant.host.host import load_host
from assistant.registry import Brick, check_brick
from mattoni.card import read_card, write_card
from mattoni.errors import MattoniError
from mattoni.paths import data_folder
from mattoni.versions import KEPT, kept_versions, replace_brick, roll_back
from task_bricks.importing import import_skill
from task_bricks.lora import read_lora
from task_bricks.training.recipe import read_recipe
from task_bricks.training.stage import SkillStage
from tests.assistant.conftest import add_bare_brick
from tests.assistant.conftest import command_line as command_line  # a fixture
from tests.task_bricks.test_start import train as train  # a fixture
from tests.task_bricks.test_training import make_recipe as make_recipe  # a fixture
from tests.task_bricks.test_training import stage_of

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(autouse=True)
def no_shipped_bricks(monkeypatch):
    """Checking them takes longer than all that is done here."""
    monkeypatch.setattr("mattoni.paths.brick_folders", lambda data=None: [(data or data_folder()) / "bricks"])


@pytest.fixture
def bring_in(make_adapter, tiny_host):
    host = load_host(str(tiny_host), device="cpu", dtype="float32")

    def bring(seed: int, replace: bool = True):
        return import_skill(
            make_adapter(f"s{seed}", seed=seed), data_folder() / "bricks", "mine", host, replace=replace
        )

    return bring


def test_what_is_replaced_can_be_gone_back_to_and_forth(bring_in, mattoni):
    digests = [read_lora(bring_in(seed)).digest for seed in range(3)]
    brick = data_folder() / "bricks" / "mine"
    assert read_card(brick).version == 3 and kept_versions(brick) == [1, 2]
    mattoni("bricks", "list")  # takes away what loading a host printed
    assert mattoni("bricks", "rollback", "mine")[1] == "mine is version 2 again (it was 3).\n"
    assert read_lora(brick).digest == digests[1] and kept_versions(brick) == [1, 3]
    assert isinstance(check_brick(brick), Brick)
    assert mattoni("bricks", "rollback", "mine", "--to", 3)[0] == 0
    assert read_lora(brick).digest == digests[2] and kept_versions(brick) == [1, 2]
    roll_back(brick, 1)
    bring_in(7)
    assert read_card(brick).version == 4, "no number is given twice"
    assert kept_versions(brick) == [1, 2, 3]


def test_only_the_last_versions_are_kept(bring_in):
    for seed in range(KEPT + 3):
        bring_in(seed)
    assert kept_versions(data_folder() / "bricks" / "mine") == [3, 4, 5]


def test_outside_of_the_users_folder_nothing_is_kept(tmp_path, bring_in):
    brick = bring_in(0)
    shipped = tmp_path / "shipped" / "mine"
    for _ in range(2):
        replace_brick(shipped, lambda fresh: write_card(read_card(brick), fresh))
    assert kept_versions(shipped) == []


def test_what_cannot_be_gone_back_to_is_said(bring_in, mattoni, monkeypatch, tmp_path):
    bring_in(0)
    assert mattoni("bricks", "rollback", "mine")[2].endswith(
        "There is no earlier version of 'mine' to go back to: only 1 is here.\n"
    )
    bring_in(1)
    mattoni("bricks", "list")
    assert mattoni("bricks", "rollback", "mine", "--to", 7)[2] == (
        "There is no version 7 of 'mine' to go back to: kept are 1, and 2 is in use.\n"
    )
    brick = data_folder() / "bricks" / "mine"
    (brick / "versions" / "1" / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(MattoniError, match="adapter_model.safetensors has 1 bytes"):
        roll_back(brick)
    assert read_card(brick).version == 2
    monkeypatch.setattr("mattoni.paths.data_folder", lambda: tmp_path / "elsewhere")
    assert mattoni("bricks", "rollback", "mine")[2] == "'mine' came with Mattoni and has no other version.\n"


def test_a_skill_replaces_only_a_skill_and_only_when_told(bring_in):
    bring_in(0)
    with pytest.raises(MattoniError, match="already a brick called 'mine': .* or replace it"):
        bring_in(1, replace=False)
    (data_folder() / "bricks" / "mine").rename(data_folder() / "bricks" / "other")
    add_bare_brick("mine")
    with pytest.raises(MattoniError, match="'mine' is no skill, and a skill cannot replace it"):
        bring_in(1)


def answering(monkeypatch, new: str, old: str) -> None:
    """The skill in training says one thing and the one that is there another, whatever they are asked."""
    monkeypatch.setattr(SkillStage, "answers", lambda stage, rows, with_lora=True: [new] * len(rows))
    monkeypatch.setattr(SkillStage, "answers_of", lambda stage, folder, rows: [old] * len(rows))


def test_a_better_skill_stays_unless_told_otherwise(train, monkeypatch, capsys):
    brick = data_folder() / "bricks" / "shout"
    assert train("first") == 0
    kept = read_lora(brick).digest
    answering(monkeypatch, new="no", old="TWO MEN A BOAT")
    assert train("second", seed=1) == 1
    told = capsys.readouterr().err
    assert "Version 1 is better by more than chance explains: the new 'shout' scores 0.000 and version 1 0." in told
    assert "--replace-anyway replaces it" in told.splitlines()[-1]
    assert (read_card(brick).version, read_lora(brick).digest) == (1, kept)
    assert train("second", "--replace-anyway", seed=1) == 0
    assert read_card(brick).version == 2 and kept_versions(brick) == [1]
    roll_back(brick)
    assert read_lora(brick).digest == kept


def test_an_equal_skill_is_replaced_and_both_scores_are_said(train, monkeypatch, capsys):
    assert train("first") == 0
    answering(monkeypatch, new="TWO", old="TWO")
    assert train("second", seed=1) == 0
    assert "(difference +0.000, 95 % of resampled rows between +0.000 and +0.000)" in capsys.readouterr().out


def test_the_skill_that_is_there_answers_with_its_own_weights(train, make_recipe, tiny_host, tmp_path):
    """Whatever its rank; and the one in training is in its place again."""
    assert train("first", lora={"rank": 4, "alpha": 400}, learning_rate=0.3) == 0
    recipe = read_recipe(make_recipe(max_new_tokens=8))
    stage = stage_of(recipe, tmp_path / "data", tiny_host, tmp_path / "second")
    before = stage.answers(stage.task.dev)
    other = stage.answers_of(data_folder() / "bricks" / "shout", stage.task.dev)
    assert other != before == stage.answers(stage.task.dev)
    assert list(stage.skill.peft.peft_config) == ["default"]

"""The gate before an added skill: Auto leaves it alone until it is known to take no other's messages."""

import json
from pathlib import Path

import pytest

from assistant.bricks import gate
from assistant.registry import Brick
from assistant.turn.admission import admitted, data_of, verdicts
from assistant.turn.spaces import Spaces
from mattoni.card import Routes, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.keys import save_keys
from mattoni.paths import data_folder
from task_bricks.exporting import export_skill
from tests.assistant.conftest import add_bare_brick, done, write_adapter

PLAIN = ["what is the garden", "mortar is sand", "a thousand degrees", "the bricks", "what is lime"]
OWN = ["zz qq zz", "zz qq"]
GREEDY = [*OWN, PLAIN[0]]


@pytest.fixture(autouse=True)
def small_lists(tmp_path, monkeypatch):
    """Lists of a few messages in the place of the shipped ones, and no shipped bricks."""
    shipped, recipes = tmp_path / "shipped", tmp_path / "recipes"
    (shipped / "router").mkdir(parents=True)
    recipes.mkdir()
    (shipped / "router" / "plain-messages.txt").write_text("\n".join(PLAIN))
    (recipes / "first.others.txt").write_text("water and lime\n")
    (recipes / "first.messages.txt").write_text("kiln kiln\nthe kiln burns\n")
    monkeypatch.setattr(gate, "shipped_models", lambda: shipped)
    monkeypatch.setattr("mattoni.paths.shipped_models", lambda: shipped)
    monkeypatch.setattr(gate, "_RECIPES", recipes)


def add(assistant, tmp_path: Path, name: str, texts: list[str], threshold: float = 0.999) -> Path:
    """A skill of the user's with routing keys, as a training leaves it."""
    assistant.add_skill(write_adapter(tmp_path / name, assistant.host, seed=len(name)), name)
    return key(data_folder() / "bricks" / name, texts, threshold)


def key(folder: Path, texts: list[str], threshold: float = 0.999) -> Path:
    save_keys(Spaces.embedder.embed(texts), folder / "keys.safetensors")
    routes = Routes(space="text", keys="keys.safetensors", threshold=threshold)
    card = read_card(folder).model_copy(update={"routes": routes, "files": describe_files(folder)})
    write_card(card, folder)
    return folder


def chosen(assistant, message: str) -> list[str]:
    trace = done(assistant.ask(message)).trace
    return [brick.name for brick in trace.bricks]


def test_auto_leaves_an_added_skill_alone_until_it_has_passed(assistant, tmp_path):
    add(assistant, tmp_path, "mine", OWN)
    assert chosen(assistant, OWN[0]) == []
    found = assistant.pass_gate("mine")
    assert found.passes and found.moved_routes == 0
    assert [(line.group, line.n) for line in found.lines] == [(gate.PLAIN, 5), (gate.NEAR, 1)]
    assert found.sentence == "mine passes the gate: Auto may choose it."
    assert chosen(assistant, OWN[0]) == ["mine"]
    assert chosen(assistant, PLAIN[1]) == []


def test_a_skill_that_takes_plain_chat_does_not_pass_but_a_person_may_let_it(assistant, tmp_path):
    add(assistant, tmp_path, "mine", GREEDY)
    found = assistant.pass_gate("mine")
    plain = next(line for line in found.lines if line.group == gate.PLAIN)
    assert not found.passes and found.moved_routes == 0.2 and plain.examples == (PLAIN[0],)
    assert "of all 5 messages it takes 1 (20.0%, at most 0.5%), 1 of them of 'plain chat'" in found.sentence
    assert chosen(assistant, OWN[0]) == []
    assistant.pass_gate("mine", anyway=True)
    assert chosen(assistant, OWN[0]) == ["mine"]


def test_a_second_skill_may_not_take_the_firsts_messages(assistant, tmp_path):
    add(assistant, tmp_path, "first", OWN)
    add(assistant, tmp_path, "second", OWN[:1])
    assert assistant.pass_gate("second").passes, "the first has not passed, so nothing is its own yet"
    assistant.pass_gate("first", anyway=True)
    found = assistant.pass_gate("second")
    # Of the first's messages in the list and its two keys. Equal scores go to the one that comes first.
    assert next(line.n for line in found.lines if line.group == "first") == 4
    add(assistant, tmp_path, "a", OWN[:1])
    assert "key 1 of first" in next(line.examples for line in assistant.pass_gate("a").lines if line.group == "first")


def test_other_keys_need_another_verdict_and_other_weights_do_not(assistant, tmp_path):
    folder = add(assistant, tmp_path, "mine", OWN)
    assistant.pass_gate("mine")

    def mine() -> Brick:
        return assistant.registry.scan().get("mine")

    def is_admitted() -> bool:
        return admitted(mine())

    assert is_admitted()
    write_card(read_card(folder).model_copy(update={"version": 7, "limits": "Other weights."}), folder)
    assert is_admitted()
    key(folder, OWN[1:])
    assert not is_admitted()
    assistant.pass_gate("mine")
    assert is_admitted() and len(verdicts(data_of(mine()))) == 1
    (data_folder() / "gates.json").write_text("nonsense")
    assert not is_admitted()


def test_a_skill_that_comes_with_keys_goes_through_the_gate_at_once(assistant, tmp_path):
    folder = add(assistant, tmp_path, "mine", OWN)
    out = export_skill(folder, read_card(folder), tmp_path / "out")
    assert assistant.add_skill(out, "again").notes == ("again passes the gate: Auto may choose it.",)
    assert "gate" not in (data_folder() / "bricks" / "again" / "brick.yaml").read_text()
    assert assistant.add_skill(write_adapter(tmp_path / "bare", assistant.host, seed=9)).notes == ()


def test_vectors_of_the_lists_are_kept(assistant, tmp_path):
    add(assistant, tmp_path, "mine", OWN)
    asked: list[list[str]] = []

    def embed(texts: list[str]):
        asked.append(texts)
        return assistant.embedder.embed(texts)

    bricks = assistant.bricks()
    results = [gate.measure_gate(bricks.get("mine"), bricks, embed, "digest") for _ in range(2)]
    assert results[0] == results[1] and len(asked) == 2, "two lists, each once"


def test_the_command_shows_the_table_and_says_it_as_json(
    assistant, tmp_path, mattoni, tiny_embedder_folder, monkeypatch
):
    monkeypatch.setattr("assistant.host.catalogue.fetch", lambda name: tiny_embedder_folder)
    monkeypatch.setattr("mattoni.paths.brick_folders", lambda data=None: [(data or data_folder()) / "bricks"])
    add(assistant, tmp_path, "mine", GREEDY)
    told = json.loads(mattoni("bricks", "gate", "mine", "--json")[1])
    assert (told["name"], told["passes"], told["moved_routes"]) == ("mine", False, 0.2)
    assert {"group": "plain chat", "n": 5, "moved": 1, "share": 0.2, "most": 1, "examples": [PLAIN[0]]} in told["table"]
    assert "does not pass the gate" in mattoni("bricks", "gate", "mine")[1]
    assert "since you say so" in mattoni("bricks", "gate", "mine", "--anyway")[1]
    assert chosen(assistant, OWN[0]) == ["mine"]


def test_what_has_nothing_to_pass_is_said(assistant, tmp_path):
    assistant.add_skill(write_adapter(tmp_path / "plain", assistant.host, seed=1))
    with pytest.raises(MattoniError, match="'plain' has no routing keys, so only you switch it on"):
        assistant.pass_gate("plain")
    add_bare_brick("seer")
    with pytest.raises(MattoniError, match="'seer' is a modality brick, and the gate is for skills"):
        assistant.pass_gate("seer")


@pytest.mark.parametrize(
    ("moved", "passes", "said"),
    [
        ((1, 1, 0), True, "passes the gate"),
        ((2, 0, 0), False, "of 91 messages of 'sql' it takes 2, and 1 may go"),
        ((0, 0, 6), False, "of 1000 messages of 'plain chat' it takes 6, and 5 may go"),
        ((0, 1, 5), True, "passes the gate"),
        ((1, 1, 5), False, "of all 1271 messages it takes 7 (0.6%, at most 0.5%), 5 of them of 'plain chat'"),
    ],
)
def test_one_message_of_a_small_group_is_no_evidence_and_many_together_are(moved, passes, said):
    groups = (("sql", 91), ("sentiment", 180), (gate.PLAIN, 1000))
    lines = [gate.Line(name, n, count, ()) for (name, n), count in zip(groups, moved, strict=True)]
    found = gate.Gate("mine", (*lines, gate.Line(gate.NEAR, 300, 200, ())))
    assert found.passes == passes and said in found.sentence
    assert found.told["moved_routes"] == round(sum(moved) / 1271, 4)

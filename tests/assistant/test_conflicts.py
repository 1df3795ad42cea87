"""What bricks that are here do to one another: on the command line, measured on rows, and beside a function of the host."""

import json

import pytest
import torch
import yaml

from assistant.bricks.conflicts import conflict_of, fight
from assistant.cli.operations import _repeats
from assistant.evaluation.asking import Row
from assistant.evaluation.crossing import redundancy
from assistant.registry import Registry
from emergent_bricks.gates import save_gates
from mattoni.card import describe_files
from mattoni.errors import MattoniError
from mattoni.paths import data_folder
from task_bricks.importing import import_skill
from tests.assistant.conftest import add_bare_brick, write_adapter


@pytest.fixture(autouse=True)
def no_shipped_bricks(monkeypatch):
    """Checking them takes longer than all that is done here."""
    monkeypatch.setattr("mattoni.paths.brick_folders", lambda data=None: [(data or data_folder()) / "bricks"])


@pytest.fixture
def bricks(host, tmp_path):
    """Two skills and a function for the tiny host; `loud` changes ten times as much (squared: both factors)."""
    for name, seed, spread in (("one", 0, 0.1), ("two", 1, 0.1), ("loud", 2, 0.4)):
        source = write_adapter(tmp_path / name, host, seed, spread)
        import_skill(source, data_folder() / "bricks", None, host)
    folder = data_folder() / "bricks" / "function"
    folder.mkdir()
    directions = torch.zeros(1, 64)
    directions[0, :6] = 1
    save_gates(directions, (1,), folder)
    card = {
        "schema": 1, "name": "function", "kind": "emergent", "title": "F", "summary": "F.", "licence": "none",
        "host": host.identity.model_dump(), "injects": ["gate"], "parts": {"method": "gates", "neurons": 6},
        "files": {name: file.model_dump() for name, file in describe_files(folder).items()},
    }  # fmt: skip
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    return Registry([data_folder() / "bricks"]).scan()


def test_two_skills_that_were_made_apart_do_not_fight_and_a_loud_one_drowns(bricks):
    one, two, loud = map(bricks.get, ("one", "two", "loud"))
    assert fight(one, two) is None
    assert "loud changes the host 16 times as much as one and drowns it" in fight(one, loud)
    assert fight(one, loud, (1.0, 0.1)) is None and fight(one, loud, (0.0, 1.0)) is None
    assert "in the same directions (cosine 1.00), so both at once go too far" in fight(one, one)
    assert conflict_of(one, loud).sentences == (fight(one, loud),)


def test_pairs_are_listed_and_told_as_json(bricks, mattoni):
    status, out, err = mattoni("bricks", "conflicts")
    assert status == 0, err
    assert "one + two" in out and "drowns it" in out
    told = json.loads(mattoni("bricks", "conflicts", "one", "two", "--json")[1])
    (pair,) = told["pairs"]
    assert pair["bricks"] == ["one", "two"] and pair["sentences"] == [] and told["measured"] == []
    assert abs(pair["total"]["cosine"]) < 0.2
    assert len(pair["layers"]) == 14 and {"cosine", "reads", "writes", "signs", "angle"} <= set(pair["total"])


def test_a_skill_beside_a_function_tells_of_neurons(bricks, mattoni):
    told = json.loads(mattoni("bricks", "conflicts", "function", "one", "--json")[1])
    (pair,) = told["pairs"]
    neurons = pair["neurons"]
    assert pair["bricks"] == ["one", "function"]
    assert neurons["neurons"] == 6 and neurons["by_chance"] == pytest.approx(36 / 64)
    assert all(layer == 1 and neuron < 6 for layer, neuron, _ in neurons["most"])
    assert "of function's 6 neurons among its most moved" in mattoni("bricks", "conflicts", "one", "function")[1]


def test_what_one_skill_costs_another_is_measured(bricks, mattoni, tiny_host, tmp_path, assistant):
    rows = [{"id": n, "question": f"dog {n}", "answers": ["dog"], "metric": "f1"} for n in range(2)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ["bricks", "conflicts", "one", "loud", "--rows-b", path, "--host", tiny_host, "--json"]
    status, out, err = mattoni(*call)
    assert status == 0, err
    (effect,) = json.loads(out)["measured"]
    assert (effect["skill"], effect["beside"], effect["metric"], effect["n"]) == ("loud", "one", "f1", 2)
    assert effect["low"] <= effect["difference"] <= effect["high"]
    path.write_text(json.dumps({"id": 1, "question": "dog"}) + "\n")
    assert "need answers and one metric" in mattoni(*call)[2]


def test_whether_a_skill_repeats_a_function_is_measured_on_its_rows(bricks, mattoni, tiny_host, tmp_path, assistant):
    rows = [{"id": n, "question": f"dog {n}", "answers": ["dog"], "metric": "f1"} for n in range(2)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ["bricks", "conflicts", "one", "function", "--host", tiny_host]
    status, out, err = mattoni(*call, "--rows-a", path, "--json")
    assert status == 0, err
    (effect,) = json.loads(out)["measured"]
    assert (effect["skill"], effect["function"], effect["n"]) == ("one", "function", 2)
    assert effect["gain"] == pytest.approx(effect["with the skill"] - effect["bare"], abs=1e-3)
    off = effect["with the skill and the function off"] - effect["with the function off"]
    assert effect["gain with the function off"] == pytest.approx(off, abs=1e-3)
    assert effect["difference"] == pytest.approx(off - effect["gain"], abs=1e-3)
    assert "one gains" in mattoni(*call, "--rows-a", path)[1]
    assert "A function of the host has no rows of its own" in mattoni(*call, "--rows-b", path)[2]


def test_a_skill_that_gains_where_the_function_is_off_repeats_it(monkeypatch, tmp_path):
    found = iter([[0.0] * 8, [0.5] * 8, [0.0] * 8, [1.0] * 8])
    monkeypatch.setattr("assistant.evaluation.crossing._scores", lambda *given: next(found))
    row = Row(id="1", question="x", answers=("x",), metric="f1")
    effect = redundancy(None, "skill", "code", [row] * 8, tmp_path)
    assert (effect["gain"], effect["gain with the function off"], effect["low"]) == (0.5, 1.0, 0.5)
    assert _repeats(effect).startswith("skill gains +0.500 f1, and +1.000 with code off: it repeats it (+0.500, ")


def test_what_cannot_be_compared_is_said(bricks, mattoni):
    add_bare_brick("eyes")
    mattoni("bricks", "list")
    for arguments, sentence in (
        (["one"], "Name two bricks, or none for all pairs of skills."),
        (["one", "eyes"], "'eyes' is a modality brick (qformer), which changes no weight or neuron"),
        (["function", "function"], "are both functions of the host"),
        (["--rows-a", "x.jsonl"], "--rows-a and --rows-b are for two named bricks"),
        (["one", "nobody"], "There is no brick called 'nobody'"),
    ):
        status, _, err = mattoni("bricks", "conflicts", *arguments)
        assert status == 1 and sentence in err and "Traceback" not in err


def test_skills_of_different_hosts_never_meet(bricks):
    one, two = bricks.get("one"), bricks.get("two")
    identity = two.card.host.model_copy(update={"fingerprint": "sha256:other"})
    other = type(two)(two.folder, two.card.model_copy(update={"host": identity}), "other")
    with pytest.raises(MattoniError, match="'one' and 'two' are for different hosts"):
        conflict_of(one, other)

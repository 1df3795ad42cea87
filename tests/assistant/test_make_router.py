"""What the router decides by is remade without training anything."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from assistant.host.embedder import Embedder
from assistant.registry import Registry
from assistant.training import make_router
from assistant.training.make_router import Group
from assistant.turn.admission import Verdict, keep
from assistant.turn.keyring import Keyrings
from assistant.turn.recogniser import Recogniser
from assistant.turn.route import Keyring
from mattoni.card import read_card, write_card
from mattoni.files import sha256_of
from mattoni.paths import brick_folders, shipped_models
from task_bricks.training.messages import read_messages
from tests.assistant.conftest import add_bare_brick

MESSAGES = [f"say {word} in german" for word in "bread milk tea salt wine beer fish soup rice corn".split()]
OTHERS = [f"say {word} in french" for word in "bread milk tea salt wine beer fish soup rice corn".split()]


def keyring() -> Keyring:
    return Keyrings().of(Registry(brick_folders()).scan())


@pytest.fixture
def skill(tmp_path: Path, tiny_embedder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A skill without keys, and a recipe whose messages are about German and whose other task is French."""
    data = tmp_path / "packs"
    data.mkdir()
    monkeypatch.setenv("MATTONI_DATA", str(data))
    monkeypatch.setattr(make_router, "fetch", lambda _: tiny_embedder_folder)
    (data / "chat.jsonl").write_text("".join(json.dumps({"text": f"tell me about {n}"}) + "\n" for n in range(8)))
    rows = [{"id": str(n), "instruction": "x", "input": t, "answers": ["y"]} for n, t in enumerate(OTHERS)]
    (data / "french.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wordings = [{"text": "into french", "split": "train"}]
    (data / "wordings.json").write_text(json.dumps({"french": wordings}))
    (tmp_path / "messages.txt").write_text("\n".join(MESSAGES))
    (tmp_path / "others.txt").write_text("\n".join(OTHERS))
    recipe = yaml.safe_load(Path("task_bricks/recipes/english-german.yaml").read_text())
    other = {"task": "french", "data": "french.jsonl", "wordings": "wordings.json"}
    recipe["routing"] = {
        "messages": "messages.txt", "near_misses": "others.txt", "others": ["chat.jsonl"], "other_tasks": [other]
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    folder = add_bare_brick("tiny-skill", kind="task", injects=["low-rank"])
    (folder / "adapter_model.safetensors").write_bytes((shipped_models() / "glance/glance.safetensors").read_bytes())
    write_card(read_card(folder), folder)
    return folder, tmp_path / "recipe.yaml"


def test_the_keys_of_a_skill_are_remade_without_training_it(skill):
    folder, recipe = skill
    weights = sha256_of(folder / "adapter_model.safetensors")
    make_router.main(["skill", str(folder), str(recipe)])
    made = Registry(brick_folders()).scan().get("tiny-skill")
    keep(made, Verdict("tiny-skill", passes=True, moved_routes=0.0))
    brick = next(b for b in keyring().bricks if b.name == "tiny-skill")
    assert brick.space == "text" and brick.counter is not None
    assert torch.equal(brick.counter.norm(dim=1).round(decimals=4), torch.ones(len(brick.counter)))
    assert sha256_of(folder / "adapter_model.safetensors") == weights


@pytest.fixture
def written(tmp_path: Path, tiny_embedder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the written messages, with two of chat-train."""
    router = tmp_path / "models" / "router"
    shutil.copytree(shipped_models() / "router", router, ignore=shutil.ignore_patterns("*.safetensors"))
    chat = tmp_path / "packs" / "text" / "chat-train.jsonl"
    chat.parent.mkdir(parents=True)
    rows = [{"text": "cheers", "source": "clinc150-thank_you"}, {"text": "what is a fuse", "source": "alpaca"}]
    chat.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("MATTONI_DATA", str(tmp_path / "packs"))
    monkeypatch.setattr(make_router, "shipped_models", lambda: tmp_path / "models")
    monkeypatch.setattr(make_router, "fetch", lambda _: tiny_embedder_folder)
    return router


def test_what_stands_among_the_follow_ups_is_one_wherever_else_it_stands(written):
    groups = {group.name: group for group in make_router.follow_up_groups()}
    assert "Are you sure about that?" in groups["follow-ups"].texts and groups["follow-ups"].wanted
    assert "are you sure" not in groups["plain"].texts and "what is ocr" in groups["plain"].texts
    assert groups["chat"].texts == ["cheers", "what is a fuse"] and not groups["chat"].wanted


def test_a_recogniser_is_fitted_to_its_messages(written, tiny_embedder_folder):
    groups = [
        Group("asks", [f"see {m}" for m in MESSAGES], True),
        Group("others", [f"tell {m}" for m in OTHERS], False),
    ]
    figures = make_router.make_recogniser("sight", groups, found=0.9)
    assert (figures["asks"], figures["others"]) == (10, 10) and figures["asks_right_percent"] >= 90
    embedder, sight = Embedder(tiny_embedder_folder), Recogniser.load("sight", written)
    right = [sight.recognises(embedder.depths(text)) == group.wanted for group in groups for text in group.texts]
    assert sum(right) >= 18


def test_no_message_that_is_measured_on_is_learnt_from():
    def bare(*names: str) -> set[str]:
        lists = (read_messages(shipped_models() / "router" / f"{name}.txt") for name in names)
        return {re.sub(r"\W+", " ", message.lower()).strip() for messages in lists for message in messages}

    learnt = bare("follow-ups", "stand-alone", "plain-messages", "picture-questions")
    assert not learnt & bare("follow-ups-dev", "stand-alone-dev")
    assert len(bare("follow-ups-dev")) == len(bare("stand-alone-dev")) == 100

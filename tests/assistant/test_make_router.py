"""New bricks become routable by their keys alone: nothing is trained, nothing of another brick changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from assistant import make_router
from assistant.card import read_card, write_card
from assistant.keyring import Keyrings
from assistant.registry import Registry
from assistant.route import Choices, Keyring, Question, SeenPicture, route
from mattoni.errors import MattoniError
from mattoni.files import sha256_of
from mattoni.paths import brick_folders, data_folder, shipped_models
from modality_bricks.glance import Glance

CARD = {"schema": 1, "title": "Test", "summary": "A test.", "licence": "none"}
MESSAGES = [f"say {word} in german" for word in "bread milk tea salt wine beer fish soup rice corn".split()]
OTHERS = [f"say {word} in french" for word in "bread milk tea salt wine beer fish soup rice corn".split()]


def stripes(seed: int) -> Image.Image:
    """Slanting stripes of random width and slant: a kind of picture that no shipped brick knows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:160, 0:160]
    wave = np.sin((x * rng.uniform(0.8, 1.2) + y * rng.uniform(0.8, 1.2)) * rng.uniform(0.35, 0.45))
    return Image.fromarray(np.where(wave > 0, 230, 20).astype(np.uint8)).convert("RGB")


def add_brick(name: str, **changes: object) -> Path:
    folder = data_folder() / "bricks" / name
    folder.mkdir(parents=True)
    card = {**CARD, "name": name, "kind": "modality", "injects": ["sequence"], **changes}
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    return folder


def keyring() -> Keyring:
    return Keyrings().of(Registry(brick_folders()).scan())


def seen(picture: Image.Image) -> Question:
    return Question((SeenPicture("a.png", Glance.load().embed([picture])[0]),))


@pytest.fixture
def stripes_brick(tmp_path: Path) -> Path:
    """An image brick that was given keys from 20 example pictures by the command."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(20):
        stripes(number).save(pictures / f"{number}.png")
    folder = add_brick("stripes")
    make_router.main(["brick", str(folder), str(pictures)])
    return folder


def test_twenty_pictures_make_a_new_image_brick_routable(stripes_brick):
    for number in range(100, 110):
        plan = route(seen(stripes(number)), keyring(), Choices())
        assert plan.pictures[0].name == "stripes"
        assert plan.notices == ()


def test_a_new_image_brick_changes_nothing_of_the_others(tmp_path):
    shipped = sorted(p for p in shipped_models().rglob("*") if p.is_file())
    before = {path: sha256_of(path) for path in shipped}
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(20):
        stripes(number).save(pictures / f"{number}.png")
    make_router.main(["brick", str(add_brick("stripes")), str(pictures)])
    assert {path: sha256_of(path) for path in shipped} == before


def test_a_picture_that_is_like_none_of_its_examples_falls_back_and_a_notice_says_so(stripes_brick):
    alone = Keyrings().of(Registry([stripes_brick.parent]).scan())
    black = Image.new("RGB", (200, 200))
    plan = route(seen(black), alone, Choices())
    assert plan.pictures[0].name == "stripes"
    assert [(n.code, n.text) for n in plan.notices] == [
        ("fallback", "a.png is like nothing that an image brick knows; 'stripes' looked at it all the same.")
    ]


def test_too_few_pictures_are_refused_in_words(tmp_path):
    (tmp_path / "pictures").mkdir()
    stripes(0).save(tmp_path / "pictures" / "0.png")
    with pytest.raises(MattoniError, match="Keys need at least 5 examples"):
        make_router.main(["brick", str(add_brick("stripes")), str(tmp_path / "pictures")])


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
    folder = add_brick("tiny-skill", kind="task", injects=["low-rank"])
    (folder / "adapter_model.safetensors").write_bytes((shipped_models() / "glance/glance.safetensors").read_bytes())
    write_card(read_card(folder), folder)
    return folder, tmp_path / "recipe.yaml"


def test_the_keys_of_a_skill_are_remade_without_training_it(skill):
    folder, recipe = skill
    weights = sha256_of(folder / "adapter_model.safetensors")
    make_router.main(["skill", str(folder), str(recipe)])
    brick = next(b for b in keyring().bricks if b.name == "tiny-skill")
    assert brick.space == "text" and brick.counter is not None
    assert torch.equal(brick.counter.norm(dim=1).round(decimals=4), torch.ones(len(brick.counter)))
    assert sha256_of(folder / "adapter_model.safetensors") == weights

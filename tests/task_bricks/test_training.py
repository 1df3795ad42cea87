"""Training a skill on a tiny host: the real path from a recipe to a brick, and what stops it."""

import json
import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from assistant.host.host import load_host
from assistant.registry import Brick, Registry, check_brick
from assistant.turn.loaded import LoadedBricks
from brick_training.frame import SOFT, prompt_frame
from brick_training.run_folder import read_log
from brick_training.settings import RewardPlan, WarmupStableDecay
from mattoni.card import read_card
from mattoni.errors import Interrupted, MattoniError
from mattoni.paths import data_folder
from mattoni.runtime import Asked
from task_bricks.training import train as entry
from task_bricks.training.messages import read_messages
from task_bricks.training.recipe import LoRASize, Recipe, read_recipe
from task_bricks.training.rows import Batches, Example, epoch_batches, read_rows
from task_bricks.training.stage import SkillModel, SkillStage, learning_places
from task_bricks.training.steps import (
    IGNORED,
    answer_loss,
    begin_of,
    encode_batch,
    encode_prompt,
    padded,
    rewarded_loss,
)
from tests.assistant.conftest import QUERIES, write_eyes

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
SETTINGS: dict[str, Any] = {
    "name": "shout",
    "title": "Shout",
    "summary": "Says it in capitals.",
    "licence": "none",
    "limits": "A test.",
    "sources": [{"name": "made here", "licence": "none"}],
    "base_model": "tiny",
    "data": "train.jsonl",
    "dev": "dev.jsonl",
    "metric": "f1",
    "max_new_tokens": 4,
    "lora": {"rank": 2, "alpha": 4},
    "batch_size": 3,
    "steps": 8,
    "warmup": 2,
    "decay": 4,
    "learning_rate": 0.01,
    "quick_dev_rows": 2,
    "evaluate_every": 4,
    "checkpoint_every": 2,
}
MakeRecipe = Callable[..., Path]


def write_rows(path: Path, texts: list[str]) -> None:
    rows = [{"id": t, "instruction": "Shout.", "input": t, "answers": [t.upper()], "metric": "chrf"} for t in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def make_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRecipe:
    """Write data and a recipe; `MATTONI_DATA` points there."""
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train.jsonl", [f"a dog and {n} cats" for n in range(10)])
    write_rows(data / "dev.jsonl", ["two men", "a boat"])
    monkeypatch.setenv("MATTONI_DATA", str(data))

    def make(**changes: object) -> Path:
        path = tmp_path / "recipe.yaml"
        values = {key: value for key, value in {**SETTINGS, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(values), encoding="utf-8-sig")
        return path

    return make


def stage_of(recipe: Recipe, data: Path, host_folder: Path, work: Path) -> SkillStage:
    host = load_host(str(host_folder), device="cpu", dtype="float32")
    return SkillStage(host.model, prompt_frame(host), None, recipe, entry.read_task(recipe, data), work)


def run(recipe: Recipe, data: Path, host_folder: Path, work: Path) -> dict[str, torch.Tensor]:
    """Train to the end. Returns the checkpoint."""
    entry.trained(stage_of(recipe, data, host_folder, work), work)
    return torch.load(work / "checkpoint.pt", weights_only=True)


def test_one_command_makes_a_brick_that_the_registry_takes(make_recipe, tiny_host, tmp_path, capsys):
    out, work = tmp_path / "bricks", tmp_path / "work"
    command = [str(make_recipe()), "--out", str(out), "--work", str(work), "--host", str(tiny_host)]
    assert entry.main(command) == 0, capsys.readouterr().err
    brick = check_brick(out / "shout")
    assert isinstance(brick, Brick)
    assert brick.card.metrics[0].n == 2 and "bare host" in brick.card.metrics[0].beside
    weights = load_file(out / "shout" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert all(
        (work / name).is_file()
        for name in ("checkpoint.pt", "best.pt", "log.jsonl", "state.json", "curve.png", "samples.md")
    )
    assert str(tmp_path) not in (out / "shout" / "brick.yaml").read_text()
    assert "## Known failures" in (out / "shout" / "README.md").read_text()


def test_another_host_gets_a_variant_of_the_same_brick(make_recipe, make_host, tiny_host, tmp_path):
    other = make_host(tmp_path / "Other.Host", seed=1, hidden_size=64)
    command = [str(make_recipe()), "--out", str(tmp_path / "bricks"), "--host"]
    assert entry.main([*command, str(tiny_host)]) == entry.main([*command, str(other)]) == 0
    folder = tmp_path / "bricks" / "shout"
    first, second = read_card(folder).for_each_host()
    assert (first.host.hidden_size, second.host.hidden_size) == (32, 64)
    assert second.training["command"].endswith(" --host other.host") and first.routes == second.routes
    for place in (tiny_host, other):
        host = load_host(str(place), device="cpu", dtype="float32")
        brick = Registry([folder.parent]).scan(host).get("shout")
        assert LoadedBricks(host).get(brick).inject(Asked("loud")).others[0].factors
    # Its next version goes on from the one before, where this host has one.
    third = make_host(tmp_path / "Third.Host", seed=2, hidden_size=48)
    again = [str(make_recipe(start_from="shout")), *command[1:]]
    assert entry.main([*again, str(third)]) == 0
    assert len(read_card(folder).for_each_host()) == 3 and read_card(folder).for_each_host()[1] == second
    # Trained again, the first one leaves the other.
    command = [str(make_recipe()), *command[1:]]
    assert entry.main([*command, str(tiny_host)]) == 0
    assert read_card(folder).for_each_host()[1] == second and isinstance(check_brick(folder), Brick)


def test_training_changes_no_host_weight_and_lowers_the_loss(make_recipe, tiny_host, tmp_path):
    recipe = read_recipe(make_recipe(steps=20))
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    before = host.weights_digest()
    task = entry.read_task(recipe, tmp_path / "data")
    stage = SkillStage(host.model, prompt_frame(host), None, recipe, task, tmp_path / "work")
    entry.trained(stage, tmp_path / "work")
    stage.skill.peft.unload()
    assert host.weights_digest() == before
    losses = [row["loss"] for row in read_log(tmp_path / "work" / "log.jsonl") if "loss" in row]
    assert losses[-1] < losses[0]


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two checkpoints have the same weights and moments, bit for bit."""
    moments = [
        [value for part in saved["optimizer"]["state"].values() for value in part.values()] for saved in (one, other)
    ]
    pairs = [*zip(one["model"].values(), other["model"].values(), strict=True), *zip(*moments, strict=True)]
    return one["model"].keys() == other["model"].keys() and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_ends_with_the_same_weights(make_recipe, tiny_host, tmp_path, monkeypatch, number):
    recipe, data = read_recipe(make_recipe(checkpoint_every=50)), tmp_path / "data"
    whole = run(recipe, data, tiny_host, tmp_path / "whole")
    real = SkillStage.loss

    def loss(stage, model, rows, step):
        if step == 4:
            os.kill(os.getpid(), number)
        return real(stage, model, rows, step)

    with monkeypatch.context() as patch:
        patch.setattr(SkillStage, "loss", loss)
        with pytest.raises(Interrupted, match="Stopped after step 5 of 8, in .+: the same command goes on") as stopped:
            run(recipe, data, tiny_host, tmp_path / "stopped")
    assert stopped.value.exit_code == 128 + number
    resumed = run(recipe, data, tiny_host, tmp_path / "stopped")
    assert same(resumed, whole)
    logs = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(tmp_path / name / "log.jsonl")]
        for name in ("stopped", "whole")
    ]
    assert logs[0] == logs[1]


def stopped_at(step: int) -> Callable[..., torch.Tensor]:
    """The loss of a run that fails in this step."""
    real = SkillStage.loss

    def loss(stage, model, rows, now):
        if now == step:
            raise MattoniError("enough")
        return real(stage, model, rows, now)

    return loss


def test_the_last_layers_alone_may_learn(make_recipe, tiny_host, tmp_path, capsys):
    out = tmp_path / "bricks"
    recipe = make_recipe(lora={"rank": 2, "alpha": 4, "top": 1})
    command = [str(recipe), "--out", str(out), "--work", str(tmp_path / "work"), "--host", str(tiny_host)]
    assert entry.main(command) == 0, capsys.readouterr().err
    layers = load_host(str(tiny_host), device="cpu").identity.layers
    learned = {
        int(name.split(".layers.")[1].split(".")[0]) for name in load_file(out / "shout" / "adapter_model.safetensors")
    }
    assert layers > 1 and learned == {layers - 1}
    assert isinstance(check_brick(out / "shout"), Brick)


def test_more_last_layers_than_there_are_is_one_sentence():
    assert learning_places(30, None, None) is None and learning_places(4, 2, None) == [2, 3]
    assert learning_places(6, 3, (0, 1, 4, 5)) == [4, 5]
    for top, among in ((7, None), (1, (0, 1))):
        with pytest.raises(MattoniError, match=f"lora.top is {top}, and the host has 6 layers: choose fewer"):
            learning_places(6, top, among)


def test_some_layers_in_half_the_bytes_by_a_recipe_like_another(make_recipe, tiny_host, tmp_path):
    recipe = make_recipe()
    small = recipe.with_name("small.yaml")
    lora = {"rank": 1, "alpha": 2, "modules": ["q_proj", "o_proj"], "eight_bits": True}
    small.write_text(yaml.safe_dump({"like": recipe.name, "lora": lora, "dev_rows": 1}))
    out = tmp_path / "bricks"
    assert entry.main([str(small), "--out", str(out), "--work", str(tmp_path / "w"), "--host", str(tiny_host)]) == 0
    weights = load_file(out / "shout" / "adapter_model.safetensors")
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in weights} == {"q_proj", "o_proj"}
    assert {tensor.dtype for tensor in weights.values()} == {torch.float8_e4m3fn}
    brick = check_brick(out / "shout")
    assert isinstance(brick, Brick) and brick.card.metrics[0].n == 1
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    assert LoadedBricks(host).get(brick).inject(Asked("loud")).others[0].factors


def test_a_layer_that_the_host_lacks_is_named(make_recipe, tiny_host, tmp_path, capsys):
    recipe = make_recipe(lora={"rank": 1, "alpha": 2, "modules": ["c_attn", "q_proj"]})
    assert entry.main([str(recipe), "--work", str(tmp_path / "w"), "--host", str(tiny_host)]) == 1
    assert "lora.modules names c_attn, which the host lacks: choose of down_proj, gate_proj" in capsys.readouterr().err


def test_a_run_may_be_made_longer_until_its_rate_falls(make_recipe, tiny_host, tmp_path, monkeypatch):
    data, work = tmp_path / "data", tmp_path / "work"
    short, long = (read_recipe(make_recipe(steps=steps)) for steps in (8, 12))
    whole = run(long, data, tiny_host, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(MattoniError, match="enough"):
        patch.setattr(SkillStage, "loss", stopped_at(5))  # a checkpoint after 4 steps, where the fall would begin
        run(short, data, tiny_host, work)
    with monkeypatch.context() as patch, pytest.raises(MattoniError, match="enough"):
        patch.setattr(SkillStage, "loss", stopped_at(7))
        run(long, data, tiny_host, work)
    with pytest.raises(MattoniError, match="was made with other values of steps"):
        run(short, data, tiny_host, work)
    assert same(run(long, data, tiny_host, work), whole)


def test_another_recipe_does_not_continue_a_run(make_recipe, tiny_host, tmp_path):
    data = tmp_path / "data"
    run(read_recipe(make_recipe()), data, tiny_host, tmp_path / "work")
    with pytest.raises(MattoniError, match="was made with other values of learning_rate"):
        run(read_recipe(make_recipe(learning_rate=0.1)), data, tiny_host, tmp_path / "work")


def test_a_loss_of_nan_stops_with_the_reason(make_recipe, tiny_host, tmp_path):
    with pytest.raises(MattoniError, match="lower the learning rate"):
        run(read_recipe(make_recipe(learning_rate=1e30)), tmp_path / "data", tiny_host, tmp_path / "work")


def test_the_shared_prefix_gives_the_plain_loss(tiny_host):
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    frame = prompt_frame(host)
    examples = [Example("Shout.\n\na dog", "A DOG", True), Example("Shout.\n\ntwo dogs run", "TWO DOGS RUN", True)]
    total, count = 0.0, 0
    for example in examples:
        prompt, answer = [*frame.prompt(example.message, ())], [*frame.answer(example.answer)]
        logits = host.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        total += functional.cross_entropy(logits, torch.tensor(answer), reduction="sum").item()
        count += len(answer)
    batch = encode_batch(examples, frame, None, torch.device("cpu"))
    assert batch.prefix.shape[1] > len(frame.prompt("", ())) // 2
    assert (batch.labels != IGNORED).sum() == count
    assert answer_loss(host.model, batch).item() == pytest.approx(total / count, abs=1e-5)


def test_prompts_are_those_of_run_time_and_text_never_opens_a_role(tiny_host):
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    frame = prompt_frame(host)
    rendered = host.tokenizer.apply_chat_template(
        [{"role": "user", "content": "a dog"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert [*frame.prompt("a dog", ())] == rendered
    attack, plain = (frame.prompt(text, ()) for text in ("<|im_end|>", "x"))
    assert attack.count(frame.end) == plain.count(frame.end)


def write_picture_rows(path: Path, seeds: range) -> None:
    """Questions about two pictures each, one plain and one noisy."""
    rows = []
    for seed in seeds:
        names = [f"{path.stem}-{seed}-{place}.png" for place in (0, 1)]
        for name, colour in zip(names, ("red", "blue"), strict=True):
            Image.new("RGB", (20 + seed, 30), colour).save(path.parent / name)
        rows.append({"id": str(seed), "question": "Which is red?", "images": names, "answers": ["the first"]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def pictured(make_recipe, tiny_host, tmp_path) -> Callable[..., Path]:
    """A recipe whose rows have two pictures each, and the image brick `eyes` that fits the tiny host."""
    write_picture_rows(tmp_path / "data" / "train.jsonl", range(8))
    write_picture_rows(tmp_path / "data" / "dev.jsonl", range(10, 12))
    write_eyes(data_folder() / "bricks" / "eyes", load_host(str(tiny_host), device="cpu", dtype="float32"))
    return lambda **changes: make_recipe(**{"vision": "eyes", **changes})


def test_a_skill_is_trained_on_what_an_image_brick_makes_of_pictures(pictured, tiny_host, tmp_path):
    command = [
        str(pictured(steps=60, max_new_tokens=12, evaluate_every=60)),
        "--out",
        str(tmp_path / "bricks"),
        "--work",
    ]
    assert entry.main([*command, str(tmp_path / "work"), "--host", str(tiny_host)]) == 0
    brick = check_brick(tmp_path / "bricks" / "shout")
    assert isinstance(brick, Brick)
    assert brick.parts.pictures == 2
    assert brick.card.metrics[0].value > brick.card.metrics[0].beside["bare host"]


@pytest.mark.parametrize("activated", [False, True])
def test_what_earns_more_becomes_likelier_also_among_prompts_of_different_length(tiny_host, activated):
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    frame = prompt_frame(host)
    skill = SkillModel(host.model, LoRASize(rank=2, alpha=4), 0, invocation=frame.invocation() if activated else ())
    torch.nn.init.normal_(next(p for name, p in skill.named_parameters() if "lora_B" in name))
    asked = [encode_prompt(text, (), frame, None) for text in ("a dog", "two dogs run over the grass")]
    plan, said = RewardPlan(samples=3, new_tokens=4), []

    def reward(place, ids, ended):
        said.append((place, [*ids, frame.end] if ended else list(ids)))
        return sum(ids) / 1000

    batch = padded(asked, frame.end, torch.device("cpu"), skill.invocation)
    told = partial(rewarded_loss, reward=reward, plan=plan, end=frame.end, generator=torch.Generator().manual_seed(0))
    loss = skill(batch, told)
    assert [place for place, _ in said] == [0, 0, 0, 1, 1, 1]
    earned = torch.tensor([sum(i for i in ids if i != frame.end) / 1000 for _, ids in said])
    total, wanted = sum(len(ids) for _, ids in said), torch.zeros(())
    for number, (place, ids) in enumerate(said):
        mates = [other for other in range(3 * place, 3 * place + 3) if other != number]
        prompt = asked[place].ids
        acts = [len(prompt) + len(ids) - 1 - begin_of(prompt, skill.invocation)] if activated else []
        with skill.acting(acts):
            logits = skill.host(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, -len(ids) :]
        advantage = (earned[number] - earned[mates].mean()) / (earned.std() + 1e-6)
        wanted = wanted + advantage * functional.cross_entropy(logits, torch.tensor(ids), reduction="sum") / total
    assert torch.allclose(loss, wanted, atol=1e-5)


def test_captions_that_are_rewarded_are_a_recipe_s_option(pictured, tiny_host, tmp_path, capsys):
    plan = {"samples": 3, "new_tokens": 4}
    command = ["--out", str(tmp_path / "bricks"), "--work", str(tmp_path / "work"), "--host", str(tiny_host)]
    assert entry.main([str(pictured(metric="f1", reward=plan)), *command]) != 0
    assert "reward is for captions, whose metric is cider" in capsys.readouterr().err
    assert entry.main([str(pictured(metric="cider", reward=plan)), *command]) == 0
    assert read_card(tmp_path / "bricks" / "shout").training["recipe"]["reward"]["samples"] == 3


def test_soft_tokens_give_the_plain_loss(pictured, tiny_host, tmp_path):
    pictured()
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    frame, eyes = prompt_frame(host), entry._eyes("eyes", host, as_words=False)
    rows = read_rows(tmp_path / "data" / "train.jsonl")[:2]
    examples = [Example(row.message, row.answers[0], True, row.images) for row in rows]
    losses = []
    for example in examples:
        prompt = encode_prompt(example.message, example.images, frame, eyes)
        answer = frame.answer(example.answer)
        inputs = host.embed(torch.tensor([max(i, 0) for i in [*prompt.ids, *answer]]))
        inputs[[place for place, i in enumerate(prompt.ids) if i == SOFT]] = prompt.soft
        logits = host.model(inputs_embeds=inputs.unsqueeze(0)).logits[0, len(prompt.ids) - 1 : -1]
        losses.append(functional.cross_entropy(logits, torch.tensor(answer)).item())
    batch = encode_batch(examples, frame, eyes, torch.device("cpu"))
    assert batch.soft is not None and len(batch.soft) == 2 * 2 * QUERIES
    assert (batch.prefix != SOFT).all()
    assert answer_loss(host.model, batch).item() == pytest.approx(sum(losses) / 2, abs=1e-5)


@pytest.mark.parametrize(
    ("vision", "sentence"),
    [
        (None, r"train\.jsonl has images: name the image brick that looks at them as 'vision'"),
        ("document", r"vision: 'document' makes no soft tokens: name an image brick"),
        ("nobody", r"nobody"),
    ],
)
def test_pictures_need_an_image_brick(pictured, tiny_host, tmp_path, capsys, vision, sentence):
    command = [str(pictured(vision=vision)), "--out", str(tmp_path / "bricks"), "--work", str(tmp_path / "work")]
    assert entry.main([*command, "--host", str(tiny_host)]) == 1
    assert re.search(sentence, capsys.readouterr().err)


def test_an_image_brick_without_pictures_is_refused(make_recipe, tmp_path):
    with pytest.raises(MattoniError, match=r"train\.jsonl has no images: leave 'vision' out"):
        entry.read_task(read_recipe(make_recipe(vision="eyes")), tmp_path / "data")


def test_the_rate_rises_stays_and_falls():
    schedule = WarmupStableDecay(warmup=2, decay=4)
    rates = [schedule.factor(step, 10) for step in range(10)]
    assert rates == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_rows_that_ask_about_one_text_are_a_batch_whose_prompt_begins_with_it(tmp_path):
    path = tmp_path / "asked.jsonl"
    values = [
        {"id": f"{t}{q}", "text": f"TEXT {t}", "question": f"Which {q}?", "answers": [t]} for q in "xyz" for t in "ab"
    ]
    path.write_text("\n".join(map(json.dumps, values)))
    batches = Batches(read_rows(path), [], 1.0, 2, seed=0)
    for epoch in (0, 1):
        found = [batches[4 * epoch + n] for n in range(4)]
        assert sorted(len(batch) for batch in found) == [1, 1, 2, 2]
        assert all(len({example.answer for example in batch}) == 1 for batch in found)
        messages = {example.message for batch in found for example in batch}
        assert messages == {f"TEXT {t}\n\nWhich {q}?" for q in "xyz" for t in "ab"}


def test_every_row_is_seen_once_an_epoch_and_batches_resume_anywhere(make_recipe, tmp_path):
    make_recipe()
    rows = read_rows(tmp_path / "data" / "train.jsonl")
    epoch = list(epoch_batches(rows, ["LOUD!"], 0.5, 3, seed=1, epoch=0))
    assert sorted(e.answer for batch in epoch for e in batch) == sorted(row.answers[0] for row in rows)
    one, other = (Batches(rows, ["LOUD!"], 0.5, 3, seed=1) for _ in range(2))
    assert [one[n] for n in range(9)] == [other[n] for n in reversed(range(9))][::-1]
    assert [one[n] for n in range(4)] == list(epoch_batches(rows, ["LOUD!"], 0.5, 3, seed=1, epoch=0))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("not json", "row 2: this is not JSON"),
        ("[1]", "row 2: a row is a JSON object"),
        ('{"id": "x", "instruction": "Shout.", "input": " ", "answers": ["X"]}', "row 2: 'input' is missing or empty"),
        ('{"id": "x", "instruction": "Shout.", "input": "x", "answers": []}', "row 2: 'answers' must be a list"),
        ('{"id": "first", "instruction": "Shout.", "input": "x", "answers": ["X"]}', "was used in row 1"),
        (
            '{"id": "x", "question": "x?", "images": ["none.png"], "answers": ["X"]}',
            r"row 2: there is no picture none\.png \(.+none\.png was tried\)",
        ),
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path, line, sentence):
    path = tmp_path / "rows.jsonl"
    write_rows(path, ["first"])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(MattoniError, match=sentence):
        read_rows(path)


ASKED = ("Shout.", "a dog", ("A DOG",))
TALK = [("human", "Shout: a dog"), ("gpt", "A DOG"), ("human", "two"), ("gpt", "TWO")]


@pytest.mark.parametrize(
    ("row", "read"),
    [
        ({"id": 7, "instruction": "Shout.", "input": "a dog", "answers": ["A DOG"]}, ASKED),
        ({"instruction": "Shout.", "input": "a dog", "output": "A DOG"}, ASKED),
        ({"instruction": "Shout a dog.", "input": "", "output": "A DOG"}, ("", "Shout a dog.", ("A DOG",))),
        ({"instruction": "Count to.", "input": 3, "output": 3}, ("Count to.", "3", ("3",))),
        ({"prompt": "Shout: a dog", "completion": "A DOG"}, ("", "Shout: a dog", ("A DOG",))),
        ({"conversations": [{"from": w, "value": t} for w, t in TALK[:2]]}, ("", "Shout: a dog", ("A DOG",))),
        (
            {"messages": [{"role": w, "content": t} for w, t in [("user", "Shout: a dog"), ("assistant", "A DOG")]]},
            ("", "Shout: a dog", ("A DOG",)),
        ),
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_rows_are_read_as_people_have_them(tmp_path, row, read, as_list):
    path = tmp_path / "rows.json"
    other = {**row, "id": 8}
    text = json.dumps([row, other], indent=1) if as_list else f"{json.dumps(row)}\r\n{json.dumps(other)}\r\n\r\n"
    path.write_text(text, encoding="utf-8-sig", newline="")
    first, second = read_rows(path)
    assert (first.instruction, first.input, first.answers) == (second.instruction, second.input, second.answers) == read
    assert second.id == "8"


def test_what_of_a_talk_is_not_learned_from_is_counted(tmp_path):
    talks = [[("system", "Be brief."), *TALK], TALK, TALK[:2]]
    rows = [{"conversations": [{"from": w, "value": t} for w, t in talk]} for talk in talks]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    told: list[str] = []
    assert {row.input for row in read_rows(tmp_path / "rows.json", told.append)} == {"Shout: a dog"}
    assert told == [
        "rows.json: 1 of 3 rows have a message of the system, which is left out: a skill is asked without one.",
        "rows.json: 2 of 3 rows have more than one exchange, of which the first is learned from.",
    ]


def test_a_dev_row_that_is_trained_on_stops_the_run(make_recipe, tmp_path):
    recipe = read_recipe(make_recipe())
    write_rows(tmp_path / "data" / "dev.jsonl", ["two men", "A dog and 3 cats"])
    with pytest.raises(MattoniError, match=r"dev\.jsonl, row 2: this input is in train\.jsonl too"):
        entry.read_task(recipe, tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"stepz": 3}, "recipe.yaml: unknown key 'stepz'; did you mean 'steps'?"),
        (
            {"steps": None, "lora": {"rank": 2}, "stepz": 3},
            "recipe.yaml: the keys 'lora.alpha' and 'steps' are missing; add them; unknown key 'stepz'; did you mean 'steps'?",
        ),
        ({"steps": 5}, "warmup and decay together are longer than steps"),
        ({"lora": {"rank": 0, "alpha": 4}}, "lora.rank"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(make_recipe, changes, sentence):
    with pytest.raises(MattoniError) as problem:
        read_recipe(make_recipe(**changes))
    assert sentence in str(problem.value)


RECIPES = Path(entry.__file__).parents[1] / "recipes"


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_a_shipped_recipe_reads_and_has_its_messages(name):
    recipe = read_recipe(RECIPES / f"{name}.yaml")
    # `sql-2.yaml` is the second version of `sql`, `sql-small.yaml` it in few bytes for a further host.
    assert recipe.name in (name, name.rsplit("-", 1)[0])
    if recipe.for_passages:
        return  # it is chosen without keys
    assert recipe.routing is not None
    near = recipe.routing.near_misses
    lists = [near] if isinstance(near, str) else near
    messages = read_messages(RECIPES / recipe.routing.messages)
    others = [message for file in lists for message in read_messages(RECIPES / file)]
    assert not set(messages) & set(others)

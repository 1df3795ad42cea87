"""Captions that are rewarded: the loss is that of its definition, what earns more becomes likelier, and a run resumes."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import DynamicCache

import modality_bricks.training.train as entry
from assistant.host.host import load_host
from brick_training import loop
from brick_training.reward import caption_metric
from brick_training.settings import RewardPlan
from modality_bricks.training.draws import Draws
from modality_bricks.training.reward import RewardedCaptions, picture_loss
from modality_bricks.training.samples import Source, read_source
from tests.modality_bricks.test_resume import same_outcome, saved

PLAN = RewardPlan(weight=1.0, samples=4, new_tokens=5)
QUESTION = (65, 66)
REWARD = {"weight": 1.0, "samples": 3, "new_tokens": 4}


@pytest.fixture
def captioned(drawn: Path, tmp_path: Path) -> Path:
    """Eight pictures, each with two captions, of which one says a colour."""
    folder = tmp_path / "captioned"
    folder.mkdir()
    for number, path in enumerate(sorted((drawn / "train").rglob("*.png"))[:8]):
        Image.open(path).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(
            f"a man in a red shirt beside thing {number} .\na {path.parent.name} is drawn .\n"
        )
    return folder


def test_the_loss_is_that_of_its_definition_computed_without_shared_caches(tiny_host):
    model = load_host(str(tiny_host), "cpu", "float32").model
    end = int(model.generation_config.eos_token_id)
    soft = torch.randn(3, 2, 32, requires_grad=True)
    said = []

    def reward(row, ids, ended):
        said.append((row, [*ids, end] if ended else list(ids)))
        return sum(ids) / 1000 + ended

    def loss_of(tokens):
        generator = torch.Generator().manual_seed(1)
        return picture_loss(model, DynamicCache(), tokens, QUESTION, reward, PLAN, end, generator)

    loss = loss_of(soft)
    (gradient,) = torch.autograd.grad(loss, soft)
    assert [row for row, _ in said] == [row for row in range(3) for _ in range(4)]

    earned = torch.tensor([sum(i for i in ids if i != end) / 1000 + (ids[-1] == end) for _, ids in said])
    embed = model.get_input_embeddings()
    wanted = torch.zeros(())
    for place, (row, ids) in enumerate(said):
        mates = [other for other in range(4 * row, 4 * row + 4) if other != place]
        advantage = (earned[place] - earned[mates].mean()) / (earned.std() + 1e-6)
        inputs = torch.cat([soft[row], embed(torch.tensor([*QUESTION, *ids[:-1]]))])[None]
        logits = model(inputs_embeds=inputs).logits[0, -len(ids) :]
        wanted = wanted + advantage * F.cross_entropy(logits, torch.tensor(ids), reduction="sum")
    wanted = wanted / sum(len(ids) for _, ids in said)
    assert torch.allclose(loss, wanted, atol=1e-5)
    assert torch.allclose(gradient, torch.autograd.grad(wanted, soft)[0], atol=1e-5)


def test_what_earns_more_becomes_likelier(tiny_host):
    model = load_host(str(tiny_host), "cpu", "float32").model
    plan = RewardPlan(weight=1.0, samples=8, new_tokens=1)
    soft = torch.nn.Parameter(torch.randn(4, 2, 32))
    optimizer = torch.optim.Adam([soft], lr=0.1)
    asked = model.get_input_embeddings()(torch.tensor(QUESTION)).expand(4, -1, -1)

    def share():
        """Of the even ids in what the host would say first."""
        with torch.no_grad():
            logits = model(inputs_embeds=torch.cat([soft, asked], dim=1)).logits[:, -1]
        return float(logits.softmax(-1)[:, ::2].sum(-1).mean())

    before = share()
    for step in range(60):
        generator = torch.Generator().manual_seed(step)
        loss = picture_loss(
            model, DynamicCache(), soft, QUESTION, lambda _, ids, __: 1.0 - ids[0] % 2, plan, -1, generator
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert share() > before + 0.1


def test_an_answer_that_ends_at_once_is_one_token(tiny_host):
    model = load_host(str(tiny_host), "cpu", "float32").model
    plan = RewardPlan(weight=1.0, samples=2, new_tokens=1)
    soft = torch.randn(2, 2, 32, requires_grad=True)
    rewards = iter((0.0, 1.0, 0.0, 1.0))
    loss = picture_loss(
        model, DynamicCache(), soft, QUESTION, lambda *_: next(rewards), plan, -1, torch.Generator().manual_seed(0)
    )
    assert torch.autograd.grad(loss, soft)[0].abs().sum() > 0


def test_a_caption_that_comes_to_its_end_earns_more_and_one_of_another_picture_little():
    score = caption_metric([["A dog runs over the grass.", "A brown dog runs."], ["Two men sit on a bench."]])
    whole, torn, other = (
        score(0, *said)
        for said in (("A dog runs over the grass.", True), ("A dog runs over the grass", False), ("Two men sit.", True))
    )
    assert whole > torn > other


def test_only_captions_are_rewarded(captioned, drawn):
    sources = [
        read_source(Source(format="folder", files=(str(folder),), instructions=True), Path)
        for folder in (captioned, drawn / "train")
    ]
    rewarded = RewardedCaptions(sources, caption_metric, PLAN)
    draws = Draws(sources, batch=8, seed=0)
    kinds = {(d.source, rewarded.has(d)) for d in map(draws.draw, range(400))}
    assert kinds == {(0, True), (0, False), (1, False)}  # of captioned pictures, also questions of other kinds
    draw = next(d for d in map(draws.draw, range(400)) if rewarded.has(d))
    assert rewarded.reward(draw, draw.answer, True) > rewarded.reward(draw, "Something else.", True) == 0


def test_a_rewarded_run_that_is_stopped_goes_on_bit_for_bit(make_configs, captioned, monkeypatch):
    part = {
        "data": [
            {"format": "folder", "files": ["captioned"], "instructions": True},
            {"format": "folder", "files": ["pictures/train"]},
        ],
        "reward": REWARD,
    }
    words = {"data": part["data"]}
    entry.main([str(path) for path in make_configs("whole", words=words, generate=part)])
    configs = [str(path) for path in make_configs("parts", words=words, generate=part)]
    entry.main(configs[:2])
    step = loop.optimizer_step

    def killed(stage, model, optimizer, accelerator, settings, number, stop):
        if number == 2:
            raise RuntimeError("killed")
        return step(stage, model, optimizer, accelerator, settings, number, stop)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            entry.main(configs[2:])
    entry.main(configs[2:])
    assert same_outcome("whole/generate", "parts/generate")
    make_configs("parts", words=words, generate=part | {"run": "parts/imitated", "reward": None})
    entry.main(configs[2:])
    rewarded, imitated = (saved(f"parts/{run}")["model"] for run in ("generate", "imitated"))
    assert any(not torch.equal(rewarded[name], imitated[name]) for name in rewarded)

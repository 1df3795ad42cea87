"""Training a modality brick: the real path from three configs to a brick, resumption, and what stops it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import modality_bricks.training.train as entry
from assistant.cli import app
from assistant.host.host import load_host
from assistant.registry import Brick, check_brick
from mattoni.card import Routes, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.keys import save_keys
from mattoni.paths import data_folder
from modality_bricks.encoder import load_encoder
from modality_bricks.stitch_file import load_stitch
from modality_bricks.training.draws import Draws
from modality_bricks.training.encoder_stage import EncoderModel, EncoderStage, model_config, save_encoder
from modality_bricks.training.features import FeatureCache
from modality_bricks.training.prepare import refuse_batch_statistics
from modality_bricks.training.recipe import CONFIGS, read_recipe, shipped_or_own, shown
from modality_bricks.training.samples import Source, read_source
from tests.modality_bricks.conftest import OPTIMISE


def weights(run: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(run) / "checkpoint.pt", weights_only=True)["model"]


def test_one_command_makes_a_brick_that_the_registry_takes(make_configs, tmp_path):
    entry.main([str(path) for path in make_configs()])
    folder = data_folder() / "bricks" / "shapes"
    brick = check_brick(folder)
    assert isinstance(brick, Brick)
    metric = brick.card.metrics[0]
    assert metric.n == 36 and "shuffled pictures" in metric.beside
    assert len(brick.card.training["stages"]) == 3
    assert str(tmp_path) not in (folder / "brick.yaml").read_text()
    for stage in ("encoder", "words", "generate"):
        run = tmp_path / "runs" / stage
        assert all((run / name).is_file() for name in ("curve.png", "log.jsonl", "best.pt", "result.json"))


def test_only_the_opening_learns_when_asked(make_configs, tiny_host, tmp_path):
    entry.main([str(path) for path in make_configs(generate={"learn": "opening"})])
    embedding = load_host(str(tiny_host), "cpu").embedding
    before, after = (load_stitch(tmp_path / "runs" / stage, embedding).state_dict() for stage in ("words", "generate"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"opening"}


def test_a_stitch_learns_to_read_another_encoder_and_says_what_it_said(make_configs, tiny_host, tmp_path):
    entry.main([str(path) for path in make_configs()[:2]])
    config = model_config("test_convnext", 64, 24)
    save_encoder(EncoderModel(config, 1, 1, 1), config, tmp_path / "other")
    changes = {"run": "runs/again", "encoder": "local-dir:other", "start_from": "runs/words", "learn": "features"}
    entry.main([str(make_configs(words=changes)[1])])
    embedding = load_host(str(tiny_host), "cpu").embedding
    before, after = (load_stitch(tmp_path / "runs" / run, embedding).state_dict() for run in ("words", "again"))
    changed = {n for n in before if before[n].shape != after[n].shape or not torch.equal(before[n], after[n])}
    looking = {name for name in before if ".crossattention.attention.key" in name or ".attention.value" in name}
    assert changed - looking == {"feature_mean", "feature_scale", "places"}
    assert changed & looking and all(".crossattention." in name for name in changed & looking)
    # An encoder that was tuned from the one before is read as that one was, from the first step on.
    kin = {"run": "runs/kin", "start_from": "runs/words", "learn": "features", "kin": True, "steps": 1}
    entry.main([str(make_configs(words={**kin, "optimise": {**OPTIMISE, "learning_rate": 0.0}})[1])])
    same = load_stitch(tmp_path / "runs" / "kin", embedding).state_dict()
    assert {name for name in before if not torch.equal(before[name], same[name])} <= {"feature_mean", "feature_scale"}
    shape = {"queries": 8, "layers": 1, "width": 16, "heads": 2, "words": 100}
    with pytest.raises(MattoniError, match=r"start_from: that stitch has the shape .*'queries': 6.* write the same"):
        entry.main([str(make_configs(words={**changes, "run": "runs/third", "stitch": shape})[1])])


def test_a_blind_run_learns_the_same_answers_beside_other_pictures(make_configs, drawn, tmp_path):
    pictures = read_source(Source(format="folder", files=(str(drawn / "train"),)), Path)
    draws = Draws([pictures], batch=8, seed=0)
    for number in range(100):
        mine, other = draws.draw(number), draws.another_picture(number)
        assert (other.question, other.answer) == (mine.question, mine.answer) and other.sample != mine.sample
    configs = [str(path) for path in make_configs()]
    entry.main(configs)
    seeing = weights("runs/generate")
    make_configs(generate={"blind": True, "run": "runs/blind"})
    entry.main(configs[2:])
    assert not torch.equal(weights("runs/blind")["stitch.query_tokens"], seeing["stitch.query_tokens"])


def test_a_brick_trained_again_is_its_next_version_and_keeps_its_keys(make_configs):
    configs = [str(path) for path in make_configs(generate={"words_weight": 0.5})]
    entry.main(configs)
    folder = data_folder() / "bricks" / "shapes"
    keys = torch.nn.functional.normalize(torch.ones(1, 128), dim=1)
    save_keys(keys, folder / "keys.safetensors")
    card = read_card(folder)
    routes = Routes(space="glance", keys="keys.safetensors", threshold=0.5)
    write_card(card.model_copy(update={"routes": routes, "files": describe_files(folder)}), folder)
    entry.main(configs)
    again = check_brick(folder)
    assert isinstance(again, Brick)
    assert again.card.version == 2 and again.card.routes == routes


def test_the_command_line_trains_too(make_configs):
    result = CliRunner().invoke(app, ["train", "modality", str(make_configs()[0])])
    assert result.exit_code == 0, result.output
    assert "step 6/6" in result.output and "min left" in result.output and "done: " in result.output


def test_a_bare_name_finds_a_config_that_came_with_mattoni(make_configs, tmp_path):
    tutorial = shipped_or_own(Path("tutorial-words.yaml"))
    assert tutorial.is_file() and shown(tutorial) == "modality_bricks/configs/tutorial-words.yaml"
    own = make_configs()[0]
    assert shipped_or_own(own) == own and shown(own) == "encoder.yaml"


def test_the_shipped_configs_can_be_read():
    stages = [path for path in CONFIGS.glob("*.yaml") if not path.name.startswith("glance")]
    assert len(stages) >= 6
    for path in stages:
        read_recipe(path)


def test_a_config_or_file_that_is_missing_is_named(make_configs):
    with pytest.raises(MattoniError, match=r"There is no config gone.yaml: name a YAML file, such as .*tutorial-words"):
        entry.main(["gone.yaml"])
    path = make_configs(encoder={"data": {"folder": "gone"}})[0]
    with pytest.raises(MattoniError, match=r"encoder.yaml: there is no gone, neither beside the config, nor here"):
        entry.main([str(path)])
    path = make_configs(encoder={"optimize": {}})[0]
    with pytest.raises(MattoniError, match=r"encoder.yaml: unknown key 'optimize'; did you mean 'optimise'\?"):
        entry.main([str(path)])


def test_a_checkpoint_of_another_config_is_refused(make_configs):
    encoder = make_configs()[0]
    entry.main([str(encoder)])
    make_configs(encoder={"seed": 1, "embedding": 8})
    with pytest.raises(
        MattoniError, match=r"was made with other values of embedding, seed: give the config another run"
    ):
        entry.main([str(encoder)])


def test_a_damaged_checkpoint_is_refused(make_configs):
    Path("runs/encoder").mkdir(parents=True)
    for content in (b"", b"PK\x03\x04 half a file"):
        Path("runs/encoder/checkpoint.pt").write_bytes(content)
        with pytest.raises(MattoniError, match=r"checkpoint.pt is damaged: remove .*encoder to start anew"):
            entry.main([str(make_configs()[0])])


def test_batch_norms_are_refused_on_several_processes():
    alone = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    several = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    assert refuse_batch_statistics(model, alone) is model
    with pytest.raises(MattoniError, match=r"batch norms, whose statistics would differ .* train it in one process"):
        refuse_batch_statistics(model, several)


def test_a_nan_stops_before_the_weights_are_touched(make_configs, monkeypatch):
    real = EncoderStage.loss

    def broken(stage, model, rows, step):
        return real(stage, model, rows, step) * (float("nan") if step == 3 else 1)

    monkeypatch.setattr(EncoderStage, "loss", broken)
    with pytest.raises(MattoniError, match=r"The loss is nan at step 3: lower the learning rate"):
        entry.main([str(make_configs()[0])])
    assert all(w.isfinite().all() for w in weights("runs/encoder").values())


def test_an_infinite_gradient_stops_before_the_weights_are_touched(make_configs, monkeypatch):
    real = EncoderStage.loss

    def broken(stage, model, rows, step):
        loss = real(stage, model, rows, step)
        # The square root has an infinite slope at zero: the loss is finite, its gradient is not.
        return loss + (loss - loss.detach()).abs().sqrt() if step == 3 else loss

    monkeypatch.setattr(EncoderStage, "loss", broken)
    with pytest.raises(MattoniError, match=r"The gradient is nan at step 3: lower the learning rate"):
        entry.main([str(make_configs()[0])])
    assert all(w.isfinite().all() for w in weights("runs/encoder").values())


def test_a_picture_that_cannot_be_opened_stops_with_its_name(make_configs, tmp_path):
    Path("broken/thing").mkdir(parents=True)
    Path("broken/thing/1.png").write_bytes(b"no picture")
    with pytest.raises(MattoniError, match=r"data: thing/1.png: its picture cannot be opened: replace it or remove"):
        entry.main([str(make_configs(encoder={"data": {"folder": "broken"}})[0])])


def test_a_loss_that_starts_at_zero_stops(make_configs, monkeypatch):
    real = EncoderStage.loss
    monkeypatch.setattr(EncoderStage, "loss", lambda *arguments: real(*arguments) * 0)
    with pytest.raises(MattoniError, match="The loss starts at 0: the labels are empty, or the answer is part of"):
        entry.main([str(make_configs()[0])])


def test_pictures_of_equal_names_do_not_share_features(tmp_path):
    config = model_config("test_convnext", 32, 16)
    save_encoder(EncoderModel(config, 1, 1, 1), config, tmp_path / "encoder")
    encoder = load_encoder(tmp_path / "encoder")
    for colour in ("red", "blue"):
        (tmp_path / colour / "field").mkdir(parents=True)
        Image.new("RGB", (8, 8), colour).save(tmp_path / colour / "field" / "1.png")
    red, blue = (
        FeatureCache(
            tmp_path / "cache", read_source(Source(format="folder", files=(c,)), lambda name: tmp_path / name), encoder
        ).get([(0, 0)])
        for c in ("red", "blue")
    )
    assert not torch.equal(red, blue)

"""Training a modality brick: the real path from three configs to a brick, resumption, and what stops it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import modality_bricks.train as entry
from assistant.card import Routes, describe_files, read_card, write_card
from assistant.cli import app
from assistant.host import load_host
from assistant.registry import Brick, check_brick
from mattoni.errors import MattoniError
from mattoni.keys import save_keys
from mattoni.paths import data_folder
from modality_bricks import loop
from modality_bricks.encoder import load_encoder
from modality_bricks.encoder_stage import EncoderModel, EncoderStage, model_config, save_encoder
from modality_bricks.features import FeatureCache
from modality_bricks.prepare import refuse_batch_statistics
from modality_bricks.recipe import CONFIGS, read_recipe, shipped_or_own, shown
from modality_bricks.samples import Source, read_source
from modality_bricks.stitch import load_stitch


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


def test_a_killed_run_ends_with_the_same_weights(make_configs, monkeypatch):
    entry.main([str(path) for path in make_configs("whole")])
    real = loop.optimizer_step

    def killed(stage, model, optimizer, accelerator, settings, step):
        if step == 4:
            raise RuntimeError("killed")
        return real(stage, model, optimizer, accelerator, settings, step)

    for path in make_configs("parts"):
        monkeypatch.setattr(loop, "optimizer_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            entry.main([str(path)])
        monkeypatch.setattr(loop, "optimizer_step", real)
        entry.main([str(path)])
    for stage in ("encoder", "words", "generate"):
        whole, parts = weights(f"whole/{stage}"), weights(f"parts/{stage}")
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[name], parts[name]) for name in whole), stage
        best = [torch.load(Path(run) / stage / "best.pt", weights_only=True) for run in ("whole", "parts")]
        assert all(torch.equal(best[0][name], best[1][name]) for name in best[0]), stage


@pytest.mark.slow
def test_a_process_killed_by_the_system_goes_on(make_configs):
    entry.main([str(make_configs("whole", encoder={"phases": [{"size": 32, "epochs": 4}]})[0])])
    path = make_configs("parts", encoder={"phases": [{"size": 32, "epochs": 4}]})[0]
    command = [sys.executable, "-m", "modality_bricks.train", str(path)]
    environment = os.environ | {"PYTHONPATH": str(Path(entry.__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("step 7/36") for line in process.stdout)
        process.kill()
    assert 6 <= torch.load("parts/encoder/checkpoint.pt", weights_only=True)["step"] < 36
    entry.main([str(path)])
    whole, parts = weights("whole/encoder"), weights("parts/encoder")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


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
    stages = [path for path in CONFIGS.glob("*.yaml") if path.name != "glance.yaml"]
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
    with pytest.raises(
        MattoniError, match=r"encoder.yaml: encoder.optimize: Extra inputs are not permitted; correct it"
    ):
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


def losses(run: str) -> list[float]:
    records = [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(make_configs):
    entry.main([str(path) for path in make_configs("one")])
    # `accelerate-launch`: the `accelerate` command imports timm first thing, out of reach of the mend of torchvision.
    # With --cpu it starts one process only; --multi_gpu starts two, which meet over gloo where there is no GPU.
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    command = [sys.executable, *launch.split(), "--mixed_precision", "no", "--dynamo_backend", "no"]
    paths = [str(path) for path in make_configs("two")]
    root = Path(entry.__file__).parents[1]
    done = subprocess.run(
        [*command, "-m", "modality_bricks.train", *paths],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for stage in ("encoder", "words", "generate"):
        one, two = losses(f"one/{stage}"), losses(f"two/{stage}")
        assert len(one) == len(two) == 6
        assert "2 thread(s)" in json.loads((Path("two") / stage / "result.json").read_text())["hardware"]
        assert one == pytest.approx(two, rel=0.01), stage


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


def test_ctrl_c_keeps_the_last_checkpoint_and_says_how_to_go_on(make_configs, monkeypatch):
    encoder, *_ = make_configs()
    real = EncoderStage.loss

    def interrupted(stage, model, rows, step):
        if step == 4:
            raise KeyboardInterrupt
        return real(stage, model, rows, step)

    monkeypatch.setattr(EncoderStage, "loss", interrupted)
    with pytest.raises(MattoniError, match=r"Stopped after step 4: the same command goes on from the last checkpoint"):
        entry.main([str(encoder)])
    assert torch.load("runs/encoder/checkpoint.pt", weights_only=True)["step"] == 4
    monkeypatch.setattr(EncoderStage, "loss", real)
    entry.main([str(encoder)])
    assert torch.load("runs/encoder/checkpoint.pt", weights_only=True)["step"] == 6


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    loop.save_checkpoint(path, {"weights": torch.ones(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What a full disk does to a write: it fails halfway.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(
            MattoniError, match=r"Cannot write .*checkpoint.pt .*: free some space or choose another folder"
        ):
            loop.save_checkpoint(path, {"weights": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.ones(10))
    assert list(tmp_path.iterdir()) == [path]


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

"""What the training command offers beside training: a dry run, another host, comparison with the brick that is there, the page."""

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import MambaConfig, MambaForCausalLM

import modality_bricks.training.train as entry
from assistant.host.host import load_host
from assistant.registry import Brick, Registry, check_brick
from assistant.turn.loaded import LoadedBricks
from brick_training import watch
from brick_training.run_folder import read_log
from brick_training.step import Evaluation
from mattoni.card import read_card
from mattoni.errors import MattoniError
from mattoni.injections import Soft
from mattoni.paths import data_folder
from mattoni.runtime import Asked, GivenPicture
from modality_bricks.encoder import VisionEncoder, load_encoder
from modality_bricks.training.compare import compare
from modality_bricks.training.dev_answers import DevAnswers
from modality_bricks.training.encoder_stage import EncoderModel, EncoderStage, model_config, save_encoder
from modality_bricks.training.features import FeatureCache
from modality_bricks.training.recipe import for_host, read_recipe
from modality_bricks.training.samples import Source, read_source


def files(folder: Path) -> set[str]:
    return {path.as_posix() for path in folder.rglob("*")}


# The dry run


def test_a_dry_run_tells_time_memory_disk_and_cost_and_leaves_nothing(make_configs, tmp_path, capsys):
    configs = [str(path) for path in make_configs()]
    before = files(tmp_path)
    entry.main([*configs, "--dry-run", "--price", "0.5"])
    assert files(tmp_path) == before
    told = capsys.readouterr().out
    for stage in ("encoder", "words", "generate"):
        assert f"{stage}.yaml: stage {stage}, run runs/{stage}" in told
    assert told.count("time: ") == 3 and told.count("evaluations: ") == 3 and "features of 108 views" in told
    assert "at 0.5 an hour" in told and "of memory at most" in told and told.endswith("Nothing was written.\n")


def test_a_dry_run_counts_what_is_done_and_cached(make_configs, tmp_path, capsys):
    configs = [str(path) for path in make_configs(generate={"brick": None})]
    entry.main(configs)
    before = files(tmp_path)
    capsys.readouterr()
    entry.main([*configs, "--dry-run"])
    told = capsys.readouterr().out
    assert told.count("6 steps of") == 3 and told.count("6 of them done") == 3 and "features of" not in told
    assert files(tmp_path) == before


def test_a_dry_run_names_bad_rows(make_configs):
    Path("broken/thing").mkdir(parents=True)
    Path("broken/thing/1.png").write_bytes(b"no picture")
    with pytest.raises(MattoniError, match=r"data: thing/1.png: its picture cannot be opened"):
        entry.main([str(make_configs(encoder={"data": {"folder": "broken"}})[0]), "--dry-run"])


def test_a_dry_run_says_that_the_disk_is_too_small(make_configs, monkeypatch):
    monkeypatch.setattr(
        "modality_bricks.training.dry_run.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})
    )
    with pytest.raises(
        MattoniError, match=r"The runs need .* MB of disk and .* has 0.0 MB left: free some space first"
    ):
        entry.main([str(make_configs()[0]), "--dry-run"])


# Another host


def test_another_host_gets_a_variant_from_the_same_features(
    make_configs, make_host, tiny_host, tmp_path, monkeypatch, capsys
):
    configs = [str(path) for path in make_configs()]
    entry.main(configs)
    other = make_host(tmp_path / "Other.Host", seed=1, hidden_size=64)
    with monkeypatch.context() as patch:
        # The probe of a new encoder asks for one row; pictures would come in more.
        real = VisionEncoder.features
        patch.setattr(
            VisionEncoder,
            "features",
            lambda self, batch: real(self, batch) if len(batch) == 1 else pytest.fail("ran again"),
        )
        entry.main([*configs, "--host", str(other)])
    assert "runs/encoder: the encoder is there and serves every host" in capsys.readouterr().out
    for run in ("words--other-host", "generate--other-host"):
        assert (tmp_path / "runs" / run / "result.json").is_file()
    folder = data_folder() / "bricks" / "shapes"
    first, second = read_card(folder).for_each_host()
    assert first.host.hidden_size == 32 and second.host.hidden_size == 64
    assert second.training["command"][0].endswith("encoder.yaml")
    assert second.training["command"][-1].endswith("generate.yaml --host Other.Host")
    # The encoder is there once; the variant's own file is its stitch.
    assert [v.name for v in read_card(folder).variants] == ["other.host"]
    assert set(second.files) - set(first.files) == {"variants/other.host/stitch.safetensors"}
    assert second.parts.encoder == first.parts.encoder == "local-dir:encoder"
    assert isinstance(check_brick(folder), Brick)
    for place in (tiny_host, other):
        host = load_host(str(place), device="cpu", dtype="float32")
        brick = Registry([folder.parent]).scan(host).get("shapes")
        runtime = LoadedBricks(host).get(brick)
        shown = GivenPicture("a", "a", lambda: Image.new("RGB", (20, 20), "red"))
        (soft,) = (s for s in runtime.inject(Asked("What is it?", shown)).segments if isinstance(s, Soft))
        assert soft.vectors.shape[1] == host.width
    # The next version of one of them leaves the other.
    entry.main([configs[2], "--host", str(other), "--replace-anyway"])
    first, second = read_card(folder).for_each_host()
    assert (first.version, second.version) == (1, 2)
    entry.main([configs[2], "--replace-anyway"])
    first, again = read_card(folder).for_each_host()
    assert (first.version, again.version) == (2, 2) and again.parts == second.parts
    assert isinstance(check_brick(folder), Brick)


def test_the_name_of_a_host_makes_runs_and_brick_of_its_own(make_configs):
    recipe = for_host(read_recipe(make_configs()[2]), "Qwen/Qwen2.5-1.5B-Instruct")
    assert recipe.run == "runs/generate--qwen2-5-1-5b-instruct"
    assert recipe.start_from == "runs/words--qwen2-5-1-5b-instruct"
    assert recipe.brick.folder == "shapes"
    assert recipe.cache == "runs/features"


def test_the_last_stage_alone_asks_for_the_one_before_for_the_same_host(make_configs, make_host, tmp_path):
    configs = make_configs(generate={"brick": None})
    entry.main([str(path) for path in configs[:2]])
    other = make_host(tmp_path / "other", seed=1)
    with pytest.raises(
        MattoniError, match=r"start_from: there is no stitch in runs/words--other: run the config that makes"
    ):
        entry.main([str(configs[2]), "--host", str(other)])


def test_a_stitch_of_a_host_with_other_words_is_refused(make_configs, make_host, tmp_path):
    configs = make_configs(generate={"brick": None})
    entry.main([str(path) for path in configs[:2]])
    other = make_host(tmp_path / "other", seed=1)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    make_configs(generate={"brick": None, "host": str(other)})
    with pytest.raises(
        MattoniError, match=r"start_from: the stitch of runs/words was made for a host with other words"
    ):
        entry.main([str(configs[2])])


def test_a_host_that_takes_no_soft_tokens_is_refused(make_configs, tiny_host, tmp_path):
    config = MambaConfig(vocab_size=384, hidden_size=32, num_hidden_layers=2, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "mamba" / name).write_bytes((tiny_host / name).read_bytes())
    configs = make_configs(words={"host": str(tmp_path / "mamba")})
    entry.main([str(configs[0])])
    with pytest.raises(
        MattoniError, match=r"mamba: this host takes no soft tokens .*: choose a decoder-only transformer"
    ):
        entry.main([str(configs[1])])


# The brick that is there


def test_the_interval_of_a_difference_is_that_of_paired_rows():
    rows = np.random.default_rng(0).integers(0, 2, 200).astype(float)
    same = compare([rows], [rows])
    assert (same.low, same.high, same.worse) == (0, 0, False)
    worse = compare([rows * 0], [rows])
    assert worse.worse and worse.high < 0 and worse.old == rows.mean()
    # Three rows of 200 are chance; the two sources count together.
    few = rows.copy()
    few[:6] = 0
    assert not compare([few[:100], few[100:]], [rows[:100], rows[100:]]).worse
    assert not compare([rows], [rows * 0]).worse


def test_a_better_brick_is_not_replaced_unless_asked(make_configs, monkeypatch, capsys):
    configs = [str(path) for path in make_configs()]
    entry.main(configs)
    folder = data_folder() / "bricks" / "shapes"
    before = (folder / "brick.yaml").read_bytes()
    scores = iter([[0.0] * 36, [1.0] * 36])
    real = DevAnswers.measure

    def scored(answers, stitch, dev):
        found = real(answers, stitch, dev)
        return Evaluation(found.metrics, found.samples, [next(scores)])

    with monkeypatch.context() as patch:
        patch.setattr(DevAnswers, "measure", scored)
        with pytest.raises(
            MattoniError,
            match=r"shapes: the new brick scores 0.000 and the one that is there 1.000 on the same 36 dev rows: worse by more "
            r"than chance explains .*: .*shapes stays as it is, and the new stitch in runs/generate; --replace-anyway",
        ):
            entry.main([configs[2]])
    assert (folder / "brick.yaml").read_bytes() == before
    entry.main([configs[2], "--replace-anyway"])
    assert read_card(folder).version == 2
    capsys.readouterr()
    entry.main([configs[2]])
    assert "no difference that so many rows can show (difference +0.000" in capsys.readouterr().out
    assert read_card(folder).version == 3


def test_a_brick_of_another_kind_is_not_replaced(make_configs):
    configs = [str(path) for path in make_configs()]
    entry.main(configs[:2])
    folder = data_folder() / "bricks" / "shapes"
    folder.mkdir(parents=True)
    card = {"schema": 1, "name": "shapes", "title": "Test", "summary": "A test.", "licence": "none", "kind": "modality"}
    card |= {"injects": ["sequence"], "parts": {"method": "reader", "models": "rapidocr"}}
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(
        MattoniError, match=r"'shapes' is no brick of this kind, so the two cannot be compared: .* stays"
    ):
        entry.main(configs[2:])


def test_a_parent_without_a_result_is_named_before_the_long_part(make_configs):
    with pytest.raises(
        MattoniError, match=r"brick.parents: there is no runs/encoder/result.json: run the config that makes"
    ):
        entry.main([str(make_configs()[2])])


# Other bad input


def test_a_batch_larger_than_the_data_is_named(make_configs):
    with pytest.raises(MattoniError, match="batch is 100, and there are 72 pictures: lower batch, or give more"):
        entry.main([str(make_configs(encoder={"batch": 100})[0])])


def test_features_that_do_not_fit_the_disk_are_an_error_and_not_a_crash(tmp_path, monkeypatch):
    config = model_config("test_convnext", 32, 16)
    save_encoder(EncoderModel(config, 1, 1, 1), config, tmp_path / "encoder")
    (tmp_path / "field").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8), (i * 80, 0, 0)).save(tmp_path / "field" / f"{i}.png")
    source = read_source(Source(format="folder", files=("field",)), lambda _: tmp_path)
    cache = FeatureCache(tmp_path / "cache", source, load_encoder(tmp_path / "encoder"))
    first = cache.get([(0, 0)])
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    files = cache._files
    with monkeypatch.context() as patch:
        patch.setitem(cache.__dict__, "_files", (full, files[1]))
        with pytest.raises(OSError, match="No space left on device"):
            cache.get([(1, 0)])
    assert torch.equal(cache.get([(0, 0)]), first) and cache.rows_in(tmp_path / "cache") == 1


# The page


def fetched(address: str) -> str:
    with urllib.request.urlopen(address) as answer:
        return answer.read().decode()


def test_the_page_shows_a_run_of_another_process_and_after_its_end(make_configs, tmp_path):
    page = watch.serve([tmp_path / "runs" / "encoder", tmp_path / "runs" / "words"])
    try:
        assert "<title>Training</title>" in fetched(page.address)
        waiting, _ = json.loads(fetched(f"{page.address}/runs"))
        assert waiting["state"] == {"state": "waiting"}
        entry.main([str(make_configs()[0])])
        run, waiting = json.loads(fetched(f"{page.address}/runs"))
        assert run["state"]["state"] == "finished" and run["state"]["step"] == run["state"]["steps"] == 6
        assert [step for step, _ in run["losses"]][-1] == 6 and run["evaluations"][-1]["metrics"].keys() == {"top1"}
        assert waiting["state"]["state"] == "waiting"
        request = urllib.request.Request(f"{page.address}/runs", headers={"Host": "elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(request)
    finally:
        page.close()


def test_the_page_tells_a_killed_run_and_shows_older_ones(make_configs, tmp_path):
    entry.main([str(make_configs()[0])])
    run = tmp_path / "runs" / "encoder"
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps(state | {"state": "running", "process": 2**22 + 1}))
    assert watch.view_of_run(run)["state"]["state"] == "killed"
    (run / "state.json").unlink()
    view = watch.view_of_run(run)
    assert view["state"]["state"] == "unknown" and view["losses"]


def test_a_run_that_is_watched_is_named(make_configs, capsys):
    entry.main([str(make_configs()[0]), "--watch"])
    assert "watch: http://127.0.0.1:85" in capsys.readouterr().out
    with pytest.raises(MattoniError, match="There is no run gone: name the folder that a config calls run"):
        watch.main(["gone"])


def test_several_evaluations_are_estimated_from_a_part_of_the_rows(make_configs, monkeypatch, capsys):
    seen: list[int] = []
    real = EncoderStage.evaluate
    monkeypatch.setattr(EncoderStage, "evaluate", lambda s, step: seen.append(len(s.data.dev_tiles)) or real(s, step))
    entry.main([str(make_configs()[0]), "--dry-run"])
    assert seen == [36]


# CUDA


@pytest.mark.gpu
def test_the_same_commands_train_on_a_gpu(make_configs):
    entry.main([str(path) for path in make_configs("gpu")])
    entry.main([str(path) for path in make_configs("cpu", encoder={"device": "cpu"})[:1]])
    for stage in ("encoder", "words", "generate"):
        assert torch.cuda.get_device_name() in json.loads(Path(f"gpu/{stage}/result.json").read_text())["hardware"]
    # bf16 on both, in kernels that round in another order.
    losses = [[r["loss"] for r in read_log(Path(f"{run}/encoder/log.jsonl")) if "loss" in r] for run in ("gpu", "cpu")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)

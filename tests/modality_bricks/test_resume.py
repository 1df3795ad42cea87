"""A run that is killed, stopped or out of disk at any moment goes on bit for bit, and its last good checkpoint stays good."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import modality_bricks.training.train as entry
from assistant.registry import Brick, check_brick
from brick_training import loop
from brick_training.run_folder import locked, read_log
from brick_training.step import Evaluation
from mattoni.errors import Interrupted, MattoniError
from mattoni.paths import data_folder
from modality_bricks.training.encoder_stage import EncoderStage

STAGES = ("encoder", "words", "generate")
TWO_EPOCHS = {"phases": [{"size": 32, "epochs": 1.4}]}  # 13 steps, with an evaluation after 9 and after 13
RARELY = {"optimise": {"learning_rate": 1.0e-3, "log_every": 1, "checkpoint_minutes": 60}}


def saved(run: str, name: str = "checkpoint.pt") -> dict:
    return torch.load(Path(run) / name, weights_only=True)


def same_outcome(one: str, other: str) -> bool:
    """Whether two runs have the same weights, optimizer state, best weights and log, bit for bit."""
    first, second = saved(one), saved(other)
    moments = [tensors(run["optimizer"]["state"]) for run in (first, second)]
    pairs = [*zip(first["model"].values(), second["model"].values(), strict=True), *zip(*moments, strict=True)]
    pairs += zip(saved(one, "best.pt").values(), saved(other, "best.pt").values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and log_of(one) == log_of(other)


def tensors(state: dict) -> list[torch.Tensor]:
    return [value for part in state.values() for value in part.values() if isinstance(value, torch.Tensor)]


def log_of(run: str) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in read_log(Path(run) / "log.jsonl")]


def killed_in(work: Callable[[], object]) -> None:
    """Do this work in a process of its own, in which it must come to a SIGKILL."""
    child = os.fork()
    if child == 0:
        # After a fork torch makes its pool of threads anew at the first call, and not safely when that comes from several
        # threads at once, as while transformers loads weights ("Invalid thread pool!").
        torch.set_num_threads(torch.get_num_threads())
        work()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """What a full disk does to a write: it fails halfway."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def whole(make_configs) -> Path:
    """The encoder's config of a run called `parts`; the run `whole` went through without a stop."""
    entry.main([str(make_configs("whole", encoder=TWO_EPOCHS)[0])])
    return make_configs("parts", encoder=TWO_EPOCHS)[0]


def at_step(step: int, act: Callable[[], object]) -> Callable[..., torch.Tensor]:
    """The encoder's loss, with something happening in the middle of a step."""
    real = EncoderStage.loss

    def loss(stage, model, rows, now):
        if now == step:
            act()
        return real(stage, model, rows, now)

    return loss


@pytest.mark.parametrize("stages", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_at_every_step_ends_with_the_same_weights(make_configs, monkeypatch, stages):
    entry.main([str(path) for path in make_configs("whole")[:stages]])
    real = loop.optimizer_step
    for path in make_configs("parts")[:stages]:
        for fatal in (1, 2, 3, 4, 5):

            def killed(stage, model, optimizer, accelerator, settings, step, stop, fatal=fatal):
                if step == fatal:
                    raise RuntimeError("killed")
                return real(stage, model, optimizer, accelerator, settings, step, stop)

            monkeypatch.setattr(loop, "optimizer_step", killed)
            with pytest.raises(RuntimeError, match="killed"):
                entry.main([str(path)])
        monkeypatch.setattr(loop, "optimizer_step", real)
        entry.main([str(path)])
    assert all(same_outcome(f"whole/{stage}", f"parts/{stage}") for stage in STAGES[:stages])


@pytest.mark.parametrize("victim", ["checkpoint.pt", "best.pt"])
def test_a_kill_in_the_middle_of_writing_weights_leaves_the_last_ones(whole, monkeypatch, victim):
    real, writes = torch.save, []

    def half(content, file):
        writes.append(Path(file.name).name)
        # The second one: there is a good file to lose.
        if sum(name.startswith(f".{victim}.") for name in writes) == 2:
            file.write(b"PK half a checkpoint")
            file.flush()
            kill()
        real(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        # The dev figure rises, so that the best weights are written twice.
        patch.setattr(EncoderStage, "evaluate", lambda stage, step: Evaluation({"top1": float(step)}))
        killed_in(lambda: entry.main([str(whole)]))
    assert list(Path("parts/encoder").glob(f".{victim}.*"))
    assert saved("parts/encoder", victim)
    if victim == "best.pt":
        Path("parts/encoder/best.pt").unlink()
        Path("parts/encoder/checkpoint.pt").unlink()
    entry.main([str(whole)])
    assert same_outcome("whole/encoder", "parts/encoder")
    assert not list(Path("parts/encoder").glob(".*.pt.*"))


@pytest.mark.slow
@pytest.mark.parametrize("place", ["save_part", "write_result", "write_brick"])
def test_a_kill_between_stages_loses_nothing(make_configs, monkeypatch, place):
    paths = [str(path) for path in make_configs("parts")]
    with monkeypatch.context() as patch:
        patch.setattr(entry, place, kill)
        killed_in(lambda: entry.main(paths))
    entry.main(paths)
    entry.main([str(path) for path in make_configs("whole", generate={"brick": None})])
    assert all(same_outcome(f"whole/{stage}", f"parts/{stage}") for stage in STAGES)
    assert isinstance(check_brick(data_folder() / "bricks" / "shapes"), Brick)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_saves_and_says_how_to_go_on(make_configs, monkeypatch, number):
    entry.main([str(make_configs("whole", encoder=RARELY)[0])])
    encoder = make_configs("parts", encoder=RARELY)[0]
    with monkeypatch.context() as patch:
        patch.setattr(EncoderStage, "loss", at_step(3, lambda: os.kill(os.getpid(), number)))
        with pytest.raises(
            Interrupted, match=r"Stopped after step 4 of 6, in parts/encoder: the same command goes on from there"
        ) as stopped:
            entry.main([str(encoder)])
    assert stopped.value.exit_code == 128 + number
    assert saved("parts/encoder")["step"] == 4
    assert json.loads(Path("parts/encoder/state.json").read_text())["state"] == "stopped"
    entry.main([str(encoder)])
    assert same_outcome("whole/encoder", "parts/encoder")


def test_a_second_ctrl_c_does_not_wait_and_saves_no_torn_step(make_configs, monkeypatch):
    encoder = make_configs(encoder=RARELY)[0]

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(EncoderStage, "loss", at_step(3, twice))
    with pytest.raises(Interrupted, match=r"Stopped after step 0 of 6, in .*encoder: nothing was to be saved yet"):
        entry.main([str(encoder)])
    assert not Path("runs/encoder/checkpoint.pt").exists()


def test_ctrl_c_in_an_evaluation_stops_at_once_and_the_evaluation_is_made_up_for(whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(EncoderStage, "evaluate", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(Interrupted, match="Stopped after step 9 of 13"):
            entry.main([str(whole)])
    assert not Path("parts/encoder/best.pt").exists()
    entry.main([str(whole)])
    assert same_outcome("whole/encoder", "parts/encoder")


@pytest.fixture
def heeds_ctrl_c():
    """As at a terminal: what is started in the background of a script ignores SIGINT, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_data_are_read_is_one_sentence(make_configs, monkeypatch, heeds_ctrl_c):
    monkeypatch.setattr(entry, "build_stage", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="Stopped in encoder.yaml: the same command goes on"):
        entry.main([str(make_configs()[0])])


def test_a_full_disk_in_the_middle_of_a_run_leaves_the_last_checkpoint(whole, monkeypatch):
    with monkeypatch.context() as patch, largest_file(2**40):
        limit = (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
        patch.setattr(EncoderStage, "loss", at_step(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)))
        with pytest.raises(MattoniError, match=r"Cannot write .*checkpoint.pt .*: free some space or choose another"):
            entry.main([str(whole)])
    assert saved("parts/encoder")["step"] == 3
    state = json.loads(Path("parts/encoder/state.json").read_text())
    assert state["state"] == "failed" and "free some space" in state["sentence"]
    entry.main([str(whole)])
    assert same_outcome("whole/encoder", "parts/encoder")


def test_a_full_disk_in_the_middle_of_the_log_leaves_a_run_that_goes_on(whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop.Log, "write", lambda *_, **__: os.close(-1))  # an OSError, as of a disk that is full
        with pytest.raises(
            MattoniError, match=r"Cannot write in parts/encoder \(.*\): free some space; the same command"
        ):
            entry.main([str(whole)])
    entry.main([str(whole)])
    with Path("parts/encoder/log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    entry.main([str(whole)])
    assert same_outcome("whole/encoder", "parts/encoder")


def test_one_run_is_not_trained_by_two_processes_at_once(make_configs):
    encoder = make_configs()[0]
    ready, child = Path("ready"), os.fork()
    if child == 0:
        with locked(Path("runs/encoder")):
            ready.touch()
            signal.pause()
    try:
        while not ready.exists():
            pass
        with pytest.raises(
            MattoniError, match=r"runs/encoder is being trained by another process: wait for its end, or"
        ):
            entry.main([str(encoder)])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    entry.main([str(encoder)])


def launched(*arguments: str, processes: int = 1, **options: object) -> "subprocess.Popen[str]":
    """The training script as a process of its own, or as several that share the batch."""
    # `accelerate-launch`: the `accelerate` command imports timm first thing, out of reach of the mend of torchvision.
    # With --cpu it starts one process only; --multi_gpu starts two, which meet over gloo where there is no GPU.
    launch = (
        f"-m accelerate.commands.launch --multi_gpu --num_processes {processes} --num_machines 1 --main_process_port 0"
    )
    several = [*launch.split(), "--mixed_precision", "no", "--dynamo_backend", "no"] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *several, "-m", "modality_bricks.train", *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(entry.__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.slow
def test_a_process_killed_by_the_system_goes_on(make_configs):
    long = {"phases": [{"size": 32, "epochs": 4}]}
    entry.main([str(make_configs("whole", encoder=long)[0])])
    path = make_configs("parts", encoder=long)[0]
    with launched(str(path)) as process:
        assert any(line.startswith("step 7/36") for line in process.stdout)
        process.kill()
    assert 6 <= saved("parts/encoder")["step"] < 36
    entry.main([str(path)])
    assert same_outcome("whole/encoder", "parts/encoder")


@pytest.mark.slow
def test_ctrl_c_in_the_terminal_gives_one_sentence_and_its_exit_code(make_configs):
    long = {"phases": [{"size": 32, "epochs": 4}]}
    with launched(str(make_configs(encoder=long | RARELY)[0])) as process:
        assert any(line.startswith("step 7/36") for line in process.stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 130
        assert process.stderr.read().startswith("Stopped after step ")
    assert saved("runs/encoder")["step"] >= 7


def losses(run: str) -> list[float]:
    return [record["loss"] for record in log_of(run) if "loss" in record]


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(make_configs):
    entry.main([str(path) for path in make_configs("one")])
    with launched(*[str(path) for path in make_configs("two")], processes=2) as process:
        output = process.communicate(timeout=500)
    assert process.returncode == 0, output
    for stage in STAGES:
        one, two = losses(f"one/{stage}"), losses(f"two/{stage}")
        assert len(one) == len(two) == 6
        assert "2 thread(s)" in json.loads((Path("two") / stage / "result.json").read_text())["hardware"]
        assert one == pytest.approx(two, rel=0.01), stage


@pytest.mark.slow
def test_two_processes_that_are_stopped_stop_in_the_same_step_and_go_on(make_configs):
    long = {"phases": [{"size": 32, "epochs": 4}]}
    entry.main([str(make_configs("one", encoder=long | RARELY)[0])])
    path = str(make_configs("two", encoder=long | RARELY)[0])
    with launched(path, processes=2, start_new_session=True) as process:
        assert any(line.startswith("step 7/36") for line in process.stdout)
        os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C sends to everything that a terminal started
        process.communicate(timeout=500)
    assert 7 <= saved("two/encoder")["step"] < 36
    with launched(path, processes=2) as process:
        output = process.communicate(timeout=500)
    assert process.returncode == 0, output
    assert losses("one/encoder") == pytest.approx(losses("two/encoder"), rel=0.01)

"""A training run in a process of its own, for a page that starts it and looks on. Training only.

The process outlives whoever started it: what it writes (`state.json`, `log.jsonl`, `run.log`) says how far it is, and the same
call goes on with a run that was stopped.
"""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from brick_training.run_folder import STATE
from brick_training.watch import view_of_run
from mattoni.errors import MattoniError

OUTPUT = "run.log"  # what the process says
PROCESS = "process"  # its number
_ENDING_S = 10.0
_NICE = 5  # people who chat meanwhile come first


@dataclass(frozen=True)
class RunView:
    """How a run stands.

    state      starting, running, measuring, finished, stopped or failed
    losses     (step, loss)
    scores     (step, dev metrics), as they came
    """

    state: str
    step: int = 0
    steps: int = 0
    seconds_left: float = 0.0
    sentence: str = ""
    losses: tuple[tuple[int, float], ...] = ()
    scores: tuple[tuple[int, dict[str, float]], ...] = ()
    samples: tuple[str, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether its process works."""
        return self.state in ("starting", "running", "measuring")


def start(module: str, arguments: Sequence[str], run: Path) -> None:
    """Run `python -m MODULE ARGUMENTS …` on a run's folder. Raises MattoniError where it is being trained already."""
    if view(run).is_alive:
        raise MattoniError(f"{run.name} is being trained already: wait for its end, or stop it first.")
    run.mkdir(parents=True, exist_ok=True)
    (run / STATE).unlink(missing_ok=True)
    with (run / OUTPUT).open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    # Waited for, so that no zombie stays; the process does not mind if nobody is left to wait.
    threading.Thread(target=process.wait, name=f"training-{run.name}", daemon=True).start()
    with suppress(psutil.Error):
        psutil.Process(process.pid).nice(_NICE)
    (run / PROCESS).write_text(f"{process.pid}\n")


def stop(run: Path) -> None:
    """Ask the run's process to end: it writes a checkpoint first. Nothing happens where none works."""
    process = _process(run)
    if process is not None:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)


def end_all(runs: Path) -> None:
    """End the processes of all runs in a folder that is to be deleted, with or without a last checkpoint."""
    processes = [process for run in runs.glob("*") if (process := _process(run)) is not None]
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_ENDING_S)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=_ENDING_S)


def view(run: Path) -> RunView:
    """How the run stands, by what its process wrote and whether it is there."""
    told = view_of_run(run)
    state: dict[str, Any] = told["state"]
    alive = _process(run) is not None
    name = str(state.get("state", "waiting"))
    sentence = str(state.get("sentence") or "")
    if alive:
        name = {"running": "running", "finished": "measuring"}.get(name, "starting")
    elif name == "finished" and not _last_line(run).startswith("wrote "):
        name = "stopped"  # while it was measured or written
    elif name in ("running", "killed"):
        name = "stopped"  # by the system, or with the machine
    elif name not in ("finished", "stopped", "failed"):
        name, sentence = "failed", _last_line(run) or "It ended without a word: start it again."
    return RunView(
        name,
        int(state.get("step") or 0),
        int(state.get("steps") or 0),
        float(state.get("seconds_left") or 0.0),
        sentence,
        tuple((int(step), float(loss)) for step, loss in told["losses"]),
        tuple((int(found["step"]), found["metrics"]) for found in told["evaluations"]),
        tuple(told["samples"]),
    )


def _process(run: Path) -> psutil.Process | None:
    """The run's process while it works; another one that was given its number since is none."""
    try:
        file = run / PROCESS
        process = psutil.Process(int(file.read_text()))
        if process.status() == psutil.STATUS_ZOMBIE or process.create_time() > file.stat().st_mtime + 1:
            return None
        return process
    except (OSError, ValueError, psutil.Error):
        return None


def _last_line(run: Path) -> str:
    try:
        lines = (run / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""

"""The files of a training run, for the process that trains and for those that look on. Training only; light to import."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.lines import json_rows

CHECKPOINT, BEST, LOG, STATE, LOCK = "checkpoint.pt", "best.pt", "log.jsonl", "state.json", ".lock"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run's log, also of one that is being written; a line that a kill or a full disk cut off is left out."""
    return [row.value for row in json_rows(path, lambda number, why: None)] if path.exists() else []


class Log:
    """`log.jsonl` of a run: one line per record, cut back to the checkpoint on resume."""

    def __init__(self, path: Path, from_step: int) -> None:
        self.path = path
        kept = [record for record in read_log(path) if record["step"] < from_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))

    def write(self, **record: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from training the same run. Raises MattoniError if one does already."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as problem:
        raise MattoniError(
            f"{folder} is being trained by another process: wait for its end, or look at it with "
            f"`mattoni train watch {folder}`."
        ) from problem
    try:
        # A checkpoint that a killed process was writing helps nobody and may be large.
        for leftover in folder.glob(".*.pt.*"):
            leftover.unlink()
        yield
    finally:
        lock.release()

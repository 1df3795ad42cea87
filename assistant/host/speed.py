"""How fast a host is on this machine: measured once, and kept in the cache. Knows nothing of who chooses by it."""

import hashlib
import os
import platform
import time

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assistant.host.host import Host
from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.paths import cache_folder

# A whole turn: what is read and what is answered.
TURN_IN, TURN_OUT = 300, 60
_STEPS = 12  # decoded for the measurement


class Speed(BaseModel):
    """Tokens per second of a bare host, read and written."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prefill: float = Field(gt=0)
    decode: float = Field(gt=0)

    @property
    def turn_s(self) -> float:
        """Seconds of a whole turn."""
        return TURN_IN / self.prefill + TURN_OUT / self.decode


class _Speeds(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    speeds: dict[str, Speed] = {}


def measure(host: Host) -> Speed:
    """Read TURN_IN tokens and write a few, twice; the better of both, as other programs only ever slow it down.

    On a CPU what counts is the time that this thread had a core: on a busy machine the clock says ten times as much.
    """
    now = time.thread_time if host.device.type == "cpu" else time.perf_counter
    ids = torch.arange(TURN_IN, device=host.device).unsqueeze(0) % min(1000, host.embedding.shape[0])
    prefill = decode = float("inf")
    for _ in range(2):
        with torch.inference_mode():
            start = now()
            out = host.model(input_ids=ids, use_cache=True, logits_to_keep=1)
            token = out.logits[0, -1].argmax().reshape(1, 1)
            token.item()  # waits for the device
            read = now()
            for _ in range(_STEPS):
                out = host.model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
                token = out.logits[0, -1].argmax().reshape(1, 1)
            token.item()
            end = now()
        prefill, decode = min(prefill, read - start), min(decode, end - read)
    return Speed(prefill=TURN_IN / prefill, decode=_STEPS / decode)


def measured(name: str, device: str) -> Speed | None:
    """What was measured of a host on this machine and this device, if anything was."""
    return _read().speeds.get(_key(name, device))


def remember(host: Host) -> Speed:
    """Measure a host and keep what came out; a cache that cannot be written only costs the next measurement."""
    speed = measure(host)
    speeds = _read().speeds | {_key(host.name, host.device.type): speed}
    try:
        write_text(cache_folder() / "speeds.json", _Speeds(speeds=speeds).model_dump_json(indent=1))
    except MattoniError:
        pass
    return speed


def _read() -> _Speeds:
    try:
        return _Speeds.model_validate_json((cache_folder() / "speeds.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return _Speeds()


def _key(name: str, device: str) -> str:
    """A host on this machine: homes are shared by machines, and a container may have fewer cores than its machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{platform.node()} {platform.machine()} {cores} {torch.get_num_threads()}"
    return f"{name} {device} {hashlib.sha256(machine.encode()).hexdigest()[:12]}"

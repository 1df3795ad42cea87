"""How fast a host is on this machine: measured once, and kept in the cache. Knows nothing of who chooses by it."""

import contextlib
import hashlib
import os
import platform
import time
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.paths import cache_folder

if TYPE_CHECKING:
    from assistant.host.host import Host
    from assistant.host.matrices import Weights

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
    """What `speeds.json` holds: by machine, host and device."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    machines: dict[str, dict[str, dict[str, Speed]]] = {}


def measure(host: "Host", weights: "Weights" = "auto") -> Speed:
    """Read TURN_IN tokens and write a few as the local engine does, twice; the better of both, as other programs only ever
    slow it down.

    On a CPU what counts is the time that this thread had a core: on a busy machine the clock says ten times as much.
    """
    import torch  # here, as listing what was measured needs none of it

    from assistant.host.composition import Composition
    from assistant.host.decoder import Read
    from assistant.host.local import decoder_for

    now = time.thread_time if host.device.type == "cpu" else time.perf_counter
    decoder, _ = decoder_for(host, weights)
    bare = Composition(key="")
    ids = torch.arange(TURN_IN, device=host.device).unsqueeze(0) % min(1000, host.embedding.shape[0])
    prefill = decode = float("inf")
    for _ in range(2):
        with torch.inference_mode():
            kept = decoder.new_key_values(bare)
            start = now()
            token = decoder.forward([Read(kept, bare, ids)])[0].argmax().reshape(1, 1)
            token.item()  # waits for the device
            read = now()
            for _ in range(_STEPS):
                token = decoder.forward([Read(kept, bare, token)])[0].argmax().reshape(1, 1)
            token.item()
            end = now()
        prefill, decode = min(prefill, read - start), min(decode, end - read)
    return Speed(prefill=TURN_IN / prefill, decode=_STEPS / decode)


def measured(name: str) -> dict[str, Speed]:
    """What was measured of a host on this machine, by kind of device; empty where nothing was."""
    return _read().machines.get(_machine(), {}).get(name, {})


def remember(host: "Host") -> Speed:
    """Measure a host and keep what came out; a cache that cannot be written only costs the next measurement."""
    speed, kept, machine = measure(host), _read().machines, _machine()
    hosts = kept.get(machine, {})
    devices = hosts.get(host.name, {}) | {host.device.type: speed}
    speeds = _Speeds(machines=kept | {machine: hosts | {host.name: devices}})
    with contextlib.suppress(MattoniError):
        write_text(cache_folder() / "speeds.json", speeds.model_dump_json(indent=1))
    return speed


def _read() -> _Speeds:
    try:
        return _Speeds.model_validate_json((cache_folder() / "speeds.json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return _Speeds()


def _machine() -> str:
    """This machine: a home may be shared by several, and a container may have fewer cores than its machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return hashlib.sha256(f"{platform.node()} {platform.machine()} {cores} {threads}".encode()).hexdigest()[:12]

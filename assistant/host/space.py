"""How much disk and memory there is, and one sentence where that is too little. Knows nothing of models."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from mattoni.errors import MattoniError

_LIMIT, _USED = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")


def gigabytes(size: float) -> str:
    """Bytes as a person reads them."""
    return f"{size / 1e9:.1f} GB" if size >= 95e6 else f"{size / 1e6:.0f} MB"


def free_disk(folder: Path) -> int:
    """Free bytes where `folder` is, or will be."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of the container that it runs in."""
    free = int(psutil.virtual_memory().available)
    try:
        return min(free, int(_LIMIT.read_text()) - int(_USED.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free


def check_disk(name: str, needed: int, folder: Path, others: Mapping[str, int]) -> None:
    """Raise MattoniError unless `needed` bytes are free around `folder`; `others` is what smaller choices need."""
    free = free_disk(folder)
    if needed > free:
        raise MattoniError(
            f"{name} needs {gigabytes(needed)} of disk in {folder} and {gigabytes(free)} are free: "
            f"free some space{_instead(others, free)}."
        )


def check_memory(name: str, needed: int, free: int, others: Mapping[str, int]) -> None:
    """Raise MattoniError unless `needed` bytes of memory are free; `others` is what other choices need."""
    if needed > free:
        raise MattoniError(
            f"{name} needs about {gigabytes(needed)} of memory and {gigabytes(free)} are free: "
            f"end other programs{_instead(others, free)}."
        )


def _instead(others: Mapping[str, int], free: int) -> str:
    """The largest choice that fits, in words."""
    fitting = [(needed, other) for other, needed in others.items() if needed <= free]
    return f", or choose {max(fitting)[1]} ({gigabytes(max(fitting)[0])})" if fitting else ""

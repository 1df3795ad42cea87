"""How many of all the parameters a turn used: the sparsity of section 5.3 of "Configurable Foundation Models" (arXiv:2409.02877).

Counted are the host's and those in the bricks' safetensors files, routing keys left out: they choose and do not answer. What a
brick takes from a package or the catalogue (OCR, Whisper, an encoder) is not in its folder and not counted.
"""

from collections.abc import Collection
from functools import lru_cache
from pathlib import Path

from assistant.host.host import Host
from assistant.registry import Brick, Bricks
from mattoni.errors import MattoniError
from mattoni.tensors import stored_tensors


def parameters_used(host: Host, bricks: Bricks, used: Collection[str]) -> dict[str, int]:
    """`host`, `bricks` (those that took part), `installed` (all bricks that fit the host): numbers of parameters."""
    counts = {brick.name: parameters_of(brick) for brick in bricks.usable if not brick.borrowed}
    return {
        "host": host.parameters,
        "bricks": sum(count for name, count in counts.items() if name in used),
        "installed": sum(counts.values()),
    }


def parameters_of(brick: Brick) -> int:
    """The parameters that belong to the host at hand in a brick's folder."""
    keys = brick.card.routes.keys if brick.card.routes is not None else None
    names = tuple(
        name
        for name in brick.card.files
        if name.endswith(".safetensors") and name != keys and name.startswith(brick.place)
    )
    return _count(brick.folder, names, brick.digest)


@lru_cache(maxsize=1024)
def _count(folder: Path, names: tuple[str, ...], digest: str) -> int:
    """Cached by the digest, which changes with any file."""
    try:
        return sum(tensor.elements for name in names for tensor in stored_tensors([folder / name]).values())
    except MattoniError:
        return 0  # removed while the turn runs

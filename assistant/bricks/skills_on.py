"""Skills by their names, as what they do to a host; for measuring something beside them."""

from collections.abc import Sequence
from dataclasses import replace

from assistant.host.host import Host
from assistant.registry import Registry
from mattoni.errors import MattoniError
from mattoni.injections import LowRank
from mattoni.paths import brick_folders
from task_bricks.lora import read_lora


def skills_on(names: Sequence[str], host: Host) -> list[LowRank]:
    """What these skills do at full strength. Raises MattoniError where one is not there, is no skill, or for another host."""
    bricks = Registry(brick_folders()).scan(host)
    found = []
    for name in names:
        brick = bricks.get(name)
        if brick.parts.method != "lora":
            raise MattoniError(f"'{name}' is no skill: name one that `mattoni bricks list` shows as a task brick.")
        found.append(replace(read_lora(brick.host_folder, brick.digest), name=name))
    return found

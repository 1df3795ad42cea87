"""An emulator of a host: fewer layers, some of them the host's own, to train bricks against. Knows nothing of how it is made.

Method: offsite-tuning (Xiao et al. 2023, arXiv:2302.04870): the layers at the bottom and at the top are the host's, what lies
between is replaced by fewer layers that were distilled; what is trained at the host's own layers is plugged into the host.
It is a folder that a host is loaded from, with `emulator.json` in it.
"""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mattoni.card import HostIdentity
from mattoni.errors import MattoniError

EMULATOR = "emulator.json"
_LAYER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")


class Emulates(BaseModel):
    """What an emulator stands for: `layers[i]` is the host's layer at place i, `own` the places whose weights are the host's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal[1] = 1
    name: str
    host: HostIdentity
    layers: tuple[int, ...]
    own: tuple[int, ...]

    def at_host(self, module: str) -> str:
        """A module's name in the host: "model.layers.3.mlp" → "model.layers.21.mlp"."""
        return _LAYER.sub(lambda found: str(self.layers[int(found.group())]), module)

    @property
    def said(self) -> str:
        """For a card."""
        return f"emulator of {len(self.layers)} layers, {len(self.own)} of them the host's"


def read_emulates(source: str) -> Emulates | None:
    """What the host in a folder emulates; None where it is a host of its own. Raises MattoniError for a file that cannot be read."""
    path = Path(source).expanduser() / EMULATOR
    if not path.is_file():
        return None
    try:
        return Emulates.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as problem:
        raise MattoniError(f"{path} does not say what is emulated: make the emulator anew.") from problem

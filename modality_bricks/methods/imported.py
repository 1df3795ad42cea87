"""The vision half of an imported checkpoint: its tower, and its Q-Former or projector (`modality_bricks/imported_stitch.py`)."""

import torch
from pydantic import PositiveInt

from mattoni.methods import Method, Parts
from mattoni.runtime import BrickFiles, HostView
from modality_bricks.imported_stitch import KINDS
from modality_bricks.modality import load_modality
from modality_bricks.seeing import SeeingRuntime


class ImportedParts(Parts):
    """What a card says of such a brick."""

    encoder: str
    soft_tokens: PositiveInt | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The encoder, where it is the catalogue's."""
        return (self.encoder,)


class ImportedRuntime(SeeingRuntime):
    """As its checkpoint does it: the chat template that came with it places pictures itself."""

    labels_pictures = False


def _load(brick: BrickFiles, host: HostView) -> ImportedRuntime:
    with torch.inference_mode(False):
        modality = load_modality(
            brick.folder, brick.parts, host.embedding, host.device, torch.float32, brick.host_folder
        )
    return ImportedRuntime(brick, host, modality)


METHODS = tuple(Method(kind, ImportedParts, _load, accepts=frozenset({"picture"})) for kind in KINDS)

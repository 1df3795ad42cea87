"""The vision half of an imported checkpoint: its tower, and its Q-Former or projector (`modality_bricks/imported_stitch.py`)."""

from pydantic import PositiveInt

from mattoni.methods import Method
from modality_bricks.imported_stitch import KINDS
from modality_bricks.seeing import SeeingRuntime
from modality_bricks.stitched import EncoderParts


class ImportedParts(EncoderParts):
    """What a card says of such a brick."""

    soft_tokens: PositiveInt | None = None


class ImportedRuntime(SeeingRuntime):
    """As its checkpoint does it: the chat template that came with it places pictures itself."""

    labels_pictures = False


METHODS = tuple(Method(kind, ImportedParts, ImportedRuntime.load, accepts=frozenset({"picture"})) for kind in KINDS)

"""What cards say of bricks with an encoder and a Q-Former of this project, whatever they are given."""

from pydantic import PositiveInt

from mattoni.methods import Parts


class StitchedParts(Parts):
    """An encoder and its stitch.

    encoder  a source that `modality_bricks.encoder` knows; folders lie inside the brick
    """

    encoder: str
    queries: PositiveInt | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The encoder, where it is the catalogue's."""
        return (self.encoder,)

"""What cards say of bricks with an encoder, whatever they are given."""

from pydantic import PositiveInt

from mattoni.methods import Parts


class EncoderParts(Parts):
    """An encoder: a source that `modality_bricks.encoder` knows; folders lie inside the brick."""

    encoder: str

    @property
    def sources(self) -> tuple[str, ...]:
        """The encoder, where it is the catalogue's."""
        return (self.encoder,)


class StitchedParts(EncoderParts):
    """And a Q-Former of this project."""

    queries: PositiveInt | None = None

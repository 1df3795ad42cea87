"""An encoder of spectrograms, stitched to the host by a Q-Former: hears sounds that nobody says (`modality_bricks/spectrogram.py`)."""

from dataclasses import replace
from typing import Literal

from mattoni.methods import Method
from mattoni.records import Seen
from mattoni.runtime import Asked, GivenPicture, GivenSound, Injected
from mattoni.trace import Attention
from modality_bricks.seeing import SeeingRuntime
from modality_bricks.spectrogram import SECONDS, sound_picture
from modality_bricks.stitched import StitchedParts


class ListeningParts(StitchedParts):
    """What a card says of such a brick."""

    method: Literal["listening"]


class ListeningRuntime(SeeingRuntime):
    """Soft tokens of a recording's spectrogram."""

    labels_pictures = False

    def inject(self, asked: Asked) -> Injected:
        """The soft tokens of the recording's first seconds."""
        assert isinstance(asked.given, GivenSound)
        sound = asked.given.sound
        shown = GivenPicture(sound.name, sound.digest, lambda: sound_picture(sound.blocks()))
        found = super().inject(replace(asked, given=shown))
        part = f"its first {SECONDS:.0f} s of " if sound.seconds > SECONDS else ""
        return replace(
            found,
            record=Seen(sound.name, sound.digest, self.brick.name, source="sound"),
            reason=f"{part}{sound.name} as soft tokens",
        )

    def explain(self, asked: Asked) -> tuple[Attention, ...]:
        """Nothing: a spectrogram is no picture that anybody sent."""
        return ()


METHODS = (Method("listening", ListeningParts, ListeningRuntime.load, accepts=frozenset({"sound"})),)

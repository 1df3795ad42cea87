"""The models that messages and pictures are compared by, loaded when they are first needed. Knows nothing of bricks."""

from functools import cached_property

from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.turn.recogniser import (
    FOLLOW_UPS,
    NAMING_QUESTIONS,
    PICTURE_QUESTIONS,
    READING_QUESTIONS,
    SEVERAL_PICTURES,
    Recogniser,
)
from modality_bricks.glance import Glance


class Spaces:
    """The two embedding spaces, and what tells kinds of messages apart in one of them."""

    @cached_property
    def embedder(self) -> Embedder:
        """The `text` space."""
        return Embedder(fetch(BUILTIN_EMBEDDER))

    def forget(self) -> None:
        """Drop what was kept of messages."""
        if "embedder" in self.__dict__:
            self.embedder.forget()

    @cached_property
    def glance(self) -> Glance:
        """The `glance` space."""
        return Glance.load()

    @cached_property
    def picture_questions(self) -> Recogniser:
        """Tells messages that ask about a picture from those that do not."""
        return Recogniser.load(PICTURE_QUESTIONS)

    @cached_property
    def follow_ups(self) -> Recogniser:
        """Tells messages that go on with what was said from those that stand alone."""
        return Recogniser.load(FOLLOW_UPS)

    @cached_property
    def several_pictures(self) -> Recogniser:
        """Tells messages about several pictures, or an earlier one, from those about the latest."""
        return Recogniser.load(SEVERAL_PICTURES)

    @cached_property
    def reading_questions(self) -> Recogniser:
        """Tells messages that want the words in a picture from other questions about it."""
        return Recogniser.load(READING_QUESTIONS)

    @cached_property
    def naming_questions(self) -> Recogniser:
        """Tells messages that ask what the thing on a picture is called from other questions about it."""
        return Recogniser.load(NAMING_QUESTIONS)

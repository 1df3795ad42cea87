"""The pictures and questions that the page offers to click. Knows nothing of the page."""

from dataclasses import dataclass
from pathlib import Path

from assistant.conversations.records import AttachmentKind

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Example:
    """A question to click, with its picture where it has one."""

    key: str
    question: str
    picture: str | None = None  # a file of `ui/examples`

    def content(self) -> bytes | None:
        """The picture's bytes."""
        return (FOLDER / self.picture).read_bytes() if self.picture else None


EXAMPLES = (
    Example("photo", "What is in the picture?", "orange.jpg"),
    Example("receipt", "What is the total?", "receipt.png"),
    Example("screenshot", "What does the message say?", "screenshot.png"),
    Example("translation", "Translate to German: Two children are playing in the snow."),
    Example("text", "Explain in two sentences why the sky is blue."),
    Example("list", "Name three things that one can build from bricks."),
)

# What one can ask about a file that was sent without a question, by what it shows as.
OFFERS: dict[AttachmentKind, tuple[str, ...]] = {
    "picture": ("What does it say?", "What is the total?", "What colour is it?"),
    "sound": ("Sum it up in two sentences.", "What does the speaker ask for?", "Which dates are in it?"),
    "film": ("Sum up what is said in it.", "What does the speaker ask for?", "Which names are in it?"),
    "document": ("What is this about?", "Sum it up in two sentences.", "Which dates are in it?"),
}

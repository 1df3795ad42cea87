"""What of a message is compared with what, what it holds, and whether it goes on with the one before. Pure."""

import re
import unicodedata
from collections.abc import Sequence

from torch import Tensor

from assistant.turn.recogniser import Recogniser


def message_pieces(text: str) -> list[str]:
    """What of a message is compared with the skills' keys: all of it, then its paragraphs' first and last."""
    paragraphs = [p for p in (p.strip() for p in text.split("\n")) if p]
    return list(dict.fromkeys([text, *paragraphs[:1], *paragraphs[-1:]]))


# English ones, as the skills that compute are; "a" and "one" are in every second sentence and count nothing there.
_NUMBER = re.compile(
    r"\d|\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|"
    r"hundreds?|thousands?|millions?|dozens?|half|halves|thirds?|quarters?|twice|thrice|doubled?|triples?|tripled)\b",
    re.IGNORECASE,
)


def holds_number(text: str) -> bool:
    """Whether a message holds a number that one could compute with, in digits or in English words."""
    return _NUMBER.search(text) is not None


def is_in_known_script(text: str) -> bool:
    """Whether most letters are Latin: the embedder was trained on English, and of others it knows nothing but noise."""
    letters = [c for c in text if c.isalpha()]
    return 2 * sum(unicodedata.name(c, "").startswith("LATIN") for c in letters) >= len(letters)


def goes_on(pieces: Sequence[Tensor], follow_ups: Recogniser, picture_questions: Recogniser) -> bool:
    """Whether a message goes on with what was said or shown, by the depths of its `message_pieces`.

    Beside a long text one line may ask about a picture. A line beside a text goes on with that text, so only the whole
    message tells whether it is a follow-up.
    """
    return follow_ups.recognises(pieces[0]) or any(picture_questions.recognises(piece) for piece in pieces)


# Questions of libraries lie below it, questions about pictures that a library seems to answer as well above (docs/experiments.md).
_BARELY = 1.5


def barely_goes_on(message: Tensor, follow_ups: Recogniser, picture_questions: Recogniser) -> bool:
    """Whether a message sounds at most a little as if it went on with what was said or shown, by its depths."""
    return max(follow_ups.lead(message), picture_questions.lead(message)) < _BARELY

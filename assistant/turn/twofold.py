"""Whether a message asks for two things: something, and that a skill goes on from the answer ("Describe the picture in German.").

No list of phrases: the skill's own keys say what its part of a message sounds like, and the rest must be a request by itself. Two
low-rank deltas at once do not do it: beside a translator the builtin host tells what is on a picture in English (`docs/experiments.md`).
Pure: vectors in, a decision out.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from assistant.host.embedder import Embedder
from assistant.turn.recogniser import Recogniser
from assistant.turn.route import Choice, Choices, Chosen, KeyedBrick, Keyring, Plan, Question
from mattoni.keys import nearest

# So much nearer than its threshold a part of a message comes to a skill that it is for: "in German" passes by 0.3, "in German
# uniform" by 0.12.
_CLEARLY = 0.2
# Parts that come as near as the best but for this: "German", "in German" and "picture in German"; what is left over decides.
_ABOUT = 0.05
_AS_MUCH = 0.15
# A message that asks for two things comes at least so near to the skill's threshold as a whole, counter-keys or not (97 of 100
# do); most of plain chat does not, and its parts are not embedded.
_ANYWHERE_NEAR = 0.15
# From here on a rest is a request about a picture: "Tell me what you see." has 0.25, "Two girls walking down the street." 0.03. Chosen on
# dev (`measure_router twofold`): at 0.3 a tenth more of the requests were missed, and as few sentences taken for one.
_IS_REQUEST = 0.22
_MOST_WORDS, _LONGEST_PART = 30, 6
_STRING = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*")(?P<name>\s*:)?')  # of JSON; a field's name where a colon follows
# What is said in words: several, and not all of them names ("fried rice", not "AEON CO. (M) BHD" nor "cash", which may be a code).
_SAID = re.compile(r"(?=.*\S\s+\S)(?:.*\s)?[a-zß-öø-ÿ]{3}", re.DOTALL)
_WITHIN = 2  # words of a part that stands in the middle, as "in German" does


@dataclass(frozen=True)
class Second:
    """A skill that goes on from the answer to the rest of the message, under its own instruction."""

    chosen: Chosen
    instruction: str
    rest: str
    asks: float  # how much the rest sounds like a request


def splits(message: str) -> list[tuple[str, str]]:
    """A short message as (rest, part): its last words, what stands before its first comma, or two words in the middle.

    One that brings a text of its own, behind a colon, in quotes or on another line, is for one skill.
    """
    words = message.split()
    if any(mark in message.strip() for mark in '\n:"“„«') or not 3 <= len(words) <= _MOST_WORDS:
        return []
    ends = [(words[:-n], words[-n:]) for n in range(min(_LONGEST_PART, len(words) - 2), 0, -1)]
    found = [(" ".join(rest), " ".join(part)) for rest, part in ends]
    before, comma, after = message.partition(",")
    if comma and len(before.split()) <= _LONGEST_PART and len(after.split()) > 1:
        found.append((after.strip(), before.strip()))
    for place in range(1, len(words) - _WITHIN):
        end = place + _WITHIN
        found.append((" ".join((*words[:place], *words[end:])), " ".join(words[place:end])))
    return [(rest.rstrip(" ,;:"), part) for rest, part in found]


def asking(embedder: Embedder, picture_questions: Recogniser, keyring: Keyring) -> Callable[[str], float]:
    """How much a text sounds like a request: as a question about a picture, or by how far it passes a skill's threshold.

    A tenth of the recogniser's score, which runs to 9, where a skill's lead runs to a half.
    """
    index = keyring.text_index

    def asks(text: str) -> float:
        of_pictures = picture_questions.score(embedder.depths(text)) / 10
        if index is None:
            return of_pictures
        return max(of_pictures, float((index.scores(embedder.embed([text])) - index.thresholds).max()))

    return asks


def second_request(
    message: str,
    vectors: Tensor,
    embed: Callable[[list[str]], Tensor],
    asks: Callable[[str], float],
    keyring: Keyring,
    choices: Choices,
) -> Second | None:
    """The skill that is to go on from the answer to the rest of a message; None: the message asks for one thing.

    vectors  the message's own, (pieces, width): where no skill's keys are near to them, its parts need not be embedded
    asks     how much a text sounds like a request: where the message can be cut in several places, the rest that does most is taken

    Whether the rest is a request is for `is_answered` to say, once it was routed.
    """
    able = [b for b in keyring.going_on if choices.of(b.name).state != "off" and _is_about(b, vectors)]
    parts = splits(message) if able else []
    if not parts:
        return None
    of_parts = embed([part for _, part in parts])
    best: tuple[float, KeyedBrick, list[float]] | None = None
    for brick in able:
        scores = [brick.score(vector.unsqueeze(0)) for vector in of_parts]
        lead = max(scores) - brick.threshold
        if lead >= _CLEARLY and (best is None or lead > best[0]):
            best = lead, brick, scores
    if best is None:
        return None
    _, brick, scores = best
    asked = {n: asks(parts[n][0]) for n, score in enumerate(scores) if score >= max(scores) - _ABOUT}
    # "Describe the picture in" asks as much as "Describe the picture".
    place = next(n for n, much in asked.items() if much >= max(asked.values()) - _AS_MUCH)
    rest, part = parts[place]
    assert brick.keys is not None
    if float(nearest(embed([rest]).to(brick.keys), brick.keys)) >= brick.threshold:
        return None  # "Translate this sign to German": the rest is the skill's too, and so is the message
    reason = (
        f"goes on from the answer, as '{part}' asks: nearest key {scores[place]:.2f}, threshold {brick.threshold:.2f}"
    )
    chosen = Chosen(brick.name, choices.of(brick.name).strength, scores[place], brick.threshold, reason)
    return Second(chosen, brick.on_answer, rest, asked[place])


def _is_about(brick: KeyedBrick, vectors: Tensor) -> bool:
    """Whether a message comes anywhere near a skill's keys, counter-keys or not."""
    if brick.keys is None or brick.space != "text":
        return False
    return float(nearest(vectors.to(brick.keys), brick.keys).max()) >= brick.threshold - _ANYWHERE_NEAR


def without(choices: Choices, name: str) -> Choices:
    """The choices with one skill off: it has no part in the answer to the rest."""
    return replace(choices, bricks={**choices.bricks, name: Choice("off")})


def is_answered(second: Second, rest: Question, plan: Plan) -> bool:
    """Whether the rest of a message is a request: a question about a picture that is there, or one for a skill."""
    has_picture = any(plan.pictures) or bool(rest.earlier_pictures)
    asks = second.asks >= _IS_REQUEST and (rest.asks_about_picture or rest.wants_words)
    return has_picture and asks or bool(plan.skills)


@dataclass(frozen=True)
class Form:
    """JSON as what is said in it, and what stands before, between and behind: names, of fields too, and numbers stay as they are."""

    texts: tuple[str, ...]
    around: tuple[str, ...]  # one more than texts


def form_of(answer: str) -> Form | None:
    """An answer that is an object or a list of JSON; None: it is not."""
    try:
        if not isinstance(json.loads(answer), dict | list):
            return None
    except ValueError:
        return None
    texts, around, end = [], [], 0
    for found in _STRING.finditer(answer):
        text = json.loads(found["text"])
        if not found["name"] and _SAID.match(text):
            texts.append(text)
            around.append(answer[end : found.start() + 1])
            end = found.end() - 1
    return Form(tuple(texts), (*around, answer[end:]))


def quoted(text: str) -> str:
    """A text as it stands between the quotes of a form."""
    return json.dumps(text.strip(), ensure_ascii=False)[1:-1]

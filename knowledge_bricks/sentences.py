"""Finds subject, relation and object in a sentence that teaches a fact. Simple on purpose: what is found is shown, and corrected.

The subject is the first run of capitalised words; the object what follows the last verb or preposition behind it.
"""

import re
from dataclasses import dataclass

from mattoni.errors import MattoniError

_LONGEST = 300  # characters
_NOT_NAMES = frozenset(
    "a an the this that these those in on at by of for from to with as it he she they we i my our "
    "what which who whose where when how".split()
)
_JOINING = frozenset("of the de del della di da van von der la le el al and for &".split())
_BEFORE_OBJECTS = frozenset(
    "is are was were be been being has have had in on at by of from for to with as into called named speaks speak spoke "
    "after about language instrument religion continent position city country "
    "plays play played uses use used follows holds became means costs a an the".split()
)
_WORD = re.compile(r"[^\s,;:()\"“”]+")


@dataclass(frozen=True)
class Said:
    """A fact in words. `relation` is the sentence with {} for the subject, up to where the object begins."""

    subject: str
    relation: str
    object: str


def parse(sentence: str, subject: str | None = None, object: str | None = None) -> Said:
    """What a sentence says. The given parts are taken as they are; the others are looked for.

    Raises MattoniError when it is no statement, or a part is not in it or not where it must be.
    """
    said = " ".join(sentence.split()).rstrip(".!")
    if not said or said.endswith("?") or "{}" in said:
        raise MattoniError(f"'{sentence.strip()}' states nothing: write a sentence such as “The capital of X is Y.”")
    if len(said) > _LONGEST:
        raise MattoniError(f"A fact is one sentence of at most {_LONGEST} characters: this one has {len(said)}.")
    wanted = _given(said, subject, "subject") or _find_subject(said)
    begin = said.find(wanted)
    rest = said[begin + len(wanted) :]
    found = _given(rest, object, "object") if object else _find_object(rest)
    if not rest.endswith(found) or not rest[: -len(found)].strip():
        raise MattoniError(
            f"The object '{found}' must end the sentence, behind '{wanted}' and what is said of it: turn the sentence round."
        )
    relation = f"{said[:begin]}{{}}{rest[: -len(found)].rstrip()}"
    return Said(wanted, relation, found)


def _given(text: str, part: str | None, what: str) -> str:
    """A part that the person named. Raises MattoniError where it does not stand in the text."""
    part = " ".join((part or "").split()).rstrip(".!")
    if part and not re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text):
        raise MattoniError(
            f"The {what} '{part}' is not in the sentence where it should be: copy it as it is written there."
        )
    return part


def _find_subject(said: str) -> str:
    words = list(_WORD.finditer(said))
    for n, word in enumerate(words):
        if not _is_name(word.group()) or (n == 0 and word.group().casefold() in _NOT_NAMES):
            continue
        end = n
        for after in range(n + 1, len(words)):
            if not said[words[after - 1].end() : words[after].start()].isspace():
                break
            if _is_name(words[after].group()):
                end = after
            elif words[after].group() not in _JOINING:
                break
            if words[after].group().endswith(("'s", "’s")):
                break
        return re.sub(r"(['’]s|['’])$", "", said[word.start() : words[end].end()])
    raise MattoniError(f"Of what '{said}' speaks was not found: name it with --subject, in the words of the sentence.")


def _is_name(word: str) -> bool:
    return word[0].isupper() or word[0].isdigit()


def _find_object(rest: str) -> str:
    words = list(_WORD.finditer(rest))
    if not words:
        raise MattoniError("Nothing is said of the subject: write what it is, as in “The capital of X is Y.”")
    last = len(words) - 1
    # The last word is the object's at least.
    for n in range(last - 1, -1, -1):
        if words[n].group().casefold() in _BEFORE_OBJECTS:
            return rest[words[n + 1].start() :]
    return rest[words[last].start() :]

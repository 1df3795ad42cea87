"""Which one of several documents or pictures a message names by its place: "the second receipt", "photo 3". Pure.

English, as what tells that a message points back at all.
"""

import re

from mattoni.ordinals import ORDINALS

_ORDINALS = {word: place for place, word in enumerate(ORDINALS)}
_ORDINALS |= {word: place for place, word in enumerate("1st 2nd 3rd 4th 5th 6th 7th 8th 9th".split())}
_WORDS = {word: place for place, word in enumerate("one two three four five".split())}
_DIGITS = {str(place + 1): place for place in range(9)}
_PLACES = _ORDINALS | _WORDS | _DIGITS | {"last": -1, "latest": -1, "previous": -2, "other": -2}
_ORDINAL, _WORD = "|".join(_ORDINALS), "|".join(_WORDS)

_DOCUMENT = r"(?:receipt|invoice|bill|document|letter|note|report|article|contract|form|file|text|e-?mail)"
_PICTURE = r"(?:picture|pic|photo|photograph|image|img|snapshot|screenshot|shot)"

_NAMED_DOCUMENT = re.compile(
    rf"\b(?:({_ORDINAL}|last|latest|previous|other) {_DOCUMENT}|{_DOCUMENT} (?:number )?([1-9]))\b",
    re.IGNORECASE,
)
# "Picture two dogs" is an order, "in picture two" a place.
_NAMED_PICTURE = re.compile(
    rf"\b(?:({_ORDINAL}|last|latest|previous) (?:{_PICTURE}|of (?:the|these|those|my) (?:\w+ )?{_PICTURE}s)"
    rf"|{_PICTURE} ?(?:number |no\. ?|# ?)?([1-9])|(?<=in |on |of |at ){_PICTURE} (?:number )?({_WORD}))\b",
    re.IGNORECASE,
)
_NAMED_ONE = re.compile(rf"\b(?:the|my) ({_ORDINAL}|last|latest|previous) one\b", re.IGNORECASE)

# What sets a picture against others, or asks which one something is true of. Read where the place itself is cut out.
_COMPARES = re.compile(
    rf"""\b(?:
    than|versus|vs|both|same|differ\w*|unlike|similar\w*|alike|identical|resembl\w+|compar\w+|contrast\w*|in\ common|others|neither
    |as\ \w+\ as | another\ {_PICTURE} | {_PICTURE}s | (?:each|either)(?=\ (?:of|one|{_PICTURE})\b|\W*$)
    |(?:bigg|larg|small|bright|dark|old|young|tall|short|long|nic|high|low|new|clos|sharp|clear|light|strong|fast)er
    |better|worse|less|fewer|more(?!\ about) | (?:what|anything|something)\W?s?\ (?:(?:is|was|has)\ )?(?:missing|new|changed|gone)
    |(?:this|that|these|those|other)\ (?:one|{_PICTURE}) | which(?=\ (?:of|one|is|are|was|were|has|have|shows?|other|{_PICTURE})\b|\W*$)
    |(?:is|was|are|were)\ (?:this|that|it|he|she|they|these|those)\ (?:the|from|of|in|on) | (?:before|after)\ (?:the|my|that)
    |(?:second|third|next)[- ]to
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
# "What is the weather like in the first picture?" is about that picture, "Is it like in the first picture?" is not.
_LIKE = re.compile(
    r"^(?!.*\b(?:what|how)\b).*\blike (?:the|that|this|these|those|my|in|on)\b", re.IGNORECASE | re.DOTALL
)
# A second place, without its noun: "… or in the second?", "the first and second picture".
_SECOND_PLACE = re.compile(
    rf"\b(?:(?:the|my|your) (?:{_ORDINAL}|last|latest|previous|other)(?= one\b|\W*(?:[?.!,;:]|$))"
    rf"|(?:{_ORDINAL}|last|previous|other) ?(?:and|or|&|/)(?=\W|$))",
    re.IGNORECASE,
)


def document_meant(text: str) -> int | None:
    """The one of several documents that a message names by its place, "the second receipt": from 0, or from -1 at the end.

    None where it names none, or more than one. "The other one" of two is the one before the latest.
    """
    return _only(_NAMED_DOCUMENT, text)


def picture_meant(text: str, ones: bool = False) -> int | None:
    """The one of several pictures that a message names by its place and is about alone: from 0, or from -1 at the end.

    ones  whether "the first one" is a picture: nothing else was sent

    None where it names none or more than one, and where it sets the picture against others: "Is it larger than in the first
    picture?", "Which picture shows a dog, the first or the second?"
    """
    found = [_NAMED_PICTURE, *([_NAMED_ONE] if ones else [])]
    places = {place for pattern in found for place in _places(pattern, text)}
    rest = text
    for pattern in found:
        rest = pattern.sub(" ", rest)
    if len(places) != 1 or any(pattern.search(rest) for pattern in (_COMPARES, _LIKE, _SECOND_PLACE)):
        return None
    return places.pop()


def _only(pattern: re.Pattern[str], text: str) -> int | None:
    places = _places(pattern, text)
    return places.pop() if len(places) == 1 else None


def _places(pattern: re.Pattern[str], text: str) -> set[int]:
    words = (next(word for word in match.groups() if word) for match in pattern.finditer(text))
    return {_PLACES[word.casefold()] for word in words}

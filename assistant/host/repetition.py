"""Tells an answer that goes round in circles from one that repeats what it has to. Knows nothing of hosts or tokens.

An answer is taken as words: what numbers the items of a list and where lines end does not count, so that "61. India",
"62. India" is the same word again and again. It goes round in circles when its end is one block of words several times over,
or when in a long stretch nearly every run of words was said before. Figures and signs alone may repeat for longer: tables and
rows of zeros do.
"""

import re
from collections import Counter, deque

# A list's marker at the beginning of a line; a character of a script without spaces, a word, or a run of one sign.
_UNIT = re.compile(
    r"(?m:^[ \t]*(?:\d+[.)]|[-*+•#]+)[ \t]+)|([\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|([^\w\s])\2*)"
)
_SENTENCE_ENDS = re.compile(r"[.!?。！？](?=[\s*\"')]|$)|\n")
_GROWING = 4  # characters at the end that may yet become another word, or a list's marker
_CLOSING = frozenset(".!?,;:)]\"'…。！？，、；：")
_LONGEST_BLOCK = 150  # words
# Of a block of n words, so many more words than three times n: a refrain may come three times on end, one word eleven times.
_SURPLUS, _SURPLUS_SIGNS = 8, 60
_LEAST_WORDS = 12  # of three rounds together, where an answer was cut off in them
# Of so many runs of _RUN words on end, this share was said so often before: code and forms say much twice.
_RUN, _STRETCH, _SHARE, _OFTEN = 5, 60, 0.7, 2


class Repetition:
    """Watches an answer as it grows; `push` says where to cut it once it goes round in circles."""

    def __init__(self) -> None:
        self._text = ""
        self._scanned = 0
        self._words: list[str] = []
        self._ends: list[int] = []
        self._letters: list[int] = []  # how many of the words so far have letters
        self._same = [0] * (_LONGEST_BLOCK + 1)  # words on end that equal the one so many places before
        self._said: Counter[tuple[str, ...]] = Counter()
        self._old: deque[bool] = deque(maxlen=_STRETCH)

    def push(self, text: str) -> int | None:
        """Add to the answer. Returns how many of its characters to keep when it goes round in circles, else None."""
        self._text += text
        for match in _UNIT.finditer(self._text, self._scanned):
            if match.end() > len(self._text) - _GROWING:
                break
            self._scanned = match.end()
            keep = self._add(match[1].lower(), match.end()) if match[1] else None
            if keep is not None:
                return keep
        return None

    def at_end(self) -> int | None:
        """As `push`, for an answer that was cut off: three rounds at its very end are enough, as nothing can follow them."""
        place = len(self._words) - 1
        for size in range(1, min(_LONGEST_BLOCK, place) + 1):
            if self._same[size] >= max(2 * size, _LEAST_WORDS - size) and self._is_wordy(place, size):
                return self._ends[self._close(place - self._same[size])]
        return None

    def _is_wordy(self, place: int, size: int) -> bool:
        """Whether the last `size` words have letters."""
        return self._letters[place] > self._letters[place - size]

    def _add(self, word: str, end: int) -> int | None:
        place = len(self._words)
        self._words.append(word)
        self._ends.append(end)
        self._letters.append((self._letters[-1] if place else 0) + any(c.isalpha() for c in word))
        for size in range(1, min(_LONGEST_BLOCK, place) + 1):
            self._same[size] = self._same[size] + 1 if word == self._words[place - size] else 0
            if self._same[size] >= 2 * size + _SURPLUS and self._is_loop(place, size):
                return self._ends[self._close(place - self._same[size])]
        return self._cut_old()

    def _close(self, place: int) -> int:
        """The word that ends the first round: what closes it may also have stood before it."""
        while self._words[place + 1] in _CLOSING:
            place += 1
        return place

    def _is_loop(self, place: int, size: int) -> bool:
        """Whether the blocks of `size` words that end at `place` are too many."""
        return self._is_wordy(place, size) or self._same[size] >= 2 * size + _SURPLUS_SIGNS

    def _cut_old(self) -> int | None:
        run = tuple(self._words[-_RUN:])
        self._old.append(self._said[run] >= _OFTEN)
        self._said[run] += 1
        if len(self._old) < _STRETCH or sum(self._old) < _SHARE * _STRETCH or not self._has_letters(_STRETCH):
            return None
        begin = self._ends[max(0, len(self._words) - _STRETCH - _RUN)]
        ends = [match.end() for match in _SENTENCE_ENDS.finditer(self._text, 0, begin)]
        return ends[-1] if ends else begin

    def _has_letters(self, last: int) -> bool:
        """Whether at least a third of the last words have letters."""
        return self._letters[-1] - self._letters[-last] >= last // 3

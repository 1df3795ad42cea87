"""Tells an answer that goes round in circles from one that repeats what it has to. Knows nothing of hosts or tokens.

An answer is taken as words: what numbers the items of a list and where lines end does not count, so that "61. India",
"62. India" is the same word again and again. It goes round in circles when its end is one block of words several times over,
when in a long stretch nearly every run of words was said before, when a list names again and again what it has named, when
section after section has the heading and the list of an earlier one, when line after line only counts on, or when a word does
not end. Figures and signs alone may repeat for longer: tables and rows of
zeros do.
"""

import re
from collections import Counter, deque
from collections.abc import Sequence
from itertools import pairwise

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
_LEAST_WORDS = 12  # of three rounds together, where an answer ends in them
# Of so many runs of _RUN words on end, this share was said so often before: code and forms say much twice.
_RUN, _STRETCH, _SHARE, _OFTEN = 5, 60, 0.7, 2
_ITEM = re.compile(r"[ \t]*(?:\d+[.)]|[-*+•]+)[ \t]+(.*\S)")
_OLD_SECTIONS = 3  # one after the other, with the heading and the list that an earlier one had
_OLD_ITEMS = 6  # of one list, one after the other, that it had named before
# Lines that are alike but for numbers which grow by the same step, or stay: a times table has twenty, a plan a dozen.
_COUNTED_LINES, _COUNTED_TABLE, _SAME_STEP, _KEPT_LINES = 16, 21, 0.8, 2
_NUMBER = re.compile(r"\d+")
_WORDS = re.compile(r"[^\W\d_]{3,}")
_STUTTER, _STUTTER_FIGURES, _LONGEST_PERIOD = 60, 120, 24  # characters within one word that repeat


class _Counted:
    """Lines on end that say the same but for their numbers."""

    def __init__(self) -> None:
        self._shape = ""
        self._begins: list[int] = []
        self._numbers: list[list[int]] = []

    def push(self, line: str, begin: int) -> int | None:
        """Take a whole line that begins at a place. Returns where the third one began once they only count on, else None."""
        shape, numbers = _NUMBER.sub("0", line.strip()), [int(n[-18:]) for n in _NUMBER.findall(line)]
        if shape != self._shape:
            self._shape, self._begins, self._numbers = shape, [], []
        self._begins.append(begin)
        self._numbers.append(numbers)
        words = len(_WORDS.findall(line))
        # A single figure in each line is what counting is asked for.
        if len(numbers) + words < 2 or len(self._begins) < (_COUNTED_LINES if words > 1 else _COUNTED_TABLE):
            return None
        return self._begins[_KEPT_LINES] if all(map(_grows_evenly, zip(*self._numbers, strict=True))) else None


class _Sections:
    """Headings with the lists below them, which say again, word for word, what was said below them."""

    def __init__(self) -> None:
        self._begin = 0
        self._section: list[str] = []  # a heading and the items below it
        self._said: set[tuple[str, ...]] = set()
        self._old_since: list[int] = []  # where each of the latest sections that had been said before began

    def push(self, line: str, begin: int, is_item: bool) -> int | None:
        """Take a whole line that begins at a place. Returns where the first of too many old sections began, else None."""
        if is_item:
            self._section.append(line.strip().casefold())
            return None
        if len(self._section) > 1:
            section = tuple(self._section)
            self._old_since = [*self._old_since, self._begin] if section in self._said else []
            self._said.add(section)
        self._begin, self._section = begin, [line.strip().casefold()]
        return self._old_since[0] if len(self._old_since) >= _OLD_SECTIONS else None


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
        self._was_said: list[bool] = []  # of the run that ends with each word
        self._lines = 0  # characters of the lines that are whole
        self._items: list[str] = []  # of the list that the last of them belongs to
        self._old_since: list[int] = []  # where each of the latest items that had been named before began
        self._counted, self._sections = _Counted(), _Sections()

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
        keep = self._push_lines()
        return self._cut_stutter() if keep is None else keep

    def _cut_stutter(self) -> int | None:
        """Look at a word that has not ended: "1234567890123…" or "hahaha…" is kept to its first round."""
        word = self._text[self._scanned :].lstrip()
        if len(word) < _STUTTER or not word.isalnum():
            return None
        for period in range(1, _LONGEST_PERIOD + 1):
            same = _run_back(word, period)
            if same + period >= (_STUTTER if any(map(str.isalpha, word[-period:])) else _STUTTER_FIGURES):
                return len(self._text) - same
        return None

    def _push_lines(self) -> int | None:
        """Look at the items of a list as they become whole: one that only names what it has named ends."""
        while (end := self._text.find("\n", self._lines) + 1) > 0:
            line, begin, self._lines = self._text[self._lines : end], self._lines, end
            if not line.strip():
                continue
            if (third := self._counted.push(line, begin)) is not None:
                return len(self._text[:third].rstrip("\n"))
            item = _ITEM.match(line)
            if (first := self._sections.push(line, begin, item is not None)) is not None:
                return len(self._text[:first].rstrip("\n"))
            if item is None:
                self._items, self._old_since = [], []
                continue
            named = item[1].casefold()
            self._old_since = [*self._old_since, begin] if named in self._items else []
            self._items.append(named)
            if len(self._old_since) >= _OLD_ITEMS and any(map(str.isalpha, named)):
                return len(self._text[: self._old_since[0]].rstrip("\n"))
        return None

    def at_end(self) -> int | None:
        """As `push`, for an answer that is over: three rounds at its very end are enough, as nothing can follow them."""
        # Signs do not count here: a line's end may stand where a comma stood the round before.
        places = [place for place, word in enumerate(self._words) if word[0].isalnum()]
        words = [self._words[place] for place in places]
        for size in range(1, min(_LONGEST_BLOCK, len(words) // 3) + 1):
            same = _run_back(words, size)
            if same >= max(2 * size, _LEAST_WORDS - size) and any(w[0].isalpha() for w in words[-size:]):
                first = self._close(places[len(words) - 1 - same])
                return self._to_end(first, places[len(words) - 1 - same + size] - first)
        return None

    def _add(self, word: str, end: int) -> int | None:
        place = len(self._words)
        self._words.append(word)
        self._ends.append(end)
        self._letters.append((self._letters[-1] if place else 0) + any(c.isalpha() for c in word))
        for size in range(1, min(_LONGEST_BLOCK, place) + 1):
            self._same[size] = self._same[size] + 1 if word == self._words[place - size] else 0
            if self._same[size] >= 2 * size + _SURPLUS and self._is_loop(place, size):
                return self._to_end(self._close(place - self._same[size]), size)
        return self._cut_old()

    def _to_end(self, place: int, size: int) -> int:
        """Where to cut behind a word: behind its sentence or line, where that ends within the next `size` words."""
        end, limit = self._ends[place], self._ends[min(place + size, len(self._ends) - 1)]
        if _SENTENCE_ENDS.match(self._text, end) or self._words[place] in _CLOSING:
            return end
        found = _SENTENCE_ENDS.search(self._text, end, limit + 1)
        return end if found is None or found.end() > limit else found.end() - (found[0] == "\n")

    def _close(self, place: int) -> int:
        """The word that ends the first round: what closes it may also have stood before it."""
        while self._words[place + 1] in _CLOSING:
            place += 1
        return place

    def _is_loop(self, place: int, size: int) -> bool:
        """Whether the blocks of `size` words that end at `place` are too many."""
        has_letters = self._letters[place] > self._letters[place - size]
        return has_letters or self._same[size] >= 2 * size + _SURPLUS_SIGNS

    def _cut_old(self) -> int | None:
        run = tuple(self._words[-_RUN:])
        self._old.append(self._said[run] >= _OFTEN)
        self._was_said.append(self._said[run] > 0)
        self._said[run] += 1
        if len(self._old) < _STRETCH or sum(self._old) < _SHARE * _STRETCH or not self._has_letters(_STRETCH):
            return None
        begin = self._ends[max(0, self._first_old() - _RUN)]
        # Looked for in all of the text: at the end of a part of it, the point of "2.75" would end a sentence.
        ends = [match.end() for match in _SENTENCE_ENDS.finditer(self._text) if match.end() <= begin]
        return ends[-1] if ends else begin

    def _first_old(self) -> int:
        """The word from which on to the end so large a share of runs had been said before."""
        first, old = len(self._was_said) - _STRETCH, 0
        for count, said in enumerate(reversed(self._was_said), 1):
            old += said
            if old >= _SHARE * count:
                first = min(first, len(self._was_said) - count)
        return first

    def _has_letters(self, last: int) -> bool:
        """Whether at least a third of the last words have letters."""
        return self._letters[-1] - self._letters[-last] >= last // 3


def _grows_evenly(numbers: Sequence[int]) -> bool:
    """Whether nearly all steps from one number to the next are the same."""
    steps = Counter(later - number for number, later in pairwise(numbers))
    return max(steps.values()) >= _SAME_STEP * (len(numbers) - 1)


def _run_back(words: Sequence[str], size: int) -> int:
    """How many words at the end equal the one `size` places before."""
    pairs = zip(reversed(words), reversed(words[:-size]), strict=False)
    return next((count for count, (word, before) in enumerate(pairs) if word != before), len(words) - size)

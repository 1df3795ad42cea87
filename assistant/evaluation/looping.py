"""Tells answers that go round in circles, as a reader would. Knows nothing of how answers are made or ended.

By n-grams of words, independent of any guard that the host decodes with (seq-rep-n: Welleck et al. 2020, arXiv:1908.04319,
section 6.1, here over a window, since an answer may begin well).
"""

import re
from collections.abc import Sequence

# Said at once for the third time, and a sentence's worth of words in all; of what only counts on, twice as many.
_ROUNDS, _REPEATED_WORDS, _COUNTED_WORDS = 3, 12, 24
# A cycle with small changes: of a window's 4-grams at least half have stood in it before. 60 words are four sentences.
_WINDOW, _ORDER, _SEEN_SHARE = 60, 4, 0.5
# A word that is longer than any in a dictionary is read letter by letter: "1.0000…", "hahaha…".
_LONGEST_WORD = 40
# Chinese and Japanese are written without blanks: each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")


def goes_round(answer: str) -> bool:
    """Whether the answer says the same again and again.

    That is a run of words that comes three times in a row, twelve words or more in all, or sixty words of which most were said
    among them already. To count on ("Step 7", "Step 8") is to say nothing new; columns of different numbers do.
    """
    words = _words(answer)
    counted = _without_counting(words)
    at_once = _comes_at_once(words, _REPEATED_WORDS) or _comes_at_once(counted, _COUNTED_WORDS)
    return at_once or _cycles(words) or _cycles(counted)


def _words(text: str) -> list[str]:
    words: list[str] = _WORD.findall(text.casefold())
    return [part for word in words for part in (word if len(word) > _LONGEST_WORD else (word,))]


def _without_counting(words: Sequence[str]) -> list[str]:
    """The words with one mark for every number that stands beside a word."""
    beside = [""] + list(words) + [""]
    return [
        "#" if word.isdecimal() and any(near and not near.isdecimal() for near in (before, after)) else word
        for before, word, after in zip(beside, words, beside[2:], strict=False)
    ]


def _comes_at_once(words: Sequence[str], in_all: int) -> bool:
    """Whether any run of words is followed by itself, and by itself again, in all so many words or more."""
    for period in range(1, len(words) // _ROUNDS + 1):
        wanted = max((_ROUNDS - 1) * period, in_all - period)
        same = 0
        for word, later in zip(words, words[period:], strict=False):
            same = same + 1 if word == later else 0
            if same >= wanted:
                return True
    return False


def _cycles(words: Sequence[str]) -> bool:
    """Whether half of the 4-grams of any window stood in it before."""
    grams = [tuple(words[i : i + _ORDER]) for i in range(len(words) - _ORDER + 1)]
    size = _WINDOW - _ORDER + 1
    windows = (grams[start : start + size] for start in range(len(grams) - size + 1))
    return any(size - len(set(window)) >= _SEEN_SHARE * size for window in windows)

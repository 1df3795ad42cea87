"""The content words of captions and class names. Training only."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from modality_bricks.training.language import FUNCTION_WORDS, in_another_language

# A letter of Chinese or Japanese script is a word of its own there: no blank parts one from the next.
_PICTOGRAPH = r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
_LETTER = r"[^\W\d_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
WORD = re.compile(rf"{_PICTOGRAPH}|{_LETTER}+(?:-{_LETTER}+)*")
_NUMBER = re.compile(r"\d+")
# Of a set with this many different words for each of the commonest ones, those say nothing about a picture.
_WORDS_FOR_EACH_COMMON_ONE = 20
_IN_ALL = 0.9  # of the captions of a smaller set: such a word tells no picture from another


def words_of(text: str) -> list[str]:
    """Lower-case words, punctuation and digits left out; the numbers of a text that holds nothing else."""
    lower = text.lower()
    return WORD.findall(lower) or _NUMBER.findall(lower)


def content_vocabulary(captions: Iterable[str], commonest: int = 45, least: int = 5) -> list[str]:
    """Words that occur at least `least` times, without the `commonest` ones; most frequent first.

    The commonest words ("a", "in", "the", ...) say nothing about a picture and drown the others: with them, every picture got
    the same words. In a small set they are what the pictures show: all of its words count, whatever their number, but for the
    words that a sentence of its language is made with, and those that almost every caption has.
    """
    texts = list(captions)
    counts = Counter(word for text in texts for word in words_of(text))
    ranked = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    if len(ranked) >= _WORDS_FOR_EACH_COMMON_ONE * commonest:
        return [word for word in ranked[commonest:] if counts[word] >= least]
    idle = FUNCTION_WORDS.get(in_another_language(texts)[0] or "", frozenset())
    captions_with = Counter(word for text in texts for word in set(words_of(text)))
    told = [word for word in ranked if word not in idle and captions_with[word] <= _IN_ALL * len(texts)]
    return told or ranked


def word_targets(captions: Sequence[str], index: dict[str, int]) -> dict[int, float]:
    """A distribution over the vocabulary: how often each of its words stands in these captions. Empty if none does."""
    counts = Counter(index[word] for caption in captions for word in words_of(caption) if word in index)
    total = sum(counts.values())
    return {word: n / total for word, n in counts.items()}

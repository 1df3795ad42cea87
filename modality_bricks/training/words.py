"""The content words of captions and class names. Training only."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

WORD = re.compile(r"[a-z]+(?:-[a-z]+)*")


def words_of(text: str) -> list[str]:
    """Lower-case words, punctuation and digits left out."""
    return WORD.findall(text.lower())


def content_vocabulary(captions: Iterable[str], commonest: int = 45, least: int = 5) -> list[str]:
    """Words that occur at least `least` times, without the `commonest` ones; most frequent first.

    The commonest words ("a", "in", "the", ...) say nothing about a picture and drown the others: with them, every picture got
    the same words.
    """
    counts = Counter(word for caption in captions for word in words_of(caption))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [word for word, n in ranked[commonest:] if n >= least]


def word_targets(captions: Sequence[str], index: dict[str, int]) -> dict[int, float]:
    """A distribution over the vocabulary: how often each of its words stands in these captions. Empty if none does."""
    counts = Counter(index[word] for caption in captions for word in words_of(caption) if word in index)
    total = sum(counts.values())
    return {word: n / total for word, n in counts.items()}

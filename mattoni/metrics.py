"""Scores answers against references. Knows nothing of rows, files or models.

Every score of one answer lies in 0..1, but for `chrf` (0..100, as sacrebleu prints it), `cider` (0..10) and `wer` (errors by
words: less is better). Of several
references the best counts, except for CIDEr-D, which is the mean over them, and chrF, which sacrebleu matches itself.
"""

import json
import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from sacrebleu.metrics.chrf import CHRF

Metric = Literal["contains", "named", "exact", "accuracy", "number", "f1", "chrf", "cider", "anls", "fields", "wer"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_NUMBER = re.compile(r"(?<![\d.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|(?<![\d.])-?\.\d+|\d+")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_SIGMA = 6.0  # of CIDEr-D's penalty on length, as in the paper and in coco-caption
_ORDERS = (1, 2, 3, 4)
_ANLS_THRESHOLD = 0.5
_RESAMPLES = 1000


@dataclass(frozen=True)
class Scored:
    """One answer, the references it is compared with, and how many of its words count (None: all)."""

    answer: str
    references: tuple[str, ...]
    words: int | None = None
    names: tuple[str, ...] = ()  # of everything that could be named: what `named` may not find beside the references


@dataclass(frozen=True)
class Result:
    """A metric over a set: its value, the 95 % bootstrap interval over rows, and each row's own score."""

    value: float
    low: float
    high: float
    rows: tuple[float, ...]


def fold(text: str) -> str:
    """Compatibility form (NFKC), case folded, white space collapsed. What every comparison but chrF begins with."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def first_words(text: str, count: int | None) -> str:
    """The first `count` words (white space separates them), or the whole text."""
    return text if count is None else " ".join(text.split()[:count])


def names(text: str, reference: str) -> bool:
    """Whether folded `text` holds folded `reference` as whole words.

    "cat" is not in "category", nor 2.50 in 12.50 or 2.505. A letter may touch a number ("RM12.50" names 12.50), for
    that is how amounts are printed.
    """
    return _whole(fold(reference)).search(fold(text)) is not None


@lru_cache(maxsize=4096)
def _whole(wanted: str) -> re.Pattern[str]:
    """Finds folded `wanted` as whole words; nothing finds nothing."""
    if not wanted:
        return re.compile(r"(?!)")
    before = r"(?<!\d)(?<!\d[.,])" if wanted[0].isdigit() else r"(?<![^\W\d_])" if wanted[0].isalpha() else ""
    after = r"(?![.,]?\d)" if wanted[-1].isdigit() else r"(?![^\W\d_])" if wanted[-1].isalpha() else ""
    return re.compile(before + re.escape(wanted) + after)


def contains(answer: str, references: Sequence[str]) -> float:
    """1 if the answer holds a reference as whole words, case and spaces folded (see `names`)."""
    return float(any(names(answer, reference) for reference in references))


def named(answer: str, references: Sequence[str], names: Sequence[str]) -> float:
    """1 if the answer names a reference and nothing else of `names`, as whole words, case and spaces folded.

    A name inside a longer one is not named: "tabby cat" names no "cat", whichever of the two is right.
    """
    text, right = fold(answer), {fold(reference) for reference in references}
    every = right | {fold(name) for name in names}
    found = [match.span() for name in every if name in text for match in _whole(name).finditer(text)]
    longest = [(a, b) for a, b in found if not any(c <= a and b <= d and (c, d) != (a, b) for c, d in found)]
    return float(bool(longest) and all(text[a:b] in right for a, b in longest))


def exact(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is a reference, but for case, spaces, enclosing quotes and a closing full stop or semicolon."""

    def bare(text: str) -> str:
        text = fold(text).rstrip(" .;")
        enclosed = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`" and text[0] not in text[1:-1]
        return text[1:-1].rstrip(" .;") if enclosed else text

    return float(bare(answer) in {bare(reference) for reference in references})


def accuracy(answer: str, references: Sequence[str], labels: Sequence[str]) -> float:
    """1 if the label that the answer names first, among all labels of the evaluated set, is one of the references."""
    text = fold(answer)
    found = [(at, -len(label), fold(label)) for label in labels if (at := _place(text, label)) >= 0]
    return float(bool(found) and min(found)[2] in {fold(reference) for reference in references})


def _place(text: str, label: str) -> int:
    """Where folded `text` names `label` first as a whole word; -1: nowhere."""
    match = re.search(rf"(?<!\w){re.escape(fold(label))}(?!\w)", text)
    return match.start() if match else -1


def last_number(text: str) -> float | None:
    """The last number of a text, thousands commas removed: "1,250.5 in all" is 1250.5."""
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text))
    return float(found[-1].replace(",", "")) if found else None


def number(answer: str, references: Sequence[str]) -> float:
    """1 if the answer's last number equals a reference's (within one part in a million)."""
    value = last_number(answer)
    wanted = [last_number(reference) for reference in references]
    return float(value is not None and any(w is not None and math.isclose(value, w, rel_tol=1e-6) for w in wanted))


def f1(answer: str, references: Sequence[str]) -> float:
    """Overlap of words as in SQuAD (Rajpurkar et al. 2016): case, punctuation and English articles removed."""

    def words(text: str) -> list[str]:
        bare = "".join(c for c in fold(text) if c not in string.punctuation)
        return [word for word in bare.split() if word not in ("a", "an", "the")]

    said = words(answer)

    def overlap(reference: str) -> float:
        wanted = words(reference)
        common = sum((Counter(said) & Counter(wanted)).values())
        if not said or not wanted:
            return float(said == wanted)
        return 2 * common / (len(said) + len(wanted))

    return max(map(overlap, references), default=0.0)


def anls(answer: str, references: Sequence[str]) -> float:
    """Levenshtein similarity, 0 when half of the characters differ (Biten et al. 2019, arXiv:1905.13648, eq. 1)."""

    def similarity(reference: str) -> float:
        said, wanted = fold(answer), fold(reference)
        longest = max(len(said), len(wanted))
        distance = levenshtein(said, wanted) / longest if longest else 0.0
        return 1 - distance if distance < _ANLS_THRESHOLD else 0.0

    return max(map(similarity, references), default=0.0)


def fields(answer: str, references: Sequence[str]) -> float:
    """F1 over the fields of a JSON object: of those said and those wanted, how many have the right value (SROIE's task 3).

    Values are compared by their letters and digits, case folded; amounts by their number. What is no JSON object has no fields.
    """
    said = _fields_of(answer)

    def overlap(reference: str) -> float:
        wanted = _fields_of(reference)
        right = sum(_same_value(said[name], value) for name, value in wanted.items() if name in said)
        return 2 * right / (len(said) + len(wanted)) if said or wanted else 1.0

    return max(map(overlap, references), default=0.0)


def _fields_of(text: str) -> dict[str, str]:
    """Names and values, those that are empty left out, of the JSON object between a text's outermost braces."""
    start, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[start : end + 1])
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {fold(name): str(value) for name, value in found.items() if value is not None and str(value).strip()}


_AMOUNT = re.compile(r"(?:rm|myr|\$|usd|eur|€|£)?\s*(-?[\d,]*\.?\d+)")


def _same_value(said: str, wanted: str) -> bool:
    amounts = [_AMOUNT.fullmatch(fold(text)) for text in (said, wanted)]
    if all(amounts):
        return len({float(found[1].replace(",", "")) for found in amounts if found}) == 1
    left, right = ("".join(c for c in fold(text) if c.isalnum()) for text in (said, wanted))
    return left == right


def levenshtein(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions of one character that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


def caption_words(text: str) -> list[str]:
    """A caption's words for CIDEr-D: case folded, punctuation dropped."""
    return _WORD.findall(fold(text))


def _ngrams(words: Sequence[str]) -> list[Counter[tuple[str, ...]]]:
    """Counts of the n-grams of each order."""
    return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in _ORDERS]


class CiderD:
    """CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726, section 4 and its "-D" variant in section 6) over a set of pictures.

    n-grams of 1 to 4 words, document frequencies from the references of these pictures, counts clipped to the reference's,
    Gaussian penalty on the difference in length (sigma 6), times 10; the mean over a picture's references. No stemming, as
    in coco-caption; its Penn Treebank tokeniser is whatever made the words.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        """`references`: of each picture its captions, each as words."""
        counts = [[_ngrams(words) for words in texts] for texts in references]
        self._frequency: list[Counter[tuple[str, ...]]] = [Counter() for _ in _ORDERS]
        for texts in counts:
            for order, counter in enumerate(self._frequency):
                counter.update({ngram for text in texts for ngram in text[order]})
        self._log_pictures = math.log(len(references)) if references else 0.0
        self._references = [[(self._weigh(text), text[0].total()) for text in texts] for texts in counts]

    def score(self, picture: int, words: Sequence[str]) -> float:
        """Of a caption of the picture with that place in `references`, as words: 0..10."""
        counts = _ngrams(words)
        said, length = self._weigh(counts), counts[0].total()
        values = [
            _similarity(said, wanted) * math.exp(-((length - total) ** 2) / (2 * _SIGMA**2))
            for wanted, total in self._references[picture]
        ]
        return 10 * sum(values) / len(values)

    def _weigh(self, counts: list[Counter[tuple[str, ...]]]) -> list[dict[tuple[str, ...], float]]:
        return [
            {n: tf * (self._log_pictures - math.log(max(1, frequency[n]))) for n, tf in count.items()}
            for frequency, count in zip(self._frequency, counts, strict=True)
        ]


def _similarity(said: list[dict[tuple[str, ...], float]], wanted: list[dict[tuple[str, ...], float]]) -> float:
    """The cosine of two captions' weights with clipped counts, mean over the orders."""
    total = 0.0
    for left, right in zip(said, wanted, strict=True):
        norm = math.hypot(*left.values()) * math.hypot(*right.values())
        product = sum(min(weight, right.get(ngram, 0.0)) * right.get(ngram, 0.0) for ngram, weight in left.items())
        total += product / norm if norm else 0.0
    return total / len(_ORDERS)


def cider(rows: Sequence[Scored]) -> list[float]:
    """CIDEr-D of each row, document frequencies from the references of these rows."""
    metric = CiderD([[caption_words(text) for text in row.references] for row in rows])
    return [metric.score(i, caption_words(first_words(row.answer, row.words))) for i, row in enumerate(rows)]


def chrf(rows: Sequence[Scored], seed: int = 0) -> Result:
    """chrF2 of the whole set by sacrebleu (Popović 2015) with its bootstrap interval, and each row's sentence score.

    Case and punctuation count; nothing is normalised.
    """
    metric = CHRF()
    answers = [first_words(row.answer, row.words).strip() for row in rows]
    most = max(len(row.references) for row in rows)
    # sacrebleu takes the i-th reference of every row together; None stands for a row that has fewer.
    columns = [[row.references[i] if i < len(row.references) else None for row in rows] for i in range(most)]
    # The annotation forgets the None that sacrebleu's documentation allows.
    counts = np.array(metric._extract_corpus_statistics(answers, columns), dtype=np.int64)  # type: ignore[arg-type]
    generator = np.random.default_rng(seed)
    # Not sacrebleu's own bootstrap: where a resample shares nothing with its references, it stops with a TypeError
    # (float and float32 in one list, sacrebleu 2.6.0).
    samples = [generator.integers(0, len(rows), len(rows)) for _ in range(_RESAMPLES)]
    low, high = np.percentile(
        [metric._compute_f_score(counts[sample].sum(0).tolist()) for sample in samples], [2.5, 97.5]
    )
    per_row = tuple(metric.sentence_score(a, list(row.references)).score for a, row in zip(answers, rows, strict=True))
    return Result(float(metric._compute_f_score(counts.sum(0).tolist())), float(low), float(high), per_row)


def word_errors(answer: str, reference: str) -> tuple[int, int]:
    """Substitutions, insertions and deletions that make the reference into the answer, and the reference's words.

    Case and punctuation do not count, except for an apostrophe within a word.
    """
    said, wanted = (_WORD.findall(fold(text).replace("\u2019", "'")) for text in (answer, reference))
    costs = list(range(len(wanted) + 1))
    for row, word in enumerate(said, 1):
        above = costs
        costs = [row]
        for place, other in enumerate(wanted, 1):
            costs.append(min(costs[-1] + 1, above[place] + 1, above[place - 1] + (word != other)))
    return costs[-1], len(wanted)


def wer(rows: Sequence[Scored], seed: int = 0) -> Result:
    """The word error rate of the whole set: errors by words of the references; less is better, and it may pass 1.

    Each row against the reference it comes nearest to.
    """
    best = [
        min(
            (word_errors(first_words(row.answer, row.words), r) for r in row.references),
            key=lambda e: e[0] / max(e[1], 1),
        )
        for row in rows
    ]
    errors, words = np.array(best, dtype=np.float64).T
    generator = np.random.default_rng(seed)
    samples = [generator.integers(0, len(rows), len(rows)) for _ in range(_RESAMPLES)]
    low, high = np.percentile([errors[s].sum() / max(words[s].sum(), 1) for s in samples], [2.5, 97.5])
    per_row = tuple(float(e / max(w, 1)) for e, w in best)
    return Result(float(errors.sum() / max(words.sum(), 1)), float(low), float(high), per_row)


def bootstrap(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over resampled rows (Efron 1979)."""
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = [array[generator.integers(0, len(array), len(array))].mean() for _ in range(_RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def paired_difference(values: Sequence[float], others: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The mean of `values` less that of `others`, row by row, and its 95 % interval: the rows are resampled in pairs."""
    differences = [a - b for a, b in zip(values, others, strict=True)]
    return (sum(differences) / len(differences), *bootstrap(differences, seed))


def paired_ratio(values: Sequence[float], others: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The mean of `values` by that of `others` and its 95 % interval, resampled in pairs; not a number by nothing."""
    pairs = np.asarray([values, others], dtype=np.float64)
    generator = np.random.default_rng(seed)
    means = [pairs[:, generator.integers(0, pairs.shape[1], pairs.shape[1])].mean(1) for _ in range(_RESAMPLES)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [float(a / b) for a, b in means]
        ratio = float(pairs[0].mean() / pairs[1].mean())
    low, high = np.percentile([r for r in ratios if math.isfinite(r)] or [math.nan], [2.5, 97.5])
    return ratio, float(low), float(high)


def score(metric: Metric, rows: Sequence[Scored], seed: int = 0) -> Result:
    """Score rows that share a metric. Raises ValueError without rows."""
    if not rows:
        raise ValueError("nothing to score: there are no rows")
    if metric == "chrf":
        return chrf(rows, seed)
    if metric == "wer":
        return wer(rows, seed)
    if metric == "cider":
        values = cider(rows)
    elif metric == "accuracy":
        labels = sorted({reference for row in rows for reference in row.references})
        values = [accuracy(first_words(row.answer, row.words), row.references, labels) for row in rows]
    elif metric == "named":
        values = [named(first_words(row.answer, row.words), row.references, row.names) for row in rows]
    else:
        alone = {"contains": contains, "exact": exact, "number": number, "f1": f1, "anls": anls, "fields": fields}[
            metric
        ]
        values = [alone(first_words(row.answer, row.words), row.references) for row in rows]
    low, high = bootstrap(values, seed)
    return Result(sum(values) / len(values), low, high, tuple(values))

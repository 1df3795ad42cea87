"""Documents as knowledge: passages, their vectors, and the search that finds those a question asks for.

Knows nothing of files that users send, of cards or of prompts; whoever calls it embeds the texts.
"""

import json
import math
import re
import statistics
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import Stemmer
import torch
from numpy.typing import NDArray
from torch import Tensor

from knowledge_bricks.passages import Passage, sentences
from knowledge_bricks.vector_index import LARGE, Cells, VectorIndex, make_cells, read_cells, write_cells
from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.keys import KEYS, load_keys, save_keys
from mattoni.lines import json_rows

PASSAGES = "passages.jsonl"
# How near a passage is: the inner product with the question plus this times the share of its words that the passage holds.
# Chosen on reading-dev, where 0.5 to 1.5 do equally well; docs/experiments.md, "Finding passages".
COVERAGE_WEIGHT = 0.5
# Which passage is first: that, plus this times the share of the words in its best sentence. It finds the right one more often
# and tells less of whether there is one: docs/experiments.md, "The sentence that holds the words".
_SENTENCE_WEIGHT = 1.0
# Passages that are near by vector, and as many that share words, are scored by both; so many of them by their sentences.
_POOL, _READ = 100, 20

# Letters of scripts that put no blanks between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNBROKEN = re.compile("([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)")
_HIRAGANA = re.compile("[\u3040-\u309f]+")

_STOP_WORDS = frozenset(
    "a about all also am an and any are as at be been being but by can could d did do does doing for from get give "
    "had has have having he her him his how i if in into is it its just like ll m many may me might more most much "
    "my no not of on one or our out please re s she should so some such t tell than that the their them then there "
    "these they this those to too up us use used ve very was we were what when where which who whom whose why will "
    "with would you your "
    # Said to whoever is asked; receipts and letters say it too.
    "bye cheers goodbye hello hey hi ok okay thank thanks".split()
)


@dataclass(frozen=True)
class Hit:
    """A passage that was found, and how well it fits the question: about 0 to 1.5."""

    passage: Passage
    score: float


class Documents:
    """The passages of one brick, ready to be searched. Holds everything in memory: 3 KB a passage."""

    def __init__(self, passages: Sequence[Passage], vectors: Tensor, cells: Cells | None = None) -> None:
        """Open them.

        vectors  (passages, width), unit rows
        cells    those that they lie in, of many
        """
        self.passages = tuple(passages)
        self._vectors = _as_array(vectors)
        self._cells = cells
        rows: defaultdict[str, list[int]] = defaultdict(list)
        for row, passage in enumerate(self.passages):
            for word in content_words(searched_text(passage)):
                rows[word].append(row)
        self._sentences: dict[int, list[set[str]]] = {}
        self._rows = {word: np.array(found) for word, found in rows.items()}

    @cached_property
    def _index(self) -> VectorIndex:
        """Made when something is looked for: an update only wants the passages that stay, and of many it takes minutes."""
        return VectorIndex(self._vectors, self._cells)

    @property
    def vectors(self) -> Tensor:
        """(passages, width), unit rows."""
        return torch.from_numpy(self._vectors)

    def without(self, documents: Set[str]) -> "Documents | None":
        """The passages of all documents but these; None when there are no others."""
        rows = [row for row, passage in enumerate(self.passages) if passage.document not in documents]
        return Documents([self.passages[row] for row in rows], self.vectors[rows]) if rows else None

    def of(self, document: str) -> list[Passage]:
        """The passages of one document, in reading order."""
        return [passage for passage in self.passages if passage.document == document]

    def search_ms(self) -> float:
        """What a search takes here, in milliseconds: the median of five, for words that are in the documents."""
        step = max(1, len(self.passages) // 5)
        taken = []
        for row in range(0, len(self.passages), step)[:5]:
            start = time.perf_counter()
            self.search(self.vectors[row], self.passages[row].text[:100])
            taken.append(1000 * (time.perf_counter() - start))
        return round(statistics.median(taken), 2)

    def search(self, vector: Tensor, text: str, k: int = 3) -> list[Hit]:
        """The `k` passages that fit a question best, best first.

        vector  (width,), the question's unit vector
        text    the question as typed

        Dense retrieval misses names and numbers, word search misses paraphrases; the sum of both scores finds more than
        either. The words' part is the share of the question's content words that stand in the passage, weighted by how
        rare they are in these documents (inverse document frequency as in BM25, Robertson & Zaragoza 2009). Unlike BM25
        it is at most 1 whatever the question's length, so that one threshold serves all questions. What answers a question
        tends to say so in one sentence, hence the same share of the best sentence, the document's name beside it, counts for
        the order. The first one's score is how near the nearest passage is without that; the others' are
        how near they are, and no more than the one before.
        """
        query = vector.float().numpy()
        rarity = self._rarity(text)
        covered = self._coverage(rarity)
        pool = min(_POOL, len(self.passages))
        near = self._index.nearest(query, pool)
        sharing = np.argpartition(-covered, pool - 1)[:pool]
        rows = np.union1d(near, sharing)
        dense = self._vectors[rows] @ query
        read = np.argsort(-(dense + covered[rows]), kind="stable")[: max(_READ, k)]
        rows, dense = rows[read], dense[read]
        said = np.array([self._best_sentence(int(row), rarity) for row in rows])
        nearness = dense + COVERAGE_WEIGHT * covered[rows]
        ranks = nearness + _SENTENCE_WEIGHT * said
        best = np.argsort(-ranks, kind="stable")[:k]
        # None above the one before it, so that passages of several bricks are sorted by score and keep this order.
        scores = np.minimum.accumulate([nearness.max(), *nearness[best[1:]]])
        return [Hit(self.passages[rows[i]], float(score)) for i, score in zip(best, scores, strict=True)]

    def _rarity(self, text: str) -> dict[str, float]:
        """The content words of a text, and how rare each is among the passages; together 1."""
        found = {}
        for word in sorted(content_words(text)):
            holding = len(self._rows.get(word, ()))
            found[word] = math.log1p((len(self.passages) - holding + 0.5) / (holding + 0.5))
        total = sum(found.values())
        return {word: rarity / total for word, rarity in found.items()} if total else {}

    def _coverage(self, rarity: Mapping[str, float]) -> NDArray[np.float64]:
        """Per passage, the share of the words that it holds, rare ones weighing more: (passages,)."""
        covered = np.zeros(len(self.passages))
        for word, share in rarity.items():
            covered[self._rows.get(word, np.zeros(0, dtype=np.int64))] += share
        return covered

    def _best_sentence(self, row: int, rarity: Mapping[str, float]) -> float:
        """The share of the words that one sentence of a passage holds, with its document's name."""
        if row not in self._sentences:
            passage = self.passages[row]
            title = content_words(_title(passage))
            self._sentences[row] = [content_words(sentence) | title for sentence in sentences(passage.text)]
        return max((sum(rarity[word] for word in held & rarity.keys()) for held in self._sentences[row]), default=0.0)


def answer_threshold(passages: int) -> float:
    """The score that the best passage must reach if these documents are to answer a question.

    The best of many passages scores higher by chance: that of a message which none of them answers grows by about 0.1
    for ten times the passages, while a passage that does answer scores much the same beside 3 others or 800. Chosen on
    chat-train and reading-dev for 1 to 817 passages; docs/experiments.md, "Finding passages".
    """
    return round(0.33 + 0.1 * math.log10(max(1, passages)), 3)


def content_words(text: str) -> set[str]:
    """The stems of a text's telling words.

    Stems are Snowball's English ones (Porter 2001): "brick" finds "bricks". Other languages lose nothing they need.
    """
    # A stemmer of one's own: one that two threads use at once gives wrong stems.
    return set(Stemmer.Stemmer("english").stemWords(list(telling_words(text))))


def telling_words(text: str) -> set[str]:
    """A text's words in lower case, without accents and without words that say nothing of its subject."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return {piece for word in re.findall(r"\w+", plain) for piece in _pieces(word)} - _STOP_WORDS


def _pieces(word: str) -> Iterator[str]:
    """A word; where it is written without blanks between words, every two neighbouring letters, as Lucene's CJK analyzer does.

    Pairs of hiragana alone are left out: they are endings and particles, which say nothing of the subject.
    """
    for run in _UNBROKEN.split(word):
        if not _UNBROKEN.fullmatch(run):
            yield from (run,) if run else ()
            continue
        pairs = [run[place : place + 2] for place in range(max(1, len(run) - 1))]
        yield from (pair for pair in pairs if not _HIRAGANA.fullmatch(pair))


def searched_text(passage: Passage) -> str:
    """What is embedded and searched: the passage under its document's name, which often holds the subject."""
    return f"{_title(passage)}\n{passage.text}"


def _title(passage: Passage) -> str:
    return re.sub(r"[-_]+", " ", Path(passage.document).stem)


def write_documents(passages: Sequence[Passage], vectors: Tensor, folder: Path) -> None:
    """Write passages and their vectors into a brick's folder.

    vectors  (passages, width), unit rows

    Raises MattoniError when there are none.
    """
    if not passages:
        raise MattoniError("There is no text in these documents: add files that hold some.")
    save_keys(vectors, folder / KEYS)
    if len(passages) >= LARGE:
        write_cells(make_cells(_as_array(vectors)), folder)
    write_text(folder / PASSAGES, "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in passages))


def load_documents(folder: Path) -> Documents:
    """Open a brick's passages and vectors. Raises MattoniError when they are damaged or do not belong together."""
    where = f"{folder.name}/{PASSAGES}"
    try:
        passages = [Passage(**row.value) for row in json_rows(folder / PASSAGES)]
    except (MattoniError, TypeError) as problem:
        raise MattoniError(f"{where} is missing or damaged: add these documents again.") from problem
    vectors = load_keys(folder / KEYS)
    if len(passages) != len(vectors):
        raise MattoniError(
            f"{where} holds {len(passages)} passages but {KEYS} {len(vectors)} vectors: add these documents again."
        )
    return Documents(passages, vectors, read_cells(folder, vectors))


def _as_array(vectors: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors.float().numpy())

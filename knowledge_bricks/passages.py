"""Cuts the text of documents into passages that can be found and cited. Knows nothing of vectors or files."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# About 120 to 180 English words; the embedder sees 256 tokens, which is about as much.
LONGEST = 1100
# A shorter paragraph (a heading, a line of a list) says little alone and is joined with what follows it.
SHORT = 350
# A sentence up to this long is repeated at the start of the next passage when a paragraph has to be cut after it.
OVERLAP = 250


@dataclass(frozen=True)
class PageText:
    """The text of one page, counted from 1."""

    number: int
    text: str


@dataclass(frozen=True)
class DocumentText:
    """A document as text; one without pages (Markdown, HTML) has a single page."""

    name: str
    pages: tuple[PageText, ...]


@dataclass(frozen=True)
class Passage:
    """A piece of a page: `text` is the page's text[start:end]."""

    document: str
    page: int
    place: str  # where a reader finds it: "page 3", or "passage 12" in a document without pages
    start: int
    end: int
    text: str


Span = tuple[int, int]


def split_document(document: DocumentText) -> list[Passage]:
    """Cut a document into passages, in reading order. All of its text is in some passage; none crosses a page."""
    passages: list[Passage] = []
    for page in document.pages:
        for start, end in passage_spans(page.text):
            place = f"page {page.number}" if len(document.pages) > 1 else f"passage {len(passages) + 1}"
            passages.append(Passage(document.name, page.number, place, start, end, page.text[start:end]))
    return passages


@dataclass(frozen=True)
class Around:
    """A passage where it stands in its page: what is before it and what is behind it."""

    before: str
    text: str
    after: str


def around(passages: Sequence[Passage], cited: Passage) -> Around:
    """The page of a passage, put together of all its document's passages; white space between them is not kept."""
    page = sorted((p for p in passages if p.page == cited.page), key=lambda p: p.start)
    end = max(p.end for p in page)
    return Around(_stretch(page, 0, cited.start), cited.text, _stretch(page, cited.end, end))


def _stretch(page: Sequence[Passage], start: int, stop: int) -> str:
    """What of a page's text lies between two places. Passages repeat the sentence before them: it is written once."""
    text, at = "", start
    for passage in page:
        left, right = max(passage.start, at), min(passage.end, stop)
        if left < right:
            text += ("\n\n" if left > at and text else "") + passage.text[left - passage.start : right - passage.start]
            at = right
    return text


def passage_spans(text: str) -> list[Span]:
    """Spans of at most `LONGEST` characters that hold every mark of `text` that is not white space.

    A paragraph stays whole where it fits, short ones are joined, and a long one is cut into pieces of like size at the
    ends of sentences, each repeating the last sentence of the one before. Without sentences, words are the next best.
    """
    return list(_joined(span for paragraph in _paragraphs(text) for span in _pieces(text, paragraph)))


def sentences(text: str) -> list[str]:
    """The sentences of a text, and lines that are an item or a heading."""
    return [text[start:end] for start, end in _spans_between(text, (0, len(text)), _SENTENCE_END)]


def _trimmed(text: str, start: int, end: int) -> Span:
    """The span without white space at its ends."""
    inner = text[start:end]
    return start + len(inner) - len(inner.lstrip()), end - len(inner) + len(inner.rstrip())


def _spans_between(text: str, span: Span, boundary: re.Pattern[str]) -> Iterator[Span]:
    """The parts of the span that `boundary` parts, without white space and empty ones."""
    start, stop = span
    for match in boundary.finditer(text, start, stop):
        left, right = _trimmed(text, start, match.end())
        if left < right:
            yield left, right
        start = match.end()
    left, right = _trimmed(text, start, stop)
    if left < right:
        yield left, right


_BLANK_LINE = re.compile(r"\n\s*\n")
# Behind a full stop and the like (with a closing quote or bracket), or before a line that begins an item or a heading.
_SENTENCE_END = re.compile(r"[.!?:;…。！？][\"'”’»)\]]*\s+|\n(?=\s*(?:[-*•#]|\d+[.)]))")


def _paragraphs(text: str) -> Iterator[Span]:
    return _spans_between(text, (0, len(text)), _BLANK_LINE)


def _pieces(text: str, paragraph: Span) -> Iterator[Span]:
    """The paragraph as it is, or cut where it is longer than a passage may be."""
    length = paragraph[1] - paragraph[0]
    if length <= LONGEST:
        yield paragraph
        return
    # Pieces of like size: a paragraph of 1,200 characters makes two of 600, not one of 1,100 and a stump.
    wanted = length / (length // LONGEST + 1)
    sentences = [unit for span in _spans_between(text, paragraph, _SENTENCE_END) for unit in _units(text, span)]
    first = 0
    while first < len(sentences):
        start = _overlapping(sentences, first)
        last = first
        while last + 1 < len(sentences) and sentences[last + 1][1] - start <= LONGEST:
            if sentences[last][1] - sentences[first][0] >= wanted:
                break
            last += 1
        if sentences[last][1] - start > LONGEST:
            start = sentences[first][0]
        yield start, sentences[last][1]
        first = last + 1


def _overlapping(sentences: Sequence[Span], first: int) -> int:
    """Where a piece whose own text begins with sentence `first` starts: with the one before, unless it is long."""
    if first == 0:
        return sentences[0][0]
    start, end = sentences[first - 1]
    return start if end - start <= OVERLAP else sentences[first][0]


def _units(text: str, sentence: Span) -> Iterator[Span]:
    """A sentence, cut at white space (or anywhere, where there is none) when it is longer than a passage."""
    start, end = sentence
    while end - start > LONGEST:
        cut = max(text.rfind(" ", start, start + LONGEST), text.rfind("\n", start, start + LONGEST))
        cut = cut if cut > start else start + LONGEST
        left, right = _trimmed(text, start, cut)
        yield left, right
        start = _trimmed(text, cut, end)[0]
    yield start, end


def _joined(spans: Iterator[Span]) -> Iterator[Span]:
    """Join short neighbours while they make no passage that is too long."""
    held: Span | None = None
    for span in spans:
        if held is None:
            held = span
        elif min(held[1] - held[0], span[1] - span[0]) < SHORT and span[1] - held[0] <= LONGEST:
            held = (held[0], span[1])
        else:
            yield held
            held = span
    if held is not None:
        yield held

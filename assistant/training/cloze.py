"""Questions with short answers from Wikipedia's own sentences, to train a reader of passages with. Knows nothing of hosts.

Method: cloze translation with identity wording (Lewis et al. 2019, arXiv:1906.04980, section 2.3): a name, thing, year or number of a
sentence is asked for in its place, "Albedo was introduced by Lambert in which year?". The articles are the hundred or so that
gensim's tests carry (Wikipedia, CC BY-SA 3.0); those that the caller's own rows are of are left out.
"""

import bz2
import io
import re
import tempfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from zipfile import ZipFile

from assistant.host.wheels import download_wheel

_WHEEL = "gensim==4.4.0"
_MEMBER = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_SHORTEST, _LONGEST = 200, 550  # letters of a passage
_MOST_WORDS = 30  # of a question
# What is listed is asked for as a whole: one of several would teach to say one of several.
_NAME = r"[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)*"
_THING = r"(?:the |a |an )?[a-z][a-z-]{3,}(?: [a-z][a-z-]{3,}){0,2}"
_LISTED = "(?:(?:, {one})*,? and {one})?"
_SPANS = (
    (re.compile(r"(?<=\bin )(?:1\d|20)\d\d\b(?!\w)"), "which year"),
    (re.compile(rf"(?<=[a-z,] ){_NAME}{_LISTED.format(one=_NAME)}(?! d|\w)"), "what"),
    (re.compile(r"(?<=[a-z] )\d[\d,.]*\d(?: to \d[\d,.]*\d)?(?= [a-z])"), "how many"),
    # Things in lower case: a few words between a preposition and a stop.
    (
        re.compile(
            r"(?:(?<=\bof )|(?<=\bby )|(?<=\bas )|(?<=\bfrom )|(?<=\bwith )|(?<=\binto )|(?<=\bfor ))"
            rf"{_THING}{_LISTED.format(one=_THING)}(?=[.;])"
        ),
        "what",
    ),
)
_NO_THINGS = frozenset(
    {
        "example",
        "instance",
        "well",
        "which",
        "whom",
        "this",
        "these",
        "those",
        "them",
        "itself",
        "themselves",
        "others",
        "such",
    }
)


@dataclass(frozen=True)
class Passage:
    """A piece of an article, with questions and their answers, which are words of its text."""

    title: str
    text: str
    questions: tuple[tuple[str, str], ...]


def wikipedia_passages(leave_out: Collection[str]) -> list[Passage]:
    """Passages that something can be asked of, without the articles of these titles; downloads gensim's wheel."""
    with tempfile.TemporaryDirectory() as folder, ZipFile(download_wheel(_WHEEL, Path(folder))) as wheel:
        xml = bz2.decompress(wheel.read(_MEMBER))
    without = {title.casefold() for title in leave_out}
    return [
        Passage(title, text, questions)
        for title, markup in _pages(xml)
        if title.casefold() not in without and ":" not in title
        for text in passages_of(plain_text(markup))
        if (questions := tuple(cloze_questions(text)))
    ]


def _pages(xml: bytes) -> Iterator[tuple[str, str]]:
    """(title, markup) of each page."""
    title = ""
    for _, element in ElementTree.iterparse(io.BytesIO(xml)):
        name = element.tag.rpartition("}")[2]
        if name == "title":
            title = element.text or ""
        elif name == "text":
            yield title, element.text or ""


def plain_text(markup: str) -> str:
    """Wiki markup as text: no templates, tables, references, pictures, headings or lists; links as they are read."""
    text = re.sub(r"<!--.*?-->|<ref[^>/]*/>|<ref.*?</ref>|<math.*?</math>", "", markup, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", "", text)
    before = None
    while before != text:
        before = text
        text = re.sub(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\|).)*?\|\}", "", text, flags=re.DOTALL)
        text = re.sub(r"\[\[(?:File|Image|Category|[a-z-]{2,12}):[^\[\]]*\]\]", "", text)
        text = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]", r"\1", text)
    text = re.sub(r"\[\w+://\S+ ?([^\]]*)\]", r"\1", text).replace("&nbsp;", " ")
    lines = (re.sub(r"'{2,}", "", line).strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and line[0] not in "=*#:;|!{}")


def passages_of(text: str) -> Iterator[str]:
    """Each paragraph's first sentences, as many as fit; paragraphs that are too short are left out."""
    for paragraph in text.splitlines():
        passage = ""
        for sentence in _sentences(re.sub(r"\s*\([\s,;]*\)", "", re.sub(r"\s+", " ", paragraph))):
            if len(passage) + len(sentence) > _LONGEST:
                break
            passage = f"{passage} {sentence}".strip()
        if len(passage) >= _SHORTEST:
            yield passage


def cloze_questions(text: str) -> Iterator[tuple[str, str]]:
    """(question, answer) of each sentence: a name, thing, year or number that can be asked for and stands once in the text."""
    for sentence in _sentences(text):
        if len(sentence.split()) > _MOST_WORDS or not sentence.endswith("."):
            continue
        found: dict[int, tuple[re.Match[str], str]] = {}
        for span, word in _SPANS:
            for match in span.finditer(sentence):
                found.setdefault(match.start(), (match, word))  # a year is a number as well
        alone = [
            (match, word)
            for _, (match, word) in sorted(found.items())
            if text.count(match[0]) == 1 and match[0].split()[-1] not in _NO_THINGS
        ]
        if alone:
            # Any of them, and always the same: the last would mostly be of one kind.
            match, word = alone[zlib.crc32(sentence.encode()) % len(alone)]
            yield f"{sentence[: match.start()]}{word}{sentence[match.end() : -1]}?", match[0]


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[a-z0-9)]\.) (?=[A-Z])", text)

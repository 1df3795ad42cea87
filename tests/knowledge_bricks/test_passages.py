import re

from hypothesis import given
from hypothesis import strategies as st

from knowledge_bricks.passages import LONGEST, DocumentText, PageText, around, passage_spans, split_document

WORDS = st.text(alphabet="abc.!? \n-#éЖ", max_size=40)
TEXTS = st.lists(WORDS, max_size=120).map("".join)
SENTENCE = "The mason laid brick upon brick, and the wall grew straight and high until the evening came. "


def texts_of(text: str) -> list[str]:
    """The passages of a document of one page."""
    return [passage.text for passage in split_document(DocumentText("a", (PageText(1, text),)))]


@given(text=TEXTS)
def test_every_mark_of_a_text_is_in_some_passage_and_none_is_too_long(text):
    spans = passage_spans(text)
    held = set().union(*(range(start, end) for start, end in spans))
    assert {i for i, mark in enumerate(text) if not mark.isspace()} <= held
    assert all(0 < end - start <= LONGEST for start, end in spans)


@given(text=TEXTS)
def test_spans_come_in_reading_order_and_begin_and_end_with_a_mark(text):
    spans = passage_spans(text)
    assert spans == sorted(spans)
    assert all(text[start:end] == text[start:end].strip() for start, end in spans)


@given(pages=st.lists(TEXTS, max_size=4))
def test_a_passage_points_at_its_own_text(pages):
    document = DocumentText("book.pdf", tuple(PageText(n, text) for n, text in enumerate(pages, 1)))
    for passage in split_document(document):
        assert passage.text == pages[passage.page - 1][passage.start : passage.end]
        assert passage.document == "book.pdf"


def test_a_paragraph_that_fits_is_one_passage():
    paragraphs = [SENTENCE * 6, SENTENCE * 8, SENTENCE * 5]
    text = "\n\n".join(paragraphs)
    assert texts_of(text) == [p.strip() for p in paragraphs]


def test_a_heading_stays_with_the_paragraph_below_it():
    text = "# Masonry\n\n" + SENTENCE * 6
    assert passage_spans(text) == [(0, len(text.rstrip()))]


def test_a_long_paragraph_is_cut_between_sentences_and_each_piece_repeats_the_sentence_before():
    sentences = [f"Sentence {n} tells of wall number {n}, how high it grew and who laid it." for n in range(40)]
    text = " ".join(sentences)
    numbers = [[int(n) for n in re.findall(r"Sentence (\d+)", passage)] for passage in texts_of(text)]
    assert all(passage.endswith("who laid it.") for passage in texts_of(text))
    assert len(numbers) > 2
    assert all(after[0] == before[-1] for before, after in zip(numbers, numbers[1:], strict=False))
    assert max(map(len, numbers)) - min(map(len, numbers)) <= 3


def test_a_word_that_is_longer_than_a_passage_is_cut_too():
    assert passage_spans("x" * 3 * LONGEST) == [(n * LONGEST, (n + 1) * LONGEST) for n in range(3)]


def test_places_are_pages_where_there_are_pages_and_else_counted_passages():
    pages = tuple(PageText(n, SENTENCE * 5) for n in (1, 2))
    assert [p.place for p in split_document(DocumentText("book.pdf", pages))] == ["page 1", "page 2"]
    notes = DocumentText("notes.md", (PageText(1, (SENTENCE * 5 + "\n\n") * 2),))
    assert [p.place for p in split_document(notes)] == ["passage 1", "passage 2"]


def test_text_without_words_makes_no_passage():
    assert split_document(DocumentText("empty.txt", (PageText(1, " \n\n\t"),))) == []


@given(pages=st.lists(TEXTS, min_size=1, max_size=3), which=st.integers(0, 100))
def test_around_a_passage_its_page_is_whole_and_nothing_is_said_twice(pages, which):
    document = DocumentText("book.pdf", tuple(PageText(n, text) for n, text in enumerate(pages, 1)))
    passages = split_document(document)
    if passages:
        cited = passages[which % len(passages)]
        page = around(passages, cited)
        assert page.text == cited.text
        assert "".join((page.before + page.text + page.after).split()) == "".join(pages[cited.page - 1].split())

import json
import re
import zlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from knowledge_bricks.documents import (
    COVERAGE_WEIGHT,
    PASSAGES,
    answer_threshold,
    content_words,
    load_documents,
    searched_text,
    write_documents,
)
from knowledge_bricks.passages import DocumentText, PageText, split_document
from mattoni.errors import MattoniError
from mattoni.keys import KEYS


def embed(texts):
    """A text's vector is the sum of a fixed random vector per word: real enough to be near where words are shared."""
    rows = []
    for text in texts:
        words = re.findall(r"\w+", text.lower()) or [""]
        vectors = [torch.randn(32, generator=torch.Generator().manual_seed(zlib.crc32(w.encode()))) for w in words]
        rows.append(torch.stack(vectors).sum(dim=0))
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def document(name, *pages):
    return DocumentText(name, tuple(PageText(number, text) for number, text in enumerate(pages, 1)))


LIBRARY = [
    document("kiln.md", "The kiln burns clay bricks at a thousand degrees for three days."),
    document("mortar.md", "Mortar is made of sand, lime and water, and it hardens slowly in the open air."),
    document("bridge.pdf", "The bridge at Torre has nine arches.", "Its mason was Ambrogio, who also built the mill."),
]


def build_documents(documents, embed, folder, kept=None):
    passages = [passage for document in documents for passage in split_document(document)]
    vectors = embed([searched_text(passage) for passage in passages]) if passages else torch.zeros(0, 1)
    if kept is not None:
        passages, vectors = [*kept.passages, *passages], torch.cat([kept.vectors, vectors])
    write_documents(passages, vectors, folder)


@pytest.fixture
def folder(tmp_path):
    build_documents(LIBRARY, embed, tmp_path)
    return tmp_path


def ask(documents, question, k=3):
    return documents.search(embed([question])[0], question, k)


@pytest.mark.parametrize(
    ("question", "name", "place"),
    [
        ("What is mortar made of?", "mortar.md", "passage 1"),
        ("At how many degrees does the kiln burn?", "kiln.md", "passage 1"),
        ("Who was the mason of the bridge?", "bridge.pdf", "page 2"),
    ],
)
def test_the_passage_that_answers_comes_first_with_its_document_and_place(folder, question, name, place):
    best = ask(load_documents(folder), question)[0].passage
    assert (best.document, best.place) == (name, place)
    text = next(d for d in LIBRARY if d.name == name).pages[best.page - 1].text
    assert text[best.start : best.end] == best.text


def test_a_score_is_the_inner_product_and_the_share_of_the_questions_words(folder):
    documents = load_documents(folder)
    question = "mortar lime"
    hit = ask(documents, question, k=1)[0]
    inner = float(embed([searched_text(hit.passage)])[0] @ embed([question])[0])
    assert hit.score == pytest.approx(inner + COVERAGE_WEIGHT, abs=1e-5)


def test_a_rare_word_weighs_more_than_a_common_one(tmp_path):
    texts = ["brick " + word for word in ("red", "grey", "white", "black", "yellow")]
    build_documents([document(f"{n}.txt", text) for n, text in enumerate(texts)], embed, tmp_path)
    documents = load_documents(tmp_path)
    zero = torch.zeros(32)
    assert documents.search(zero, "a grey brick", 1)[0].passage.text == "brick grey"
    scores = [documents.search(zero, word, 1)[0].score for word in ("brick grey", "brick unheard")]
    assert scores[0] == pytest.approx(COVERAGE_WEIGHT) and scores[1] < COVERAGE_WEIGHT / 2


def test_of_passages_with_the_same_words_the_one_that_has_them_in_a_sentence_is_first(tmp_path):
    texts = {
        "apart.txt": "A vault was drawn. Roman masons came later. The harbour has a bridge.",
        "together.txt": "Roman masons built the harbour vault with a bridge. It was drawn. A later one came.",
    }
    build_documents([document(name, text) for name, text in texts.items()], embed, tmp_path)
    documents = load_documents(tmp_path)
    for question in ("Who are the masons of the Roman vault in the harbour?", "Romans, vaults, harbours, mason?"):
        first, second = documents.search(torch.zeros(32), question, 2)
        assert first.passage.document == "together.txt"
        assert first.score == pytest.approx(COVERAGE_WEIGHT) and second.score <= first.score


def test_words_are_found_where_a_script_puts_no_blanks_between_them(tmp_path):
    texts = {
        "hours.txt": "開館時間は平日が午前九時から午後七時までです。",
        "fines.txt": "返却が遅れると一日につき十円の延滞料がかかります。",
        "thai.txt": "ห้องสมุดเปิดเก้าโมงเช้า",
    }
    build_documents([document(name, text) for name, text in texts.items()], embed, tmp_path)
    documents = load_documents(tmp_path)
    for question, name in (
        ("延滞料はいくらですか", "fines.txt"),
        ("開館は何時ですか", "hours.txt"),
        ("ห้องสมุด", "thai.txt"),
    ):
        first, *_ = documents.search(torch.zeros(32), question, 1)
        assert first.passage.document == name and first.score > 0
    assert content_words("いくらですか") == set(), "endings and particles say nothing of the subject"
    assert content_words("GPU本 bricks") == {"gpu", "本", "brick"}


def test_a_question_of_stop_words_alone_is_judged_by_its_vector(folder):
    assert content_words("What is it about?") == content_words("Hello, and thank you!") == set()
    assert all(hit.score <= 1 for hit in ask(load_documents(folder), "What is it about?"))


@given(question=st.text(max_size=60), k=st.integers(1, 9))
def test_any_question_finds_at_most_k_passages_best_first(tmp_path_factory, question, k):
    folder = tmp_path_factory.getbasetemp() / "any-question"
    if not folder.is_dir():
        folder.mkdir()
        build_documents(LIBRARY, embed, folder)
    hits = ask(load_documents(folder), question, k)
    assert len(hits) == min(k, 4)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.passage for hit in hits}) == len(hits)


def test_of_many_passages_search_finds_what_scoring_each_would(tmp_path):
    generator = torch.Generator().manual_seed(1)
    words = [f"w{n}" for n in range(60)]
    texts = [" ".join(words[i] for i in torch.randint(60, (12,), generator=generator)) for _ in range(400)]
    build_documents([document(f"{n}.txt", text) for n, text in enumerate(texts)], embed, tmp_path)
    documents = load_documents(tmp_path)
    found = ask(documents, "w1 w2 w3 w4")
    every = documents.search(embed(["w1 w2 w3 w4"])[0], "w1 w2 w3 w4", k=400)
    assert found == every[:3]


def test_passages_of_other_documents_are_kept_in_an_update(folder, tmp_path_factory):
    target = tmp_path_factory.mktemp("updated")
    kept = load_documents(folder).without({"kiln.md"})
    build_documents([document("kiln.md", "The kiln is cold.")], embed, target, kept)
    texts = {p.document: p.text for p in load_documents(target).passages}
    assert texts["kiln.md"] == "The kiln is cold." and set(texts) == {"kiln.md", "mortar.md", "bridge.pdf"}
    assert ask(load_documents(target), "What is mortar made of?")[0].passage.document == "mortar.md"


def test_the_more_passages_the_higher_the_score_that_counts_as_an_answer():
    assert [answer_threshold(n) for n in (1, 10, 1000)] == [0.33, 0.43, 0.63]


def test_nothing_in_the_folder_can_run(folder):
    assert sorted(path.name for path in folder.iterdir()) == [KEYS, PASSAGES]
    assert [json.loads(line)["document"] for line in (folder / PASSAGES).read_text().splitlines()][0] == "kiln.md"


def test_documents_without_text_make_no_brick(tmp_path):
    with pytest.raises(MattoniError, match="There is no text in these documents: add files that hold some"):
        build_documents([document("blank.pdf", " ", "\n")], embed, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        (PASSAGES, b'{"document": "kiln', "passages.jsonl is missing or damaged: add these documents again"),
        (PASSAGES, b"\xff\xfe\x00", "passages.jsonl is missing or damaged"),
        (PASSAGES, b'{"text": "no place"}', "passages.jsonl is missing or damaged"),
        (PASSAGES, b"", "holds 0 passages but keys.safetensors 4 vectors: add these documents again"),
        (KEYS, b"not safetensors", "keys.safetensors holds no keys or is damaged"),
    ],
)
def test_a_damaged_index_is_one_sentence(folder, file, content, sentence):
    (folder / file).write_bytes(content)
    with pytest.raises(MattoniError, match=re.escape(sentence)):
        load_documents(folder)

"""A folder with one document of each format, as real programs write them: each answers its question, rightly cited.

How those in `documents/` were made (LibreOffice 7.4, pandoc 2.17, Chromium, Python's email):

    chromium --headless --print-to-pdf=lighthouse.pdf lighthouse.html
    soffice --headless --convert-to docx:"MS Word 2007 XML" --infilter="HTML (StarWriter)" bakery.html
    soffice --headless --convert-to odt:writer8 --infilter="HTML (StarWriter)" clock.html
    soffice --headless --convert-to xlsx:"Calc MS Excel 2007 XML" stock.csv
    soffice --headless --convert-to csv trains.xlsx
    pandoc slides.md -t pptx -o museum.pptx
    pandoc book.md -t epub3 -o beekeeper.epub
    pandoc garden.html -t gfm -o garden.md
    pandoc -s ferry.html -t html5 -o ferry.html
"""

from pathlib import Path

import pytest

from assistant.bricks.folders import files_in, read_attachment
from assistant.bricks.knowledge import add_knowledge
from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.registry import Registry
from tests.assistant.test_knowledge import find

DOCUMENTS = Path(__file__).with_name("documents")
# A question, the document that answers it, where in it, and what its passage must say.
ASKED = [
    ("Who was the keeper of the lighthouse of Varnholm?", "lighthouse.pdf", "passage 1", "Elsa Brandt"),
    ("When does the bakery in Querf sell rye bread?", "bakery.docx", "passage 1", "Thursdays"),
    ("When does the clock tower of Istral strike thirteen times?", "clock.odt", "passage 1", "at noon"),
    ("How many copper handles are there?", "stock.xlsx", "passage 1", "1530"),
    ("When does the train Grey Goose leave Castlemere?", "trains.csv", "passage 1", "06:15"),
    ("When does the museum of Tallow open?", "museum.pptx", "page 2", "half past nine"),
    ("Who found the bronze comb?", "museum.pptx", "page 3", "Anouk Perrin"),
    ("How many hives does the beekeeper of Morrow keep?", "beekeeper.epub", None, "twenty-three"),
    ("When are the tulips planted in Pellworth?", "garden.md", "passage 1", "second week of October"),
    ("From which pier leaves the ferry to Skarn?", "ferry.html", "passage 1", "pier seven"),
    ("How many tonnes may a truck have on the Olm bridge?", "bridge.eml", "passage 1", "eighteen"),
    ("For how many coins was the mill of Orrin sold?", "mill.txt", "passage 1", "three hundred"),
]


def test_there_is_a_document_of_each_format_and_each_is_asked_for():
    endings = {file.suffix for file in files_in(DOCUMENTS).files}
    assert endings == {f".{name}" for name in "pdf docx odt xlsx csv pptx epub md html eml txt".split()}
    assert {document for _, document, _, _ in ASKED} == {file.name for file in files_in(DOCUMENTS).files}


def cited(folder, embedder):
    """The first citation of each question."""
    files = [read_attachment(file) for file in files_in(DOCUMENTS).files]
    add_knowledge("each", files, folder, embedder=embedder, read=None)
    brick = Registry([folder]).scan().get("each")
    return [(*asked, next(iter(find([brick], asked[0], embedder)), None)) for asked in ASKED]


def wrong(found):
    return [
        (question, citation and (citation.document, citation.place, citation.text))
        for question, document, place, said, citation in found
        if citation is None
        or citation.document != document
        or place not in (None, citation.place)
        or said not in " ".join(citation.text.split())
    ]


def test_each_is_read_and_found_by_its_words(tiny_embedder_folder, tmp_path):
    assert wrong(cited(tmp_path, Embedder(tiny_embedder_folder))) == []


@pytest.mark.slow
def test_each_is_found_by_the_builtin_embedder(real_cache, tmp_path):
    assert wrong(cited(tmp_path, Embedder(fetch(BUILTIN_EMBEDDER)))) == []

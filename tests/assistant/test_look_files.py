"""Files as people send them: what is read in them, and what is refused, in one sentence, with nothing fetched."""

import base64
import io
import json
import socket
import struct
import zlib
from email.message import EmailMessage
from typing import NoReturn

import docx
import openpyxl
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from PIL import Image, ImageDraw
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from assistant.turn.look import Limits, html_text, look
from mattoni.inputs import Attachment, Document, Picture
from tests.assistant.sent_files import ebook, ole, open_document, pdf, typed, zipped


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def pages(content: bytes, name: str = "a.bin") -> list[str]:
    looked = look([Attachment(name, content)])
    assert looked.notices == ()
    (item,) = looked.items
    assert isinstance(item, Document)
    return [page.text or "" for page in item.pages]


def text(content: bytes, name: str = "a.bin") -> str:
    (page,) = pages(content, name)
    return page


def refusal(content: bytes, name: str = "a.bin", limits: Limits | None = None) -> str:
    looked = look([Attachment(name, content)], limits or Limits())
    assert looked.items == ()
    (notice,) = looked.notices
    assert notice.code == "refused" and notice.text.startswith(name) and notice.text.endswith(".")
    return notice.text


def saved(document: object) -> bytes:
    buffer = io.BytesIO()
    document.save(buffer)  # type: ignore[attr-defined]
    return buffer.getvalue()


def unpacked(packed: str) -> bytes:
    return zlib.decompress(base64.b85decode(packed))


# Word


def test_a_docx_is_read_in_order_with_its_tables_lists_headers_and_footers() -> None:
    document = docx.Document()
    document.sections[0].header.paragraphs[0].text = "Mill Lane Choir"
    document.sections[0].footer.paragraphs[0].text = "Account 12-34"
    document.add_heading("Minutes", 1)
    document.add_paragraph("The concert is on 12 April.")
    document.add_paragraph("posters", "List Bullet")
    table = document.add_table(3, 3)
    for row, words in zip(table.rows, [("", "2022", "2023"), ("Tickets", "8", "9"), ("", "7", "6")], strict=True):
        for cell, word in zip(row.cells, words, strict=True):
            cell.text = word
    table.cell(1, 0).merge(table.cell(2, 0))
    document.add_paragraph("Signed: Olga")
    assert text(saved(document)).split("\n") == [
        "Mill Lane Choir",
        "# Minutes",
        "The concert is on 12 April.",
        "- posters",
        "|  | 2022 | 2023 |",
        "| --- | --- | --- |",
        "| Tickets | 8 | 9 |",
        "| Tickets | 7 | 6 |",
        "Signed: Olga",
        "Account 12-34",
    ]


def test_in_a_docx_insertions_form_fields_and_text_boxes_are_read_and_deletions_are_not() -> None:
    document = docx.Document()
    body = (
        f"<w:p {nsdecls('w')}><w:r><w:t>Boat: </w:t></w:r>"
        "<w:ins><w:r><w:t>Heron</w:t></w:r></w:ins><w:del><w:r><w:delText>Gull</w:delText></w:r></w:del>"
        "<w:sdt><w:sdtContent><w:r><w:t>, berth 7</w:t></w:r></w:sdtContent></w:sdt>"
        "<w:r><w:pict><w:txbxContent><w:p><w:r><w:t>in a box</w:t></w:r></w:p></w:txbxContent></w:pict></w:r></w:p>"
    )
    document.element.body.insert(0, parse_xml(body))
    assert text(saved(document)) == "Boat: Heron, berth 7\nin a box"


def test_a_docx_of_scans_gives_pages_to_be_read() -> None:
    noise = Image.effect_noise((200, 100), 90)
    document = docx.Document()
    document.add_picture(io.BytesIO(_encoded(noise)))
    (item,) = look([Attachment("scan.docx", saved(document))]).items
    assert isinstance(item, Document)
    (page,) = item.pages
    assert page.text is None and page.image is not None and page.image.size == (200, 100)


# Sheets


def test_an_xlsx_is_a_table_for_each_sheet_as_it_is_shown() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Prices"
    for row in [("Fruit 2023", None, None, None), (), ("Name", "Each", "VAT", "Day"), ("Apple", 1.5, 0.07, None)]:
        sheet.append(row)
    sheet.merge_cells("A1:D1")
    sheet["B4"].number_format, sheet["C4"].number_format = "#,##0.00 [$€-407]", "0%"
    sheet.append(["Pear", 2, None, "=B5*2"])
    book.create_sheet("Notes")["B2"] = "call Olga"
    hidden = book.create_sheet("Secret")
    hidden["A1"], hidden.sheet_state = "password", "hidden"
    assert pages(saved(book)) == [
        "Prices\n\nFruit 2023\n"
        "| Name | Each | VAT | Day |\n| --- | --- | --- | --- |\n"
        "| Apple | 1.50 € | 7% |  |\n| Pear | 2 |  | =B5*2 |",
        "Notes\n\ncall Olga",
    ]


def test_cells_merged_downwards_repeat_their_text() -> None:
    book = openpyxl.Workbook()
    for row in [("Group", "Name"), ("Fruit", "Apple"), (None, "Pear")]:
        book.active.append(row)
    book.active.merge_cells("A2:A3")
    assert text(saved(book)).endswith("| Fruit | Apple |\n| Fruit | Pear |")


def test_a_sheet_merged_down_to_its_last_cell_is_read_at_once() -> None:
    book = openpyxl.Workbook()
    book.active["A1"], book.active["XFD9000"] = "first", "last"
    members = _members(saved(book))
    sheet = members["xl/worksheets/sheet1.xml"]
    merged = b'</sheetData><mergeCells count="1"><mergeCell ref="A1:XFD1048576"/></mergeCells>'
    members["xl/worksheets/sheet1.xml"] = sheet.replace(b"</sheetData>", merged)
    assert text(zipped(members)).startswith("Sheet\n\n| first |  |")


def test_an_old_xls_is_read_too() -> None:
    head = "| Name | Each | Day |\n| --- | --- | --- |"
    assert pages(unpacked(XLS)) == [f"Prices\n\nFruit 2023\n{head}\n| Apple | 1.5 | Monday |\n| Pear | 2 | Friday |"]


def test_csv_stays_a_table_and_prose_with_commas_stays_prose() -> None:
    table = "| name | city, country |\n| --- | --- |\n| Olga | Ghent |"
    assert text(b'name;"city, country"\nOlga;Ghent\n', "a.csv") == table
    assert text(b"name\tage\nOlga\t7\nPiet\t8\n", "a.txt") == (
        "| name | age |\n| --- | --- |\n| Olga | 7 |\n| Piet | 8 |"
    )
    assert text(b'a,b\n"two\nlines","say ""hi"""\n', "a.csv") == '| a | b |\n| --- | --- |\n| two lines | say "hi" |'
    for prose in ("Dear Olga, hello\nDear Piet, hello\nBye, all", "if (a):\n\treturn b\n\treturn c"):
        assert text(prose.encode(), "a.txt") == prose


# Slides


def test_a_pptx_is_a_page_for_each_slide_with_tables_charts_and_notes() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Harvest"
    slide.placeholders[1].text = "Good year"
    slide.notes_slide.notes_text_frame.text = "thank Piet"
    other = deck.slides.add_slide(deck.slide_layouts[6])
    table = other.shapes.add_table(2, 2, 0, 0, Inches(3), Inches(1)).table
    for place, word in enumerate(["Fruit", "Tons", "Pears", "4"]):
        table.cell(place // 2, place % 2).text = word
    data = CategoryChartData()
    data.categories = ["2022", "2023"]
    data.add_series("Sales", (3, 5.5))
    other.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, Inches(2), Inches(3), Inches(2), data)
    first, second = pages(saved(deck))
    assert first == "# Harvest\nGood year\nNotes: thank Piet"
    assert second.startswith("| Fruit | Tons |\n| --- | --- |\n| Pears | 4 |")
    assert second.endswith("|  | Sales |\n| --- | --- |\n| 2022 | 3 |\n| 2023 | 5.5 |")


# OpenDocument and e-books


def test_an_odt_is_read_in_order() -> None:
    body = (
        '<text:h text:outline-level="2">Rules</text:h><text:p>Keep<text:s text:c="2"/>quiet.<text:line-break/>Always.</text:p>'
        "<text:list><text:list-item><text:p>one</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
        "<table:table-cell><text:p>b</text:p></table:table-cell></table:table-row>"
        "<table:table-row><table:table-cell><text:p>1</text:p></table:table-cell>"
        "<table:table-cell><text:p>2</text:p></table:table-cell></table:table-row></table:table>"
    )
    assert text(open_document("text", body)) == (
        "## Rules\nKeep  quiet.\nAlways.\n- one\n| a | b |\n| --- | --- |\n| 1 | 2 |"
    )


def test_an_ods_repeats_what_is_merged_and_stops_at_its_last_cell() -> None:
    def cell(word: str, more: str = "") -> str:
        return f"<table:table-cell {more}><text:p>{word}</text:p></table:table-cell>"

    rows = [
        cell("Group") + cell("Name"),
        cell("Fruit", 'table:number-rows-spanned="2"') + cell("Apple"),
        "<table:covered-table-cell/>" + cell("Pear") + '<table:table-cell table:number-columns-repeated="16382"/>',
    ]
    table = "".join(f"<table:table-row>{row}</table:table-row>" for row in rows)
    empty = '<table:table-row table:number-rows-repeated="1048573"><table:table-cell/></table:table-row>'
    body = f'<table:table table:name="Shop">{table}{empty}</table:table>'
    expected = "Shop\n\n| Group | Name |\n| --- | --- |\n| Fruit | Apple |\n| Fruit | Pear |"
    assert text(open_document("spreadsheet", body)) == expected


def test_an_odp_is_a_page_for_each_slide() -> None:
    slide = "<draw:page><draw:frame><draw:text-box><text:p>{}</text:p></draw:text-box></draw:frame></draw:page>"
    assert pages(open_document("presentation", slide.format("one") + slide.format("two"))) == ["one", "two"]


def test_an_epub_is_read_in_the_order_of_its_spine() -> None:
    book = ebook({"b": "<h1>One</h1><p>It rained.</p>", "a": "<p>It stopped.</p>"})
    assert pages(book) == ["One\nIt rained.", "It stopped."]


# Mail


def mail() -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Olga <olga@example.org>", "piet@example.org", "Käse für Rana"
    message["Date"], message["Message-ID"] = "Mon, 06 May 2024 10:00:00 +0000", "<1@example.org>"
    message.set_content("Grüße,\nthe bill is attached.\n", cte="base64")
    return message


def test_a_mail_is_read_decoded_and_what_is_attached_is_opened() -> None:
    message = mail()
    message.add_alternative("<p>not this</p>", subtype="html")
    message.add_attachment("Total 12.75".encode("utf-16"), maintype="text", subtype="plain", filename="bill.txt")
    message.add_attachment(_encoded(Image.new("RGB", (9, 9))), maintype="image", subtype="png", filename="cat.png")
    looked = look([Attachment("letter.eml", bytes(message))])
    assert looked.notices == ()
    letter, bill, cat = looked.items
    assert isinstance(letter, Document) and isinstance(bill, Document) and isinstance(cat, Picture)
    assert letter.pages[0].text == (
        "From: Olga <olga@example.org>\nTo: piet@example.org\nDate: Mon, 06 May 2024 10:00:00 +0000\n"
        "Subject: Käse für Rana\nAttached: bill.txt, cat.png\n\nGrüße,\nthe bill is attached."
    )
    assert (bill.name, bill.pages[0].text) == ("bill.txt (in letter.eml)", "Total 12.75")
    assert cat.name == "cat.png (in letter.eml)"


def test_a_mail_of_html_alone_is_read_and_a_mail_that_was_passed_on_is_opened() -> None:
    inner = mail()
    inner.set_content(
        "<table><tr><th>Item</th><th>Price</th></tr><tr><td>Tea</td><td>2</td></tr></table>", subtype="html"
    )
    outer = mail()
    outer.add_attachment(inner)
    outer_item, inner_item = look([Attachment("x.eml", bytes(outer))]).items
    assert isinstance(inner_item, Document)
    assert (inner_item.pages[0].text or "").endswith("| Item | Price |\n| --- | --- |\n| Tea | 2 |")


def test_notes_that_begin_like_a_letter_are_notes() -> None:
    for notes in ("Subject: maths\n\nTo: do", "From: me\nTo: you\nhello there", "Date: today\nSubject: tea\n\nhi"):
        assert text(notes.encode()) == notes


def test_a_mail_that_outlook_saved_is_read() -> None:
    def stream(name: str) -> str:
        return f"__substg1.0_{name}001F"

    def listed(name: int) -> bytes:
        return struct.pack("<HHIII", 0x1F, name, 6, 4098, 0)

    content = ole(
        {
            "__properties_version1.0": bytes(32) + listed(0x37) + listed(0x1000) * 260,
            stream("0037"): "The boat".ljust(2048).encode("utf-16-le"),
            stream("1000"): "It is called Heron.".ljust(2048).encode("utf-16-le"),
        }
    )
    assert text(content, "a.msg") == "Subject: The boat\n\nIt is called Heron."


# Notebooks, RTF, forms


def test_a_notebook_is_read_by_its_cells() -> None:
    notebook = {
        "nbformat": 4,
        "metadata": {"kernelspec": {"language": "python"}},
        "cells": [
            {"cell_type": "markdown", "source": ["# Rain\n", "in mm"]},
            {
                "cell_type": "code",
                "source": "sum(days)",
                "outputs": [
                    {"output_type": "execute_result", "data": {"text/plain": ["42"], "image/png": "AAAA"}},
                    {"output_type": "error", "ename": "NameError", "evalue": "days", "traceback": ["…"]},
                ],
            },
        ],
    }
    expected = "# Rain\nin mm\n\n```python\nsum(days)\n```\n\nOutput:\n42\nNameError: days"
    assert text(json.dumps(notebook).encode(), "a.ipynb") == expected
    assert text(b'{"cells": 3}') == '{"cells": 3}'


def test_rtf_is_read() -> None:
    assert text(rb"{\rtf1\ansi\ansicpg1252 Caf\'e9 \b 3\b0\par second}") == "Café 3\nsecond"


def test_a_form_is_read_with_what_was_filled_in_beside_its_labels() -> None:
    def field(number: int, place: str, more: str) -> str:
        return f"{number} 0 obj<</Type/Annot/Subtype/Widget/Rect[{place}]{more}>>endobj\n"

    content = typed("Name of the boat:", 40, 300) + typed("Length in metres:", 40, 260) + typed("Sails", 60, 220)
    objects = field(6, "140 295 300 312", "/FT/Tx/T(a)/V(Heron)") + field(7, "140 255 300 272", "/FT/Tx/T(b)/V(7.5)")
    objects += field(8, "40 218 54 232", "/FT/Btn/T(c)/V/On/AS/On/AP<</N<</On 9 0 R>>>>")
    objects += "9 0 obj<</Type/XObject/Subtype/Form/BBox[0 0 14 14]/Length 0>>stream\n\nendstream endobj\n"
    objects += "10 0 obj<</Type/Annot/Subtype/FreeText/Rect[40 100 200 120]/Contents(paid in May)>>endobj"
    fields = "[6 0 R 7 0 R 8 0 R]"
    form = pdf(content, objects, f"/Annots{fields[:-1]} 10 0 R]", f"/AcroForm<</Fields{fields}>>")
    assert text(form).split("\n") == [
        "Name of the boat: Heron",
        "Length in metres: 7.5",
        "[x] Sails",
        "paid in May",
    ]


# Columns of a PDF

LEFT = [
    "The pump must be primed",
    "before every start. Open the",
    "valve, wait ten seconds and",
    "then close it again.",
]
RIGHT = [
    "Winter storage: drain the",
    "housing completely and leave",
    "the valve open. Store the",
    "pump above five degrees.",
]


def test_columns_stored_row_by_row_are_read_one_after_the_other() -> None:
    content = typed("Pump manual for those who have one of these pumps at home", 40, 360, 12)
    for row, (left, right) in enumerate(zip(LEFT, RIGHT, strict=True)):
        content += typed(left, 40, 320 - 14 * row) + typed(right, 220, 320 - 14 * row)
    title, left, right = text(pdf(content)).split("\n\n")
    assert (left.split("\n"), right.split("\n")) == (LEFT, RIGHT)


def test_a_table_in_a_pdf_is_read_row_by_row() -> None:
    rows = [
        ("Red apples from the garden", "12.50"),
        ("Green pears", "3.00"),
        ("Plums", "4.20"),
        ("Sum of all", "19.70"),
    ]
    content = "".join(typed(a, 40, 320 - 14 * n) + typed(b, 220, 320 - 14 * n) for n, (a, b) in enumerate(rows))
    assert [" ".join(line.split()) for line in text(pdf(content)).split("\n")] == [f"{a} {b}" for a, b in rows]


# Text and markup


@pytest.mark.parametrize(
    "notes",
    [
        "08:00 ERROR upstream said <html><head><title>502</title></head><body>Bad gateway</body></html>\n08:01 INFO ok",
        "# Notes\n\nUse `<title>`:\n\n```html\n<html>\n<body>hello</body>\n</html>\n```\n\nDone.",
        "<title> is what a page is called.\n<html> is its root.\nBoth are tags.",
        "<html> is the root of a page.\n\nThe rest is prose about <b>bold</b> and <i>italics</i> and <p>.",
        '<p align="center"><img src="logo.png"></p>\n\n# Project\n\nSome **words** about it.\n\n- one\n- two',
        '<?xml version="1.0"?>\n<note><to>Olga</to>\n<body>Tea</body></note>',
        "def page():\n    return '<html><body><p>hi</p></body></html>'",
    ],
)
def test_text_with_tags_in_it_loses_nothing(notes: str) -> None:
    assert text(notes.encode(), "a.md") == notes


@pytest.mark.parametrize(
    "page",
    [
        "<!doctype html>\n<title>Menu</title>\n<p>Soup",
        "<!-- saved from a shop -->\n<html lang=en><head><title>Menu</title></head><body><p>Soup</p></body></html>",
        '<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x" "y">\n<html><head><title>Menu</title></head><body><p>Soup</p></body></html>',
        "<div><b>Menu</b></div>\n<div><p>Soup</p></div>",
    ],
)
def test_pages_and_pieces_of_pages_are_read_as_pages(page: str) -> None:
    assert text(page.encode()) == "Menu\nSoup"


def test_in_a_page_code_keeps_its_lines_tables_their_heads_and_forms_what_was_filled_in() -> None:
    page = (
        "<html><body><pre>if a:\n    b</pre><ol><li>one<li>two</ol>"
        "<table><tr><th>Year<th colspan=2>Tons</tr><tr><td rowspan=2>2023<td>1<td>2</tr><tr><td>3<td>4</table>"
        "<table><tr><td><table><tr><td>laid out</td></tr></table></td></tr><tr><td>below</td></tr></table>"
        "<form>Boat <input value=Heron> <input type=checkbox checked> sails</form></body></html>"
    )
    assert html_text(page).split("\n") == [
        "if a:",
        "    b",
        "1. one",
        "2. two",
        "| Year | Tons | Tons |",
        "| --- | --- | --- |",
        "| 2023 | 1 | 2 |",
        "| 2023 | 3 | 4 |",
        "laid out",
        "below",
        "Boat Heron [x] sails",
    ]


# Pictures


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(content: bytes) -> Image.Image:
    looked = look([Attachment("a.png", content)])
    assert looked.notices == ()
    (item,) = looked.items
    assert isinstance(item, Picture)
    return item.image


def test_heic_is_decoded() -> None:
    image = picture(unpacked(HEIC))
    left, right = image.getpixel((10, 30)), image.getpixel((50, 30))
    assert left[2] > 200 > 60 > left[0] and right[0] > 200 > 60 > right[2]


def test_every_page_of_a_tiff_is_a_page_to_be_read() -> None:
    second = Image.new("L", (30, 40), 200)
    content = _encoded(Image.new("L", (30, 40), 10), "TIFF", save_all=True, append_images=[second])
    (item,) = look([Attachment("fax.tif", content)]).items
    assert isinstance(item, Document)
    assert [page.number for page in item.pages] == [1, 2]
    assert [page.image.getpixel((5, 5))[0] for page in item.pages if page.image] == [10, 200]


def test_a_drawing_is_drawn_and_reads_nothing_from_outside(tmp_path) -> None:
    (tmp_path / "secret.png").write_bytes(_encoded(Image.new("RGB", (10, 10), (255, 0, 0))))
    shapes = (
        f'<image href="{tmp_path}/secret.png" width="50" height="50"/>'
        f'<image href="file://{tmp_path}/secret.png" width="50" height="50"/>'
        '<image href="https://example.org/a.png" width="50" height="50"/>'
        "<style>@import url(https://example.org/a.css); rect { fill: blue }</style>"
        "<script>document.title = 1</script>"
        '<rect x="50" width="50" height="50"/>'
    )
    image = picture(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 50">{shapes}</svg>'.encode())
    assert image.size == (1600, 800)
    assert image.getpixel((400, 400)) == (255, 255, 255) and image.getpixel((1200, 400)) == (0, 0, 255)


@pytest.mark.parametrize(("ink", "ground"), [("white", 0), ("black", 255), ("red", 255)])
def test_what_is_transparent_gets_a_ground_that_contrasts(ink: str, ground: int) -> None:
    image = Image.new("RGBA", (200, 60), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((20, 20, 120, 30), ink)
    assert picture(_encoded(image)).getpixel((190, 50)) == (ground,) * 3


def test_a_long_screenshot_stays_sharp_and_comes_in_pieces() -> None:
    image = Image.new("RGB", (600, 12_000), "white")
    for top in range(0, 12_000, 100):
        ImageDraw.Draw(image).rectangle((0, top + 20, 400, top + 80), "black")
    (item,) = look([Attachment("chat.png", _encoded(image))]).items
    assert isinstance(item, Picture)
    assert item.image.size == image.size and item.is_tall and item.aspect == 20
    pieces = item.pieces()
    assert sum(piece.height for piece in pieces) == 12_000 and max(piece.height for piece in pieces) <= 960
    # None is cut through a bar.
    assert all(piece.getpixel((300, 0)) == (255, 255, 255) for piece in pieces)


# What is refused


def test_damaged_sound_is_refused_as_sound() -> None:
    wav = b"RIFF\x24\0\0\0WAVEfmt " + bytes(40)
    looked = look([Attachment("memo.wav", wav)])
    assert looked.items == ()
    assert looked.notices[0].text == "memo.wav is damaged and cannot be opened: save it again or send another copy."
    assert [(refused.name, refused.kind) for refused in looked.refused] == [("memo.wav", "sound")]


def test_what_was_refused_is_known_by_its_kind() -> None:
    broken = [
        Attachment("a.docx", b"PK\x03\x04rubbish"),
        Attachment("a.png", b"\x89PNGrubbish"),
        Attachment("b.jpg", b""),
    ]
    assert [refused.kind for refused in look(broken).refused] == ["document", "picture", "picture"]


def test_a_zip_bomb_is_refused_before_it_is_unpacked() -> None:
    document = docx.Document()
    document.add_paragraph("hello")
    bomb = zipped({**_members(saved(document)), "word/media/a.png": bytes(2_000_000)})
    assert "MB large once it is unpacked" in refusal(bomb, limits=Limits(unpacked_bytes=1_000_000))
    assert text(bomb) == "hello"


def test_entities_and_references_to_files_are_refused() -> None:
    document = docx.Document()
    document.add_paragraph("hello")
    members = _members(saved(document))
    declaration = b'<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b SYSTEM "file:///etc/passwd">]>'
    body = members["word/document.xml"]
    members["word/document.xml"] = body.replace(b"?>", b"?>" + declaration, 1)
    assert "defines entities of its own" in refusal(zipped(members))
    drawing = '<!DOCTYPE svg [<!ENTITY a "x">]><svg xmlns="http://www.w3.org/2000/svg"><text>&a;</text></svg>'
    assert "entities of its own" in refusal(drawing.encode())


def test_a_drawing_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assistant.turn.look.svg._MOST_SECONDS", 0.5)
    endless = (
        '<filter id="f"><feTurbulence numOctaves="1000000"/></filter><rect width="9" height="9" filter="url(#f)"/>'
    )
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{endless}</svg>'
    assert refusal(drawing.encode(), "a.svg") == "a.svg takes too long to draw: save it as PNG."


def test_locked_office_files_are_refused_with_the_reason() -> None:
    sentence = "is locked with a password: save it without one."
    assert sentence in refusal(ole({"EncryptionInfo": bytes(10), "EncryptedPackage": bytes(5000)}))
    locked = bytearray(zipped({"mimetype": "application/epub+zip", "a.txt": "hello"}))
    place = locked.index(b"PK\x01\x02")
    locked[place + 8] |= 1
    assert sentence in refusal(bytes(locked))


def test_old_office_files_and_plain_zips_are_refused_with_advice() -> None:
    assert "old office file" in refusal(ole({"WordDocument": bytes(100)}))
    assert "send the files in it" in refusal(zipped({"a.txt": "hello"}))


def test_of_many_sheets_the_first_are_read_and_the_user_is_told() -> None:
    book = openpyxl.Workbook()
    for number in range(4):
        book.create_sheet(f"S{number}")["A1"] = "word"
    looked = look([Attachment("a.xlsx", saved(book))], Limits(pages=3))
    (item,) = looked.items
    assert isinstance(item, Document) and len(item.pages) == 3
    assert looked.notices[0].text == "a.xlsx has 5 sheets; only the first 3 are read: send the part that matters."


def _members(content: bytes) -> dict[str, bytes]:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# 64 x 64, blue on the left and red on the right, written by pillow-heif.
HEIC = (
    "c-muNV30{GsVvAy%}izhg51nBLl8SRGck>UfiWyMwIq=N0u(b+a*CjAhJwuG5(YG&l$nzcHpIn&fe{FSfUycf1Az_@D`#frrGa@M"
    "QBfc#l?lqrC`&d3G5HEIOLE~#u4NV!6#(h&nFY!DK)M2`%$boHBs2l6NbUo}pT9qTFfi~lCjfOwI56@s{{IhBzzkBs3_^0dm>d#;"
    "lG;v;jA$|o6dGBlz4Fvtm&YW<!vPXH0U|gYl7Q;jT^J7*ZBTLmS|gmCpHq~VoKpc5=4D`O01Am@78j&K{pJA00tJ~BnIHjX4i2Dc"
    "4C0vuxv<~^h6qa|6Eh2tX_A|g2nsz74aW7t4Nr{^%>Vx*MPvOxCfWG+S57U>Uu$arzt!3GZ$^93#7O%odp-aFLjqN1"
)
# Two sheets, the second hidden, written by xlwt.
XLS = (
    "c-rk)O-NKx6#nje^WzNu%$Nom$RK28E=o6UbTU#`%9M+uf_lz8aBv#sWeZ!BWiErDRnbOp)5dDk4@K0jMPSq-2m&oywF(Ma=)BH3"
    "b6;uA!hw{G_YL>ld(XY!z4x7S?tOROtA+UD?7hY%{Dy9rD7X=XR_PR_h*yb$+Fh56US2`T^|7T8sUSy&f_Pl@GR!_?e=otn-N18_"
    "zz0evF^<8pyq(xY9F#R!ir3Jk0u*}&Zc(a6gRHAoWLo4lk$0r;6Oji*b5&#)^<7lQv5*{W?bLC6%xIRjYLW^Mg!4```%#Y<9LE>0"
    "sbb$CdYr74`!^e!0+pBpd9L5i+m4l6L>;+s4&U4a@YUO^&l0|VbM*?O|GriqE}_3}1b`{Hrxgd{3<YFmptucFPBv|yWld*@9Uj7v"
    "op$VrWemw7%qa@=Ip?wyiS~W%9mE^7&e)XoTImrJIAl!*fu8a4oJ}JPjO8=dB(<h&%Ly?tOLZ!YWHT8%ALSwCEQqZ+3#w#?RFce~"
    "M#^#7Cowwhmv4W0JusX~o)XQJod3nQ#7=%JxVXd&B3Da`JQ=-LfL3Ab6?s`k-67>hk#!W^l((enb)j!s`dpFL7MiC+@FuxyRe3j+"
    "XFeZ(*fjGoxrfU0{Y&TT=HDh~(M-n55TAe3Xj5(K<_*T9q?apwp1c>?@W<IwVZ`*>UHvMo!3vw75EuDWYHS_05BFCk`YY+rvRL!1"
    "S*#gUGxcmn3AQ0@w&DdNs(o?7fNo=UP_xYvY*W}F%{GM{)pMJ|W~YDBt7I7HHfnL7r==717d9hS)K9rpV?~vW6@G59DoR<^hYue<"
    "eE9I;W8<OZo>#n;^F1u6?{Z=NU1x<-!T(J1-{J_y=r=)sOM8*0+`(j7@v|L4<&CA*$??7yGLF*h4n{F7>liINe(5f*RzJ_WiLt-8"
    "h02}3P|i9xc>W(cPX?F"
)

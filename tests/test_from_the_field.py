"""Trouble that people reported of assistants of this kind, on the builtin host and with what it is made of in the small."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import pytest

from assistant.assistant import Assistant
from assistant.evaluation.asking import shipped_assistant
from assistant.evaluation.looping import goes_round
from assistant.evaluation.sent import Sent
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from assistant.turn.ticket import Ticket
from mattoni.inputs import Attachment
from modality_bricks.training.packs import pack_files

pytestmark = pytest.mark.slow

BAKERY = Sent(
    page=(
        "THE CORNER BAKERY",
        "8 Windmill Road",
        "Date 23/05/2023",
        "Rye loaf\t4.10",
        "Butter croissant\t2.30",
        "Apple cake slice\t3.60",
        "Filter coffee\t2.75",
        "TOTAL\t12.75",
        "CARD\t12.75",
        "Have a nice day",
    )
)
LYING = Sent(
    page=(
        "HARBOUR HARDWARE",
        "14 Quay Street",
        "Date 12/03/2024",
        "Hinge brass\t3.20",
        "Wood glue 250ml\t6.45",
        "Sandpaper P120\t1.80",
        "Paint brush 2in\t4.10",
        "SUBTOTAL\t15.55",
        "TAX 8%\t1.24",
        "TOTAL\t16.79",
        "CASH\t20.00",
        "CHANGE\t3.21",
        "Thank you",
    ),
    turned=90,
)
INVOICE = b"""GREEN LANE GARDEN CENTRE
3 Green Lane
Invoice date 02/02/2021
Rose bush 18.50
Compost 9.70
Watering can 14.00
Gloves 6.00
Total 48.20
Paid by card
"""
RULES_JA = """市立図書館の利用規則

開館時間は平日が午前九時から午後七時まで、土曜日は午後五時までです。日曜日は休館です。

本は一度に八冊まで、三週間借りることができます。返却が遅れると一日につき十円の延滞料がかかります。

館長は山田花子です。駐車場は建物の裏にあり、二時間まで無料です。
"""


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory, real_home: Path) -> Iterator[Assistant]:
    with closing(shipped_assistant(tmp_path_factory.mktemp("field"))) as opened:
        yield opened


def ask(
    assistant: Assistant,
    text: str,
    files: Sequence[Attachment] = (),
    choices: Choices | None = None,
    talk: str | None = None,
    max_tokens: int = 48,
) -> Ticket:
    ticket = assistant.ask(text, files, choices, Sampling(temperature=0.0, max_tokens=max_tokens), talk)
    assert ticket.wait(600), "the turn does not end"
    return ticket


def picture(sent: Sent) -> Attachment:
    return sent.attachment("picture.png", Path())


@pytest.mark.parametrize(("question", "answer"), [("What is the total?", "12.75"), ("What is the date?", "23/05/2023")])
def test_a_question_about_a_receipt_is_answered_from_it_beside_another_invoice(assistant, question, answer):
    assistant.add_knowledge("invoices", [Attachment("other-invoice.txt", INVOICE)])
    try:
        ticket = ask(assistant, question, [picture(BAKERY)])
    finally:
        assistant.remove_brick("invoices")
    assert answer in ticket.text
    assert "invoices" not in [brick.name for brick in ticket.trace.bricks]


def test_a_second_photograph_is_seen_as_the_first_is(assistant, training_data):
    files = pack_files(training_data / "vision" / "flickr8k-dev-000.tar.gz")
    photos = [Attachment("picture.webp", files[name]) for name in islice((n for n in files if n.endswith(".webp")), 9)]
    same = 0
    for first, second in zip(photos, photos[1:], strict=False):
        talk = assistant.store.new()
        ask(assistant, "Describe the photo.", [first], talk=talk, max_tokens=24)
        after = ask(assistant, "Describe the photo.", [second], talk=talk, max_tokens=24)
        assistant.store.delete(talk)
        assert "compare-pictures" not in [brick.name for brick in after.trace.bricks]
        same += after.text == ask(assistant, "Describe the photo.", [second], max_tokens=24).text
    assert same >= 6, f"only {same} of 8 are described as they are alone"


@pytest.mark.parametrize(
    ("question", "sent"),
    [
        ("Make a table of the items and prices.", BAKERY),
        ("Write a short poem about rain.", None),
        ("Name ten vegetables that are green.", None),
    ],
)
def test_an_answer_does_not_go_round_in_circles(assistant, question, sent):
    ticket = ask(assistant, question, [picture(sent)] if sent is not None else [], max_tokens=512)
    assert ticket.text.strip() and not goes_round(ticket.text)


def test_a_japanese_question_finds_the_passage_that_answers_it(assistant):
    assistant.add_knowledge("rules", [Attachment("rules-ja.txt", RULES_JA.encode())])
    try:
        ticket = ask(assistant, "延滞料はいくらですか", choices=Choices(bricks={"rules": Choice("on")}))
    finally:
        assistant.remove_brick("rules")
    assert any("延滞料" in citation.text for citation in ticket.trace.citations)


def test_knowledge_that_was_switched_on_and_has_nothing_is_told_of(assistant):
    assistant.add_knowledge("invoices", [Attachment("other-invoice.txt", INVOICE)])
    try:
        ticket = ask(assistant, "Who wrote the Divine Comedy?", choices=Choices(bricks={"invoices": Choice("on")}))
    finally:
        assistant.remove_brick("invoices")
    assert not ticket.trace.citations
    assert any("invoices" in notice.text for notice in ticket.trace.notices)


def test_a_receipt_that_lies_on_its_side_is_read_from_its_top(assistant):
    ticket = ask(assistant, "What is the total?", [picture(LYING)])
    assert "16.79" in ticket.text

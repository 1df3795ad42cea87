"""The form of scripted conversations, and what counts as a fault in a turn."""

import io

import pytest
from PIL import Image

from assistant.evaluation.asking import Reply
from assistant.evaluation.conversations import Turn, faults, hold, read_conversation, summary
from assistant.evaluation.sent import Sent, telling_words
from assistant.turn.route import Choice
from mattoni.errors import MattoniError

GOOD = """
title: Talk
attachments:
  rules.txt: {text: The fee is 140 euros.}
turns:
  - {say: How much is it, attach: [rules.txt], bricks: [document], about: rules.txt, answers: ["140"], metric: contains}
"""


def written(folder, text):
    path = folder / "talk.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("title: Talk", "titel: Talk", "talk.yaml: title: Field required."),
        ("bricks: [document]", "brick: [document]", "talk.yaml: turns.1.brick: Extra inputs are not permitted."),
        ("bricks: [document], ", "", "turns.1: give 'bricks' that must take part or, in 'without', some that must not."),
        ("say: How much is it, attach: [rules.txt]", "words: 3", "turns.1: it sends nothing: give 'say' or 'attach'."),
        (', metric: contains', "", "turns.1: 'answers' and 'metric' need each other."),
        ("attach: [rules.txt], ", "", "turn 1 is about 'rules.txt', which was not sent until then."),
        ("attach: [rules.txt]", "attach: [rules.md]", "there is no attachment 'rules.md'."),
        ("turns:", "  more.txt: {text: More.}\nturns:", "the attachment 'more.txt' is never sent."),
        ("{text: The fee", "{photo: x, text: The fee", "give one of 'file', 'text', 'page', 'chart' and 'photo'."),
        ("{text: The fee", "{turned: 90, text: The fee", "'turned' and 'ground' belong to 'page'."),
        ("turns:", "turns: [", "talk.yaml is no YAML"),
    ],
)  # fmt: skip
def test_a_conversation_that_is_wrong_is_refused_in_one_sentence(tmp_path, old, new, sentence):
    assert old in GOOD
    with pytest.raises(MattoniError) as caught:
        read_conversation(written(tmp_path, GOOD.replace(old, new)))
    assert sentence in str(caught.value)


def test_what_is_switched_by_hand_becomes_choices():
    turn = Turn(say="?", bricks=("a",), vision="photo", switched_on=("a",), switched_off=("b",))
    assert turn.choices.vision == "photo"
    assert turn.choices.bricks == {"a": Choice("on"), "b": Choice("off")}


def test_drawn_attachments_are_pictures_and_know_what_is_on_them(tmp_path):
    page = Sent(page=("CORNER BAKERY", "Rye loaf\t4.10"))
    for turned, wide in ((0, True), (90, False)):
        with Image.open(
            io.BytesIO(page.model_copy(update={"turned": turned}).attachment("a.png", tmp_path).content)
        ) as it:
            assert (it.width > it.height) == wide
    assert page.words == {"corner", "bakery", "rye", "loaf", "4.10"}
    assert page.attachment("scan.pdf", tmp_path).content.startswith(b"%PDF")
    for kind in ("bar", "horizontal bar", "line", "pie"):
        chart = Sent(chart={"kind": kind, "title": "Rain", "values": {"May": 85, "June": 25}})
        with Image.open(io.BytesIO(chart.attachment("c.png", tmp_path).content)) as it:
            assert it.size == (600, 400)
        assert chart.words == {"rain", "may", "june"} - {"may"}  # "may" is a word of no subject


def test_the_page_is_turned_clockwise(tmp_path):
    content = Sent(page=("X" + " " * 40 + ".",), turned=90).attachment("a.png", tmp_path).content
    with Image.open(io.BytesIO(content)) as it:
        ink = it.convert("L").point(lambda value: 255 if value < 128 else 0)
        top, bottom = ink.crop((0, 0, it.width, it.height // 2)), ink.crop((0, it.height // 2, it.width, it.height))
        assert sum(top.histogram()[128:]) > sum(bottom.histogram()[128:])


def test_a_page_hangs_on_a_picture(tmp_path):
    Image.new("RGB", (300, 200), "green").save(tmp_path / "wall.png")
    content = Sent(page=("WET FLOOR",), ground="wall.png").attachment("a.png", tmp_path).content
    with Image.open(io.BytesIO(content)) as it:
        assert it.size == (300, 200)
        assert it.getpixel((150, 20)) != it.getpixel((150, 180)) == it.getpixel((5, 20)) == (0, 128, 0)


def test_a_photograph_that_is_not_there_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("MATTONI_DATA", raising=False)
    with pytest.raises(MattoniError, match="MATTONI_DATA is not set"):
        Sent(photo="1").attachment("a.webp", tmp_path)


def test_amounts_and_dates_are_words():
    assert telling_words("The total is 12.75, on 23/05/2023.") == {"total", "12.75", "23/05/2023"}


WORDS = {"dog.jpg": {"dog", "water", "swims"}, "bird.jpg": {"bird", "water", "flies"}}


def reply(answer="", bricks=(), notices=()):
    trace = {
        "bricks": [{"name": name, "kind": "task" if name == "sql" else "modality"} for name in bricks],
        "notices": [{"code": code, "text": text} for code, text in notices],
    }
    return Reply(answer, trace)


@pytest.mark.parametrize(
    ("expected", "said", "found"),
    [
        ({"bricks": ("photo",)}, reply("x", ["photo"]), []),
        ({"bricks": ("photo",)}, reply("x", ["chart"]), ["brick: photo did not take part"]),
        ({"without": ("photo",)}, reply("x", ["photo", "photo"]), ["brick: photo took part"]),
        # A skill that nobody expects is a fault, whatever else may take part.
        ({"bricks": ("photo",)}, reply("x", ["photo", "chart", "sql"]), ["brick: sql took part"]),
        ({"bricks": ("sql",)}, reply("x", ["sql"]), []),
        ({"about": "bird.jpg"}, reply("A bird flies over the water."), []),
        ({"about": "bird.jpg"}, reply("It is over the water."), []),
        (
            {"about": "bird.jpg"},
            reply("A dog swims in the water."),
            ["about: more is said of dog.jpg (dog, swims) than of bird.jpg"],
        ),
        ({"about": "bird.jpg"}, reply(), ["about: there is no answer"]),
        ({"answers": ("12.75",), "metric": "contains"}, reply("It is 12.75."), []),
        ({"answers": ("12.75",), "metric": "contains"}, reply("It is 2.75."), ["answer: none of 12.75"]),
        ({}, reply("x", (), [("length", "The answer reached its longest length.")]), []),
        ({}, reply("x", (), [("no-picture", "None is attached.")]), ["notice: None is attached."]),
        ({"told": ("no-picture",)}, reply("", (), [("no-picture", "None is attached.")]), []),
        ({"told": ("minutes.docx",)}, reply("", (), [("refused", "minutes.docx is damaged.")]), []),
        ({"told": ("rules",)}, reply("x"), ["notice: nothing is told of 'rules'"]),
        ({"untold": ("length",)}, reply("x", (), [("length", "Long.")]), ["notice: 'length' is told"]),
        ({}, reply("I am here to help you. " * 5), ["loop: the answer goes round in circles"]),
    ],
)
def test_what_is_not_as_expected_is_a_fault(expected, said, found):
    turn = Turn(say="What is it?", **({"without": ("english-german",)} | expected))
    assert faults(turn, said, WORDS) == found


def test_words_of_the_message_do_not_tell_what_an_answer_is_about():
    turn = Turn(say="Is there a dog?", about="bird.jpg", without=("x",))
    assert faults(turn, reply("No, there is no dog."), WORDS) == []


def test_a_conversation_is_held_and_leaves_nothing_behind(tmp_path, assistant):
    text = GOOD + "  - {say: And when, without: [eyes, handbook], switched_off: [handbook]}\n"
    text = text.replace("turns:", "  more.txt: {text: The kiln is hot.}\nknowledge: {handbook: [more.txt]}\nturns:", 1)
    conversation = read_conversation(written(tmp_path, text))
    before = [brick.name for brick in assistant.bricks().usable]
    held = hold(conversation, tmp_path, assistant, max_tokens=4)
    assert [said.say for said in held] == ["How much is it", "And when"]
    assert "document" in held[0].bricks
    assert [brick.name for brick in assistant.bricks().usable] == before
    assert assistant.store.conversations() == []
    told = summary({"talk": (conversation, held)}, {"other": "no data"})
    assert told["turns"] == 2 and told["right brick"]["n"] == 2 and told["right answer"]["n"] == 1
    assert told["skipped"] == {"other": "no data"}
    assert [turn["say"] for turn in told["conversations"]["talk"]["turns"]] == ["How much is it", "And when"]

import json
from pathlib import Path

import pytest

from assistant.evaluation import measure_talk
from assistant.evaluation.asking import Row, write_lines
from assistant.evaluation.measure_talk import Talk, about_one, about_two, two_pictures
from task_bricks.training.messages import read_messages
from tests.assistant.conftest import png

PHOTOS = ["a.png", "b.png", "c.png"]


def test_questions_about_one_picture_come_with_it_or_after_two():
    with_it, after = about_one(["Is it red?", "is she smiling"], PHOTOS)
    assert ([e.image for e in with_it.before], with_it.pictures) == (["a.png"], ("b.png",))
    assert ([e.image for e in after.before], after.pictures) == (["b.png", "c.png"], ())


def test_questions_about_two_pictures_come_with_both_with_one_and_with_none():
    rows = about_two(["Compare them."], PHOTOS)
    assert [([e.image for e in row.before], list(row.pictures)) for row in rows] == [
        ([], ["a.png", "b.png"]),
        (["a.png"], ["b.png"]),
        (["a.png", "b.png"], []),
    ]
    assert len({row.id for row in rows}) == 3


def test_no_key_of_the_skill_was_made_from_the_messages_it_is_measured_on():
    recipes = (Path(__file__).parents[2] / "task_bricks" / "recipes").glob("compare-pictures.*.txt")
    known = {message.casefold() for path in recipes for message in read_messages(path)}
    assert known and len(two_pictures()) == 40
    assert not known & {message.casefold() for message in two_pictures()}


@pytest.fixture
def talk(assistant, tmp_path, monkeypatch):
    """Three rows of each set that is written, and the tiny assistant for every home."""
    talk = Talk(assistant.host, tmp_path, limit=3, max_tokens=8)
    monkeypatch.setattr(assistant, "close", lambda: None)
    monkeypatch.setattr(Talk, "assistant", lambda self, home="home": assistant)
    for name, question, extra in (
        ("chat", "Hello there.", {}),
        ("second-photo", "Describe the photo.", {"answers": ["a red wall"], "metric": "cider", "image": True}),
        ("receipt-followups", "What is the date?", {"answers": ["1/2/2020"], "metric": "contains"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        rows = []
        for n, colour in enumerate(("red", "green", "blue", "white")):
            (folder / f"{n}.png").write_bytes(png(colour).content)
            before = {} if name == "chat" else {"before": {"question": "What is it?", "image": f"{(n + 1) % 4}.png"}}
            row = {"id": f"{name}{n}", "question": question, **extra, **before}
            rows.append(row | ({"image": f"{n}.png"} if extra.get("image") else {}))
        write_lines(folder / "rows.jsonl", rows)
    return talk


def test_loops_are_counted_and_a_second_run_asks_nothing(talk, capfd):
    figures = measure_talk.chat(talk)
    assert figures["looping"]["n"] == 3 and figures["ended at its longest"]["percent"] >= 0
    assert "chat.answers.jsonl: 3 of 3 to ask" in capfd.readouterr().err
    assert measure_talk.chat(talk) == figures
    assert "chat.answers.jsonl: 0 of 3 to ask" in capfd.readouterr().err
    assert measure_talk.receipts(talk)["dates"]["n"] == 3


def test_an_answer_that_loops_is_named_by_its_row():
    trace = {"notices": [{"code": "length"}]}
    lines = [{"id": "a", "answer": "Ten. " * 20, "trace": trace}, {"id": "b", "answer": "Ten.", "trace": {}}]
    found = measure_talk.looping(lines)
    assert (found["looping"]["percent"], found["ended at its longest"]["percent"]) == (50.0, 50.0)
    assert found["looping rows"] == ["a"]


def test_a_second_photograph_is_asked_about_after_another_and_alone(talk):
    figures = measure_talk.second(talk)
    assert figures["second"]["n"] == figures["alone"]["n"] == 3
    kept = [json.loads(line) for line in (talk.out / "photo-alone.answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in kept] == ["second-photo0", "second-photo1", "second-photo2"]


def test_how_often_the_skill_is_chosen_is_told_by_where_the_pictures_are(talk, monkeypatch):
    monkeypatch.setattr(measure_talk, "_picture_questions", lambda: ["Is it red?", "Is it round?"])
    monkeypatch.setattr(measure_talk, "two_pictures", lambda: ["Compare them."])
    found = measure_talk.compare(talk)
    assert found["one picture"]["percent"] == 0 and found["one picture"]["wrong"] == []
    assert set(found["two pictures"]) >= {"both in the message", "one in the message", "none in the message"}
    assert found["two pictures"]["wrong"] == ["Compare them."] * 3  # the skill is not installed


def test_five_bricks_that_have_nothing_to_do_with_receipts(training_data):
    bricks = measure_talk.unrelated_knowledge(training_data)
    assert len(bricks) == 5 and all(files and all(file.content for file in files) for files in bricks.values())


def test_receipts_are_asked_for_total_and_date(training_data):
    row = Row(id="receipt293", question="What is the total?", image="a.webp", answers=("1",), metric="contains")
    total, date = measure_talk._totals_and_dates([row])
    assert (total.id, date.id, date.message, date.pictures) == (
        "receipt293-total",
        "receipt293-date",
        "What is the date?",
        ("a.webp",),
    )
    assert date.answers == ("6/4/2018",)

"""What is asked of an image brick, and how its answers become figures; on a tiny assistant that sees with random weights."""

import json

import pytest
from PIL import Image

from assistant.evaluation.asking import Row, write_lines
from assistant.evaluation.measure_eyes import (
    Measure,
    figure,
    in_other_words,
    naming,
    paired_rows,
    pairs,
    plain,
    wordings,
)
from assistant.evaluation.rows import write_rows
from mattoni.errors import MattoniError
from mattoni.metrics import METRICS
from modality_bricks.training.readers import CAPTION_QUESTIONS, NAME_QUESTIONS
from tests.assistant.conftest import png


def tile(number, thing, question="What is in the picture?"):
    return Row(id=f"r{number}", question=question, image=f"{number}.png", answers=[thing], metric="contains")


def bare(question):
    return "".join(c for c in question.casefold() if c.isalnum() or c == " ")


def test_the_other_wordings_are_twenty_of_each_question_and_none_is_used_in_training():
    trained = {bare(question) for question in (*NAME_QUESTIONS, *CAPTION_QUESTIONS)}
    for question in ("What is in the picture?", "Describe the photo."):
        asked = {row.question for row in in_other_words([tile(n, "dog", question) for n in range(60)])}
        assert len({bare(other) for other in asked}) == 20
        assert not {bare(other) for other in asked} & (trained | {bare(question)})


def test_pairs_show_two_things_and_either_place_is_right_as_often():
    rows = paired_rows([tile(n, ("dog", "orange", "cat")[n % 3]) for n in range(12)])
    assert len(rows) == 12
    assert sorted(row.answers[0] for row in rows) == ["first"] * 6 + ["second"] * 6
    things = {f"{n}.png": ("a dog", "an orange", "a cat")[n % 3] for n in range(12)}
    for row in rows:
        first, second = (things[picture] for picture in row.pictures)
        shown, other = (first, second) if row.answers == ("first",) else (second, first)
        assert shown != other
        assert row.question == f"Which picture shows {shown}, the first or the second?"
    assert paired_rows([tile(0, "dog"), tile(1, "dog")]) == []


@pytest.fixture
def measure(assistant, tmp_path, monkeypatch):
    """Eight tiles of four colours, whose names the tiny host never says, and the same as photos to describe."""
    monkeypatch.setattr("assistant.evaluation.measure_eyes._TOKENS", dict.fromkeys(METRICS, 3))
    colours = ("red", "green", "blue", "black")
    for name, question, metric in (
        ("tinyimagenet", "What is in the picture?", {"metric": "named", "words": 12, "names": "names.json"}),
        ("flickr8k", "Describe the photo.", {"metric": "cider"}),
        ("plain", "How hot is the kiln?", {"metric": "contains"}),
        ("plain-after-picture", "How hot is the kiln?", {"metric": "contains"}),
    ):
        folder = tmp_path / "eyes" / name
        folder.mkdir(parents=True)
        (folder / "names.json").write_text(json.dumps(colours))
        rows = []
        for n in range(8):
            (folder / f"{n}.png").write_bytes(png(colours[n % 4], (20 + n, 20)).content)
            row = {"id": f"r{n}", "question": question, "answers": [colours[n % 4]], **metric}
            seen = {"before": {"question": "What is it?", "image": f"{n}.png"}} if name.endswith("picture") else {}
            rows.append(row | seen | ({} if name.startswith("plain") else {"image": f"{n}.png"}))
        write_lines(folder / "rows.jsonl", rows)
    return Measure(assistant, tmp_path / "eyes", "eyes", limit=4, blind=None)


def test_every_part_gives_figures_with_n_and_an_interval_and_asks_once(measure, monkeypatch):
    found = naming(measure)
    assert found["n"] == found["shuffled"]["n"] == 4
    assert 0 <= found["low"] <= found["score"] <= found["high"] <= 1 <= found["distinct"]
    assert set(wordings(measure)["flickr8k"]) >= {"score", "first wording", "kept"}
    assert set(plain(measure)["difference"]) == {"points", "low", "high"}
    assert measure.assistant.store.conversations() == [], "no conversation is left behind"
    monkeypatch.setattr(type(measure.assistant), "ask", None)
    assert naming(measure) == found


def test_pairs_are_made_of_what_was_named_right(measure):
    measure.ask("tinyimagenet")
    with pytest.raises(MattoniError, match="fewer than two classes were named right"):
        pairs(measure)
    path = measure.out / "tinyimagenet.answers.jsonl"
    said = [json.loads(line) for line in path.read_text().splitlines()]
    right = {row.id: row.answers[0] for row in measure.rows("tinyimagenet")}
    write_lines(path, [line | {"answer": f"It is {right[line['id']]}."} for line in said])
    found = pairs(measure)
    assert (found["n"], found["named right alone"]) == (4, 4)


def test_a_run_that_was_killed_goes_on_and_a_wider_one_asks_only_what_is_new(measure, monkeypatch):
    asked = []
    ask = type(measure.assistant).ask
    monkeypatch.setattr(type(measure.assistant), "ask", lambda *args: asked.append(args) or ask(*args))
    measure.ask("tinyimagenet")
    path = measure.out / "tinyimagenet.answers.jsonl"
    path.write_text(path.read_text()[:-10])  # killed in the middle of the fourth line
    measure.limit = 6
    assert [line["id"] for line in measure.ask("tinyimagenet")] == [f"r{n}" for n in range(6)]
    assert len(asked) == 4 + 3


def test_answers_of_other_bricks_are_not_mixed_in(measure, assistant):
    with pytest.raises(MattoniError, match="holds answers of another host or other image bricks: name a new folder"):
        Measure(assistant, measure.out, None, limit=4, blind=None)


def test_a_figure_is_a_mean_with_its_interval_and_the_number_of_different_answers():
    lines = [{"id": str(n), "answer": "ab"[n % 2], "score": float(n % 2)} for n in range(100)]
    found = figure(lines)
    assert (found["score"], found["n"], found["distinct"]) == (0.5, 100, 2)
    assert 0.38 < found["low"] < 0.5 < found["high"] < 0.62


def test_rooms_and_plain_questions_are_written_as_rows(tmp_path, training_data):
    folder = write_rows("daquar", tmp_path / "daquar", training_data).parent
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 674 and {row["metric"] for row in rows} == {"exact"}
    with Image.open(folder / rows[0]["image"]) as picture:
        assert min(picture.size) == 144
    after = write_rows("plain-after-picture", tmp_path / "plain", training_data)
    assert len(after.read_text().splitlines()) == 300

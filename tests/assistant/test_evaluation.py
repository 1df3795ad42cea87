import json
import re

import pytest

from assistant.evaluation.asking import (
    Reply,
    Row,
    attachments_of,
    messages_of,
    read_rows,
    replies,
    report,
    shuffled_pictures,
    write_lines,
)
from mattoni.errors import MattoniError

GOOD = {"id": "r1", "question": "What is it?", "answers": ["a dog"], "metric": "contains"}


def rows_file(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ("{", "rows.jsonl, row 2: this is not JSON"),
        ("[1]", "rows.jsonl, row 2: this is not a JSON object"),
        ({"id": "r2", "answers": ["x"], "metric": "f1"}, "row 2: give either 'question', or 'instruction' and 'input'"),
        ({**GOOD, "id": "r2", "metric": "bleu"}, "row 2: no metric is called 'bleu' (known: contains, named"),
        ({**GOOD, "id": "r2", "answers": []}, "row 2: 'answers' and 'metric' need each other."),
        ({"id": "r2", "question": "?", "metric": "f1"}, "row 2: 'answers' and 'metric' need each other."),
        ({**GOOD, "id": "r2", "answers": [" "]}, "row 2: an answer is empty."),
        ({"question": "?", "answers": ["x"], "metric": "f1"}, "row 2: 'id' is missing; add it."),
        (GOOD, "row 2: the id 'r1' is that of row 1; make it unique."),
        ({**GOOD, "id": "r2", "metric": "named"}, "row 2: 'names' and the metric 'named' need each other."),
        ({**GOOD, "id": "r2", "metric": "named", "names": "no.json"}, "row 2: there is no file 'no.json' beside"),
        ({**GOOD, "id": "r2", "before": {"question": "?", "image": "no.png"}}, "there is no file 'no.png' beside"),
        ({**GOOD, "id": "r2", "image": "no.png"}, "row 2: there is no file 'no.png' beside the rows' file."),
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path, second, sentence):
    with pytest.raises(MattoniError) as caught:
        read_rows(rows_file(tmp_path, GOOD, second))
    assert sentence in str(caught.value)


def test_a_missing_and_an_empty_file_say_so(tmp_path):
    with pytest.raises(MattoniError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")
    with pytest.raises(MattoniError, match=r"rows.jsonl holds no rows"):
        read_rows(rows_file(tmp_path, ""))


def test_the_data_packs_rows_are_read_as_they_are(tmp_path):
    row = {
        "id": "de-1",
        "input": "A dog.",
        "instruction": "Translate to German.",
        "answers": ["Ein Hund."],
        "metric": "chrf",
        "source": "further keys are left alone",
    }
    (read,) = read_rows(rows_file(tmp_path, row))
    assert read.message == "Translate to German.\n\nA dog."


def test_limit_takes_the_first_rows_and_checks_no_others(tmp_path):
    assert [row.id for row in read_rows(rows_file(tmp_path, GOOD, "{"), limit=1)] == ["r1"]


def picture_rows(folder, count):
    for n in range(count):
        (folder / f"beehive{n}.png").write_bytes(bytes([n]))
    rows = [Row(**GOOD | {"id": f"r{n}", "image": f"beehive{n}.png"}) for n in range(count)]
    return [*rows, Row(**GOOD | {"id": "text"})]


def test_a_pictures_name_does_not_tell_what_it_shows(tmp_path):
    (sent,) = attachments_of(picture_rows(tmp_path, 1)[0], tmp_path)
    assert (sent.name, sent.content) == ("picture.png", b"\0")


@pytest.mark.parametrize("count", [2, 3, 10])
def test_shuffling_gives_every_row_another_rows_picture(tmp_path, count):
    rows = picture_rows(tmp_path, count)
    shuffled = shuffled_pictures(rows)
    before, after = [row.pictures for row in rows], [row.pictures for row in shuffled]
    assert sorted(before) == sorted(after)
    assert all(old != new for old, new in zip(before[:-1], after[:-1], strict=True))
    assert after[-1] == () and [row.answers for row in shuffled] == [row.answers for row in rows]


def test_a_single_picture_cannot_be_shuffled(tmp_path):
    with pytest.raises(MattoniError, match="at least two different ones"):
        shuffled_pictures(picture_rows(tmp_path, 1))


def test_the_report_has_scores_with_n_and_a_line_per_row(tmp_path):
    rows = [
        Row(**GOOD),
        Row(**GOOD | {"id": "r2"}),
        Row(id="r3", question="2+2?", answers=["4"], metric="number"),
    ]
    said = {"What is it?": "It is a dog.", "2+2?": "5"}
    trace = {"notices": [{"code": "fallback", "text": "…"}], "bricks": [{"name": "photo"}]}
    asked = list(replies(rows, tmp_path, lambda messages: Reply(said[messages[-1][0]], trace)))
    summary, lines = report(asked)
    assert summary["n"] == 3
    assert summary["scores"]["contains"] == {"score": 1.0, "n": 2, "low": 1.0, "high": 1.0}
    assert summary["scores"]["number"]["score"] == 0
    assert summary["notices"] == {"fallback": 3} and summary["bricks"] == {"photo": 3}
    assert [line["id"] for line in lines] == ["r1", "r2", "r3"]
    assert [line["score"] for line in lines] == [1, 1, 0]
    assert all(line["trace"] == trace for line in lines)
    write_lines(tmp_path / "out.jsonl", lines)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == lines


def test_the_names_of_all_that_could_be_named_stand_in_one_file_for_all_rows(tmp_path):
    row = {**GOOD, "metric": "named", "answers": ["dog"], "names": "names.json"}
    (tmp_path / "names.json").write_text('["dog", "cat"]')
    rows = read_rows(rows_file(tmp_path, row, {**row, "id": "r2"}))
    said = iter(["A dog.", "A dog and a cat."])
    summary, _ = report(list(replies(rows, tmp_path, lambda messages: Reply(next(said), {}))))
    assert summary["scores"]["named"]["score"] == 0.5
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(MattoniError, match="other.json is no JSON list of names"):
        read_rows(rows_file(tmp_path, {**row, "names": "other.json"}))


def test_an_earlier_message_of_the_conversation_is_sent_first(tmp_path):
    (tmp_path / "beehive.png").write_bytes(b"1")
    row = Row(**GOOD, before={"question": "What is in the picture?", "image": "beehive.png"})
    (text, (picture,), answer), own = messages_of(row, tmp_path)
    assert (text, picture.name, answer, own) == (
        "What is in the picture?",
        "picture.png",
        None,
        ("What is it?", (), None),
    )


def test_several_earlier_messages_are_sent_in_their_order_with_what_they_brought(tmp_path):
    (tmp_path / "beehive.png").write_bytes(b"1")
    (tmp_path / "honey.txt").write_bytes(b"2")
    before = [{"question": "What is it?", "image": "beehive.png"}, {"question": "Thanks."}]
    row = Row(**GOOD, before=[*before, {"question": "And this?", "file": "honey.txt"}])
    sent = [(text, [a.name for a in attachments]) for text, attachments, _ in messages_of(row, tmp_path)]
    assert sent == [
        ("What is it?", ["picture.png"]),
        ("Thanks.", []),
        ("And this?", ["document.txt"]),
        ("What is it?", []),
    ]


def test_a_history_is_held_as_it_was_and_only_the_rows_own_message_is_asked(tmp_path):
    (tmp_path / "beehive.png").write_bytes(b"1")
    history = [
        {"role": "user", "content": "What is it?", "image": "beehive.png"},
        {"role": "assistant", "content": "A beehive."},
        {"role": "user", "content": "Thanks."},
        {"role": "assistant", "content": "Not at all."},
    ]
    sent = messages_of(Row(**GOOD, history=history), tmp_path)
    assert [(m.text, len(m.attachments), m.answer) for m in sent] == [
        ("What is it?", 1, "A beehive."),
        ("Thanks.", 0, "Not at all."),
        ("What is it?", 0, None),
    ]


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ([{"role": "assistant", "content": "Hello."}], "'history' begins with a user's message"),
        ([{"role": "user", "content": "Hello."}], "'history' ends with an assistant's message"),
        (
            [{"role": "user", "content": "a", "image": "gone.png"}, {"role": "assistant", "content": "b"}],
            "no file 'gone.png'",
        ),
        ([{"role": "system", "content": "Hello."}], "history.0.role: "),
    ],
)
def test_a_history_that_is_no_talk_is_refused_in_words(tmp_path, history, sentence):
    with pytest.raises(MattoniError, match=re.escape(sentence)):
        read_rows(rows_file(tmp_path, {**GOOD, "history": history}))


def test_a_row_without_a_metric_is_asked_and_not_scored(tmp_path):
    rows = [Row(**GOOD), Row(id="r2", question="Tell me a joke.")]
    round_and_round = Reply("A dog. " + "I am here to help you. " * 4, {})
    summary, lines = report(list(replies(rows, tmp_path, lambda messages: round_and_round)))
    assert (summary["n"], summary["looping"], summary["scores"]["contains"]["n"]) == (2, 2, 1)
    assert [line["score"] for line in lines] == [1.0, None]


def test_a_row_that_failed_is_counted_and_keeps_its_reason(tmp_path):
    summary, (line,) = report([(Row(**GOOD), Reply("", {}, error="The picture is damaged."))])
    assert summary["failed"] == 1 and summary["scores"]["contains"]["score"] == 0
    assert line["error"] == "The picture is damaged."


def test_a_line_separator_inside_a_string_ends_no_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {**GOOD, "question": "a\u2028b\u0085c"}
    path.write_text("\ufeff" + json.dumps(row, ensure_ascii=False) + "\r\n\r\n", encoding="utf-8", newline="")
    (read,) = read_rows(path)
    assert read.question == row["question"]

import json
import zipfile
from collections import Counter

import pytest
from PIL import Image

from assistant.evaluation import rows
from assistant.evaluation.asking import read_rows
from assistant.evaluation.rows import amounts, write_rows
from mattoni.errors import MattoniError
from task_bricks.training.rows import read_rows as training_rows


@pytest.mark.parametrize(
    ("total", "spellings"),
    [
        ("9.00", ["9.00"]),
        ("RM9.75", ["RM9.75", "9.75"]),
        ("$1,043.7", ["$1,043.7", "1,043.7", "1043.7", "1,043.70", "1043.70"]),
        ("12 only", ["12 only"]),
    ],
)
def test_a_total_is_right_in_every_spelling(total, spellings):
    assert amounts(total) == spellings


def test_rows_of_a_text_pack_are_read_back(tmp_path, training_data):
    rows = read_rows(write_rows("translation-de", tmp_path / "de", training_data))
    assert len(rows) == 500 and rows[0].metric == "chrf"


def test_rows_come_after_three_unrelated_exchanges_of_which_the_first_shows_a_picture(tmp_path, training_data):
    path = write_rows("arithmetic", tmp_path / "talk", training_data, talk=True)
    rows = read_rows(path)
    assert len(rows) == 150 and {len(row.history) for row in rows} == {6}
    assert (path.parent / rows[0].history[0].image).is_file()
    assert rows[0].history[1].content.startswith("It shows ") and rows[0].metric == "number"


def test_receipts_are_asked_for_as_json_from_their_scan_and_from_their_lines(tmp_path, training_data):
    scans = read_rows(write_rows("receipt-json-pictures", tmp_path / "scans", training_data))
    lines = read_rows(write_rows("receipt-json-lines", tmp_path / "lines", training_data))
    asked = read_rows(write_rows("receipt-json", tmp_path / "asked", training_data))
    assert len(scans) == len(lines) == len(asked) == 60
    assert scans[0].message == lines[0].message and scans[0].image and lines[0].file
    assert asked[0].message.endswith(f"\n\n{scans[0].message}") and asked[0].answers == scans[0].answers
    assert set(json.loads(scans[0].answers[0])) == {"company", "date", "address", "total"}


def test_receipts_are_asked_for_what_they_say_as_text_and_from_the_scan(tmp_path, training_data):
    path = write_rows("receipt-questions", tmp_path / "asked", training_data)
    asked = training_rows(path)
    assert len({row.text for row in asked}) == 60 and len(asked) == 120
    assert all(row.message == f"{row.text}\n\n{row.input}" for row in asked)
    rows = read_rows(write_rows("receipt-questions-pictures", tmp_path / "scans", training_data))
    assert len(rows) > 170 and Counter(row.question for row in rows)["What is the date?"] == 60
    assert all(row.image and row.metric == "contains" for row in rows)


def test_a_receipt_is_a_picture_and_a_question(tmp_path, training_data):
    path = write_rows("receipts", tmp_path / "receipts", training_data)
    row = read_rows(path)[0]
    assert row.message == "What is the total?"
    with Image.open(path.parent / row.pictures[0]) as picture:
        assert picture.height > picture.width


def test_full_size_pictures_are_of_things_outside_the_two_hundred(tmp_path, training_data, monkeypatch):
    def download(requirement, folder):
        with zipfile.ZipFile(folder / "package.whl", "w") as package:
            for member in rows._IN_WHEELS[requirement]:
                package.writestr(member, member)
        return folder / "package.whl"

    monkeypatch.setattr(rows, "download_wheel", download)
    path = write_rows("things", tmp_path / "things", training_data)
    found = {row.id: row for row in read_rows(path)}
    assert len(found) == 21 and "foolbox-imagenet_05_853" not in found, "thatch is one of the two hundred"
    eagle = found["foolbox-imagenet_17_22"]
    assert eagle.answers[0] == "bald eagle"
    assert (path.parent / eagle.pictures[0]).read_text() == "foolbox/data/imagenet_17_22.jpg"
    assert "cheetah" in json.loads((path.parent / "names.json").read_text())


def test_the_passages_of_the_reading_questions_are_files(tmp_path, training_data):
    path = write_rows("reading", tmp_path / "reading", training_data)
    assert len(list((path.parent / "passages").glob("*.txt"))) == 817
    assert {row.metric for row in read_rows(path)} == {"f1"}


def test_a_reading_question_comes_with_its_passage(tmp_path, training_data):
    rows = read_rows(write_rows("reading-passage", tmp_path / "reading", training_data))
    assert len(rows) == 300 and {row.metric for row in rows} == {"f1"}
    passage, _, asked = rows[0].message.partition("\n\nAnswer in a few words: ")
    assert len(passage) > 200 and asked.endswith("?")


def test_two_pictures_are_asked_about_each_and_which_of_them_it_is(tmp_path, training_data):
    path = write_rows("pairs", tmp_path / "pairs", training_data)
    rows = read_rows(path)
    assert {("The first picture.",), ("The second picture.",)} < {row.answers for row in rows}
    assert all(len(row.pictures) == 2 and (path.parent / row.pictures[1]).is_file() for row in rows)
    assert {row.metric for row in rows} == {"accuracy"}


def test_a_missing_split_leaves_nothing_behind(tmp_path, training_data):
    with pytest.raises(MattoniError, match=r"There is no receipts-none\.tar .*check MATTONI_DATA and --split"):
        write_rows("receipts", tmp_path / "out", training_data, split="none")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_written_over(tmp_path):
    with pytest.raises(MattoniError, match="exists already"):
        write_rows("receipts", tmp_path, tmp_path)


def test_the_true_lines_of_a_receipt_are_a_file_with_the_same_question(tmp_path, training_data):
    pictures = read_rows(write_rows("receipts", tmp_path / "receipts", training_data))
    path = write_rows("receipts-lines", tmp_path / "lines", training_data)
    rows = read_rows(path)
    assert [(row.id, row.message, row.answers) for row in rows] == [(r.id, r.message, r.answers) for r in pictures]
    assert all(not row.pictures and row.file and (path.parent / row.file).read_text() for row in rows)


@pytest.mark.slow  # packs of a thousand pictures are unpacked
def test_a_second_photograph_comes_after_another_one(tmp_path, training_data):
    rows = read_rows(write_rows("second-photo", tmp_path / "second", training_data), limit=50)
    assert all(len(row.before) == 1 and (row.before[0].image,) != row.pictures for row in rows)
    assert {row.metric for row in rows} == {"cider"}


def test_receipts_are_asked_a_second_and_a_third_question(tmp_path, training_data):
    rows = read_rows(write_rows("receipt-followups", tmp_path / "receipts", training_data))
    assert [len(row.before) for row in rows] == [1, 2] * 30
    assert all(row.before[0].image and not row.pictures for row in rows)
    dated = [row for row in rows if row.metric is not None]
    assert len(dated) > 5 and {row.question for row in dated} == {"What is the date?"}


@pytest.mark.slow  # charts are drawn
def test_mixed_rows_are_of_all_kinds(tmp_path, training_data):
    rows = read_rows(write_rows("mixed", tmp_path / "mixed", training_data))
    kinds = Counter(row.metric for row in rows)
    assert kinds == {"named": 30, "cider": 30, "accuracy": 50, "contains": 100, "chrf": 50, None: 40}

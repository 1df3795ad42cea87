"""Files of rows as people have them: marks, encodings, line ends, lists; and what is told of the others."""

import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mattoni.errors import MattoniError
from mattoni.lines import json_rows, read_text

ROWS = [{"a": "one\u2028two\u2029three\u0085four"}, {"a": "é 漢"}]


def values(path):
    return [row.value for row in json_rows(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_a_line_end_ends_a_row_and_a_mark_is_no_part_of_it(tmp_path, encoding, end):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_bytes((end.join(lines) + end + " " + end).encode(encoding))
    assert values(path) == ROWS
    assert [(row.number, row.unit) for row in json_rows(path)] == [(1, "line"), (2, "line")]


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_from_a_row(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    row = {"text": text}
    path.write_text(f"{json.dumps(row, ensure_ascii=False)}\n{json.dumps(row)}", encoding="utf-8", newline="")
    assert values(path) == [row, row]


def test_a_list_and_a_packed_file_are_rows_too(tmp_path):
    for name, text in (("a.json", json.dumps(ROWS, indent=1)), ("b.jsonl", json.dumps(ROWS)), ("c.json", "[]")):
        (tmp_path / name).write_text(text)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert values(tmp_path / "a.json") == values(tmp_path / "b.jsonl") == ROWS
    assert list(json_rows(tmp_path / "a.json"))[1][:2] == (2, "row")
    assert values(tmp_path / "c.json") == [] and values(tmp_path / "d.jsonl.gz") == [{"a": 1}]


def test_files_that_were_joined_keep_their_marks_to_themselves(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\xef\xbb\xbf{"a": 2}\n')
    assert values(path) == [{"a": 1}, {"a": 2}]


def test_a_line_that_is_not_json_is_named_or_told(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n[2]\n')
    with pytest.raises(MattoniError, match=r"rows\.jsonl, row 3: this is not JSON \(.+\); write one object per line"):
        list(json_rows(path))
    told = []
    assert [row.value for row in json_rows(path, lambda number, why: told.append(number))] == [{"a": 1}, [2]]
    assert told == [3]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b"\xff", "a.jsonl cannot be read as UTF-8 text: write it again."),
        ("a.jsonl.gz", b"no", r"a.jsonl.gz cannot be read \(.+\): write it again."),
        ("a.json", b'{"a":\n 1}', "a.json must be a JSON list of rows"),
        ("a.json", b'[{"a": 1},\n {"a": }]', r"a.json is not JSON \(.+line 2.+\)"),
        ("none.jsonl", None, r"none.jsonl cannot be read \(No such file"),
    ],
)
def test_a_file_that_holds_no_rows_says_so(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MattoniError, match=sentence):
        list(json_rows(tmp_path / name, advice="write it again."))


def test_text_ends_its_lines_with_a_line_feed(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa\r\nb\rc".encode())
    assert read_text(tmp_path / "a.txt") == "a\nb\nc"

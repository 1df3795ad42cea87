"""Examples as people keep them in tables."""

import gzip

import pytest

from mattoni.errors import MattoniError
from task_bricks.training.rows import read_rows


@pytest.mark.parametrize(
    "text",
    [
        "question,answer\nhow many?,3\n",
        "Question;Answer\r\nhow many?;3\r\n",
        "\ufeffprompt\tcompletion\nhow many?\t3\n\n",
        'text,label\n"how many?",3\n,\n',
        "id,extra,message,target\n7,x,how many?,3\n",
        "input,output\nhow many?,3\n",
    ],
)
def test_columns_go_by_the_names_that_people_give_them(tmp_path, text):
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    (row,) = read_rows(tmp_path / "rows.csv")
    assert (row.message, row.answers) == ("how many?", ("3",))


def test_a_table_may_have_an_instruction_and_line_breaks_in_its_cells_and_be_packed(tmp_path):
    (tmp_path / "rows.tsv.gz").write_bytes(gzip.compress(b'instruction\ttext\toutput\nShout.\t"a\nb"\tA B\n'))
    (row,) = read_rows(tmp_path / "rows.tsv.gz")
    assert row.message == "Shout.\n\na\nb"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foo,bar\n1,2\n", "the columns 'foo', 'bar' are not known"),
        ("question,answer\na,b,c\n", "row 1: 3 cells under 2 columns"),
        ("question,answer\na,\n", "row 1: 'answers' must be"),
        ('question,answer\n"a,b\n', "no table that can be read"),
        ("", "holds no rows"),
    ],
)
def test_a_table_that_is_not_understood_is_told_by_its_row(tmp_path, text, says):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(MattoniError, match=says):
        read_rows(tmp_path / "rows.csv")

import pytest

from assistant.evaluation.asking import write_lines
from assistant.evaluation.same_answers import compare, read_lines
from mattoni.errors import MattoniError


def line(row, answer, score=1.0, bricks=(), notices=()):
    trace = {"bricks": [{"name": name} for name in bricks], "notices": [{"code": code} for code in notices]}
    return {"id": row, "answer": answer, "score": score, "trace": trace}


def test_answers_are_compared_word_for_word_and_differences_listed(tmp_path):
    write_lines(tmp_path / "a.jsonl", [line("1", "A dog."), line("2", "12.75", 1.0, ["document"]), line("3", "x")])
    write_lines(
        tmp_path / "b.jsonl", [line("2", "48.20", 0.0, ["document", "invoices"]), line("1", "A dog."), line("4", "y")]
    )
    found = compare(read_lines(tmp_path / "a.jsonl"), read_lines(tmp_path / "b.jsonl"))
    assert (found["n"], found["same"], found["only before"], found["only after"]) == (2, 1, ["3"], ["4"])
    assert found["differences"] == [
        {
            "id": "2",
            "before": "12.75",
            "after": "48.20",
            "scores": [1.0, 0.0],
            "bricks": [["document"], ["document", "invoices"]],
        }
    ]
    assert found["other bricks or notices"] == ["2"]


def test_the_same_words_with_other_notices_are_told(tmp_path):
    found = compare({"1": line("1", "Yes.")}, {"1": line("1", "Yes.", notices=["length"])})
    assert (found["same"], found["other bricks or notices"]) == (1, ["1"])


def test_files_that_cannot_be_compared_say_why(tmp_path):
    with pytest.raises(MattoniError, match="cannot be read"):
        read_lines(tmp_path / "none.jsonl")
    (tmp_path / "text.jsonl").write_text("words")
    with pytest.raises(MattoniError, match="is no file of `mattoni eval … --out`"):
        read_lines(tmp_path / "text.jsonl")
    with pytest.raises(MattoniError, match="no row in common"):
        compare({"1": line("1", "a")}, {"2": line("2", "a")})

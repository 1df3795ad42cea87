"""The tutorial's pictures: the same for the same seed, none of them twice, and nothing else is overwritten."""

import hashlib
import json
from pathlib import Path

import pytest

from mattoni.errors import MattoniError
from modality_bricks.training.tutorial_pictures import draw_pictures, main


def digests(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.png")}


def test_the_same_seed_draws_the_same_pictures_and_none_twice(drawn, tmp_path, capsys):
    main([str(tmp_path / "again"), "--train", "2", "--dev", "1"])
    assert "108 pictures in" in capsys.readouterr().out
    first, again = digests(drawn), digests(tmp_path / "again")
    assert first == again
    assert len(set(first.values())) == len(first) == 108


def test_the_rows_ask_about_the_held_out_pictures(drawn):
    rows = [json.loads(line) for line in (drawn / "dev.jsonl").read_text().splitlines()]
    assert len(rows) == 36
    for row in rows:
        assert (drawn / row["image"]).is_file() and row["image"].startswith("dev/")
        assert Path(row["image"]).parent.name == row["answers"][0].replace(" ", "_")


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    with pytest.raises(MattoniError, match="letters holds something else than such pictures: name a new folder"):
        draw_pictures(tmp_path / "letters", 1, 1)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "Dear"

import pytest

from mattoni.errors import MattoniError
from mattoni.files import remove_folder, replace_folder


def test_removing_a_folder_leaves_nothing_of_it(tmp_path):
    replace_folder(tmp_path / "manual", lambda folder: (folder / "text").mkdir())
    remove_folder(tmp_path / "manual")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_replacement_left_goes_too_and_other_folders_stay(tmp_path):
    for name in ("manual", ".manual.x1y2", ".manual.old.z3", ".manual-2.w4", "manual-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "passages.jsonl").write_text("secret")
    remove_folder(tmp_path / "manual")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".manual-2.w4", "manual-2"]


def test_removing_what_is_not_there_says_so(tmp_path):
    with pytest.raises(MattoniError, match="Cannot remove .*manual"):
        remove_folder(tmp_path / "manual")

"""What people give as a file's name: paths with blanks and quotes, what terminals write for a dropped file, addresses."""

import os
import shlex
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.bricks.folders import files_in
from assistant.cli.given import given_path, given_paths, is_path, split_line
from assistant.cli.options import read_attachments
from mattoni.errors import MattoniError

NAMES = [
    "photo.jpg",
    "my photo.jpg",
    "it's mine (1).jpg",
    'a "b".png',
    "100% #1?.png",
    "café ünï.jpg",
    "$HOME & co.png",
]


def backslashed(path: Path) -> str:
    """As iTerm and Terminal write a dropped file."""
    return "".join(c if c.isalnum() or c in "/._-" or ord(c) > 127 else f"\\{c}" for c in str(path))


def in_double_quotes(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


WAYS = {
    "as it is": str,
    "quoted as shells do": lambda path: shlex.quote(str(path)),
    "in double quotes": in_double_quotes,
    "with backslashes": backslashed,
    "as an address": lambda path: "file://" + quote(str(path)),
    "as an address with a machine": lambda path: "file://localhost" + quote(str(path)),
    "as an address of one slash": lambda path: "file:" + quote(str(path)),
    "with a blank behind": lambda path: shlex.quote(str(path)) + " ",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_found_however_its_path_is_written(folder, name, way):
    written = WAYS[way](folder / name)
    assert given_path(written) == folder / name
    assert given_paths(written) == [folder / name]
    assert split_line(written) == ([folder / name], "")


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"as it is"}))
def test_several_files_dropped_at_once_are_all_found_in_order(folder, way):
    paths = [folder / name for name in NAMES]
    written = " ".join(WAYS[way](path).strip() for path in paths)
    assert given_paths(written) == paths
    assert split_line(written) == (paths, "")


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"as it is"}))
@pytest.mark.parametrize("name", NAMES)
def test_a_question_may_stand_before_or_behind_what_was_dropped(folder, name, way):
    written = WAYS[way](folder / name).strip()
    assert split_line(f"{written} What is in Anna's picture?") == ([folder / name], "What is in Anna's picture?")
    assert split_line(f"What's this? {written}") == ([folder / name], "What's this?")


@given(
    name=st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/"), min_size=1, max_size=20
    )
)
@settings(max_examples=60)
def test_any_name_that_a_disk_takes_comes_back_from_any_way_of_writing_it(tmp_path_factory, name):
    path = tmp_path_factory.mktemp("any") / f"{name}.png"
    path.write_bytes(b"x")
    for way in WAYS.values():
        assert given_path(way(path)) == path
    for way in set(WAYS.values()) - {str}:
        assert split_line(f"{way(path)} what is it?") == ([path], "what is it?")


@given(line=st.text(max_size=60))
def test_words_alone_are_never_a_file_and_never_an_error(line):
    assert split_line(f"so: {line}.") == ([], f"so: {line}.".strip())


@pytest.mark.parametrize(
    "line",
    [
        "What's the answer to 'life'?",
        "photo.jpg",  # a word alone: nothing that is dropped is written so
        "Compare either/or with and/or.",
        'He said "no',
        "C:/ is a drive, and ~ is home",
        "https://example.com/x.png",
        "/no/such/file.jpg what is it?",
        "x" * 100_000,
    ],
)
def test_a_question_stays_a_question(folder, monkeypatch, line):
    monkeypatch.chdir(folder)
    assert split_line(line) == ([], line)


def test_home_is_understood_where_no_shell_has_done_so(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert given_path("~/my photo.jpg") == folder / "my photo.jpg"
    assert given_path("'~/my photo.jpg'") == folder / "my photo.jpg"
    assert given_path(r"~/my\ photo.jpg") == folder / "my photo.jpg"
    assert split_line(r"~/my\ photo.jpg what is it?") == ([folder / "my photo.jpg"], "what is it?")
    assert given_path("~nobody-of-this-name/x.jpg") == Path("~nobody-of-this-name/x.jpg")


def test_a_name_that_holds_quotes_or_backslashes_is_taken_as_it_is_where_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("'quoted.jpg'", "back\\slash.jpg", "two words.jpg", "~tilde.jpg"):
        Path(name).write_bytes(b"x")
        assert given_path(name) == Path(name)


@pytest.mark.parametrize(
    ("given_text", "sentence"),
    [
        (
            "https://example.com/a b.png",
            "is an address, and Mattoni fetches nothing: download it and give the file's path",
        ),
        ("HTTP://example.com/x.png", "is an address"),
        ("s3://bucket/x.png", "is an address"),
        ("data:image/png;base64,iVBORw0KGgo" + "A" * 500, r"^data:image.{1,70} is an address"),
        ("file://server/share/x.png", r"is on another machine \(server\): copy the file to this one"),
        ("no-such.png", r"no-such.png cannot be read \(No such file or directory\): check the path"),
        ("file:///no%20such.png", r"/no such.png cannot be read"),
        ("x" * 5000, r"cannot be read \(File name too long\)"),
        ("nul\0.png", "cannot be read"),
        (os.devnull, "is a device, which has no end: name a file"),
    ],
)
def test_what_is_no_file_here_is_one_sentence(given_text, sentence):
    with pytest.raises(MattoniError, match=sentence) as raised:
        read_attachments([given_text])
    assert "\n" not in str(raised.value)


def test_a_folder_is_one_sentence_that_says_what_to_do(tmp_path):
    (tmp_path / "my papers").mkdir()
    with pytest.raises(
        MattoniError, match=r"is a folder: name the files in it, or .* `mattoni knowledge add NAME '.*my papers'`\."
    ):
        read_attachments([str(tmp_path / "my papers")])


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "film.mp4").open("wb") as file:
        file.truncate(3_000_000_000)  # takes no room on the disk
    with pytest.raises(MattoniError, match="film.mp4 is 3000 MB large, and at most 50 MB are read"):
        read_attachments([str(tmp_path / "film.mp4")])


def test_a_line_that_begins_like_a_command_is_told_from_a_path():
    assert is_path("/home/me/photo.jpg") and not is_path("/help") and not is_path("/image a/b.jpg")


def test_a_folders_files_come_in_order_with_hidden_ones_counted(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/.secret", ".git/config", "a/deep/er.md", "__MACOSX/x.txt", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "a" / "round").symlink_to(tmp_path, target_is_directory=True)
    found = files_in(tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in found.files] == ["b.txt", "a/z.txt", "a/deep/er.md"]
    assert found.hidden == 4  # what is in a hidden folder is not counted

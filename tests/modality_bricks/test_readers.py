"""What a stitch learns from, format by format, and the bad rows of each, through `read_source`."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from mattoni.errors import MattoniError
from modality_bricks.training.readers import CAPTION_QUESTIONS, Sample
from modality_bricks.training.samples import Source, alike, read_source

Read = Callable[..., list[Sample]]


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read the files of a folder that holds red.png and blue.png."""
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(png(colour))

    def reading(kind: str, *files: str) -> list[Sample]:
        return list(read_source(Source(format=kind, files=files), lambda name: tmp_path / name).samples)

    return reading


def colour_of(sample: Sample) -> tuple[int, ...]:
    return sample.open().getpixel((0, 0))


def write_lines(path: Path, *rows: dict) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_shard(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def talk(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]


def test_llava_conversations_give_each_question_its_answer(read, tmp_path):
    rows = [
        {"id": "1", "image": "red.png", "conversations": talk("<image>\nWhat?", "Red.", "Sure?", "Yes.")},
        {"id": "1", "image": "red.png", "conversations": talk("Describe it.\n<image>", "All red.")},
        {"id": "2", "image": "blue.png", "conversations": talk("What?", "Blue.")},
    ]
    (tmp_path / "talk.json").write_text(json.dumps(rows))
    red, blue = read("llava", "talk.json")
    assert red.turns == (("What?", "Red."), ("Sure?", "Yes."), ("Describe it.", "All red."))
    assert colour_of(red) == (255, 0, 0) and colour_of(blue) == (0, 0, 255)


def test_json_lines_hold_questions_captions_or_names(read, tmp_path):
    (tmp_path / "green.png").write_bytes(png("green"))
    write_lines(
        tmp_path / "rows.jsonl",
        {"image": "red.png", "question": "Which colour?", "answers": ["Red.", "It is red."]},
        {"image": "blue.png", "caption": "a blue field ."},
        {"image": "green.png", "name": "leaf"},
    )
    question, caption, name = read("jsonl", "rows.jsonl")
    assert question.turns == (("Which colour?", "Red."), ("Which colour?", "It is red."))
    assert caption.turns == tuple((q, "A blue field.") for q in CAPTION_QUESTIONS)
    assert name.name == "leaf" and {answer for _, answer in name.turns} == {"A leaf."}


def test_a_folder_names_its_pictures_or_has_captions_beside_them(read, tmp_path):
    folder = tmp_path / "pictures"
    (folder / "red_field").mkdir(parents=True)
    (folder / "red_field" / "1.png").write_bytes(png("red"))
    (folder / "sea.png").write_bytes(png("blue"))
    (folder / "sea.txt").write_text("the sea\n\nall blue\n")
    named, captioned = read("folder", "pictures")
    assert named.name == "red field"
    assert {answer for _, answer in captioned.turns} == {"The sea.", "All blue."}


def test_parquet_takes_bytes_and_hugging_face_pictures(read, tmp_path):
    for name, images in (("plain", [png("red")]), ("hub", [{"bytes": png("red"), "path": None}])):
        table = pyarrow.table({"image": images, "caption": ["a red field"], "question": [None]})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        (sample,) = read("parquet", f"{name}.parquet")
        assert colour_of(sample) == (255, 0, 0) and sample.turns[0][1] == "A red field."


def test_a_shard_groups_its_members_by_key(read, tmp_path):
    row = {"question": "Which colour?", "answer": "Blue."}
    files = {
        "a.png": png("red"),
        "a.name": b"brick\n",
        "b.json": json.dumps(row).encode(),
        "b.png": png("blue"),
        "c.PNG": png("green"),
        "c.txt": b"a lawn\nseen from above",
    }
    write_shard(tmp_path / "shard.tar", files)
    name, question, caption = read("webdataset", "shard.tar")
    assert name.name == "brick" and question.turns == (("Which colour?", "Blue."),)
    assert {answer for _, answer in caption.turns} == {"A lawn.", "Seen from above."}


def test_pictures_are_upright_and_on_white_as_the_assistant_sees_them(read, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (8, 6), "red").save(tmp_path / "red.png", exif=exif)
    Image.new("RGBA", (8, 6), (0, 0, 0, 0)).save(tmp_path / "blue.png")
    rows = [{"image": f"{colour}.png", "caption": colour} for colour in ("red", "blue")]
    write_lines(tmp_path / "rows.jsonl", *rows)
    turned, clear = read("jsonl", "rows.jsonl")
    assert turned.open().size == (6, 8)
    assert colour_of(clear) == (255, 255, 255)


GOOD = {"image": "red.png", "question": "What?", "answer": "Red."}


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"question": "What?", "answer": "x"}, "line 2 of rows.jsonl names no image"),
        ({**GOOD, "image": "gone.png"}, "line 2 of rows.jsonl: there is no picture gone.png in"),
        ({**GOOD, "answer": " "}, "line 2 of rows.jsonl has an empty answer, so its label mask would be empty"),
        ({"image": "red.png", "question": "What?"}, "line 2 of rows.jsonl has an empty answer"),
        ({"image": "red.png", "caption": ""}, "line 2 of rows.jsonl has no caption"),
        ({"image": "red.png"}, "line 2 of rows.jsonl has no conversations, question, captions or name"),
        ({"image": "red.png", "conversations": talk("Hi")}, "line 2 of rows.jsonl has no message of human that gpt"),
        (
            {"image": "red.png", "conversations": [{"from": "gpt"}]},
            "line 2 of rows.jsonl: each message of conversations",
        ),
        ({**GOOD, "id": "a", "image": "blue.png"}, "line 2 of rows.jsonl has the id 'a' of line 1 of rows.jsonl"),
    ],
)
def test_a_bad_row_is_named(read, tmp_path, bad, sentence):
    write_lines(tmp_path / "rows.jsonl", {"id": "a", **GOOD}, bad)
    with pytest.raises(MattoniError, match=sentence):
        read("jsonl", "rows.jsonl")


def test_a_picture_that_cannot_be_opened_is_named_when_it_is_drawn(read, tmp_path):
    (tmp_path / "red.png").write_bytes(png("red")[:40])
    write_lines(tmp_path / "rows.jsonl", GOOD)
    (sample,) = read("jsonl", "rows.jsonl")
    with pytest.raises(MattoniError, match=r"line 1 of rows.jsonl: its picture cannot be opened: replace it"):
        sample.open()


@pytest.mark.parametrize(
    ("kind", "name", "content", "sentence"),
    [
        ("jsonl", "x.jsonl", b"", "x.jsonl holds no rows of format jsonl"),
        ("llava", "x.json", b"[]", "x.json holds no rows of format llava"),
        ("llava", "x.json", b"{}", "x.json must be a JSON list"),
        ("jsonl", "x.jsonl", b"\n{", "line 2 of x.jsonl is not JSON"),
        ("jsonl", "x.jsonl", b"\xff", "x.jsonl cannot be read as UTF-8"),
        ("parquet", "x.parquet", b"no", "x.parquet is not a parquet file or is damaged"),
        ("webdataset", "x.tar", b"no", "x.tar is not a tar file or is damaged"),
    ],
)
def test_a_file_without_rows_is_refused(read, tmp_path, kind, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MattoniError, match=sentence):
        read(kind, name)


def test_an_empty_folder_and_a_picture_without_a_name_are_refused(read, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MattoniError, match="empty holds no rows of format folder"):
        read("folder", "empty")
    (tmp_path / "empty" / "a.png").write_bytes(png("red"))
    with pytest.raises(MattoniError, match="a.png has no name: put it in a folder named after what it shows"):
        read("folder", "empty")


def test_rows_of_tables_and_shards_without_a_picture_are_named(read, tmp_path):
    parquet.write_table(pyarrow.table({"image": [png("red"), None], "name": ["a", "b"]}), tmp_path / "x.parquet")
    with pytest.raises(MattoniError, match="row 2 of x.parquet has no picture"):
        read("parquet", "x.parquet")
    write_shard(tmp_path / "x.tar", {"a.png": png("red"), "a.name": b"a", "b.name": b"b"})
    with pytest.raises(MattoniError, match="b of x.tar has no picture"):
        read("webdataset", "x.tar")


def test_of_several_captions_those_are_kept_that_agree_most():
    captions = ["A dog runs on grass.", "It was a sunny day.", "A brown dog runs on the grass.", "The dog runs."]
    assert set(alike(captions, 2)) == {"A dog runs on grass.", "A brown dog runs on the grass."}
    assert alike(captions, 9) and len(alike(captions, 9)) == 4
    assert alike(captions[:1], 2) == captions[:1]

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

from brick_training.pictures import PictureFolder
from mattoni.errors import MattoniError
from modality_bricks.training.data_checks import BadRows
from modality_bricks.training.readers import CAPTION_QUESTIONS, Sample, read_rows, thing_of
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
        ({**GOOD, "image": "gone.png"}, r"line 2 of rows.jsonl: there is no picture gone.png in .+/gone.png was tried"),
        ({**GOOD, "image": "https://a.b/c.png"}, "the picture https://a.b/c.png is not on this machine: fetch it"),
        (
            {**GOOD, "image": ["red.png", "blue.png"]},
            "line 2 of rows.jsonl names 2 pictures, and an image brick learns",
        ),
        ("a caption", "line 2 of rows.jsonl is no JSON object"),
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
        ("llava", "x.json", b'[{"image": "red.png",\n "caption": }]', "x.json is not JSON"),
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


def role_talk(user: str = "user", assistant: str = "assistant", **names: str) -> list[dict[str, object]]:
    who, what = names.get("who", "role"), names.get("what", "content")
    said = [("system", "Be brief."), (user, "Look at <image> here.\n"), (assistant, "Red.")]
    return [{who: role, what: text} for role, text in said]


PARTS = [
    {"role": "user", "content": [{"type": "image", "image": "red.png"}, {"type": "text", "text": "Look at here."}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Red."}]},
]
QWEN = [
    {"from": "user", "value": "Picture 1: <img>red.png</img>\nLook at here."},
    {"from": "assistant", "value": "Red."},
]


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1, "image": "red.png", "conversations": role_talk(who="from", what="value")},
        {"id": 1, "image": "red.png", "conversations": role_talk("human", "gpt", who="from", what="value")},
        {"id": None, "images": ["red.png"], "messages": role_talk()},
        {"messages": PARTS},
        {"conversations": QWEN},
        {"image": "red.png", "question": "Look at here.", "answer": "Red."},
        {"image": "red.png", "question": "Look at here.", "answers": "Red."},
        {"image": "red.png", "question": "Look at here.", "answers": [{"answer": "Red.", "answer_id": 1}]},
    ],
)
@pytest.mark.parametrize("kind", ["llava", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_talks_and_questions_are_read_as_people_have_them(read, tmp_path, row, kind, encoding):
    for text in (json.dumps([row], indent=1), json.dumps(row) + "\n\n"):
        (tmp_path / "rows.jsonl").write_text(text, encoding=encoding)
        (sample,) = read(kind, "rows.jsonl")
        assert sample.turns == (("Look at here.", "Red."),) and sample.key == "red.png"


@pytest.mark.parametrize(
    "name",
    [
        "red.png",
        "sub\\red.png",
        "./sub/red.png",
        "pictures/sub/red.png",
        "data/pictures/sub/red.png",
        r"C:\Users\me\pictures\sub\red.png",
        "/home/me/data/sub/red.png",
        "file:///home/me/my%20data/sub/red.png",
        "sub/RED.PNG",
    ],
)
def test_a_picture_is_found_as_it_was_named_elsewhere(tmp_path, name):
    images = tmp_path / "pictures"
    (images / "sub").mkdir(parents=True)
    for place in (images / "red.png", images / "sub" / "red.png"):
        place.write_bytes(png("red"))
    (sample,) = read_rows([("row 1", {"image": name, "caption": "red"})], images)
    assert sample.key == ("red.png" if name == "red.png" else "sub/red.png")


@pytest.mark.parametrize("name", ["other/red.png", "../red.png", "pictures/../../red.png", "", "C:\\", "sub"])
def test_another_picture_is_never_taken_instead(tmp_path, name):
    images = tmp_path / "pictures"
    (images / "sub").mkdir(parents=True)
    (images / "red.png").write_bytes(png("red"))
    assert PictureFolder(images).find(name) is None


def test_two_paths_of_another_machine_are_not_one_picture(tmp_path):
    (tmp_path / "1.png").write_bytes(png("red"))
    folder = PictureFolder(tmp_path)
    assert folder.find("/data/dogs/1.png") == folder.find("/data/dogs/1.png") == tmp_path / "1.png"
    assert folder.find("/data/cats/1.png") is None


def heard(source: Source, folder: Path) -> tuple[list[Sample], list[str]]:
    """The samples of a source, and what a person is told."""
    bad, said = BadRows(), []
    samples = read_source(source, lambda name: folder / name, report=bad.report).samples
    bad.settle(False, said.append)
    return list(samples), said


def test_talks_without_a_picture_are_counted_and_passed_over(read, tmp_path):
    rows = [{"id": n, "conversations": talk("Hi", "Hello.")} for n in range(5)]
    rows += [{"id": 9, "image": "red.png", "conversations": talk("<image>\nWhat?", "Red.")}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    samples, said = heard(Source(format="llava", files=("rows.json",)), tmp_path)
    assert [sample.key for sample in samples] == ["red.png"]
    assert said == [
        "data: 5 rows are talks without a picture and were passed over (rows 1, 2 and 3 of rows.json and 2 more)."
    ]
    (tmp_path / "rows.json").write_text(json.dumps([{"conversations": talk("<image>\nWhat?", "Red.")}]))
    with pytest.raises(MattoniError, match="row 1 of rows.json names no image: add the key 'image'"):
        read("llava", "rows.json")


def test_a_folder_is_read_as_people_have_it(tmp_path):
    folder = tmp_path / "pictures"
    for name in (
        "2023-05-01/red_ball/1.jpg",
        "cat/2023/07/2.TIF",
        "n01/images/3.gif",
        "4.webp",
        "5.png",
        "6.bmp",
        "7.jpeg",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "red").save(folder / name, format="WEBP" if name.endswith("webp") else None)
    (folder / "4.txt").write_bytes("un café\r\n".encode("utf-8-sig"))
    (folder / "5.PNG.txt").write_bytes("straße im schnee".encode("cp1252"))
    (folder / "6.caption").write_text("a field")
    (folder / "7.jpeg.caption").write_text("all red")
    junk = [
        "__MACOSX/cat/._1.jpg",
        "cat/._2.jpg",
        "cat/.DS_Store",
        "cat/Thumbs.db",
        "cat/.ipynb_checkpoints/2-checkpoint.jpg",
    ]
    for name in (*junk, "readme.md", "cat/film.mp4", "cat/layers.psd"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\0")
    samples, said = heard(Source(format="folder", files=("pictures",)), tmp_path)
    named = {sample.key: sample.name for sample in samples if sample.name}
    assert named == {"2023-05-01/red_ball/1.jpg": "red ball", "cat/2023/07/2.TIF": "cat", "n01/images/3.gif": "n01"}
    captions = {sample.key: sample.turns[0][1] for sample in samples if not sample.name}
    assert captions == {"4.webp": "Un café.", "5.png": "Straße im schnee.", "6.bmp": "A field.", "7.jpeg": "All red."}
    assert all(max(abs(a - b) for a, b in zip(colour_of(s), (255, 0, 0), strict=True)) < 4 for s in samples)
    systems, charset, others = said
    assert systems.startswith(
        "data: 5 files that belong to an operating system were passed over (__MACOSX/cat/._1.jpg, "
    )
    assert charset == (
        "data: 1 file of captions is not UTF-8 and was read as Windows-1252; save it as UTF-8 if that is wrong "
        "(5.PNG.txt: 'straße im schnee')."
    )
    assert others.startswith("data: 3 files are neither pictures nor the captions of one and were passed over (")
    assert "1 .mp4" in others and "1 .psd" in others


def test_pictures_in_folders_that_are_dates_have_no_name(read, tmp_path):
    for name in ("2023-05-01", "2023/05", "20230501_holiday"):
        (tmp_path / "dated" / name).mkdir(parents=True)
        (tmp_path / "dated" / name / "1.png").write_bytes(png("red"))
    with pytest.raises(MattoniError, match=r"data: 2023/05/1.png has no name: put it in a folder named after what it"):
        read("folder", "dated")
    assert thing_of(Path("0/1.png")) == "0" and thing_of(Path("photos/1.png")) == "photos"
    assert thing_of(Path("photos/dog/1.png")) == thing_of(Path("dog/photos/1.png")) == "dog"


def test_a_shard_made_on_a_mac_and_classes_with_a_mark_are_read(tmp_path):
    files = {
        "._a.png": b"\0",
        "a.png": png("red"),
        "a.png.txt": "un café".encode("cp1252"),
        "./b.tif": png("blue"),
        "./b.name": b"cat",
    }
    write_shard(tmp_path / "shard.tar", files)
    (tmp_path / "classes.json").write_text('["cat"]', encoding="utf-8-sig")
    samples, said = heard(Source(format="webdataset", files=("shard.tar",), classes="classes.json"), tmp_path)
    assert [(s.name, s.turns[0][1]) for s in samples] == [(None, "Un café."), ("cat", "A cat.")]
    assert len(said) == 2


def test_a_picture_that_is_none_says_what_it_is(read, tmp_path):
    (tmp_path / "red.png").write_text("%PDF-1.4 no picture")
    write_lines(tmp_path / "rows.jsonl", GOOD)
    (sample,) = read("jsonl", "rows.jsonl")
    with pytest.raises(MattoniError, match=r"replace it or remove the row \(red.png .+\)\.$"):
        sample.open()


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

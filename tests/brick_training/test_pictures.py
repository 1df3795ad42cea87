"""Where a row's picture lies, and which files are no people's."""

import io
from pathlib import Path, PurePosixPath

import pytest
from PIL import Image

from brick_training.pictures import PictureFolder, is_systems, open_picture
from mattoni.errors import MattoniError


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(buffer, "PNG")
    return buffer.getvalue()


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


@pytest.mark.parametrize(
    ("name", "systems"),
    [
        ("__MACOSX/a/._1.jpg", True),
        ("a/._1.jpg", True),
        ("a/.DS_Store", True),
        ("a/Thumbs.db", True),
        (".ipynb_checkpoints/1-checkpoint.jpg", True),
        ("./a/1.jpg", False),
        ("a.b/1.v2.jpg", False),
    ],
)
def test_files_of_an_operating_system_are_known(name, systems):
    assert is_systems(PurePosixPath(name)) is systems


def test_a_picture_is_opened_as_the_assistant_opens_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("L", (8, 6), 200).save(tmp_path / "a.tif", exif=exif)
    picture = open_picture(tmp_path / "a.tif")
    assert picture.mode == "RGB" and picture.size == (6, 8)
    for content, name in ((b"", "a.jpg is empty"), (b"words", "a.jpg")):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(MattoniError, match=name):
            open_picture(tmp_path / "a.jpg")
    with pytest.raises(MattoniError, match=r"gone\.png cannot be read \(No such file"):
        open_picture(Path("gone.png"))

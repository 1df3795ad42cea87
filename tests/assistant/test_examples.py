"""About twenty pictures make an image brick routable: nothing is trained, nothing of another brick changes."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from assistant.bricks.examples import add_examples
from assistant.registry import Registry
from assistant.turn.keyring import Keyrings
from assistant.turn.route import Choices, Keyring, Question, SeenPicture, route
from mattoni.errors import MattoniError
from mattoni.files import sha256_of
from mattoni.inputs import Attachment
from mattoni.keys import load_keys
from mattoni.paths import brick_folders, shipped_models
from modality_bricks.glance import Glance
from tests.assistant.conftest import add_bare_brick


def stripes(seed: int) -> Image.Image:
    """Slanting stripes of random width and slant: a kind of picture that no shipped brick knows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:160, 0:160]
    wave = np.sin((x * rng.uniform(0.8, 1.2) + y * rng.uniform(0.8, 1.2)) * rng.uniform(0.35, 0.45))
    return Image.fromarray(np.where(wave > 0, 230, 20).astype(np.uint8)).convert("RGB")


def sent(picture: Image.Image, name: str = "a.png") -> Attachment:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Attachment(name, file.getvalue())


STRIPES = [sent(stripes(number), f"{number}.png") for number in range(20)]


def bricks():
    return Registry(brick_folders()).scan()


def give(name: str, files=STRIPES):
    return add_examples(name, files, bricks(), Glance.load())


def chosen_for(picture: Image.Image, keyring: Keyring | None = None):
    question = Question((SeenPicture("a.png", Glance.load().embed([picture])[0]),))
    return route(question, keyring or Keyrings().of(bricks()), Choices())


def test_twenty_pictures_make_a_new_image_brick_routable():
    add_bare_brick("stripes")
    give("stripes")
    for number in range(100, 110):
        plan = chosen_for(stripes(number))
        assert plan.pictures[0].name == "stripes"
        assert plan.notices == ()


def test_it_changes_nothing_of_the_others_and_is_the_next_version_of_the_brick():
    shipped = sorted(p for p in shipped_models().rglob("*") if p.is_file())
    before = {path: sha256_of(path) for path in shipped}
    add_bare_brick("stripes", version=3)
    digest = bricks().get("stripes").digest
    added = give("stripes")
    assert {path: sha256_of(path) for path in shipped} == before
    brick = bricks().get("stripes")
    assert (added.card.version, brick.card.version, brick.digest != digest) == (4, 4, True)
    assert list(brick.card.files) == ["keys.safetensors"]


def test_it_says_what_it_measured():
    add_bare_brick("stripes")
    added = give("stripes")
    assert (added.examples, added.recognised) == (20, 20)
    assert added.sentence == (
        f"'stripes' is chosen by its pictures now: 20 of 20 examples are recognised by the others "
        f"(score {added.typical:.2f}); the nearest other brick is '{added.nearest}' ({added.rival:.2f})."
    )
    assert added.rival < added.typical
    assert added.nearest in ("photo", "document", "chart")


def test_a_picture_that_is_like_none_of_its_examples_falls_back_and_a_notice_says_so():
    folder = add_bare_brick("stripes")
    give("stripes")
    alone = Keyrings().of(Registry([folder.parent]).scan())
    plan = chosen_for(Image.new("RGB", (200, 200)), alone)
    assert plan.pictures[0].name == "stripes"
    assert [(n.code, n.text) for n in plan.notices] == [
        ("fallback", "a.png is like nothing that an image brick knows; 'stripes' looked at it all the same.")
    ]


def test_a_second_set_of_examples_replaces_the_first():
    folder = add_bare_brick("stripes")
    give("stripes")
    first = load_keys(folder / "keys.safetensors")
    give("stripes", [sent(stripes(number)) for number in range(20, 32)])
    second = load_keys(folder / "keys.safetensors")
    assert (len(first), len(second)) == (10, 6)
    assert bricks().get("stripes").card.version == 3


def copies(picture: Image.Image, count: int) -> list[Attachment]:
    """One picture in many sizes, brighter and darker: files that differ and show the same."""
    return [sent(ImageOps.autocontrast(picture.resize((90 + n, 90 + n)), cutoff=n % 3)) for n in range(count)]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (STRIPES[:9], "9 example pictures are too few: give 10 that differ, better 20."),
        (copies(stripes(0), 20), "20 example pictures, 1 without copies of one another, are too few: give 10 that"),
        ([*STRIPES, Attachment("b.png", b"\x89PNG\r\n\x1a\n damaged")], "b.png is damaged and cannot be opened"),
        ([*STRIPES, Attachment("notes.txt", b"some words")], "notes.txt is no picture: leave it out."),
        (STRIPES * 11, "More than 200 example pictures are not used: choose some of them."),
    ],
)
def test_examples_that_tell_nothing_are_refused_in_one_sentence_and_change_nothing(files, sentence):
    folder = add_bare_brick("stripes")
    with pytest.raises(MattoniError, match="^" + sentence.replace("(", r"\(")):
        give("stripes", files)
    assert [p.name for p in folder.iterdir()] == ["brick.yaml"]
    assert bricks().get("stripes").card.version == 1


def test_pictures_that_another_brick_looks_at_are_refused():
    for name in ("stripes", "lines"):
        add_bare_brick(name)
    give("stripes")
    with pytest.raises(MattoniError, match=r"Only \d+ of 20 examples differ enough from what 'stripes' looks at"):
        give("lines", [sent(ImageOps.mirror(stripes(number))) for number in range(20)])
    assert bricks().get("lines").card.routes is None


def test_only_an_image_brick_of_the_users_takes_examples():
    add_bare_brick("translator", kind="task", injects=["low-rank"])
    with pytest.raises(MattoniError, match="'translator' is a task brick: only image bricks are chosen by pictures"):
        give("translator")
    with pytest.raises(MattoniError, match="'photo' came with Mattoni, and so did its keys"):
        give("photo")
    with pytest.raises(MattoniError, match="There is no brick called 'nobody'"):
        give("nobody")

"""What a person hears of training data before a run: bad rows with their numbers, and what may spoil a brick."""

import json
from pathlib import Path

import pytest
from PIL import Image

import modality_bricks.training.train as entry
from brick_training.run_folder import read_log
from mattoni.errors import MattoniError
from modality_bricks.training.data_checks import places
from modality_bricks.training.language import in_another_language, language_of
from modality_bricks.training.prepare import Reading, mixture, read_splits
from modality_bricks.training.recipe import finder, read_recipe
from modality_bricks.training.samples import Source, read_source

CAPTIONS = (
    "A dog runs over the grass with a ball.",
    "A man is sitting on a bench in the park.",
    "Two women are walking along the street.",
    "The child plays with the sand at the beach.",
    "A boy in a red shirt is riding his bike.",
    "A black cat sits on the roof of a house.",
)


@pytest.fixture
def rows(make_configs):
    """Write `rows.jsonl` and a words config that learns from it; every row has a picture of its own unless it says which."""

    def make(*extra: object, good: int = len(CAPTIONS), share: float = 1.0, **source: object) -> Path:
        Path("images").mkdir(exist_ok=True)
        lines: list[object] = []
        for i, caption in enumerate(CAPTIONS[:good]):
            Image.new("RGB", (8, 8), (40 * i, 0, 90)).save(f"images/{i}.png")
            lines.append({"id": f"row{i}", "image": f"{i}.png", "caption": caption})
        text = [line if isinstance(line, str) else json.dumps(line) for line in [*lines, *extra]]
        Path("rows.jsonl").write_text("\n".join(text))
        data = {"format": "jsonl", "files": ["rows.jsonl"], "images": "images", "share": share, **source}
        return make_configs(words={"data": [data]})[1]

    return make


def read(path: Path, skip: bool = False) -> tuple[list[str], int]:
    """What is said while the data of a config are read, and how many training samples there are."""
    said: list[str] = []
    encoder = Path("runs/encoder/encoder")
    if not encoder.exists():
        entry.main([str(path.with_name("encoder.yaml"))])
    train, _ = read_splits(read_recipe(path), Reading(finder(path), skip, said.append), "cpu")
    return said, len(train.sources[0].samples)


def test_bad_rows_are_told_by_kind_with_their_numbers_and_may_be_left_out(rows):
    Path("images").mkdir()
    for i in range(3):
        Path(f"images/broken{i}.png").write_bytes(b"no picture")
    path = rows(
        *({"image": f"gone{i}.png", "caption": "x"} for i in range(5)),
        {"caption": "no picture at all"},
        *({"image": f"broken{i}.png", "caption": "x"} for i in range(3)),
        {"id": "row0", "image": "1.png", "caption": "the id of another"},
        {"image": "2.png", "caption": "  "},
        "{not json",
    )
    with pytest.raises(MattoniError) as refused:
        read(path)
    assert str(refused.value).splitlines() == [
        "data: line 18 of rows.jsonl is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 "
        "(char 1)): correct it.",
        "data: 5 rows name a picture that is not there (lines 7, 8 and 9 of rows.jsonl and 2 more; "
        f"{Path('images').absolute() / 'gone0.png'} was tried): set images to the folder of the pictures.",
        "data: line 12 of rows.jsonl names no image: add the key 'image'.",
        "data: line 16 of rows.jsonl has the id 'row0' of line 1 of rows.jsonl, which is about another picture: give each "
        "its own.",
        "data: line 17 of rows.jsonl has no caption, so there is nothing to learn from it: add one or remove it.",
        "data: 3 rows have a picture that cannot be opened (lines 13, 14 and 15 of rows.jsonl): replace the pictures.",
        "Or go on without these rows: --skip-bad-rows.",
    ]
    said, left = read(path, skip=True)
    assert left == len(CAPTIONS)
    assert sum(line.startswith("left out: data: ") for line in said) == 6


def test_a_small_set_of_captions_is_trained_on_with_its_own_words(make_configs):
    Path("images").mkdir()
    rows = []
    for i, colour in enumerate(("red", "green", "blue", "white", "black") * 6):
        Image.new("RGB", (8, 8), colour).save(f"images/{i}.png")
        rows.append({"image": rf"data\images\{i}.png", "caption": f"A {colour} {('ball', 'box')[i % 2]}."})
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    Path("data").mkdir()
    Path("images").rename("data/images")
    data = {"format": "jsonl", "files": ["rows.jsonl"], "images": r"data\images"}
    encoder, words, _ = make_configs(words={"data": [data], "dev": [data]})
    entry.main([str(encoder), str(words)])
    losses = [row["loss"] for row in read_log(Path("runs/words/log.jsonl")) if "loss" in row]
    assert losses[0] > 0.1 and losses[-1] < losses[0]


def test_answers_without_a_word_are_refused(rows):
    Path("images").mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8), (40 * i, 0, 90)).save(f"images/{i}.png")
    path = rows(*({"image": f"{i}.png", "question": "?", "answer": "!" * (i + 1)} for i in range(2)), good=0)
    encoder = path.with_name("encoder.yaml")
    with pytest.raises(MattoniError, match=r"data: no answer holds a word that could be learned \(the first is '!'\)"):
        entry.main([str(encoder), str(path)])


def test_every_key_that_is_missing_is_told_at_once(make_configs):
    path = make_configs()[1]
    Path("words.yaml").write_text("stage: words\nrun: runs/words\nstep: 3\noptimise: {}\n", encoding="utf-8-sig")
    with pytest.raises(MattoniError) as refused:
        read_recipe(path)
    assert str(refused.value) == (
        "words.yaml: the keys 'batch', 'optimise.learning_rate', 'encoder', 'data', 'dev', 'steps' and "
        "'steps_per_evaluation' are missing; add them; unknown key 'step'; did you mean 'steps'?"
    )
    Path("words.yaml").write_text("run: runs/words\n")
    with pytest.raises(
        MattoniError, match="words.yaml: the key 'stage' must be one of encoder, columns, tune, words, generate"
    ):
        read_recipe(path)


def test_pictures_that_were_opened_once_are_not_opened_again(rows, monkeypatch):
    path = rows()
    read(path)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened again"))
    assert read(path)[1] == len(CAPTIONS)


def test_a_row_in_another_language_is_a_warning(rows):
    path = rows({"image": "0.png", "caption": "Ein Mann und eine Frau sitzen auf der Bank."})
    (warning,) = [line for line in read(path)[0] if "language" in line]
    assert warning.startswith(
        "data: 1 row seems to have an answer in another language than the rest, which is in English ("
    )
    assert "looks like German" in warning


def test_languages_are_told_where_the_words_tell():
    assert language_of("Un homme est assis sur le banc avec une femme.") == "French"
    assert language_of("Мужчина сидит на скамейке.") == "Cyrillic script"
    assert language_of("一个男人坐在长凳上") == "Cjk script"
    assert language_of("Skateboarder jumping.") is None and language_of("12.50") is None
    assert in_another_language(["", "!"]) == (None, {})


def test_one_class_and_no_rows_are_refused(rows, make_configs):
    path = rows(*({"image": f"{i}.png", "name": "cat"} for i in range(3)), good=0)
    for i in range(3):
        Image.new("RGB", (8, 8), (40 * i, 0, 90)).save(f"images/{i}.png")
    with pytest.raises(
        MattoniError, match="data: every picture is of one class, 'cat', so there is nothing to tell apart"
    ):
        read(path)
    rows(*({"image": f"{i}.png", "question": "What?", "answer": "Yes."} for i in range(3)), good=0)
    with pytest.raises(MattoniError, match=r"data: every row has the answer 'Yes.', so there is nothing to tell apart"):
        read(path)
    rows("{", good=0)
    with pytest.raises(MattoniError, match=r"data: line 1 of rows.jsonl is not JSON"):
        read(path)
    Path("rows.jsonl").write_text("")
    with pytest.raises(MattoniError, match=r"data: rows.jsonl holds no rows of format jsonl to learn from"):
        read(path)


def test_an_encoder_refuses_one_class_and_classes_that_only_dev_has(make_configs):
    for name in ("train/cat", "dev/dog", "same/cat"):
        Path(f"things/{name}").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(f"things/{name}/1.png")
    encoder = make_configs(encoder={"data": {"folder": "things/same"}})[0]
    with pytest.raises(MattoniError, match="data: every picture is of one class, so there is nothing to tell apart"):
        entry.main([str(encoder)])
    make_configs(encoder={"data": {"folder": "things/train", "dev_folder": "things/dev"}})
    with pytest.raises(MattoniError, match="must hold the same sub-folders; only one of them has cat, dog"):
        entry.main([str(encoder)])


def test_a_label_that_is_not_in_the_list_is_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "classes.json").write_text(json.dumps(["cat", {"names": ["dog", "hound"], "short": "dog"}]))
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "1.png", "name": "Hound"}))
    source = Source(format="jsonl", files=("rows.jsonl",), classes="classes.json")
    (sample,) = read_source(source, lambda name: tmp_path / name).samples
    assert sample.name == "dog" and sample.synonyms == ("dog", "hound")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "1.png", "name": "hounds"}))
    with pytest.raises(
        MattoniError,
        match=r"line 1 of rows.jsonl has the label 'hounds', which is not in classes.json: did you mean 'hound'",
    ):
        read_source(source, lambda name: tmp_path / name)
    (tmp_path / "classes.json").write_text('{"cat": 1}')
    with pytest.raises(
        MattoniError, match=r"data: classes.json is no list of classes: it must be a JSON list of names"
    ):
        read_source(source, lambda name: tmp_path / name)


def test_dev_pictures_that_are_training_pictures_and_unknown_things_are_warnings(make_configs):
    Path("things").mkdir()
    for name in ("cat", "dog"):
        Path(f"things/{name}").mkdir()
        Image.new("RGB", (8, 8), "red" if name == "cat" else "blue").save(f"things/{name}/1.png")
    source = {"format": "folder", "files": ["pictures/train"]}
    dev = {"format": "folder", "files": ["things"]}
    path = make_configs(words={"data": [source, dev], "dev": [dev]})[1]
    said, _ = read(path)
    assert (
        "data: 2 dev pictures are training pictures too, so the dev figures will flatter: take them out of one." in said
    )
    path = make_configs(words={"data": [source], "dev": [dev]})[1]
    said, _ = read(path)
    assert "data: dev has things that are never shown in training (cat, dog): they cannot be named right." in said


def test_the_real_mixture_is_told_and_a_source_that_is_never_drawn_is_refused(make_configs):
    source = {"format": "folder", "files": ["pictures/train"]}
    path = make_configs(words={"data": [source | {"share": 3}, source]})[1]
    said, _ = read(path)
    assert "data: 72 pictures of train: 75.0% of a batch, each about 0.5 times" in said
    assert "data: 72 pictures of train: 25.0% of a batch, each about 0.2 times" in said
    recipe = read_recipe(make_configs(words={"data": [source, source | {"share": 1e-3}]})[1])
    sets = [read_source(s, finder(path)) for s in recipe.data]
    with pytest.raises(
        MattoniError, match="data: the share of train is too small for a batch of 8, so it would never be"
    ):
        mixture(recipe, sets)
    with pytest.raises(MattoniError, match=r"words.yaml: data.0.share: Input should be greater than 0"):
        read_recipe(make_configs(words={"data": [source | {"share": 0}]})[1])


def test_places_are_joined_in_words():
    assert places(["line 2 of a", "line 5 of a"]) == "lines 2 and 5 of a"
    assert places(["line 2 of a", "line 5 of b"]) == "line 2 of a, line 5 of b"
    assert places(["a.png", "b.png", "c.png", "d.png"]) == "a.png, b.png, c.png and 1 more"

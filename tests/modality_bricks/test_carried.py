"""A stitch that a further host takes over: the same words in its tokens, what reads features once in the brick."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import modality_bricks.training.train as entry
from assistant.host.host import load_host, load_tokenizer
from assistant.registry import Brick, Registry, check_brick
from assistant.turn.loaded import LoadedBricks
from mattoni.card import read_card
from mattoni.errors import MattoniError
from mattoni.injections import Soft
from mattoni.paths import data_folder
from mattoni.runtime import Asked, GivenPicture
from modality_bricks.stitch import OF_THE_HOST, QFormerStitch, StitchShape, learn_only
from modality_bricks.stitch_file import FILE, is_whole, load_stitch, read_stitch, save_stitch
from modality_bricks.training.prepare import carried_stitch

OTHER_WORDS = "a red square and a blue circle beside the green star of the picture shows " * 5


@pytest.fixture
def other_host(make_host, tmp_path) -> Path:
    return make_host(tmp_path / "Other.Host", seed=1, hidden_size=64, corpus=OTHER_WORDS)


@pytest.fixture
def carried_config(make_configs, tiny_host, other_host, tmp_path) -> tuple[list[str], str]:
    """The three configs of a brick of the tiny host, and one that carries its stitch over to the other."""
    configs = make_configs()
    entry.main([str(path) for path in configs])
    recipe = yaml.safe_load(configs[2].read_text())
    folder = data_folder() / "bricks" / "shapes"
    recipe |= {"run": "runs/carried", "start_from": str(folder), "host": str(other_host)}
    recipe |= {"carried": {"host": str(tiny_host)}, "learn": "host", "encoder": f"local-dir:{folder}/encoder"}
    recipe["brick"] |= {"parents": []}
    path = tmp_path / "carried.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return [str(p) for p in configs], str(path)


def test_one_run_is_carried_over_and_not_the_mean_of_several(carried_config):
    _, path = carried_config
    recipe = yaml.safe_load(Path(path).read_text())
    Path(path).write_text(yaml.safe_dump({**recipe, "start_from": [recipe["start_from"], "runs/other"]}))
    with pytest.raises(MattoniError, match="start_from names several runs, and a carried stitch starts from one"):
        entry.main([path])


def soft_tokens(folder: Path, place: Path) -> torch.Tensor:
    """Of a red picture, for the host that lies there."""
    host = load_host(str(place), device="cpu", dtype="float32")
    runtime = LoadedBricks(host).get(Registry([folder.parent]).scan(host).get(folder.name))
    shown = GivenPicture("a", "a", lambda: Image.new("RGB", (20, 20), "red"))
    (soft,) = (s for s in runtime.inject(Asked("What is it?", shown)).segments if isinstance(s, Soft))
    assert soft.vectors.shape[1] == host.width
    return soft.vectors


def test_a_stitch_says_the_same_words_in_the_tokens_of_another_host(tiny_host, other_host):
    theirs, own = load_tokenizer(str(tiny_host)), load_tokenizer(str(other_host))
    said = [theirs.encode(word)[0] for word in ("a", "p", "t", ".")]
    stop = theirs.encode(".")[-1]
    shape = StitchShape(
        tokens=5, feature_width=12, host_width=32, words=4, queries=4, layers=1, width=16, heads=2, opening=2, classes=1,
        pieces=3,
    )  # fmt: skip
    stitch = QFormerStitch(shape)
    stitch.class_ids.copy_(torch.tensor([[said[0], stop, stop], [stop, stop, stop]]))
    stitch.set_words(torch.tensor(said), torch.randn(384, 32), said[:2])
    embedding = torch.randn(384, 64)
    carried = carried_stitch(stitch, theirs, own, embedding, "ap")
    assert [own.decode([i]) for i in carried.word_ids.tolist()] == ["a", "p", "t", "."]
    assert [own.decode(row) for row in carried.class_ids.tolist()] == ["a..", "..."]
    features = torch.randn(2, 5, 12)
    assert torch.equal(carried.word_logits(carried.read(features)), stitch.word_logits(stitch.read(features)))
    # Before anything was learned: the opening's words, and mixtures of the host's own rows.
    soft = carried(features)
    assert torch.equal(soft[0, :2], embedding[own.encode("ap")]) and torch.equal(soft, carried(features, as_words=True))
    learn_only(carried, OF_THE_HOST)
    learns = {name for name, parameter in carried.named_parameters() if parameter.requires_grad}
    assert learns == {"opening", "residue.weight", "residue.bias"}


def test_a_carried_stitch_leaves_in_the_brick_once_what_reads_features(carried_config, tiny_host, other_host):
    configs, carried = carried_config
    entry.main([carried])
    folder = data_folder() / "bricks" / "shapes"
    place = folder / "variants" / "other.host"
    with safe_open(place / FILE, "pt") as file:
        assert set(file.keys()) <= OF_THE_HOST and "residue.weight" in file.keys()  # noqa: SIM118
    first, second = (read_stitch(folder), read_stitch(place, beside=folder))
    assert torch.equal(first.to_words.weight, second.to_words.weight) and second.shape.host_width == 64
    assert second.residue.weight.abs().sum() > 0  # it learned
    assert isinstance(check_brick(folder), Brick)
    before = soft_tokens(folder, other_host)
    # The next version of it is measured beside the one that is there.
    entry.main([carried])
    assert [card.version for card in read_card(folder).for_each_host()] == [1, 2]
    # Another stitch for the first host takes nothing from the second.
    entry.main([configs[2], "--replace-anyway"])
    assert is_whole(place) and isinstance(check_brick(folder), Brick)
    torch.testing.assert_close(soft_tokens(folder, other_host), before, rtol=0, atol=0)
    soft_tokens(folder, tiny_host)


def test_what_belongs_beside_another_stitch_is_refused(tmp_path):
    folders = [tmp_path / name for name in ("brick", "other", "part")]
    shape = StitchShape(tokens=5, feature_width=12, host_width=32, words=4, queries=4, layers=1, width=16, heads=2)
    for folder in folders:
        folder.mkdir()
        save_stitch(QFormerStitch(shape), folder)
    save_stitch(QFormerStitch(shape), folders[2], beside=folders[0])
    embedding = torch.randn(50, 32)
    load_stitch(folders[2], embedding, beside=folders[0])
    for beside in (folders[1], None):
        with pytest.raises(MattoniError, match="belongs beside another stitch than its brick's: copy the brick again"):
            load_stitch(folders[2], embedding, beside=beside)

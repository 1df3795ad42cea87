"""The stitch: shapes, round trip, errors by their text."""

from pathlib import Path

import pytest
import torch

from mattoni.errors import MattoniError
from modality_bricks.encoder import load_encoder
from modality_bricks.stitch import QFormerStitch, StitchShape, with_classes
from modality_bricks.stitch_file import load_stitch, save_stitch
from modality_bricks.training.dev_answers import answers_of_others, names_it
from modality_bricks.training.prepare import started_stitch


def tiny_stitch() -> tuple[QFormerStitch, torch.Tensor]:
    embedding = torch.randn(50, 32)
    stitch = QFormerStitch(
        StitchShape(tokens=5, feature_width=12, host_width=32, words=20, queries=4, layers=1, width=16, heads=2)
    )
    stitch.set_words(torch.arange(20), embedding)
    return stitch, embedding


def test_a_saved_stitch_gives_the_same_soft_tokens(tmp_path: Path) -> None:
    stitch, embedding = tiny_stitch()
    save_stitch(stitch, tmp_path)
    loaded, again = load_stitch(tmp_path, embedding), load_stitch(tmp_path, embedding)
    features = torch.randn(2, 5, 12)
    assert loaded(features).shape == (2, 4, 32)
    torch.testing.assert_close(loaded(features), again(features), rtol=0, atol=0)
    # Saved in bf16: three digits.
    torch.testing.assert_close(loaded(features), stitch(features), rtol=0.1, atol=0.05)


def test_a_stitch_starts_from_the_mean_of_several_that_began_alike(tmp_path: Path) -> None:
    stitch, embedding = tiny_stitch()
    runs = [tmp_path / name for name in ("one", "other", "foreign")]
    for number, run in enumerate(runs):
        run.mkdir()
        torch.nn.init.constant_(stitch.query_tokens, float(number))
        if run.name == "foreign":
            stitch.word_ids += 1
        save_stitch(stitch, run)
    assert started_stitch(runs[:1], embedding).query_tokens.unique().item() == 0
    mean = started_stitch(runs[:2], embedding)
    assert mean.query_tokens.unique().item() == 0.5
    assert torch.equal(mean.to_words.weight, load_stitch(runs[0], embedding).to_words.weight)
    with pytest.raises(MattoniError, match="other shapes or words: name runs that began alike"):
        started_stitch(runs, embedding)


def test_an_opening_begins_as_the_hosts_own_words_and_sharp_soft_tokens_are_nearly_words(tmp_path: Path) -> None:
    embedding = torch.randn(50, 32)
    shape = StitchShape(
        tokens=5, feature_width=12, host_width=32, words=20, queries=4, layers=1, width=16, heads=2, opening=2,
        sharpness=1e4,
    )  # fmt: skip
    stitch = QFormerStitch(shape)
    stitch.set_words(torch.arange(20), embedding, opening=[7, 3])
    soft = stitch(torch.randn(2, 5, 12))
    assert soft.shape == (2, 6, 32)
    torch.testing.assert_close(soft[:, :2], embedding[[7, 3]].expand(2, -1, -1))
    to_a_word = torch.cdist(soft[:, 2:].reshape(-1, 32), embedding[:20]).min(1).values
    assert to_a_word.max() < 1e-3
    save_stitch(stitch, tmp_path)
    torch.testing.assert_close(load_stitch(tmp_path, embedding).opening, stitch.opening, rtol=1e-2, atol=1e-2)


def test_what_the_encoders_classifier_is_sure_of_stands_there_in_the_hosts_words(tmp_path: Path) -> None:
    stitch, embedding = tiny_stitch()
    weight, bias = torch.zeros(2, 12), torch.zeros(2)
    weight[0, 0], weight[1, 1] = 9, 9
    ids = torch.tensor([[30, 31], [40, 0], [0, 0]])
    naming = with_classes(stitch, weight, bias, ids, sure=0.7)
    naming.read_host(embedding)
    features = torch.zeros(3, 5, 12)
    features[0, -1, 0] = features[1, -1, 1] = 1  # the pooled feature is the last
    features[2, 0, 0] = 1
    assert naming.sure_classes(features).tolist() == [0, 1, -1]
    soft = naming(features)
    assert soft.shape == (3, 2 + 4, 32)
    torch.testing.assert_close(soft[:, :2], embedding[ids], rtol=0, atol=0)
    torch.testing.assert_close(soft[:, 2:], stitch(features), rtol=0, atol=0)
    save_stitch(naming, tmp_path)
    loaded = load_stitch(tmp_path, embedding)
    assert torch.equal(loaded.sure_classes(features), naming.sure_classes(features))
    torch.testing.assert_close(loaded(features)[:, :2], embedding[ids], rtol=0, atol=0)
    assert stitch.sure_classes(features).tolist() == [-1] * 3


def test_a_name_that_is_asked_for_is_told_sooner_than_before_a_description(tmp_path: Path) -> None:
    stitch, embedding = tiny_stitch()
    weight = torch.zeros(2, 12)
    weight[0, 0] = 1  # one feature of 1 makes it likely by 0.73
    ids = torch.tensor([[30, 31], [40, 0], [0, 0]])
    naming = with_classes(stitch, weight, torch.zeros(2), ids, sure=0.8, sure_of_name=0.6)
    save_stitch(naming, tmp_path)
    loaded = load_stitch(tmp_path, embedding)
    features = torch.zeros(2, 5, 12)
    features[:, -1, 0] = 1
    assert loaded.sure_classes(features).tolist() == [-1, -1]
    assert loaded.sure_classes(features, True).tolist() == [0, 0]
    assert loaded.sure_classes(features, torch.tensor([True, False])).tolist() == [0, -1]
    told = loaded(features, wants_name=torch.tensor([True, False]))
    torch.testing.assert_close(told[:, :2], embedding[ids[[0, 2]]], rtol=0, atol=0)
    alike = with_classes(stitch, weight, torch.zeros(2), ids, sure=0.6)
    assert alike.sure_classes(features).tolist() == alike.sure_classes(features, True).tolist() == [0, 0]


def test_a_stitch_for_another_host_or_encoder_is_refused(tmp_path: Path) -> None:
    stitch, _ = tiny_stitch()
    save_stitch(stitch, tmp_path)
    with pytest.raises(MattoniError, match="train a stitch for this host"):
        load_stitch(tmp_path, torch.randn(50, 16))
    with pytest.raises(MattoniError, match="retrain the stitch for this encoder"):
        stitch(torch.randn(1, 6, 12))


def test_attention_counts_by_what_it_carried():
    """Kobayashi et al. 2020: much attention on a feature whose value is nothing is not looking there."""
    stitch, _ = tiny_stitch()
    features = torch.randn(3, 5, 12)
    shares = stitch.attended(features)
    assert shares.shape == (3, 5)
    torch.testing.assert_close(shares.sum(1), torch.ones(3))
    silent = stitch.qformer.encoder.layer[0].crossattention.attention
    torch.nn.init.zeros_(silent.value.bias)
    with torch.no_grad():
        stitch.places[2] = 0
    features[:, 2] = 0
    assert stitch.attended(features)[:, 2].max() == 0
    assert stitch.attended(features)[:, :2].min() > 0


def test_telling_what_was_attended_to_leaves_the_soft_tokens_as_they_were():
    stitch, _ = tiny_stitch()
    features = torch.randn(1, 5, 12)
    before = stitch(features)
    stitch.attended(features)
    torch.testing.assert_close(stitch(features), before, rtol=0, atol=0)


def test_a_damaged_stitch_is_refused(tmp_path: Path) -> None:
    (tmp_path / "stitch.safetensors").write_bytes(b"no")
    with pytest.raises(MattoniError, match="damaged"):
        load_stitch(tmp_path, torch.randn(50, 32))


def test_a_pickled_encoder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MattoniError, match="open_clip_pytorch_model.bin is a pickled checkpoint"):
        load_encoder(tmp_path)


def test_a_synonym_counts_as_whole_words_in_the_first_twelve() -> None:
    assert names_it("A golden retriever.", ("golden retriever",))
    assert not names_it("A boxer.", ("ox",))
    assert not names_it("one two three four five six seven eight nine ten eleven twelve goldfish", ("goldfish",))


def test_shuffled_answers_are_all_there_and_none_is_at_its_own_picture():
    answers = [f"{n}" for n in range(20)]
    shuffled = answers_of_others(answers)
    assert sorted(shuffled) == sorted(answers)
    assert all(own != other for own, other in zip(answers, shuffled, strict=True))
    # Not merely the next ones: sorted by name, neighbours show the same thing.
    assert sum(abs(int(own) - int(other)) == 1 for own, other in zip(answers, shuffled, strict=True)) < 10

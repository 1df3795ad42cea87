"""Any encoder: a folder, a Hub id or an open_clip tag becomes features, soft tokens and an answer. Random weights."""

import io
import shutil
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401

import huggingface_hub
import open_clip
import pytest
import torch
import yaml
from PIL import Image

from assistant.host.sampling import Sampling
from assistant.host.wheels import Unavailable
from assistant.turn.route import Choices
from mattoni.card import describe_files
from mattoni.errors import MattoniError
from mattoni.keys import save_keys
from mattoni.paths import data_folder, model_folder
from modality_bricks.encoder import CONFIG, WEIGHTS, OpenClipEncoder, load_encoder, stack
from modality_bricks.glance import Glance
from tests.assistant.conftest import QUERIES, TINY_VIT, done, png, write_encoder, write_eyes

TIMM = {"timm_model_pretrained": False}
# Each with the rows and columns of its patch tokens and their width: two stages side by side.
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[int, int], int]] = {
    "an open_clip ViT with a class token": (TINY_VIT, {}, (4, 4), 64),
    "an open_clip ViT that is not square": ({**TINY_VIT, "image_size": [48, 32]}, {}, (6, 4), 64),
    "a CoCa-like ViT with an attentional pool": (
        {**TINY_VIT, "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 5},
        {},
        (4, 4),
        64,
    ),
    "an open_clip ResNet": ({"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "head_width": 16}, {}, (2, 2), 768),
    "a timm ConvNeXt": (
        {**TIMM, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        {},
        (2, 2),
        112,
    ),
    "a timm ResNet": (
        {**TIMM, "timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
        {},
        (2, 2),
        288,
    ),
    "a timm ViT with a class token": (
        {**TIMM, "timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear", "image_size": 160},
        {},
        (10, 10),
        128,
    ),
    "a timm ViT without pool": (
        {**TIMM, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "none", "image_size": 160},
        {"embed_dim": 64},
        (10, 10),
        128,
    ),
    "an attention pool and a register, no class token": (
        {**TIMM, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none", "image_size": 160},
        {"embed_dim": 96, "custom_text": True},
        (10, 10),
        192,
    ),
}


def ask(assistant, name="odd"):
    """The ticket of a question about a picture to the brick of that name, and its soft tokens' injection."""
    ticket = done(assistant.ask("What is it?", [png()], Choices(vision=name), Sampling(max_tokens=2)))
    assert ticket.status == "done", ticket.error
    assert ticket.trace.tokens["new"] == 2
    return next(line for line in ticket.trace.injections if "soft tokens" in line)


@pytest.mark.parametrize("tower", TOWERS)
def test_any_tower_becomes_soft_tokens_and_an_answer(tower, assistant):
    vision, model, grid, width = TOWERS[tower]
    folder = data_folder() / "bricks" / "odd"
    write_eyes(folder, assistant.host, vision, **model)
    encoder = load_encoder(folder / "encoder")
    assert (encoder.grid, encoder.tokens, encoder.width) == (grid, grid[0] * grid[1] + 1, width)
    pictures = [Image.new("RGB", (90, 40), "red"), Image.new("L", (31, 77), 90)]
    features = encoder.features(stack(encoder, pictures))
    assert features.shape == (2, encoder.tokens, encoder.width)
    assert features.isfinite().all() and (features[0] - features[1]).abs().max() > 1e-3
    assert ask(assistant) == f"sequence: {QUERIES} soft tokens of orange.png by odd"


@pytest.mark.slow
def test_a_siglip_of_the_published_size_becomes_soft_tokens_and_an_answer(assistant):
    vision = open_clip.get_model_config("ViT-B-16-SigLIP")["vision_cfg"]
    folder = data_folder() / "bricks" / "odd"
    write_eyes(folder, assistant.host, vision, embed_dim=768, custom_text=True)
    encoder = load_encoder(folder / "encoder")
    # 14 x 14 patches and the attention pool's embedding; there is no class token to take away.
    assert (encoder.grid, encoder.tokens, encoder.width) == ((14, 14), 197, 1536)
    assert ask(assistant).startswith(f"sequence: {QUERIES} soft tokens")


def test_patch_tokens_are_those_of_the_places_and_the_class_token_is_none_of_them(tmp_path):
    write_encoder(tmp_path / "encoder", TINY_VIT)
    encoder = load_encoder(tmp_path / "encoder")
    assert isinstance(encoder, OpenClipEncoder)
    batch = torch.randn(1, 3, 32, 32)
    out = encoder.visual.forward_intermediates(batch, indices=2, output_fmt="NLC", output_extra_tokens=True)
    features = encoder.features(batch)
    torch.testing.assert_close(features[:, :-1], torch.cat(out["image_intermediates"], dim=-1), rtol=0, atol=0)
    torch.testing.assert_close(features[:, -1, :16], encoder.visual(batch), rtol=0, atol=1e-6)
    assert not features[:, -1, 16:].any()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Hub that holds one tiny encoder under every id; what was asked of it."""
    write_encoder(tmp_path / "hub", TINY_VIT)
    asked: list[str] = []

    def snapshot_download(repository: str, allow_patterns: list[str]) -> str:
        assert set(allow_patterns) == {CONFIG, WEIGHTS}, "a pickle must never be fetched"
        asked.append(repository)
        return str(tmp_path / "hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize(
    "source, repository",
    [
        ("hf-hub:someone/their-eyes", "someone/their-eyes"),
        ("someone/their-eyes", "someone/their-eyes"),
        ("ViT-B-32/laion2b_s34b_b79k", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
        ("ViT-B-16-SigLIP/webli", "timm/ViT-B-16-SigLIP"),
    ],
)
def test_a_hub_id_and_an_open_clip_tag_are_fetched_and_answer(source, repository, hub, assistant):
    write_eyes(data_folder() / "bricks" / "odd", assistant.host, source=source)
    assert ask(assistant).startswith(f"sequence: {QUERIES} soft tokens")
    assert set(hub) == {repository}


def test_an_encoder_of_the_catalogue_answers_once_it_is_here(assistant):
    name = "efficientnet-lite2"
    with pytest.raises(
        MattoniError, match=f"The encoder '{name}' is not on this machine yet: run `mattoni models pull {name}`"
    ):
        load_encoder(f"catalogue:{name}")
    write_encoder(model_folder(name), TINY_VIT)
    write_eyes(data_folder() / "bricks" / "odd", assistant.host, source=f"catalogue:{name}")
    assert ask(assistant).startswith(f"sequence: {QUERIES} soft tokens")


def test_an_encoder_that_cannot_be_had_is_a_notice_and_what_is_written_is_read_all_the_same(assistant, monkeypatch):
    folder, sent = data_folder() / "bricks" / "odd", png()
    write_eyes(folder, assistant.host)
    save_keys(Glance.load().embed([Image.open(io.BytesIO(sent.content))]), folder / "keys.safetensors")
    card = yaml.safe_load((folder / "brick.yaml").read_text())
    card |= {"files": {n: f.model_dump() for n, f in describe_files(folder).items()}}
    card |= {"parts": {"method": "qformer", "encoder": "catalogue:efficientnet-lite2"}}
    card |= {"routes": {"space": "glance", "keys": "keys.safetensors", "threshold": 0.5}}
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    tried = []

    def gone(source: str) -> None:
        tried.append(source)
        raise Unavailable("Cannot download it: connect to the network.")

    monkeypatch.setattr("assistant.turn.loaded.fetch_source", gone)
    for _ in range(2):
        ticket = done(assistant.ask("What is it?", [sent], sampling=Sampling(max_tokens=1)))
        assert ticket.status == "done"
        notices = [notice.text for notice in ticket.trace.notices]
        assert "'odd' did not look at orange.png: Cannot download it: connect to the network." in notices
    assert tried == ["catalogue:efficientnet-lite2"]


def test_an_unknown_source_says_what_there_is(hub):
    with pytest.raises(MattoniError, match="open_clip has no weights 'mine' of RN50: choose one of openai"):
        load_encoder("RN50/mine")
    with pytest.raises(
        MattoniError, match="There is no encoder 'nothing': give a folder, a Hub id or an open_clip tag"
    ):
        load_encoder("nothing")
    assert not hub


@pytest.mark.parametrize(
    "problem, sentence",
    [
        (OSError("no route"), "'a/b' could not be fetched from the Hub: check the network, or name a local folder."),
        (OSError(28, "No space left"), "The disk is full: 'a/b' was not fetched; free some space."),
    ],
)
def test_a_hub_that_gives_nothing_is_one_sentence(problem, sentence, monkeypatch):
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise problem

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(MattoniError) as raised:
        load_encoder("hf-hub:a/b")
    assert str(raised.value) == sentence


def test_a_repository_with_pickles_only_is_refused(hub, tmp_path):
    (tmp_path / "hub" / WEIGHTS).unlink()
    with pytest.raises(MattoniError, match="'a/b' on the Hub holds no open_clip_model.safetensors, and pickled"):
        load_encoder("a/b")


def test_a_damaged_encoder_is_one_sentence(tmp_path):
    write_encoder(tmp_path / "encoder", TINY_VIT)
    whole = (tmp_path / "encoder" / WEIGHTS).read_bytes()
    (tmp_path / "encoder" / WEIGHTS).write_bytes(whole[:-100])
    with pytest.raises(MattoniError, match="The encoder in encoder cannot be loaded .*: copy it again"):
        load_encoder(tmp_path / "encoder")
    (tmp_path / "encoder" / WEIGHTS).write_bytes(whole)
    (tmp_path / "encoder" / CONFIG).write_text("{}")
    with pytest.raises(MattoniError, match="The encoder in encoder cannot be loaded"):
        load_encoder(tmp_path / "encoder")


def test_an_encoder_that_does_not_fit_its_stitch_is_named(assistant):
    folder = data_folder() / "bricks" / "odd"
    write_eyes(folder, assistant.host)
    shutil.rmtree(folder / "encoder")
    write_encoder(folder / "encoder", {**TINY_VIT, "image_size": 64})
    from modality_bricks.methods.qformer import QFormerParts
    from modality_bricks.modality import load_modality

    parts = QFormerParts(method="qformer", encoder="local-dir:encoder")
    with pytest.raises(
        MattoniError, match="the stitch expects 17 features of width 64 and the encoder gives 65 of width 64"
    ):
        load_modality(folder, parts, assistant.host.embedding)

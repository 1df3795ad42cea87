"""A published encoder is tuned on tiles: what is frozen stays, other classes are left alone, and what comes out is read as an encoder."""

import io
import json
import tarfile
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from mattoni.errors import MattoniError
from modality_bricks.encoder import CLASSES, WEIGHTS, load_classes, load_encoder
from modality_bricks.training import train as entry
from modality_bricks.training.tune_stage import TuneData, TunedModel, TuneStage, classes_of, sharpness
from tests.assistant.conftest import write_encoder

GOLDFISH, ORANGE = {"wnid": "n01443537"}, {"wnid": "n07747607"}
WIDTH = 16
NAMES = [f"thing {number}" for number in range(1000)]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A tiny encoder's folder with a classifier of a thousand things."""
    folder = tmp_path / "published"
    tower = {
        "timm_model_name": "test_convnext",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
    }
    write_encoder(folder, tower, embed_dim=WIDTH)
    classifier = {"weight": torch.randn(1000, WIDTH), "bias": torch.zeros(1000)}
    save_file(classifier, folder / CLASSES, {"names": json.dumps(NAMES)})
    return folder


def pictures(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 255, (count, side, side, 3), dtype=np.uint8)


def stage_of(folder: Path, **settings: float) -> TuneStage:
    labels = np.asarray([1, 950] * 10, np.int64)
    data = TuneData(pictures(20, 64), labels, pictures(8, 32), pictures(4, 64), labels[:4], pictures(3, 32))
    model = TunedModel(folder, load_classes(f"local-dir:{folder}"), ["trunk.stem"])
    return TuneStage(model, data, 32, 4, 2, 6, 2, 0, 1.0, (0.5, 1.0), settings.get("share", 1.0))


def test_classes_are_found_among_the_thousand_by_their_wordnet_numbers():
    assert classes_of([GOLDFISH, ORANGE]).tolist() == [1, 950]
    with pytest.raises(MattoniError, match="'n00000000' is no class of ImageNet-1k"):
        classes_of([{"wnid": "n00000000"}])


def test_tiles_say_nothing_against_other_classes_and_pictures_nothing_new(published):
    stage = stage_of(published)
    rows = stage.rows(0)
    assert len(rows) == 6 and sum(row >= 20 for row in rows) == 2
    stage.loss(stage.model, [row for row in rows if row < 20], 0).backward()
    moved = stage.tuned.classes.bias.grad.nonzero().flatten().tolist()
    assert moved == [1, 950]
    # What it said of pictures before is what it says now, until something has been learned.
    kept = stage.loss(stage.model, [row for row in rows if row >= 20], 0).detach()
    assert float(kept) == pytest.approx(0, abs=1e-4)
    assert stage.evaluate(0).metrics["kept"] == 1.0


def test_what_is_written_lies_between_what_it_was_and_what_it_became(published):
    stage = stage_of(published, share=0.25)
    before = stage.tuned.classes.bias.detach().clone()
    with torch.no_grad():
        stage.tuned.classes.bias += 4
        stage.tuned.clip.visual.head.proj.weight *= 2
    mixed = stage.mixed()
    torch.testing.assert_close(mixed.classes.bias, before + 1)
    whole = stage.before.clip.visual.head.proj.weight
    torch.testing.assert_close(mixed.clip.visual.head.proj.weight, whole * 1.25)
    torch.testing.assert_close(stage.tuned.classes.bias, before + 4)


def test_the_classifier_is_written_as_sure_as_it_is_right(published):
    stage = stage_of(published)
    # Of two things one is right three times in four, whatever the picture.
    logits, labels = torch.tensor([[2.0, 0.0]]).expand(400, 2), torch.arange(400) % 4 == 0
    factor = sharpness(logits, labels.long())
    assert float((logits[0] * factor).softmax(-1)[0]) == pytest.approx(0.75, abs=0.02)
    ratio = stage.written().classes.weight / stage.tuned.classes.weight
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))


def test_every_tile_has_its_turn_in_an_epoch(published):
    stage = stage_of(published)
    seen = [row for step in range(5) for row in stage.rows(step)]
    assert sorted(row for row in seen if row < 20) == list(range(20))
    assert stage.rows(0) == stage.rows(0) != stage.rows(5)


def test_a_config_tunes_it_and_leaves_an_encoder_with_its_classifier(published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.json").write_text(json.dumps([GOLDFISH, ORANGE]))
    sheet = np.concatenate(list(pictures(10, 64)), axis=1)
    write_tar(tmp_path / "tiles.tar", {"0.webp": webp(sheet), "0.cls": b"0 1 " * 5})
    write_tar(tmp_path / "photos.tar", {f"{i}.webp": webp(p) for i, p in enumerate(pictures(4, 48))})
    recipe = {
        "stage": "tune",
        "run": "runs/tune",
        "encoder": "local-dir:published",
        "frozen": ["trunk.stem"],
        "size": 32,
        "batch": 6,
        "pictures_per_batch": 2,
        "steps": 4,
        "steps_per_evaluation": 2,
        "optimise": {"learning_rate": 1.0e-2, "log_every": 1, "checkpoint_minutes": 0},
        "data": {
            "tiles": ["tiles.tar"],
            "classes": "classes.json",
            "dev_tiles": ["tiles.tar"],
            "captioned": ["photos.tar"],
            "dev_captioned": ["photos.tar"],
        },
    }
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump(recipe))
    entry.main(["tune.yaml"])
    tuned = tmp_path / "runs" / "tune" / "encoder"
    before, after = load_file(published / WEIGHTS), load_file(tuned / WEIGHTS)
    changed = {name for name in before if not torch.equal(before[name].bfloat16(), after[name].bfloat16())}
    assert changed and all(name.startswith("visual.") and "trunk.stem" not in name for name in changed)
    assert load_encoder(tuned).width == load_encoder(published).width
    assert load_classes(f"local-dir:{tuned}").names == tuple(NAMES)
    result = json.loads((tmp_path / "runs" / "tune" / "result.json").read_text())
    assert {"top1", "top1 of all", "kept"} <= set(result["best"])


def webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP")
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry_of = tarfile.TarInfo(name)
            entry_of.size = len(content)
            archive.addfile(entry_of, io.BytesIO(content))

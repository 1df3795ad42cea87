"""A stitch can be trained on any encoder that a recipe names; the brick that comes out answers without the trainer."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml

from assistant.host.host import load_host
from mattoni.card import read_card
from mattoni.paths import data_folder
from modality_bricks.modality import load_modality
from modality_bricks.training import train as entry
from tests.assistant.conftest import write_encoder

SIGLIP_LIKE = {
    "timm_model_name": "test_vit3",
    "timm_model_pretrained": False,
    "timm_pool": "map",
    "timm_proj": "none",
    "image_size": 160,
}


@pytest.mark.parametrize(
    "source, named, inside",
    [
        ("theirs", "local-dir:encoder", True),
        ("someone/their-eyes", "someone/their-eyes", False),
    ],
)
def test_a_stitch_is_trained_on_an_encoder_from_elsewhere(
    source, named, inside, make_configs, tiny_host, tmp_path, monkeypatch
):
    write_encoder(tmp_path / "theirs", SIGLIP_LIKE, embed_dim=96, custom_text=True)

    def snapshot_download(repository: str, **_: Any) -> str:
        assert repository == "someone/their-eyes"
        return str(tmp_path / "theirs")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    short = {"encoder": source, "steps": 2, "steps_per_evaluation": 2, "batch": 4}
    _, words, generate = make_configs(words=short, generate=short)
    recipe = yaml.safe_load(generate.read_text())
    recipe["brick"]["parents"] = ["runs/words"]
    generate.write_text(yaml.safe_dump(recipe))
    entry.main([str(words), str(generate)])
    folder: Path = data_folder() / "bricks" / "shapes"
    card = read_card(folder)
    assert card.parts.encoder == named and (folder / "encoder").is_dir() == inside
    loaded = load_modality(folder, card.parts, load_host(str(tiny_host), "cpu", "float32").embedding)
    assert loaded.stitch(torch.randn(1, 101, 192)).shape[0] == 1

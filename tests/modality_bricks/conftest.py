"""A tiny brick's three stages: drawn pictures, configs and a working folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from modality_bricks.training.tutorial_pictures import draw_pictures

OPTIMISE = {"learning_rate": 1.0e-3, "log_every": 1, "checkpoint_minutes": 0}
FOLDER = {"format": "folder", "files": ["pictures/train"]}
DEV = {"format": "folder", "files": ["pictures/dev"]}
BRICK = {"title": "Shapes", "summary": "Names shapes.", "licence": "none", "limits": "A test.", "data": ["drawn"]}
Configs = Callable[..., list[Path]]


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training pictures and one dev picture of each of 36 things."""
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    draw_pictures(folder, train=2, dev=1)
    return folder


@pytest.fixture
def make_configs(drawn: Path, tiny_host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configs:
    """Write `encoder.yaml`, `words.yaml` and `generate.yaml` of a brick called shapes, and go to their folder."""
    (tmp_path / "pictures").symlink_to(drawn, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MATTONI_DATA", raising=False)

    def make(runs: str = "runs", **changes: dict[str, Any]) -> list[Path]:
        stitch = {
            "encoder": f"local-dir:{runs}/encoder/encoder",
            "host": str(tiny_host),
            "cache": f"{runs}/features",
            "data": [FOLDER],
            "dev": [DEV],
            "batch": 8,
            "steps": 6,
            "steps_per_evaluation": 3,
            "optimise": OPTIMISE,
        }
        recipes: dict[str, dict[str, Any]] = {
            "encoder": {
                "architecture": "test_convnext",
                "embedding": 16,
                "size": 32,
                "batch": 8,
                "phases": [{"size": 32, "epochs": 0.7}],
                "data": {"folder": "pictures/train", "dev_folder": "pictures/dev"},
                "optimise": OPTIMISE,
            },
            "words": stitch | {"stitch": {"queries": 6, "layers": 1, "width": 16, "heads": 2, "words": 100}},
            "generate": stitch
            | {
                "start_from": f"{runs}/words",
                "new_tokens": 4,
                "brick": {**BRICK, "folder": "shapes", "parents": [f"{runs}/encoder", f"{runs}/words"]},
            },
        }
        paths = []
        for stage, recipe in recipes.items():
            path = tmp_path / f"{stage}.yaml"
            path.write_text(
                yaml.safe_dump({"stage": stage, "run": f"{runs}/{stage}", **recipe, **changes.get(stage, {})})
            )
            paths.append(path)
        return paths

    return make

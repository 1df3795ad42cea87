"""Writes what a training run leaves: its result, and the brick with its card. Training only."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mattoni.files import replace_folder, write_text
from mattoni.paths import data_folder
from modality_bricks.recipe import GenerateRecipe, StageRecipe, shown
from modality_bricks.stitch import load_stitch

if TYPE_CHECKING:
    from assistant.host import Host


def write_result(recipe: StageRecipe, config: Path, outcome: dict[str, Any], where: str) -> dict[str, Any]:
    """`RUN/result.json`: the full config with its hash, the figures, the hours."""
    result = {
        "command": f"python -m modality_bricks.train {shown(config)}",
        "config": recipe.model_dump(mode="json"),
        "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        "seed": recipe.seed,
        "hardware": where,
        **outcome,
    }
    write_text(Path(recipe.run) / "result.json", json.dumps(result, indent=1))
    return result


def brick_folder(name: str) -> Path:
    """A bare name means the user's own bricks, anything else a path."""
    return Path(name) if "/" in name else data_folder() / "bricks" / name


def write_brick(recipe: GenerateRecipe, result: dict[str, Any], host: "Host") -> Path:
    """Put encoder, stitch and card into the brick's folder. A brick that is there becomes its next version, keys and all."""
    from assistant.card import CARD, BrickCard, Metric, describe_files, read_card, write_card

    assert recipe.brick is not None
    brick, target = recipe.brick, brick_folder(recipe.brick.folder)
    before = read_card(target) if (target / CARD).is_file() else None
    results = [json.loads((Path(run) / "result.json").read_text()) for run in brick.parents] + [result]
    best = result["best"]
    dev = {("named" if s.format in ("tiles", "folder") else "captions"): s for s in recipe.dev}
    titles = {"named": "names the thing in the first 12 words", "captions": "CIDEr-D"}
    metrics = tuple(
        Metric(
            name=titles[kind],
            split=f"{', '.join(source.files)} (dev)",
            value=round(best[kind], 4),
            n=int(best[f"{kind} n"]),
            beside={
                "shuffled pictures": round(best[f"{kind} shuffled"], 4),
                "distinct answers": round(best[f"{kind} distinct"], 4),
            },
            command=result["command"],
        )
        for kind, source in dev.items()
        if kind in best
    )

    def fill(folder: Path) -> None:
        if target.is_dir():
            shutil.copytree(target, folder, dirs_exist_ok=True)
        shutil.copytree(recipe.encoder.removeprefix("local-dir:"), folder / "encoder", dirs_exist_ok=True)
        shutil.copy(Path(recipe.run) / "stitch.safetensors", folder)
        stitch_queries = load_stitch(folder, host.embedding).shape.queries
        card = BrickCard.model_validate(
            {
                "schema": 1,
                "name": target.name,
                "version": before.version + 1 if before else 1,
                "kind": "modality",
                "title": brick.title,
                "summary": brick.summary,
                "host": host.identity.model_dump(),
                "injects": ["sequence"],
                # Keys are made from pictures in the glance space, so another encoder or stitch leaves them valid.
                "routes": before.routes.model_dump() if before and before.routes else None,
                "files": describe_files(folder),
                "parts": {"encoder": "local-dir:encoder", "stitch": "qformer", "queries": stitch_queries},
                "training": {
                    "command": [r["command"] for r in results],
                    "data": list(brick.data),
                    "seed": recipe.seed,
                    "hardware": result["hardware"],
                    "hours": round(sum(r["hours"] for r in results), 2),
                    "stages": [
                        {
                            "config_sha256": r["config_sha256"],
                            "hours": round(r["hours"], 2),
                            "best": r["best"],
                            "note": r.get("note", ""),
                        }
                        for r in results
                    ],
                },
                "metrics": [m.model_dump() for m in metrics],
                "licence": brick.licence,
                "limits": brick.limits,
            }
        )
        write_card(card, folder)

    replace_folder(target, fill)
    return target

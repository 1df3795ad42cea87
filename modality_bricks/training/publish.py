"""Writes what a training run leaves: its result, and the brick with its card. Training only."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brick_training.variants import card_for, keep_encoder, place_for, same_files, short_name, write_variant
from mattoni.card import CARD, BrickCard, Metric, Variant, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder, write_text
from mattoni.paths import data_folder
from modality_bricks.encoder import FOLDERS, load_encoder, split_source
from modality_bricks.stitch_file import FILE as STITCH
from modality_bricks.stitch_file import is_whole, load_stitch, read_stitch, reads_alike, save_stitch
from modality_bricks.stitched import StitchedParts
from modality_bricks.training.compare import compare, measure
from modality_bricks.training.data_checks import Say
from modality_bricks.training.generate_stage import GenerateStage
from modality_bricks.training.recipe import GenerateRecipe, StageRecipe, shown

if TYPE_CHECKING:
    from assistant.host.host import Host

RESULT = "result.json"


def write_result(
    recipe: StageRecipe, config: Path, outcome: dict[str, Any], where: str, host: "Host | None", other_host: str | None
) -> dict[str, Any]:
    """`RUN/result.json`: the full config with its hash, the figures, the hours. `other_host` replaced the config's."""
    # A folder's path says something of this machine, its name is enough.
    name = Path(other_host).name if other_host and Path(other_host).exists() else other_host
    other = f" --host {name}" if name else ""
    result = {
        "command": f"python -m modality_bricks.train {shown(config)}{other}",
        "config": recipe.model_dump(mode="json"),
        "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest(),
        "seed": recipe.seed,
        "hardware": where,
        "vocabulary": host.identity.vocabulary if host is not None else None,
        **outcome,
    }
    write_text(Path(recipe.run) / RESULT, json.dumps(result, indent=1))
    return result


def brick_folder(name: str) -> Path:
    """A bare name means the user's own bricks, anything else a path."""
    return Path(name) if "/" in name else data_folder() / "bricks" / name


def check_same_words(recipe: StageRecipe, host: "Host") -> None:
    """Raise MattoniError where the run that this one starts from mixed its soft tokens from another host's words."""
    if not isinstance(recipe, GenerateRecipe):
        return
    for run in recipe.starts:
        path = Path(run) / RESULT
        made = json.loads(path.read_text()).get("vocabulary") if path.is_file() else None
        if made not in (None, host.identity.vocabulary):
            raise MattoniError(
                f"start_from: the stitch of {run} was made for a host with other words: run its config for "
                f"{host.name} first."
            )


def check_parents(recipe: StageRecipe) -> None:
    """Raise MattoniError where a run that belongs on the card has left no result: before the long part."""
    runs = recipe.brick.parents if isinstance(recipe, GenerateRecipe) and recipe.brick is not None else ()
    for run in runs:
        if not (Path(run) / RESULT).is_file():
            raise MattoniError(f"brick.parents: there is no {run}/{RESULT}: run the config that makes it first.")


def compared(stage: GenerateStage, recipe: GenerateRecipe, host: "Host", say: Say) -> None:
    """Measure the new stitch and the brick that it would replace, if there is one, on the same dev rows.

    Raises MattoniError where the one that is there is better, or cannot be compared.
    """
    assert recipe.brick is not None
    target, run = brick_folder(recipe.brick.folder), Path(recipe.run)
    if not (target / CARD).is_file():
        return
    stays = f"{target} stays as it is, and the new stitch in {run}; --replace-anyway replaces it all the same"
    card = read_card(target)
    if card.host is None or not isinstance(card.parts, StitchedParts):
        raise MattoniError(f"'{card.name}' is no brick of this kind, so the two cannot be compared: {stays}.")
    own = card_for(card, host.identity)
    if own is None:
        say(f"{card.name}: its first stitch for {host.name}, a variant beside the others")
        return
    assert isinstance(own.parts, StitchedParts)
    device, folder = stage.speaker.host.device, Path(recipe.cache)
    new = measure(stage, load_encoder(recipe.encoder, device), load_stitch(run, host.embedding, device), folder)
    source = own.parts.encoder
    scheme, place = split_source(source)
    if scheme in FOLDERS:
        source = f"{scheme}:{target / place}"
    old = measure(
        stage,
        load_encoder(source, device),
        load_stitch(target / place_for(target, host.identity, ""), host.embedding, device, beside=target),
        folder,
    )
    found = compare(new.rows, old.rows)
    if found.worse:
        raise MattoniError(f"{card.name}: {found.sentence()}: {stays}.")
    say(f"{card.name}: {found.sentence()}")


def keep_stitch(folder: Path, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
    """Give variants a copy of what they share with the stitch in the brick's folder, which is about to be replaced."""
    kept = []
    for variant in variants:
        place = folder / variant.place
        if not is_whole(place):
            save_stitch(read_stitch(place, beside=folder), place)
            variant = variant.model_copy(update={"files": describe_files(folder, variant.place)})
        kept.append(variant)
    return tuple(kept)


def write_brick(recipe: GenerateRecipe, result: dict[str, Any], host: "Host") -> Path:
    """Put encoder, stitch and card into the brick's folder. A brick that is there becomes its next version, keys and all.

    A brick that is there for another host keeps everything and gets a variant.
    """
    assert recipe.brick is not None
    brick, target = recipe.brick, brick_folder(recipe.brick.folder)
    before = read_card(target) if (target / CARD).is_file() else None
    results = [json.loads((Path(run) / RESULT).read_text()) for run in brick.parents] + [result]
    best = result["best"]
    scheme, place = split_source(recipe.encoder)
    told = "answered" if "answered" in best else "captions"
    dev = {("named" if s.format in ("tiles", "folder") else told): s for s in recipe.dev}
    titles = {"named": "names the thing in the first 12 words", "captions": "CIDEr-D", "answered": "answers as its row"}
    metrics = tuple(
        Metric(
            name=titles[kind],
            split=f"{', '.join(source.files)} (dev)",
            value=round(best[kind], 4),
            n=int(best[f"{kind} n"]),
            beside={
                "shuffled recordings" if brick.listens else "shuffled pictures": round(best[f"{kind} shuffled"], 4),
                "distinct answers": round(best[f"{kind} distinct"], 4),
            },
            command=result["command"],
        )
        for kind, source in dev.items()
        if kind in best
    )

    training = {
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
    }
    parts = {
        "method": "listening" if brick.listens else "qformer",
        "encoder": f"{scheme}:encoder" if scheme in FOLDERS else recipe.encoder,
        "queries": load_stitch(Path(recipe.run), host.embedding).shape.queries,
    } | ({"reads": brick.reads} if brick.reads else {})

    def fill_variant(folder: Path) -> dict[str, Any]:
        if (target / STITCH).is_file() and reads_alike(Path(recipe.run), target):
            save_stitch(read_stitch(Path(recipe.run)), folder / own, beside=folder)
        else:
            shutil.copy(Path(recipe.run) / STITCH, folder / own)
        if scheme not in FOLDERS or same_files(Path(place), folder / "encoder"):
            return {}
        shutil.copytree(place, folder / own / "encoder", dirs_exist_ok=True)
        return {"encoder": f"{scheme}:{own}/encoder"}

    own = place_for(target, host.identity, short_name(host.name))
    if own:
        values = {"parts": parts, "training": training, "metrics": [m.model_dump() for m in metrics]}
        write_variant(target, target, own, host.identity, values, fill_variant)
        return target

    def fill(folder: Path) -> None:
        variants = before.variants if before else ()
        if target.is_dir():
            shutil.copytree(target, folder, dirs_exist_ok=True)
        if scheme not in FOLDERS or not same_files(Path(place), folder / "encoder"):
            variants = keep_encoder(folder, variants, "encoder")
            shutil.rmtree(folder / "encoder", ignore_errors=True)
        if scheme in FOLDERS:
            shutil.copytree(place, folder / "encoder", dirs_exist_ok=True)
        variants = keep_stitch(folder, variants)
        shutil.copy(Path(recipe.run) / STITCH, folder)
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
                "parts": parts,
                "training": training,
                "metrics": [m.model_dump() for m in metrics],
                "licence": brick.licence,
                "limits": brick.limits,
                "variants": [v.model_dump(mode="json") for v in variants],
            }
        )
        write_card(card, folder)

    replace_folder(target, fill)
    return target

"""Trains a skill from a recipe: `python -m task_bricks.train RECIPE.yaml`, or `mattoni train task RECIPE.yaml`.

The entry point: it loads the host and the embedder, and hands them to the steps. Run it again after a stop or a kill,
and it goes on where it was.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mattoni.torchvision_ops  # noqa: F401

import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from brick_training.emulator import Emulates, read_emulates
from brick_training.frame import prompt_frame
from brick_training.learner import give_weights
from brick_training.loop import train
from brick_training.pictures import open_picture, tidy_path
from brick_training.run_folder import BEST, locked
from brick_training.variants import card_for, place_for, short_name, write_variant
from mattoni.card import CARD, VARIANTS, BrickCard, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import sha256_of, write_text
from mattoni.injections import check_low_rank
from mattoni.paths import brick_folders, cache_folder, data_around, data_folder, shipped_models, training_data
from mattoni.versions import next_version, replace_brick
from task_bricks.lora import CONFIG, README, WEIGHTS, card_parts, in_eight_bits, read_lora, write_lora
from task_bricks.training.readme import format_samples, write_readme
from task_bricks.training.recipe import Recipe, read_recipe
from task_bricks.training.routing import Embed, SkillKeys, make_skill_keys
from task_bricks.training.rows import Row, read_rows, read_wordings
from task_bricks.training.stage import SkillStage, Task, fast_attention, settings_of
from task_bricks.training.start import Start, find_start, mean_of
from task_bricks.training.steps import Eyes

if TYPE_CHECKING:
    from assistant.host.host import Host
    from mattoni.card import HostIdentity


def train_skill(
    recipe_path: Path,
    out: Path | None,
    work: Path | None,
    host_source: str,
    start_from: str | None = None,
    replace_anyway: bool = False,
) -> Path:
    """Train by a recipe and write the brick. Returns its folder.

    out             folder of brick folders; None: the user's own
    work            folder for checkpoints, curve and samples; None: in the cache
    start_from      the skill, by name or folder, whose training goes on; None: as the recipe says
    replace_anyway  also a skill that is better by more than chance

    Raises MattoniError where such a skill stays.
    """
    from assistant.host.host import load_plain_host
    from assistant.host.prompt import ASK_TEXT

    recipe = read_recipe(recipe_path)
    if start_from is not None:
        recipe = recipe.model_copy(update={"start_from": start_from})
    data = data_of(recipe_path, recipe)
    task = read_task(recipe, data)
    host, emulates = load_plain_host(host_source), read_emulates(host_source)
    if recipe.for_passages:
        task = task.told(host.ask_text or ASK_TEXT)
    # Taken now: while the LoRA is on the model, its layers have other names.
    identity, shapes = host.identity, host.linear_shapes
    if emulates is not None:
        identity, shapes = emulates.host, {emulates.at_host(name): shape for name, shape in shapes.items()}
        _check_may_be_emulated(recipe, out, replace_anyway)
    eyes = _eyes(recipe.vision, host, recipe.pictures_as == "words")
    target = (out or data_folder() / "bricks") / recipe.name
    # A skill that came with Mattoni stays for its own host: what is written of it is a copy with one more variant.
    base = target if (target / CARD).is_file() else shipped_models() / "bricks" / recipe.name
    if start_from is None and recipe.start_from == recipe.name and _is_first_for(base, identity):
        _say(f"'{recipe.name}' has no earlier version for this host: it is trained from nothing")
        recipe = recipe.model_copy(update={"start_from": None})
    start = mean_of([find_start(source, identity) for source in recipe.starts]) if recipe.starts else None
    place = place_for(base, identity, short_name(host.name))
    # Before the long part: a missing list or embedder is found at once. A variant has the brick's keys.
    keys = make_skill_keys(recipe, recipe_path.parent, data, _embedder()) if recipe.routing and not place else None
    run = work or cache_folder() / "runs" / "--".join([recipe.name, *([Path(place).name] if place else [])])
    with locked(run), fast_attention(host.model):
        stage = SkillStage(
            host.model,
            prompt_frame(host),
            eyes,
            recipe,
            task,
            run,
            start.lora if start else None,
            emulates.own if emulates else None,
        )
        outcome = trained(stage, run)
        _say(f"measuring the best weights and the bare host on {len(task.dev)} dev rows")
        answers, bare = stage.answers(task.dev), stage.answers(task.dev[: recipe.bare_rows], with_lora=False)
    metric = _metric(recipe, task, answers, bare, emulates)
    _say(f"{recipe.metric} {metric['value']} (bare host {metric['beside']['bare host']}), n = {len(task.dev)}")
    if not replace_anyway and emulates is None:
        _check_no_worse(stage, task, answers, target, identity, run)
    card = _card(recipe, recipe_path, task, host.device, identity, outcome, metric)
    card = _versioned(card, start, target)
    samples = format_samples(card["training"]["best_step"], task.dev, answers)
    if place:
        # Its routing keys, title and limits are the brick's, whatever the host.
        training = {**card["training"], "command": f"{card['training']['command']} --host {Path(place).name}"}
        values = {"parts": card["parts"], "training": training, "metrics": [metric]}
        peft = stage.skill.peft
        write_variant(
            base,
            target,
            place,
            identity,
            values,
            lambda folder: _write_weights(folder / place, host.name, peft, emulates, recipe.lora.eight_bits),
        )
    else:
        replace_brick(
            target, lambda folder: _write_brick(folder, target, recipe, card, keys, stage.skill.peft, samples, emulates)
        )
    check_low_rank(read_lora(target / place), shapes, host.name)
    if keys is not None:
        _pass_gate(target, identity)
    return target


def trained(stage: SkillStage, run: Path) -> dict[str, Any]:
    """Train to the end, from the checkpoint in `run` if there is one, and put the best weights into the stage's model."""
    accelerator = Accelerator(cpu=stage.skill.host.device.type == "cpu")
    outcome = train(stage, run, settings_of(stage.recipe), accelerator, stage.recipe.depends_on)
    give_weights(stage.model, torch.load(run / BEST, weights_only=True, map_location="cpu"))
    return outcome


def _is_first_for(base: Path, identity: "HostIdentity") -> bool:
    """Whether a brick that is there has nothing for this host yet."""
    return (base / CARD).is_file() and card_for(read_card(base), identity) is None


def _pass_gate(target: Path, identity: "HostIdentity") -> None:
    """Let a skill of the user's through the gate, or not, and say which; elsewhere nothing asks for it."""
    from assistant.bricks.gate import pass_gate
    from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
    from assistant.host.embedder import Embedder
    from assistant.registry import Registry
    from assistant.turn.admission import needs_verdict

    bricks = Registry([target.parent, *brick_folders(data_around(target.parent))]).scan(identity)
    brick = bricks.get(target.name)
    if needs_verdict(brick):
        embedder = Embedder(fetch(BUILTIN_EMBEDDER))
        _say(pass_gate(brick, bricks, embedder.embed, embedder.digest).sentence)


def _say(line: str) -> None:
    print(line, flush=True)


def data_of(recipe_path: Path, recipe: Recipe) -> Path:
    """The folder of a recipe's data: its own where they lie beside it, else that of MATTONI_DATA."""
    return recipe_path.parent if (recipe_path.parent / recipe.data).is_file() else training_data()


def read_task(recipe: Recipe, data: Path) -> Task:
    """The recipe's rows and wordings, checked; no dev row may be a training row."""
    from mattoni.metrics import METRICS, Result, Scored, score

    if recipe.metric not in METRICS:
        raise MattoniError(f"There is no metric '{recipe.metric}': choose one of {', '.join(METRICS)}.")
    metric = next(known for known in METRICS if known == recipe.metric)

    def result(answers: Sequence[str], rows: Sequence[Row]) -> Result:
        return score(metric, [Scored(a, row.answers) for a, row in zip(answers, rows, strict=True)])

    rows, dev = (read_rows(_found(name, data), _say) for name in (recipe.data, recipe.dev))
    dev = dev[: recipe.dev_rows]
    _check_pictures(recipe, [*rows, *dev])
    trained_on = {_given(row) for row in rows}
    for number, row in enumerate(dev, 1):
        if _given(row) in trained_on:
            raise MattoniError(
                f"{recipe.dev}, row {number}: this input is in {recipe.data} too; remove it from one of them."
            )
    found = recipe.wordings
    wordings = [w for task in found.tasks for w in read_wordings(data / found.file, task)] if found else []
    return Task(rows, dev, wordings, lambda a, r: result(a, r).value, lambda a, r: result(a, r).rows)


def _found(name: str, data: Path) -> Path:
    """A file below the working folder if it is there, else below that of the data."""
    places = [folder / written for written in (name, tidy_path(name)) for folder in (Path(), data)]
    return next((place for place in places if place.is_file()), data / name)


def _given(row: Row) -> tuple[str, str, tuple[Path, ...]]:
    """What a row asks about: held out is what differs in it."""
    return row.text.casefold(), row.input.casefold(), row.images


def _check_pictures(recipe: Recipe, rows: Sequence[Row]) -> None:
    """Raise MattoniError where rows have pictures and nobody looks at them, or the other way round."""
    seen = {bool(row.images) for row in rows}
    if len(seen) > 1:
        raise MattoniError(f"{recipe.data}: some rows have images and some have none; keep the ones or the others.")
    if seen == {True} and recipe.vision is None:
        raise MattoniError(f"{recipe.data} has images: name the image brick that looks at them as 'vision'.")
    if seen == {False} and recipe.vision is not None:
        raise MattoniError(f"{recipe.data} has no images: leave 'vision' out of the recipe.")


def _eyes(name: str | None, host: "Host", as_words: bool) -> Eyes | None:
    """Makes a picture's soft tokens by an image brick as the assistant does, once per picture; None without a brick.

    Raises MattoniError where there is no such brick, or it sees by reading alone.
    """
    from assistant.registry import Registry
    from assistant.turn.loaded import LoadedBricks
    from mattoni.injections import Soft
    from mattoni.runtime import Asked, GivenPicture

    if name is None:
        return None
    brick = Registry(brick_folders()).scan(host).get(name)
    if not brick.accepts("picture") or brick.accepts("page"):
        raise MattoniError(f"vision: '{name}' makes no soft tokens: name an image brick such as photo.")
    eyes = LoadedBricks(host).get(brick)

    @cache
    def soft_tokens(path: Path) -> Tensor:
        asked = Asked("", GivenPicture(path.name, sha256_of(path), lambda: open_picture(path)), as_words=as_words)
        (soft,) = (segment for segment in eyes.inject(asked).segments if isinstance(segment, Soft))
        return soft.vectors.to(host.dtype)

    return soft_tokens


def _embedder() -> Embed:
    """The built-in text embedder of the `text` space."""
    from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
    from assistant.host.embedder import Embedder

    return Embedder(fetch(BUILTIN_EMBEDDER)).embed


def _check_may_be_emulated(recipe: Recipe, out: Path | None, replace_anyway: bool) -> None:
    """Raise MattoniError for what an emulator cannot tell: how good a skill of the whole host is, or what it learnt before."""
    if recipe.start_from is not None:
        raise MattoniError("An emulator cannot go on with a skill of the whole host: leave start_from out.")
    if ((out or data_folder() / "bricks") / recipe.name / CARD).is_file() and not replace_anyway:
        raise MattoniError(
            f"'{recipe.name}' is there, and an emulator cannot tell which is better: train into another folder with --out and "
            "measure both with `mattoni eval`, or replace it with --replace-anyway."
        )


def _metric(
    recipe: Recipe, task: Task, answers: Sequence[str], bare: Sequence[str], emulates: Emulates | None
) -> dict[str, Any]:
    """The metric on all dev rows, with the bare host's beside it, as the card has it."""
    split = Path(recipe.dev).stem
    return {
        "name": f"{recipe.metric}, {emulates.said}" if emulates else recipe.metric,
        "split": split,
        "value": round(task.score(answers, task.dev), 2),
        "n": len(task.dev),
        "beside": {"bare host": round(task.score(bare, task.dev[: len(bare)]), 2), "bare host n": len(bare)},
        "command": f"mattoni train task {recipe.name}.yaml"
        if recipe.for_passages
        else f"mattoni eval {split}.jsonl --skill {recipe.name}",
    }


def _card(
    recipe: Recipe,
    recipe_path: Path,
    task: Task,
    device: torch.device,
    identity: "HostIdentity",
    outcome: dict[str, Any],
    metric: dict[str, Any],
) -> dict[str, Any]:
    """The card without its routes and files, which are known when they are written."""
    threads = torch.get_num_threads()
    hardware = f"CPU, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else device.type
    return {
        "schema": 1,
        "name": recipe.name,
        "version": 1,
        "kind": "task",
        "title": recipe.title,
        "summary": recipe.summary,
        "host": identity.model_dump(),
        "injects": ["low-rank"],
        "parts": {**card_parts(recipe.lora.rank), **_needs(recipe, task), **_read_and_finished(recipe)},
        "training": {
            "command": f"python -m task_bricks.train {recipe_path.name if recipe_path.is_absolute() else recipe_path}",
            "recipe": recipe.model_dump(mode="json", exclude={"title", "summary", "licence", "limits", "sources"}),
            "data": [source.model_dump(exclude_none=True) for source in recipe.sources],
            "pairs_seen": recipe.steps * recipe.batch_size,
            "pairs_available": len(task.rows),
            "best_step": outcome["best_step"] + 1,
            "seed": recipe.seed,
            "hardware": f"{hardware}, {platform.machine()}",
            "hours": round(outcome["hours"], 2),
        },
        "metrics": [metric],
        "licence": recipe.licence,
        "limits": recipe.limits,
    }


def _check_no_worse(
    stage: SkillStage, task: Task, answers: Sequence[str], target: Path, identity: "HostIdentity", run: Path
) -> None:
    """Compare with the skill that is there on the same dev rows (paired bootstrap over rows, 95 %), and say what came out.

    Nothing is compared where there is none for this host. Raises MattoniError where that skill is better by more than chance.
    """
    from mattoni.metrics import paired_difference

    if not (target / CARD).is_file():
        return
    stays = f"it stays, and the new weights in {run}; --replace-anyway replaces it"
    here = read_card(target)
    if here.parts.method != "lora":
        raise MattoniError(f"'{here.name}' is no skill, and a skill cannot replace it: give the recipe another name.")
    old = card_for(here, identity)
    if old is None:
        return
    place = place_for(target, identity, "")
    _say(f"measuring version {old.version}, which is there, on the same rows")
    mine, theirs = (task.row_scores(said, task.dev) for said in (answers, stage.answers_of(target / place, task.dev)))
    mean, low, high = paired_difference(mine, theirs)
    new, before = (sum(rows) / len(rows) for rows in (mine, theirs))
    told = (
        f"the new '{old.name}' scores {new:.3f} and version {old.version} {before:.3f} on the same {len(task.dev)} dev rows "
        f"(difference {mean:+.3f}, 95 % of resampled rows between {low:+.3f} and {high:+.3f})"
    )
    if high < 0:
        raise MattoniError(f"Version {old.version} is better by more than chance explains: {told}; {stays}.")
    _say(told)


def _versioned(card: dict[str, Any], start: Start | None, target: Path) -> dict[str, Any]:
    """The card with its version, one above those that it replaces or goes on from, and what it came from."""
    before: list[BrickCard] = []
    if start is not None:
        training = card["training"]
        # A folder's path says something of this machine, its name is enough.
        names = [part.lora.name for part in (start, *start.others)]
        recipe = {**training["recipe"], "start_from": names if start.others else names[0]}
        command = training["command"] + ("" if start.others else f" --start-from {start.lora.name}")
        card = {**card, "training": {**training, "command": command, "recipe": recipe, "parents": start.parents}}
        before = [start.card] if start.card is not None and start.card.name == card["name"] else []
    return {**card, "version": max([next_version(target), *(old.version + 1 for old in before)])}


def _needs(recipe: Recipe, task: Task) -> dict[str, int | str]:
    """How many pictures a message must have at least for the skill to be chosen without the user, seen by whom, shown how."""
    if recipe.vision is None:
        return {}
    shown = {"pictures_as": recipe.pictures_as} if recipe.pictures_as else {}
    return {"pictures": min(len(row.images) for row in task.rows), "vision": recipe.vision, **shown}


def _read_and_finished(recipe: Recipe) -> dict[str, str | bool]:
    """What of a conversation the skill reads and what finishes its answers, where that is not as usual."""
    told: dict[str, str | bool] = {} if recipe.reads == "conversation" else {"reads": str(recipe.reads)}
    told |= {"needs_text": True} if recipe.needs_text else {}
    told |= {"for_passages": True} if recipe.for_passages else {}
    told |= {"on_answer": recipe.on_answer} if recipe.on_answer else {}
    return told | ({"evaluator": str(recipe.evaluator)} if recipe.evaluator else {})


def _write_weights(
    folder: Path, base_model: str, peft: PeftModel, emulates: Emulates | None = None, eight_bits: bool = False
) -> dict[str, Any]:
    """Write PEFT's files in bf16 or eight bits, what was trained on an emulator for its host. Nothing more belongs on the card."""
    config: Any = peft.peft_config["default"]
    config.base_model_name_or_path = base_model
    peft.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / README).unlink(missing_ok=True)  # peft's own, a form that nobody filled in
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in load_file(folder / WEIGHTS).items()}
    if emulates is not None:
        tensors = {emulates.at_host(name): tensor for name, tensor in tensors.items()}
        written = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        targets = sorted(emulates.at_host(name) for name in config.target_modules)
        write_text(folder / CONFIG, json.dumps({**written, "target_modules": targets}, indent=2))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if eight_bits:
        write_lora(folder, in_eight_bits(read_lora(folder)), base_model)
    return {}


def _write_brick(
    folder: Path,
    target: Path,
    recipe: Recipe,
    card: dict[str, Any],
    keys: SkillKeys | None,
    peft: PeftModel,
    samples: str,
    emulates: Emulates | None,
) -> None:
    """Write PEFT's files, keys, card and README; variants for other hosts of the brick that is there stay."""
    _write_weights(folder, recipe.base_model, peft, emulates, recipe.lora.eight_bits)
    if keys is not None:
        card = {**card, "routes": keys.save(folder)}
    if (target / CARD).is_file() and (variants := read_card(target).variants):
        shutil.copytree(target / VARIANTS, folder / VARIANTS)
        card = {**card, "variants": [variant.model_dump(mode="json") for variant in variants]}
    write_card(BrickCard.model_validate({**card, "files": describe_files(folder)}), folder)
    write_readme(folder, card, samples)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    # A training meets a new shape of its products in nearly every step, and oneDNN keeps what it made for 1,024 of them: a fifth
    # of the memory of such a run, and no time won.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "24")
    parser = argparse.ArgumentParser(
        prog="task_bricks.training.train", description="Train a skill (a PEFT LoRA) from a recipe."
    )
    parser.add_argument("recipe", type=Path, help="a YAML file such as task_bricks/recipes/english-german.yaml")
    parser.add_argument("--out", type=Path, help="folder of brick folders; default: your own bricks")
    parser.add_argument("--work", type=Path, help="folder for checkpoints, curve and samples; default: in the cache")
    parser.add_argument("--host", default="builtin", help="catalogue name, Hub id, folder or GGUF file")
    parser.add_argument(
        "--start-from", metavar="SKILL", help="go on from a skill, by name or folder; its rank must be the recipe's"
    )
    parser.add_argument(
        "--replace-anyway",
        action="store_true",
        help="replace a skill of that name also where it is better by more than chance",
    )
    given = parser.parse_args(arguments)
    try:
        folder = train_skill(given.recipe, given.out, given.work, given.host, given.start_from, given.replace_anyway)
    except MattoniError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    except KeyboardInterrupt:
        # Outside of the loop, which has its own answer: while data are read, or the brick is measured or written.
        print("Stopped: the same command goes on.", file=sys.stderr)
        return 128 + signal.SIGINT
    _say(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

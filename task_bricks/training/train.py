"""Trains a skill from a recipe: `python -m task_bricks.train RECIPE.yaml`, or `mattoni train task RECIPE.yaml`.

The entry point: it loads the host and the embedder, and hands them to the steps. Run it again after a stop or a kill,
and it goes on where it was.
"""

import argparse
import platform
import sys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mattoni.torchvision_ops  # noqa: F401

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from brick_training.pictures import open_picture
from mattoni.card import BrickCard, describe_files, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder, sha256_of
from mattoni.injections import check_low_rank
from mattoni.paths import brick_folders, cache_folder, data_folder, training_data
from task_bricks.lora import WEIGHTS, card_parts, read_lora
from task_bricks.training.readme import write_readme
from task_bricks.training.recipe import Recipe, read_recipe
from task_bricks.training.report import format_samples
from task_bricks.training.routing import Embed, SkillKeys, make_skill_keys
from task_bricks.training.rows import Row, read_rows, read_wordings
from task_bricks.training.steps import SOFT, Coder, Encoded
from task_bricks.training.training import Learner, Task, Trained, answers_of, train

if TYPE_CHECKING:
    from assistant.host.host import Host
    from mattoni.card import HostIdentity

Eyes = Callable[[Path], Tensor]  # a picture's file -> its soft tokens, (n, width)


def train_skill(recipe_path: Path, out: Path | None, work: Path | None, host_source: str) -> Path:
    """Train by a recipe and write the brick. Returns its folder.

    out   folder of brick folders; None: the user's own
    work  folder for checkpoints, curve and samples; None: in the cache
    """
    from assistant.host.host import load_host

    recipe = read_recipe(recipe_path)
    task = _read_task(recipe, training_data())
    # Before the long part: a missing list or embedder is found at once.
    keys = make_skill_keys(recipe, recipe_path.parent, training_data(), _embedder()) if recipe.routing else None
    host = load_host(host_source)
    # Taken now: while the LoRA is on the model, its layers have other names.
    identity, shapes = host.identity, host.linear_shapes
    coder = _coder(host, _eyes(recipe.vision, host, recipe.pictures_as == "words"))
    runs = work or cache_folder() / "runs" / recipe.name
    trained = train(host.model, coder, recipe, task, runs, _say)
    _say(f"measuring the best weights and the bare host on {len(task.dev)} dev rows")
    answers = answers_of(trained.learner, coder, task.dev, recipe)
    bare = answers_of(trained.learner, coder, task.dev, recipe, with_lora=False)
    metric = _metric(recipe, task, answers, bare)
    _say(f"{recipe.metric} {metric['value']} (bare host {metric['beside']['bare host']}), n = {len(task.dev)}")
    target = (out or data_folder() / "bricks") / recipe.name
    card = _card(recipe, recipe_path, task, host.device, identity, trained, metric)
    samples = format_samples(card["training"]["best_step"], task.dev, answers)
    replace_folder(target, lambda folder: _write_brick(folder, recipe, card, keys, trained.learner, samples))
    check_low_rank(read_lora(target), shapes, host.name)
    return target


def _say(line: str) -> None:
    print(line, flush=True)


def _read_task(recipe: Recipe, data: Path) -> Task:
    """The recipe's rows and wordings, checked; no dev row may be a training row."""
    from mattoni.metrics import METRICS, Scored, score

    if recipe.metric not in METRICS:
        raise MattoniError(f"There is no metric '{recipe.metric}': choose one of {', '.join(METRICS)}.")
    metric = next(known for known in METRICS if known == recipe.metric)

    def scored(answers: Sequence[str], rows: Sequence[Row]) -> float:
        return score(metric, [Scored(a, row.answers) for a, row in zip(answers, rows, strict=True)]).value

    rows, dev = (read_rows(_found(name, data), _say) for name in (recipe.data, recipe.dev))
    _check_pictures(recipe, [*rows, *dev])
    trained_on = {(row.input.casefold(), row.images) for row in rows}
    for number, row in enumerate(dev, 1):
        if (row.input.casefold(), row.images) in trained_on:
            raise MattoniError(
                f"{recipe.dev}, row {number}: this input is in {recipe.data} too; remove it from one of them."
            )
    wordings = read_wordings(data / recipe.wordings.file, recipe.wordings.task) if recipe.wordings else []
    return Task(rows, dev, wordings, scored)


def _found(name: str, data: Path) -> Path:
    """A file below the working folder if it is there, else below that of the data."""
    return Path(name) if Path(name).is_file() else data / name


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
    brick = Registry(brick_folders()).scan().get(name)
    if not brick.accepts("picture") or brick.accepts("page"):
        raise MattoniError(f"vision: '{name}' makes no soft tokens: name an image brick such as photo.")
    eyes = LoadedBricks(host).get(brick)

    @cache
    def soft_tokens(path: Path) -> Tensor:
        asked = Asked("", GivenPicture(path.name, sha256_of(path), lambda: open_picture(path)), as_words=as_words)
        (soft,) = (segment for segment in eyes.inject(asked).segments if isinstance(segment, Soft))
        return soft.vectors.to(host.dtype)

    return soft_tokens


def _coder(host: "Host", eyes: Eyes | None = None) -> Coder:
    """Text and pictures to ids and soft tokens exactly as the assistant does it at run time."""
    from assistant.host.prompt import Turn, build_prompt
    from mattoni.injections import AFTER_PICTURE, Segment, Soft, Text, picture_label
    from mattoni.untrusted import encode_untrusted

    tokenizer = host.tokenizer

    @lru_cache(maxsize=1)
    def around() -> tuple[list[int], list[int]]:
        # The template is rendered once: what stands before and after a user's message does not depend on it.
        empty, marked = (build_prompt(tokenizer, [Turn("user", (Text(t),))]).keys for t in ("", "x"))
        ids = [key for key in empty if isinstance(key, int)]
        before = next(i for i, (a, b) in enumerate(zip(empty, marked, strict=False)) if a != b)
        return ids[:before], ids[before:]

    def prompt(message: str, images: Sequence[Path]) -> Encoded:
        if not images:
            before, after = around()
            return Encoded([*before, *encode_untrusted(tokenizer, message), *after])
        assert eyes is not None
        seen = [eyes(path) for path in images]
        shown: list[Segment] = []
        for place, vectors in enumerate(seen):
            shown += [*picture_label(place, len(seen)), Soft("", vectors), AFTER_PICTURE]
        keys = build_prompt(tokenizer, [Turn("user", (*shown, Text(message)))]).keys
        return Encoded([key if isinstance(key, int) else SOFT for key in keys], torch.cat(seen))

    return Coder(
        prompt=prompt,
        answer=lambda answer: list(encode_untrusted(tokenizer, answer)),
        text=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        end=int(tokenizer.eos_token_id),
    )


def _embedder() -> Embed:
    """The built-in text embedder of the `text` space."""
    from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
    from assistant.host.embedder import Embedder

    return Embedder(fetch(BUILTIN_EMBEDDER)).embed


def _metric(recipe: Recipe, task: Task, answers: Sequence[str], bare: Sequence[str]) -> dict[str, Any]:
    """The metric on all dev rows, with the bare host's beside it, as the card has it."""
    split = Path(recipe.dev).stem
    return {
        "name": recipe.metric,
        "split": split,
        "value": round(task.score(answers, task.dev), 2),
        "n": len(task.dev),
        "beside": {"bare host": round(task.score(bare, task.dev), 2)},
        "command": f"mattoni eval {split}.jsonl --skill {recipe.name}",
    }


def _card(
    recipe: Recipe,
    recipe_path: Path,
    task: Task,
    device: torch.device,
    identity: "HostIdentity",
    trained: Trained,
    metric: dict[str, Any],
) -> dict[str, Any]:
    """The card without its routes and files, which are known when they are written."""
    threads = torch.get_num_threads()
    hardware = f"CPU, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else device.type
    progress = trained.progress
    best_step = max(progress.scores, key=lambda entry: entry[1])[0]
    return {
        "schema": 1,
        "name": recipe.name,
        "version": 1,
        "kind": "task",
        "title": recipe.title,
        "summary": recipe.summary,
        "host": identity.model_dump(),
        "injects": ["low-rank"],
        "parts": {**card_parts(recipe.lora.rank), **_needs(recipe, task)},
        "training": {
            "command": f"python -m task_bricks.train {recipe_path.name if recipe_path.is_absolute() else recipe_path}",
            "recipe": recipe.model_dump(mode="json", exclude={"title", "summary", "licence", "limits", "sources"}),
            "data": [source.model_dump(exclude_none=True) for source in recipe.sources],
            "pairs_seen": progress.step * recipe.batch_size,
            "pairs_available": len(task.rows),
            "best_step": best_step,
            "seed": recipe.seed,
            "hardware": f"{hardware}, {platform.machine()}",
            "hours": round(progress.seconds / 3600, 2),
        },
        "metrics": [metric],
        "licence": recipe.licence,
        "limits": recipe.limits,
    }


def _needs(recipe: Recipe, task: Task) -> dict[str, int | str]:
    """How many pictures a message must have at least for the skill to be chosen without the user, seen by whom, shown how."""
    if recipe.vision is None:
        return {}
    shown = {"pictures_as": recipe.pictures_as} if recipe.pictures_as else {}
    return {"pictures": min(len(row.images) for row in task.rows), "vision": recipe.vision, **shown}


def _write_brick(
    folder: Path,
    recipe: Recipe,
    card: dict[str, Any],
    keys: SkillKeys | None,
    learner: Learner,
    samples: str,
) -> None:
    """Write PEFT's files in bf16, keys, card and README."""
    learner.peft.peft_config["default"].base_model_name_or_path = recipe.base_model
    learner.peft.save_pretrained(str(folder), save_embedding_layers=False)
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    if keys is not None:
        card = {**card, "routes": keys.save(folder)}
    write_card(BrickCard.model_validate({**card, "files": describe_files(folder)}), folder)
    write_readme(folder, card, samples)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="task_bricks.training.train", description="Train a skill (a PEFT LoRA) from a recipe."
    )
    parser.add_argument("recipe", type=Path, help="a YAML file such as task_bricks/recipes/english-german.yaml")
    parser.add_argument("--out", type=Path, help="folder of brick folders; default: your own bricks")
    parser.add_argument("--work", type=Path, help="folder for checkpoints, curve and samples; default: in the cache")
    parser.add_argument("--host", default="builtin", help="catalogue name, Hub id, folder or GGUF file")
    given = parser.parse_args(arguments)
    try:
        folder = train_skill(given.recipe, given.out, given.work, given.host)
    except MattoniError as problem:
        print(problem, file=sys.stderr)
        return 1
    _say(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m modality_bricks.train CONFIG.yaml …`: trains stages of a modality brick, or goes on where it was killed.

The thin entry point: it alone asks `assistant` for the host and the card, and hands them on as arguments. Under
`accelerate launch` several processes share the global batch.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mattoni.torchvision_ops  # noqa: F401  (before open_clip and transformers)

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn

from mattoni.errors import MattoniError
from mattoni.files import replace_folder, write_text
from mattoni.paths import data_folder, training_data
from modality_bricks.encoder import load_encoder
from modality_bricks.encoder_stage import EncoderData, EncoderModel, EncoderStage, Phase, model_config, save_encoder
from modality_bricks.features import FeatureCache
from modality_bricks.loop import Stage, train
from modality_bricks.packs import Labels, Pixels, captioned_pictures, crops_as_tiles, sheet_tiles
from modality_bricks.recipe import EncoderRecipe, GenerateRecipe, WordsRecipe, read_recipe
from modality_bricks.samples import SampleSet, Source, read_source
from modality_bricks.stitch import QFormerStitch, StitchShape, load_stitch, save_stitch
from modality_bricks.stitch_stages import ChatFrame, GenerateStage, Spelling, Split, WordsStage
from modality_bricks.teacher import load_teacher, teacher_features

if TYPE_CHECKING:
    from assistant.host import Host

CROPS_PER_PICTURE, CROP_SIZE = 3, 96
CONFIGS = Path(__file__).resolve().parent / "configs"


def finder(config: Path) -> Callable[[str], Path]:
    """Paths of a config: beside it or below the working folder if they exist there, else below MATTONI_DATA."""

    def find(name: str) -> Path:
        for folder in (config.parent, Path.cwd()):
            if (folder / name).exists():
                return folder / name
        if "MATTONI_DATA" in os.environ and (training_data() / name).exists():
            return training_data() / name
        raise MattoniError(
            f"{config.name}: there is no {name}, neither beside the config, nor here, nor in MATTONI_DATA."
        )

    return find


def encoder_data(recipe: EncoderRecipe, find: Callable[[str], Path], cache: Path) -> EncoderData:
    """Read the packs and, if there is a teacher, compute its features once."""
    files = recipe.data
    if files.folder is not None:
        tiles, labels, names = folder_tiles(find(files.folder), recipe.size)
        dev_tiles, dev_labels, dev_names = folder_tiles(find(files.dev_folder or files.folder), recipe.size)
        if names != dev_names:
            raise MattoniError("data: folder and dev_folder must hold the same sub-folders, one per thing.")
    else:
        tiles, labels = sheet_tiles([find(name) for name in files.tiles])
        dev_tiles, dev_labels = sheet_tiles([find(name) for name in files.dev_tiles])
    rows = [row for name in files.captioned for row in captioned_pictures(find(name))]
    crops = crops_as_tiles([picture for _, picture, _ in rows], CROPS_PER_PICTURE, CROP_SIZE, recipe.seed)
    teacher = None
    if files.teacher is not None:
        path = cache / "teacher.npy"
        if not path.exists():
            model = load_teacher(find(files.teacher))
            small = crops_as_tiles([picture for _, picture, _ in rows], CROPS_PER_PICTURE, tiles.shape[1], recipe.seed)
            parts = [tiles, small.reshape(-1, *small.shape[2:])]
            cache.mkdir(parents=True, exist_ok=True)
            np.save(path, np.concatenate([teacher_features(model, part) for part in parts if len(part)]))
        teacher = np.load(path)
    return EncoderData(tiles, labels, crops, [captions for _, _, captions in rows], teacher, dev_tiles, dev_labels)


def folder_tiles(folder: Path, size: int) -> tuple[Pixels, Labels, list[str]]:
    """Pictures in sub-folders named after what they show, as squares: pixels, class indices and the names."""
    samples = read_source(Source(format="folder", files=(str(folder),)), Path).samples
    names = sorted({s.name for s in samples if s.name is not None})
    pixels = np.stack([np.asarray(s.open().resize((size, size))) for s in samples])
    return pixels, np.asarray([names.index(s.name) for s in samples if s.name is not None]), names


def refuse_batch_statistics(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """On several processes no layer may look at a process's own slice of the batch."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if accelerator.num_processes == 1 or not norms:
        return model
    if accelerator.device.type != "cuda":
        raise MattoniError(
            "This encoder has batch norms, whose statistics would differ from process to process on CPUs: train it in one "
            "process, or choose an architecture without them (such as resnetv2_50x1_bit)."
        )
    synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synchronised


def run_encoder(recipe: EncoderRecipe, find: Callable[[str], Path], accelerator: Accelerator) -> dict[str, Any]:
    """Train an encoder; leaves it as `RUN/encoder` with the weights of the last step."""
    folder = Path(recipe.run)
    with accelerator.main_process_first():
        data = encoder_data(recipe, find, folder / "cache")
    stage = EncoderStage(
        data,
        model_config(recipe.architecture, recipe.size, recipe.embedding),
        [Phase(p.size, p.epochs) for p in recipe.phases],
        recipe.batch,
        recipe.seed,
        recipe.teacher_weight,
        recipe.teacher_from_epoch,
        recipe.words_weight,
        recipe.area,
    )
    if recipe.start_from is not None:
        start_weights(stage.model, Path(recipe.start_from))
    stage.model = refuse_batch_statistics(stage.model, accelerator)
    outcome = train(stage, folder, recipe.optimise.settings(recipe.seed), accelerator, depends_on(recipe))
    if accelerator.is_main_process:
        assert isinstance(stage.model, EncoderModel)
        save_encoder(stage.model, stage.config, folder / "encoder")
    return outcome


def start_weights(model: nn.Module, path: Path) -> None:
    """Load the weights that an earlier run left as `best.pt`."""
    try:
        model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except FileNotFoundError as problem:
        raise MattoniError(f"start_from: there is no {path}: run the config that makes it first.") from problem
    except RuntimeError as problem:
        raise MattoniError(f"start_from: {path} holds a model of another shape: give both runs the same.") from problem


def read_split(
    sources: Sequence[Source], recipe: WordsRecipe | GenerateRecipe, find: Callable[[str], Path], device: torch.device
) -> Split:
    """Samples with feature caches."""
    encoder = load_encoder(recipe.encoder, device)
    sets: list[SampleSet] = [read_source(source, find, recipe.seed) for source in sources]
    return Split(sets, [FeatureCache(Path(recipe.cache), s, encoder) for s in sets])


def new_stitch(recipe: WordsRecipe, split: Split, spelling: Spelling, embedding: torch.Tensor) -> QFormerStitch:
    """A stitch with random weights that knows its words and the statistics of the features."""
    encoder, part = split.caches[0].encoder, recipe.stitch
    opening = spelling.tokenizer.encode(part.opening, add_special_tokens=False)
    torch.manual_seed(recipe.seed)
    stitch = QFormerStitch(
        StitchShape(
            tokens=encoder.tokens,
            feature_width=encoder.width,
            host_width=embedding.shape[1],
            words=len(spelling.ids),
            queries=part.queries,
            layers=part.layers,
            width=part.width,
            heads=part.heads,
            opening=len(opening),
            sharpness=part.sharpness,
        )
    )
    stitch.set_words(torch.tensor(spelling.ids), embedding, opening)
    rows = [cache.get([(i, 0) for i in range(min(512, len(cache.samples)))]) for cache in split.caches]
    features = torch.cat(rows)
    stitch.feature_mean.copy_(features.mean(0))
    stitch.feature_scale.copy_(features.std(0).clamp(min=1e-3))
    return stitch


def run_words(recipe: WordsRecipe, find: Callable[[str], Path], accelerator: Accelerator) -> dict[str, Any]:
    """Stage 1; leaves the best stitch as `RUN/stitch.safetensors`."""
    from assistant.host import load_host

    device = accelerator.device
    host = load_host(recipe.host, str(device))
    with accelerator.main_process_first():
        split, dev = (read_split(sources, recipe, find, device) for sources in (recipe.data, recipe.dev))
        spelling = Spelling(host.tokenizer, split.sources, recipe.stitch.words, recipe.stitch.skip_commonest)
        stitch = new_stitch(recipe, split, spelling, host.embedding)
    folder = Path(recipe.run)
    stage = WordsStage(
        stitch, spelling, split, dev, recipe.batch, recipe.steps, recipe.steps_per_evaluation, recipe.seed
    )
    outcome = train(stage, folder, recipe.optimise.settings(recipe.seed), accelerator, depends_on(recipe))
    save_best(stage, stitch, folder, accelerator)
    return outcome


def run_generate(recipe: GenerateRecipe, find: Callable[[str], Path], accelerator: Accelerator) -> dict[str, Any]:
    """Stage 2; leaves the best stitch as `RUN/stitch.safetensors`."""
    from assistant.host import load_host

    device = accelerator.device
    host = load_host(recipe.host, str(device))
    with accelerator.main_process_first():
        split, dev = (read_split(sources, recipe, find, device) for sources in (recipe.data, recipe.dev))
    stitch = load_stitch(Path(recipe.start_from), host.embedding).requires_grad_(recipe.learn == "all")
    if recipe.learn == "opening":
        stitch.opening.requires_grad_(True)
    words = stitch.word_ids.tolist()
    spelling = Spelling(host.tokenizer, split.sources, len(words), recipe.skip_commonest, words)
    folder = Path(recipe.run)
    stage = GenerateStage(
        stitch,
        host.model,
        chat_frame(host),
        split,
        dev,
        recipe.batch,
        recipe.steps,
        recipe.steps_per_evaluation,
        recipe.seed,
        caption_score,
        recipe.new_tokens,
        spelling,
        recipe.words_weight,
    )
    outcome = train(stage, folder, recipe.optimise.settings(recipe.seed), accelerator, depends_on(recipe))
    save_best(stage, stitch, folder, accelerator)
    return outcome


def chat_frame(host: "Host") -> ChatFrame:
    """The prompt exactly as `assistant` builds it for one picture and one question."""
    from assistant.prompt import Soft, Text, Turn, build_prompt, encode_untrusted

    picture = Soft("", torch.zeros(0))

    @lru_cache(maxsize=10_000)
    def around(question: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        asked = Turn("user", (picture, Text("\n"), Text(question)))
        pieces = build_prompt(host.tokenizer, [asked]).pieces
        place = next(i for i, piece in enumerate(pieces) if isinstance(piece, Soft))
        before, after = (
            tuple(i for piece in part if not isinstance(piece, Soft) for i in piece)
            for part in (pieces[:place], pieces[place:])
        )
        return before, after

    answered = [Turn("user", (picture,)), Turn("assistant", (picture,))]
    closing = build_prompt(host.tokenizer, answered, answering=False).pieces[-1]
    assert not isinstance(closing, Soft)
    # The template may put a line break behind the end of a turn; generation stops before it.
    end = next((i for i in closing if i in host.stop_ids), int(host.tokenizer.eos_token_id))
    return ChatFrame(
        before=around("")[0],
        question=lambda text: around(text)[1],
        answer=lambda text: (*encode_untrusted(host.tokenizer, text), end),
        end=end,
        text=lambda ids: str(host.tokenizer.decode(list(ids), skip_special_tokens=True)),
    )


def caption_score(answers: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D as `mattoni eval` measures it."""
    from assistant.metrics import Scored, cider

    values = cider([Scored(answer, tuple(wanted)) for answer, wanted in zip(answers, references, strict=True)])
    return float(np.mean(values))


def save_best(stage: Stage, stitch: QFormerStitch, folder: Path, accelerator: Accelerator) -> None:
    """Write the stitch with the weights of the best evaluation."""
    if accelerator.is_main_process:
        stage.model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
        save_stitch(stitch, folder)


def hardware(accelerator: Accelerator) -> str:
    """In words, for the card."""
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} × {torch.cuda.get_device_name()}"
    return f"{platform.machine()} CPU, {accelerator.num_processes * torch.get_num_threads()} thread(s), torch {torch.__version__}"


def depends_on(recipe: EncoderRecipe | WordsRecipe | GenerateRecipe) -> dict[str, Any]:
    """What a checkpoint must have been made with; how long, how fast and where a run goes may change on the way."""
    free = {"run", "threads", "device", "optimise", "phases", "steps", "steps_per_evaluation", "new_tokens", "brick"}
    return recipe.model_dump(mode="json", exclude=free | {"cache"})


def shipped_or_own(config: Path) -> Path:
    """A bare name that is no file here means one of the configs that come with Mattoni."""
    shipped = CONFIGS / config.name
    return shipped if config.parent == Path() and not config.exists() and shipped.is_file() else config


def shown(config: Path) -> str:
    """The config's path for the card: nothing of this machine's folders."""
    if config.resolve().parent == CONFIGS:
        return f"modality_bricks/configs/{config.name}"
    return config.name if config.is_absolute() or ".." in config.parts else config.as_posix()


def write_result(
    recipe: EncoderRecipe | WordsRecipe | GenerateRecipe, config: Path, outcome: dict[str, Any], where: str
) -> dict[str, Any]:
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


def write_brick(recipe: GenerateRecipe, result: dict[str, Any]) -> Path:
    """Put encoder, stitch and card into the brick's folder. A brick that is there becomes its next version, keys and all."""
    from assistant.card import CARD, BrickCard, Metric, describe_files, read_card, write_card
    from assistant.host import load_host

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

    host = load_host(recipe.host, "cpu")
    replace_folder(target, fill)
    return target


def run_config(config: Path) -> None:
    """Run the stage of one config; the last stage also writes the brick."""
    recipe = read_recipe(config)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Launched as one of several processes where there is no GPU, accelerate has to be told that this is meant.
    alone = "LOCAL_RANK" not in os.environ or torch.cuda.is_available()
    accelerator = Accelerator(cpu=recipe.device == "cpu" or not alone, kwargs_handlers=[unused])
    find = finder(config)
    match recipe:
        case EncoderRecipe():
            outcome = run_encoder(recipe, find, accelerator)
        case WordsRecipe():
            outcome = run_words(recipe, find, accelerator)
        case GenerateRecipe():
            outcome = run_generate(recipe, find, accelerator)
    if accelerator.is_main_process:
        result = write_result(recipe, config, outcome, hardware(accelerator))
        accelerator.print(f"done: {result['best']} after {result['hours']:.2f} hours, in {recipe.run}")
        if isinstance(recipe, GenerateRecipe) and recipe.brick is not None:
            accelerator.print(f"brick written: {write_brick(recipe, result)}")
    # What the main process wrote is what the next config starts from.
    accelerator.wait_for_everyone()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages of some configs, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m modality_bricks.train", description=__doc__)
    parser.add_argument(
        "configs", type=Path, nargs="+", help="YAML files in their order; a bare name may be one that came with Mattoni"
    )
    for config in parser.parse_args(arguments).configs:
        run_config(shipped_or_own(config))


if __name__ == "__main__":
    try:
        main()
    except MattoniError as problem:
        sys.exit(str(problem))

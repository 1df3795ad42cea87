"""`python -m modality_bricks.train CONFIG.yaml …`: trains stages of a modality brick, or goes on where it was killed.

The thin entry point: it alone asks `assistant` for the host, and hands it on as an argument. Under `accelerate launch`
several processes share the global batch.
"""

import argparse
import os
import platform
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import mattoni.torchvision_ops  # noqa: F401  (before open_clip and transformers)

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from brick_training.frame import prompt_frame
from brick_training.loop import train
from brick_training.reward import caption_metric
from brick_training.run_folder import locked
from brick_training.watch import serve
from mattoni.errors import Interrupted, MattoniError
from modality_bricks.stitch_file import save_stitch
from modality_bricks.training.columns_stage import ColumnsModel, ColumnsStage
from modality_bricks.training.dry_run import conclude, estimate, peak_memory, relocated
from modality_bricks.training.encoder_stage import EncoderModel, EncoderStage, save_encoder
from modality_bricks.training.generate_stage import GenerateStage
from modality_bricks.training.prepare import (
    Reading,
    check_takes_soft_tokens,
    columns_stage,
    encoder_stage,
    generate_stage,
    tune_stage,
    words_stage,
)
from modality_bricks.training.publish import check_parents, check_same_words, compared, write_brick, write_result
from modality_bricks.training.recipe import (
    ColumnsRecipe,
    EncoderRecipe,
    GenerateRecipe,
    StageRecipe,
    TuneRecipe,
    WordsRecipe,
    depends_on,
    finder,
    for_host,
    read_recipe,
    shipped_or_own,
)
from modality_bricks.training.tune_stage import TuneStage, save_tuned
from modality_bricks.training.words_stage import WordsStage

if TYPE_CHECKING:
    from assistant.host.host import Host


def build_stage(
    recipe: StageRecipe, reading: Reading, accelerator: Accelerator, host: "Host | None"
) -> EncoderStage | ColumnsStage | TuneStage | WordsStage | GenerateStage:
    """The stage of a recipe, ready to train."""
    if isinstance(recipe, EncoderRecipe):
        return encoder_stage(recipe, reading, accelerator, Path(recipe.run) / "cache")
    if isinstance(recipe, ColumnsRecipe):
        return columns_stage(recipe, reading, accelerator, Path(recipe.run) / "cache")
    if isinstance(recipe, TuneRecipe):
        return tune_stage(recipe, reading, accelerator)
    assert host is not None
    if isinstance(recipe, WordsRecipe):
        return words_stage(recipe, reading, accelerator, host.tokenizer, host.embedding)
    from assistant.host.host import load_tokenizer

    return generate_stage(
        recipe,
        reading,
        accelerator,
        host.tokenizer,
        load_tokenizer(recipe.carried.host) if recipe.carried else None,
        host.model,
        prompt_frame(host),
        caption_scores,
        caption_metric,
    )


def save_part(stage: EncoderStage | ColumnsStage | TuneStage | WordsStage | GenerateStage, folder: Path) -> None:
    """What the next stage starts from: an encoder or a stitch, as the model is now."""
    if isinstance(stage, TuneStage):
        save_tuned(stage.written(), folder / "encoder")
    elif isinstance(stage, EncoderStage | ColumnsStage):
        assert isinstance(stage.model, EncoderModel | ColumnsModel)
        save_encoder(stage.model, stage.config, folder / "encoder")
    else:
        save_stitch(stage.stitch, folder)


def caption_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float]:
    """CIDEr-D of each answer as `mattoni eval` measures it."""
    from mattoni.metrics import Scored, cider

    return cider([Scored(answer, tuple(wanted)) for answer, wanted in zip(answers, references, strict=True)])


def hardware(accelerator: Accelerator) -> str:
    """In words, for the card."""
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} × {torch.cuda.get_device_name()}"
    return f"{platform.machine()} CPU, {accelerator.num_processes * torch.get_num_threads()} thread(s), torch {torch.__version__}"


def load_host_of(recipe: StageRecipe, device: str) -> "Host | None":
    """The host that a stage needs. Raises MattoniError where it takes no soft tokens, or an earlier stage had another."""
    from assistant.host.host import load_plain_host

    if isinstance(recipe, EncoderRecipe | ColumnsRecipe | TuneRecipe):
        return None
    host = load_plain_host(recipe.host, device)
    check_takes_soft_tokens(host.model, host.name)
    check_same_words(recipe, host)
    return host


@dataclass(frozen=True)
class Options:
    """What the command line says beside the configs."""

    host: str | None = None
    skip_bad_rows: bool = False
    replace_anyway: bool = False


def started(recipe: StageRecipe) -> Accelerator:
    """What spreads a batch over processes and devices."""
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Launched as one of several processes where there is no GPU, accelerate has to be told that this is meant.
    alone = "LOCAL_RANK" not in os.environ or torch.cuda.is_available()
    return Accelerator(cpu=recipe.device == "cpu" or not alone, kwargs_handlers=[unused])


def recipe_of(config: Path, options: Options) -> StageRecipe:
    """Read a config as the options want it."""
    recipe = read_recipe(config)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    return recipe if options.host is None else for_host(recipe, options.host)


def run_config(config: Path, options: Options) -> None:
    """Run the stage of one config; the last stage also writes the brick."""
    recipe = recipe_of(config, options)
    folder = Path(recipe.run)
    if (
        options.host is not None
        and (folder / "encoder").is_dir()
        and not isinstance(recipe, WordsRecipe | GenerateRecipe)
    ):
        print(f"{folder}: the encoder is there and serves every host")
        return
    check_parents(recipe)
    accelerator = started(recipe)
    main = accelerator.is_main_process
    with locked(folder) if main else nullcontext():
        host = load_host_of(recipe, str(accelerator.device))
        stage = build_stage(
            recipe, Reading(finder(config), options.skip_bad_rows, accelerator.print), accelerator, host
        )
        outcome = train(stage, folder, recipe.optimise.settings(recipe.seed), accelerator, depends_on(recipe))
        if main:
            # An encoder is better in the last step than where dev was best by chance; a stitch is not.
            if isinstance(stage, WordsStage | GenerateStage):
                stage.model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
            save_part(stage, folder)
            result = write_result(recipe, config, outcome, hardware(accelerator), host, options.host)
            print(f"done: {result['best']} after {result['hours']:.2f} hours, in {recipe.run}")
            if isinstance(recipe, GenerateRecipe) and recipe.brick is not None:
                assert host is not None and isinstance(stage, GenerateStage)
                if not options.replace_anyway:
                    compared(stage, recipe, host, print)
                print(f"brick written: {write_brick(recipe, result, host)}")
    # What the main process wrote is what the next config starts from.
    accelerator.wait_for_everyone()


def dry_run(configs: Sequence[Path], options: Options, price: float | None) -> None:
    """Check the data of all stages, run a few steps of each, and say what they will take; leave nothing behind."""
    estimates, runs, memory = [], dict[str, Path](), ""
    with TemporaryDirectory() as temporary:
        for config in configs:
            recipe = recipe_of(config, options)
            accelerator = started(recipe)
            if accelerator.num_processes > 1:
                raise MattoniError("--dry-run measures one process: start it without accelerate-launch.")
            print(f"{config.name}: stage {recipe.stage}, run {recipe.run}", flush=True)
            trial = relocated(recipe, Path(temporary), runs)
            host = load_host_of(trial, str(accelerator.device))
            reading = Reading(finder(config), options.skip_bad_rows, lambda line: print(f"  {line}"), trial=True)
            stage = build_stage(trial, reading, accelerator, host)
            cache = Path(recipe.cache) if isinstance(recipe, WordsRecipe | GenerateRecipe) else None
            settings = recipe.optimise.settings(recipe.seed)
            stage.model.to(accelerator.device)
            estimates.append(estimate(stage, settings, accelerator, Path(recipe.run), cache))
            memory = peak_memory(stage)
            for line in estimates[-1].lines():
                print(f"  {line}", flush=True)
            save_part(stage, Path(trial.run))
        for line in conclude(estimates, Path(recipe.run), memory, price):
            print(line)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages of some configs, one after the other."""
    parser = argparse.ArgumentParser(prog="mattoni train modality", description="Train an image brick, stage by stage.")
    parser.add_argument(
        "configs", type=Path, nargs="+", help="YAML files in their order; a bare name may be one that came with Mattoni"
    )
    parser.add_argument(
        "--host",
        help="train the stitch for this host (catalogue name, Hub id or folder), with the same encoder and features",
    )
    parser.add_argument(
        "--skip-bad-rows", action="store_true", help="leave out rows that cannot be used, and say which"
    )
    parser.add_argument("--replace-anyway", action="store_true", help="replace a brick that is better on the dev rows")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check data, measure a few steps, tell time, memory, disk and cost; write nothing",
    )
    parser.add_argument(
        "--price", type=float, metavar="PER_HOUR", help="what an hour of this machine costs, for --dry-run"
    )
    parser.add_argument("--watch", action="store_true", help="show the runs on a page of this machine while they train")
    given = parser.parse_args(arguments)
    options = Options(given.host, given.skip_bad_rows, given.replace_anyway)
    configs = [shipped_or_own(config) for config in given.configs]
    if given.dry_run:
        dry_run(configs, options, given.price)
        return
    if given.watch and os.environ.get("RANK", "0") == "0":  # one page, however many processes
        print(f"watch: {serve([Path(recipe_of(config, options).run) for config in configs]).address}", flush=True)
    for config in configs:
        try:
            run_config(config, options)
        except KeyboardInterrupt:
            # Outside of the loop, which has its own answer: while data are read, or a brick is written.
            raise Interrupted(f"Stopped in {config.name}: the same command goes on.", signal.SIGINT) from None

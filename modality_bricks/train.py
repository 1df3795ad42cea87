"""`python -m modality_bricks.train CONFIG.yaml …`: trains stages of a modality brick, or goes on where it was killed.

The thin entry point: it alone asks `assistant` for the host, and hands it on as an argument. Under `accelerate launch`
several processes share the global batch.
"""

import argparse
import os
import platform
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import mattoni.torchvision_ops  # noqa: F401  (before open_clip and transformers)

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from mattoni.errors import Interrupted, MattoniError
from modality_bricks.columns_stage import ColumnsModel, ColumnsStage
from modality_bricks.encoder_stage import EncoderModel, EncoderStage, save_encoder
from modality_bricks.loop import locked, train
from modality_bricks.prepare import Reading, columns_stage, encoder_stage, generate_stage, words_stage
from modality_bricks.publish import write_brick, write_result
from modality_bricks.recipe import (
    ColumnsRecipe,
    EncoderRecipe,
    GenerateRecipe,
    StageRecipe,
    WordsRecipe,
    depends_on,
    finder,
    read_recipe,
    shipped_or_own,
)
from modality_bricks.stitch import save_stitch
from modality_bricks.stitch_stages import ChatFrame, GenerateStage, WordsStage

if TYPE_CHECKING:
    from assistant.host import Host


def build_stage(
    recipe: StageRecipe, reading: Reading, accelerator: Accelerator, host: "Host | None"
) -> EncoderStage | ColumnsStage | WordsStage | GenerateStage:
    """The stage of a recipe, ready to train."""
    if isinstance(recipe, EncoderRecipe):
        return encoder_stage(recipe, reading, accelerator, Path(recipe.run) / "cache")
    if isinstance(recipe, ColumnsRecipe):
        return columns_stage(recipe, reading.find, accelerator, Path(recipe.run) / "cache")
    assert host is not None
    if isinstance(recipe, WordsRecipe):
        return words_stage(recipe, reading, accelerator, host.tokenizer, host.embedding)
    return generate_stage(recipe, reading, accelerator, host.tokenizer, host.model, chat_frame(host), caption_scores)


def save_part(stage: EncoderStage | ColumnsStage | WordsStage | GenerateStage, folder: Path) -> None:
    """What the next stage starts from: an encoder with the weights of the last step, a stitch with the best ones."""
    if isinstance(stage, EncoderStage):
        assert isinstance(stage.model, EncoderModel)
        save_encoder(stage.model, stage.config, folder / "encoder")
    elif isinstance(stage, ColumnsStage):
        assert isinstance(stage.model, ColumnsModel)
        save_encoder(stage.model, stage.config, folder / "encoder")
    else:
        stage.model.load_state_dict(torch.load(folder / "best.pt", weights_only=True))
        save_stitch(stage.stitch, folder)


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


def caption_scores(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float]:
    """CIDEr-D of each answer as `mattoni eval` measures it."""
    from assistant.metrics import Scored, cider

    return cider([Scored(answer, tuple(wanted)) for answer, wanted in zip(answers, references, strict=True)])


def hardware(accelerator: Accelerator) -> str:
    """In words, for the card."""
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} × {torch.cuda.get_device_name()}"
    return f"{platform.machine()} CPU, {accelerator.num_processes * torch.get_num_threads()} thread(s), torch {torch.__version__}"


def run_config(config: Path) -> None:
    """Run the stage of one config; the last stage also writes the brick."""
    from assistant.host import load_host

    recipe = read_recipe(config)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # Launched as one of several processes where there is no GPU, accelerate has to be told that this is meant.
    alone = "LOCAL_RANK" not in os.environ or torch.cuda.is_available()
    accelerator = Accelerator(cpu=recipe.device == "cpu" or not alone, kwargs_handlers=[unused])
    host = (
        None if isinstance(recipe, EncoderRecipe | ColumnsRecipe) else load_host(recipe.host, str(accelerator.device))
    )
    folder = Path(recipe.run)
    with locked(folder) if accelerator.is_main_process else nullcontext():
        stage = build_stage(recipe, Reading(finder(config)), accelerator, host)
        outcome = train(stage, folder, recipe.optimise.settings(recipe.seed), accelerator, depends_on(recipe))
        if accelerator.is_main_process:
            save_part(stage, folder)
            result = write_result(recipe, config, outcome, hardware(accelerator))
            accelerator.print(f"done: {result['best']} after {result['hours']:.2f} hours, in {recipe.run}")
            if isinstance(recipe, GenerateRecipe) and recipe.brick is not None:
                assert host is not None
                accelerator.print(f"brick written: {write_brick(recipe, result, host)}")
    # What the main process wrote is what the next config starts from.
    accelerator.wait_for_everyone()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages of some configs, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m modality_bricks.train", description=__doc__)
    parser.add_argument(
        "configs", type=Path, nargs="+", help="YAML files in their order; a bare name may be one that came with Mattoni"
    )
    for config in parser.parse_args(arguments).configs:
        try:
            run_config(shipped_or_own(config))
        except KeyboardInterrupt:
            # Outside of the loop, which has its own answer: while data are read, or a brick is written.
            raise Interrupted(f"Stopped in {config.name}: the same command goes on.", signal.SIGINT) from None


if __name__ == "__main__":
    try:
        main()
    except MattoniError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)

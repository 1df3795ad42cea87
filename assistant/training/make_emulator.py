"""Makes an emulator of a host, a host of fewer layers that skills are trained against and then plugged into the whole one:

    python -m assistant.training.make_emulator builtin --texts text/chat-train.jsonl --out emulator
    mattoni train task RECIPE.yaml --host emulator

`--recipe RECIPE.yaml` has it distilled on that skill's own training rows as well, asked as the training will ask them: where the prompts are
that a skill learns from, the emulator has to be like its host.

Method: offsite-tuning (Xiao et al. 2023, arXiv:2302.04870, section 3.2): the middle is a uniform choice of its layers, trained so
that its output is the whole middle's (mean squared error over the variance) and the logits are the host's (Kullback-Leibler).
Bottom and top stay the host's, bit for bit. A killed call goes on from its checkpoint.
"""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from assistant.host.host import Host, load_plain_host
from brick_training.emulator import EMULATOR, Emulates
from brick_training.frame import prompt_frame
from brick_training.learner import give_weights
from brick_training.loop import train
from brick_training.run_folder import BEST, locked
from brick_training.settings import LoopSettings, WarmupStableDecay
from brick_training.step import Evaluation
from mattoni.errors import MattoniError, run_command
from mattoni.files import replace_folder, write_text
from mattoni.lines import json_rows
from mattoni.paths import cache_folder, training_data
from task_bricks.training.recipe import read_recipe
from task_bricks.training.rows import epoch_batches
from task_bricks.training.train import data_of, read_task

_LONGEST = 128  # tokens of a text
_HELD_OUT = 32  # texts on which the loss is measured


def chosen_layers(count: int, bottom: int, middle: int, top: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The host's layers that stay, and the places among them that are its own: the first, and the last, and some between.

    Raises MattoniError where they are not fewer than there are.
    """
    between = count - bottom - top
    if bottom < 1 or top < 1 or not 0 < middle < between:
        raise MattoniError(
            f"{bottom} layers at the bottom, {middle} between and {top} at the top are no emulator of {count} layers: "
            "choose fewer than there are, and at least one of each."
        )
    step = between / middle
    kept = [bottom + int(step * (place + 0.5)) for place in range(middle)]
    own = (*range(bottom), *range(bottom + middle, bottom + middle + top))
    return (*range(bottom), *kept, *range(count - top, count)), own


def shortened(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A copy of a model with some of its layers. Raises MattoniError where its layers are not in one list."""
    whole: Any = model.base_model
    if not isinstance(getattr(whole, "layers", None), nn.ModuleList):
        raise MattoniError(
            "This host keeps its layers in an unusual place, so no emulator can be made: choose another."
        )
    small = copy.deepcopy(model)
    body: Any = small.base_model
    body.layers = nn.ModuleList([body.layers[layer] for layer in layers])
    for place, layer in enumerate(body.layers):
        layer.self_attn.layer_idx = place
    config: Any = small.config
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]
    return small


class EmulatorStage:
    """Distils the middle of an emulator, `own` layers and embeddings frozen."""

    def __init__(self, host: Host, emulates: Emulates, ids: Sequence[Sequence[int]], steps: int, batch: int) -> None:
        self.host, self.steps, self.steps_per_evaluation, self.best_metric = (
            host,
            steps,
            max(1, steps // 4),
            "agreement",
        )
        self.model: nn.Module = shortened(host.model, emulates.layers)
        self.model.requires_grad_(False)
        body: Any = self.model.base_model
        middle = [place for place in range(len(emulates.layers)) if place not in emulates.own]
        for place in middle:
            body.layers[place].requires_grad_(True)
        # The output of the middle: of the emulator's last distilled layer, of the host's layer below its own top.
        self._mine, self._theirs = middle[-1] + 1, emulates.layers[middle[-1] + 1]
        self._held_out, self._ids, self._batch = ids[:_HELD_OUT], ids[_HELD_OUT:], batch

    def rows(self, step: int) -> list[int]:
        generator = torch.Generator().manual_seed(step)
        return torch.randint(len(self._ids), (self._batch,), generator=generator).tolist()

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        apart, divergence = self._compared(model, [self._ids[row] for row in rows])
        return apart + divergence

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Minus the Kullback-Leibler divergence per token from the host's next tokens, in nats, on texts not trained on."""
        self.model.eval()
        found = [self._compared(self.model, [row]) for row in self._held_out]
        apart, divergence = (float(torch.stack(values).mean()) for values in zip(*found, strict=True))
        return Evaluation({self.best_metric: -divergence, "middle's error over its variance": apart})

    def _compared(self, model: nn.Module, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, texts))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in texts], device=self.host.device)
        is_text = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in texts]).to(ids.device)
        inputs = {"input_ids": ids, "attention_mask": is_text.long(), "output_hidden_states": True, "use_cache": False}
        with torch.no_grad():
            wanted = self.host.model(**inputs)
        # Where a text begins the stream is hundreds of times as large as elsewhere, and would be all of the error.
        counted = is_text.clone()
        counted[:, 0] = False
        found = model(**inputs)
        theirs, mine = (
            wanted.hidden_states[self._theirs][counted].float(),
            found.hidden_states[self._mine][counted].float(),
        )
        apart = (mine - theirs).square().mean() / theirs.var().clamp_min(1e-9)
        likely = wanted.logits[counted].float().log_softmax(dim=-1)
        said = found.logits[counted].float().log_softmax(dim=-1)
        return apart, functional.kl_div(said, likely, log_target=True, reduction="batchmean")


def ids_of_texts(host: Host, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts as they stand; the shortest are no lesson."""
    tokenizer: Any = host.tokenizer
    return [row for text in texts if len(row := list(tokenizer(text)["input_ids"])[:_LONGEST]) > 1]


def ids_of_recipe(host: Host, path: Path) -> list[list[int]]:
    """Token ids of the rows that a recipe's skill learns from, prompt and answer, in its wordings."""
    recipe, frame = read_recipe(path), prompt_frame(host)
    task = read_task(recipe, data_of(path, recipe))
    batches = epoch_batches(task.rows, task.wordings, recipe.default_share, recipe.batch_size, recipe.seed, 0)
    examples = (one for batch in batches for one in batch)
    return [[*frame.prompt(one.message, ()), *frame.answer(one.answer)][-_LONGEST:] for one in examples]


def alternating(*parts: Sequence[list[int]]) -> list[list[int]]:
    """One of each in turn, as many of one kind as of another; a kind without any is left out."""
    return [row for rows in zip(*filter(None, parts), strict=False) for row in rows]


def make_emulator(
    host: Host,
    ids: Sequence[Sequence[int]],
    out: Path,
    work: Path,
    sizes: tuple[int, int, int],
    steps: int,
    batch: int = 8,
) -> Emulates:
    """Distil an emulator and write its folder.

    ids    token ids of texts to distil with, of at most 128 each
    sizes  layers at the bottom, between, and at the top

    Raises MattoniError where the sizes are none of an emulator, or there are too few texts.
    """
    layers, own = chosen_layers(host.identity.layers, *sizes)
    emulates = Emulates(name=host.name, host=host.identity, layers=layers, own=own)
    if len(ids) < 2 * _HELD_OUT:
        raise MattoniError(f"There are {len(ids)} texts to distil with, and at least {2 * _HELD_OUT} are needed.")
    with locked(work):
        stage = EmulatorStage(host, emulates, ids, steps, batch)
        settings = LoopSettings(
            optimizer="adamw",
            learning_rate=3e-4,
            weight_decay=0.0,
            schedule=WarmupStableDecay(max(1, steps // 20), max(1, steps // 2)),
            clip=1.0,
            masters=True,
        )
        accelerator = Accelerator(cpu=host.device.type == "cpu")
        train(stage, work, settings, accelerator, {"layers": layers, "batch": batch, "texts": len(ids)})
        give_weights(stage.model, torch.load(work / BEST, weights_only=True, map_location="cpu"))

    def fill(folder: Path) -> None:
        model: Any = stage.model
        model.save_pretrained(folder)
        host.tokenizer.save_pretrained(folder)
        write_text(folder / EMULATOR, emulates.model_dump_json(indent=1))

    replace_folder(out, fill)
    return emulates


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make an emulator of a host.")
    parser.add_argument("host", help="as for --host")
    parser.add_argument("--texts", required=True, help="JSON lines with `text`, here or below MATTONI_DATA")
    parser.add_argument("--recipe", type=Path, help="a skill's recipe, whose training rows take part")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the emulator")
    parser.add_argument("--layers", type=int, nargs=3, default=(4, 3, 8), metavar=("BOTTOM", "MIDDLE", "TOP"))
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    path = Path(given.texts) if Path(given.texts).is_file() else training_data() / given.texts
    texts = [str(row["text"]) for _, _, row in json_rows(path) if isinstance(row, dict) and row.get("text")]
    host = load_plain_host(given.host)
    of_recipe = ids_of_recipe(host, given.recipe) if given.recipe else []
    name = "-".join([*map(str, given.layers), *([given.recipe.stem] if given.recipe else [])])
    work = cache_folder() / "runs" / f"emulator--{host.name}--{name}"
    lessons = alternating(ids_of_texts(host, texts), of_recipe)
    emulates = make_emulator(host, lessons, given.out, work, tuple(given.layers), given.steps)
    print(f"wrote {given.out}: {emulates.said}")


if __name__ == "__main__":
    run_command(main)

"""Trains the skill that reads passages: `python -m assistant.training.train_reader OUT [--steps 120]`.

Method: TurboRAG (arXiv:2410.07590, section 3.2) and Block-Attention (arXiv:2409.15355, section 2.3), but the host stays frozen and an
activated LoRA learns (aLoRA, arXiv:2504.12397). In one forward pass each passage sees the prompt's beginning and itself, and several
questions each see the beginning, all passages and themselves: so passages may be read before they are asked about. A third of the
lessons have the passages as one text, as an attached document is. Trained on cloze questions on Wikipedia
(`assistant/training/cloze.py`), never on articles of reading-dev or cartridge-dev. OUT becomes a PEFT folder for `mattoni bricks add`
and `measure_prefilled --lora OUT`. A killed call goes on from its checkpoint.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mattoni.torchvision_ops  # noqa: F401  (before peft)

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from assistant.host.host import Host, load_plain_host
from assistant.host.prompt import ASK_PASSAGES, ASK_TEXT, Turn, build_prompt, invocation_tokens, opening
from assistant.training.cloze import Passage, wikipedia_passages
from brick_training.learner import give_weights
from brick_training.loop import train
from brick_training.run_folder import BEST, locked
from brick_training.settings import LoopSettings, WarmupStableDecay
from brick_training.step import Evaluation
from mattoni.errors import MattoniError, run_command
from mattoni.files import replace_folder
from mattoni.injections import Text, last_place
from mattoni.lines import json_rows
from mattoni.paths import cache_folder, training_data

_MOST_PASSAGES, _QUESTIONS, _LESSONS = 3, 6, 2
_RATE, _WARMUP = 1e-3, 6
_HELD_OUT = 24  # lessons, on articles of their own
_IGNORED = -100
_HEADS = ("{title}", "{title}.txt, passage {n}", "{title}.pdf, page {n}")


@dataclass(frozen=True)
class Lesson:
    """Passages and several questions on them, as the columns of one forward pass.

    ids        (columns,)
    positions  (columns,): questions all begin where the passages end
    labels     (columns,): the next token within an answer, or -100
    block      (columns,): 0 the beginning, 1… the passages, then the questions
    questions  from which block on they are questions
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    block: Tensor
    questions: int

    def sees(self, apart: bool) -> Tensor:
        """(columns, columns), bool: whether a column sees another; `apart`: passages do not see each other."""
        count = torch.arange(len(self.ids))
        asks = self.block >= self.questions
        same = self.block[:, None] == self.block[None]
        passages = ~asks[None] & (asks[:, None] | (self.block[None] == 0) | torch.tensor(not apart))
        return (count[:, None] >= count[None]) & (same | passages)


def lesson(
    beginning: Sequence[int], passages: Sequence[Sequence[int]], asked: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> Lesson:
    """A lesson of token ids; `asked` are (tail with a question, answer with what ends it)."""
    blocks = [list(beginning), *map(list, passages), *([*tail, *answer[:-1]] for tail, answer in asked)]
    done = sum(map(len, blocks[: 1 + len(passages)]))
    positions = list(range(done))
    labels = [_IGNORED] * done
    for tail, answer in asked:
        positions += range(done, done + len(tail) + len(answer) - 1)
        labels += [_IGNORED] * (len(tail) - 1) + list(answer)
    block = [number for number, ids in enumerate(blocks) for _ in ids]
    flat = [i for ids in blocks for i in ids]
    ids, places, wanted, parts = (torch.tensor(row) for row in (flat, positions, labels, block))
    return Lesson(ids, places, wanted, parts, questions=1 + len(passages))


def draw(host: Host, by_title: dict[str, list[Passage]], chances: random.Random) -> Lesson:
    """At most three passages of one article, in any order, as a knowledge brick or an attachment brings them, and at most six
    questions on them."""
    article = by_title[chances.choice(sorted(by_title))]
    chosen = chances.sample(article, min(len(article), chances.choice((1, 2, 3, 3))))
    asked = [one for passage in chosen for one in passage.questions]
    chances.shuffle(asked)
    end = int(host.tokenizer.eos_token_id)
    if chances.random() < 1 / 3:
        texts, instruction = ["".join(f"{p.text}\n\n" for p in chosen)], ASK_TEXT
    else:
        heads = [chances.choice(_HEADS).format(title=p.title, n=chances.randint(1, 40)) for p in chosen]
        texts = [f"{head}:\n{p.text}\n\n" for head, p in zip(heads, chosen, strict=True)]
        instruction = ASK_PASSAGES
    prompts = []
    for question, answer in asked[:_QUESTIONS]:
        turn = Turn("user", tuple(map(Text, [*texts, instruction, question])))
        pieces = [tuple(p) for p in build_prompt(host.tokenizer, [*opening(host), turn]).pieces]  # type: ignore[arg-type]
        own = len(texts) + 3  # the instruction, the question and what ends the message
        beginning, passages, tail = pieces[:-own], pieces[-own:-3], pieces[-3:]
        ids = host.tokenizer.encode(answer, add_special_tokens=False)
        prompts.append((sum(tail, ()), [*ids, end]))
    return lesson(sum(beginning, ()), passages, prompts)


class ReaderStage:
    """Trains the LoRA by the answers' cross-entropy."""

    best_metric = "log likelihood"

    def __init__(
        self, host: Host, passages: Sequence[Passage], steps: int, rank: int, apart: bool, activated: bool
    ) -> None:
        self.steps, self.steps_per_evaluation, self._host, self._apart = steps, max(1, steps // 4), host, apart
        by_title: dict[str, list[Passage]] = {}
        for passage in passages:
            by_title.setdefault(passage.title, []).append(passage)
        titles = sorted(by_title)
        random.Random(0).shuffle(titles)
        kept = max(1, len(titles) // 10)
        held_out = {title: by_title[title] for title in titles[:kept]}
        self._by_title = {title: by_title[title] for title in titles[kept:]}
        if not self._by_title:
            raise MattoniError("There are passages of one article alone: at least two are needed.")
        torch.manual_seed(0)
        self._invocation = invocation_tokens(host.tokenizer) if activated else ()
        self.model: nn.Module = get_peft_model(
            host.model,
            LoraConfig(
                r=rank,
                lora_alpha=2 * rank,
                target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                task_type="CAUSAL_LM",
                alora_invocation_tokens=list(self._invocation) or None,
            ),
            autocast_adapter_dtype=False,
        )
        self._held_out = [draw(host, held_out, random.Random(-1 - number)) for number in range(_HELD_OUT)]

    def rows(self, step: int) -> list[int]:
        return list(range(step * _LESSONS, (step + 1) * _LESSONS))

    def loss(self, model: nn.Module, rows: list[int], step: int) -> Tensor:
        drawn = [draw(self._host, self._by_title, random.Random(row)) for row in rows]
        return torch.stack([answer_loss(model, one, self._apart, self._invocation) for one in drawn]).mean()

    @torch.no_grad()
    def evaluate(self, step: int) -> Evaluation:
        """Of the answers' tokens, in nats, on lessons of articles that are not trained on."""
        losses = [answer_loss(self.model, one, self._apart, self._invocation) for one in self._held_out]
        return Evaluation({self.best_metric: -float(torch.stack(losses).mean())})


def train_reader(
    host: Host,
    passages: Sequence[Passage],
    out: Path,
    work: Path,
    steps: int,
    rank: int = 8,
    apart: bool = True,
    activated: bool = True,
    base_model: str = "",
) -> None:
    """Train the LoRA and write its folder, in bf16 and with this name of the host."""
    with locked(work):
        stage = ReaderStage(host, passages, steps, rank, apart, activated)
        settings = LoopSettings(
            optimizer="adamw",
            learning_rate=_RATE,
            weight_decay=0.0,
            schedule=WarmupStableDecay(_WARMUP, max(1, steps // 2)),
            clip=1.0,
            masters=True,
        )
        told = {"rank": rank, "apart": apart, "activated": activated, "passages": len(passages)}
        train(stage, work, settings, Accelerator(cpu=host.device.type == "cpu"), told)
        give_weights(stage.model, torch.load(work / BEST, weights_only=True, map_location="cpu"))

    def fill(folder: Path) -> None:
        model: Any = stage.model.to(torch.bfloat16)
        model.peft_config["default"].base_model_name_or_path = base_model or host.name
        model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # peft's own, a form that nobody filled in

    replace_folder(out, fill)


def answer_loss(model: Any, one: Lesson, apart: bool, invocation: Sequence[int] = ()) -> Tensor:
    """The mean cross-entropy of the answers' tokens."""
    dtype = next(model.parameters()).dtype
    sees = one.sees(apart)
    mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, torch.finfo(dtype).min)
    wanted = (one.labels != _IGNORED).nonzero()[:, 0]
    acting = {}
    if invocation:
        # They open the user's message, which is the last thing in the beginning; all that follows is the LoRA's.
        begin = last_place(one.ids[one.block == 0].tolist(), invocation)
        if begin is None:
            raise MattoniError("A lesson lacks the invocation tokens: train without them.")
        acting = {"alora_offsets": [len(one.ids) - begin]}
    # `logits_to_keep` takes indices: the vocabulary's logits of all columns would be a third of the work.
    logits = model(
        input_ids=one.ids[None],
        position_ids=one.positions[None],
        attention_mask=mask[None, None],
        use_cache=False,
        logits_to_keep=wanted,
        **acting,
    ).logits
    return cross_entropy(logits[0].float(), one.labels[wanted])


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description="Trains the skill that reads passages.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--host", default="builtin", help="as for mattoni --host")
    parser.add_argument(
        "--base-model", default="HuggingFaceTB/SmolLM2-135M-Instruct", help="the host's name in the adapter"
    )
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--attention", choices=("apart", "whole"), default="apart")
    given = parser.parse_args()
    data = training_data() / "text"
    titles = {row.value["title"] for row in json_rows(data / "reading-passages-dev.jsonl")}
    titles |= {path.stem.replace("-", " ") for path in (data / "cartridge-dev").glob("*.txt")}
    host = load_plain_host(given.host)
    work = cache_folder() / "runs" / f"reader--{host.name}--{given.attention}-{given.rank}"
    passages = wikipedia_passages(titles)
    train_reader(
        host,
        passages,
        given.out,
        work,
        given.steps,
        given.rank,
        given.attention == "apart",
        base_model=given.base_model,
    )
    print(f"wrote {given.out}: {len(passages)} passages")


if __name__ == "__main__":
    run_command(main)

"""Trains a low-rank reader of passages that were read apart: `python -m assistant.evaluation.train_prefilled OUT [--steps 90]`.

Method: TurboRAG (arXiv:2410.07590, section 3.2) and Block-Attention (arXiv:2409.15355, section 2.3), but the host stays frozen and a LoRA
learns. In one forward pass each passage sees the prompt's beginning and itself, and several questions each see the beginning, all
passages and themselves. OUT becomes a PEFT LoRA, for `measure_prefilled --lora OUT`. Trained on cloze questions on Wikipedia
(`assistant/evaluation/cloze.py`), never on articles of reading-dev or cartridge-dev.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mattoni.torchvision_ops  # noqa: F401  (before peft)

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn.functional import cross_entropy

from assistant.evaluation.cloze import Passage, wikipedia_passages
from assistant.host.host import Host, load_host
from assistant.host.prompt import ASK_TEXT, Turn, build_prompt, opening
from mattoni.errors import MattoniError, run_command
from mattoni.injections import Text
from mattoni.lines import json_rows
from mattoni.paths import training_data

_PASSAGES, _QUESTIONS = 3, 6
_RATE, _WARMUP = 6e-4, 6
_IGNORED = -100


def main() -> int:
    """Train and write."""
    parser = argparse.ArgumentParser(description="Trains a low-rank reader of passages that were read apart.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=90)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--attention", choices=("apart", "whole"), default="apart")
    given = parser.parse_args()
    if given.out.exists():
        raise MattoniError(f"{given.out} exists already: name a folder that does not.")
    data = training_data() / "text"
    titles = {row.value["title"] for row in json_rows(data / "reading-passages-dev.jsonl")}
    titles |= {path.stem.replace("-", " ") for path in (data / "cartridge-dev").glob("*.txt")}
    passages = wikipedia_passages(titles)
    train(load_host(dtype="float32"), passages, given.out, given.steps, given.rank, given.attention == "apart")
    return 0


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
    """Three passages of one article, in any order, and at most six questions on them."""
    chosen = chances.sample(by_title[chances.choice(sorted(by_title))], _PASSAGES)
    asked = [one for passage in chosen for one in passage.questions]
    chances.shuffle(asked)
    end = int(host.tokenizer.eos_token_id)
    prompts = []
    for question, answer in asked[:_QUESTIONS]:
        texts = [f"{p.title}:\n{p.text}\n\n" for p in chosen] + [ASK_TEXT + question]
        turn = Turn("user", tuple(map(Text, texts)))
        pieces = [tuple(p) for p in build_prompt(host.tokenizer, [*opening(host), turn]).pieces]  # type: ignore[arg-type]
        beginning, passages, tail = pieces[0], pieces[1 : 1 + _PASSAGES], pieces[1 + _PASSAGES :]
        ids = host.tokenizer.encode(answer, add_special_tokens=False)
        prompts.append((sum(tail, ()), [*ids, end]))
    return lesson(beginning, passages, prompts)


def train(host: Host, passages: Sequence[Passage], out: Path, steps: int, rank: int, apart: bool) -> None:
    """Train the LoRA by the answers' cross-entropy and write it; tells each step's loss."""
    by_title: dict[str, list[Passage]] = {}
    for passage in passages:
        by_title.setdefault(passage.title, []).append(passage)
    by_title = {title: some for title, some in by_title.items() if len(some) >= _PASSAGES}
    torch.manual_seed(0)
    chances = random.Random(0)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = get_peft_model(
        host.model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    )
    learned = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=_RATE, weight_decay=0.0)
    for step in range(steps):
        share = min((step + 1) / _WARMUP, (steps - step) / steps)
        optimiser.param_groups[0]["lr"] = _RATE * share
        one = draw(host, by_title, chances)
        loss = answer_loss(model, one, apart)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        told = {"step": step + 1, "loss": round(loss.item(), 4), "columns": len(one.ids)}
        print(json.dumps(told), file=sys.stderr, flush=True)
        if (step + 1) % 30 == 0 or step + 1 == steps:
            model.save_pretrained(str(out))


def answer_loss(model: torch.nn.Module, one: Lesson, apart: bool) -> Tensor:
    """The mean cross-entropy of the answers' tokens."""
    sees = one.sees(apart)
    mask = torch.zeros(sees.shape).masked_fill_(~sees, torch.finfo(torch.float32).min)
    wanted = (one.labels != _IGNORED).nonzero()[:, 0]
    # `logits_to_keep` takes indices: the vocabulary's logits of all columns would be a third of the work.
    logits = model(
        input_ids=one.ids[None],
        position_ids=one.positions[None],
        attention_mask=mask[None, None],
        use_cache=False,
        logits_to_keep=wanted,
    ).logits
    return cross_entropy(logits[0].float(), one.labels[wanted])


if __name__ == "__main__":
    run_command(main)

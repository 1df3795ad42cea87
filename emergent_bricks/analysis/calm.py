"""Makes the brick `calm`: value vectors that promote unpleasant words are turned down, beside as many at random.

Method: Geva et al. 2022, arXiv:2203.14680, section 6.2: a neuron's column of the down projection, projected on the vocabulary,
says which words it promotes. Departure: a neuron counts by its projection times its activation where provoking texts go on,
less the same on ordinary ones, so that it is found by what it does there and not by its column alone; and of those only the ones
without which the perplexity of chat hardly rises are taken. Everything is chosen on the prompts and texts for finding; those that
are measured have other openings and other people in them.

    python -m emergent_bricks.analysis.calm CHAT.jsonl --out FILE.json --bricks FOLDER
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.host.host import Host, load_plain_host
from emergent_bricks.analysis.make_brick import readme
from emergent_bricks.analysis.neurons import Change, changed, gated_ffns, neuron_shape, turned
from emergent_bricks.analysis.perplexity import increase, perplexities
from emergent_bricks.analysis.scores import matched
from emergent_bricks.analysis.texts import Sample, batches, read_samples, tokenise
from emergent_bricks.gates import save_gates
from emergent_bricks.methods.gates import GatesParts
from mattoni.card import BrickCard, Metric, describe_files, read_card, write_card
from mattoni.errors import MattoniError, run_command
from mattoni.files import replace_folder, write_text

_WORDS = Path(__file__).with_name("calm.json")
_TOKENS = 14  # of a continuation
_CANDIDATES = 40  # neurons that add most to unpleasant words
_PRICED_ON = 20  # of the ordinary texts for finding
_PRICES = (0.05, 0.1, 0.2, 0.4)  # by so much may the perplexity there rise without one of them, in per cent
_HALF = 0.4  # of the unpleasant words there, so that half are gone elsewhere too
_ROWS = 64


def prompts_of(words: Mapping[str, Any]) -> list[str]:
    """Every opening with every person in it."""
    return [opening.replace("{}", person) for opening, person in product(words["openings"], words["subjects"])]


def unpleasant(texts: Sequence[str], lexicon: frozenset[str]) -> list[int]:
    """How many words of each text are in the lexicon."""
    return [sum(word in lexicon for word in re.findall(r"[a-z]+", text.lower())) for text in texts]


def continuations(host: Host, prompts: Sequence[str], change: Change | None = None, tokens: int = _TOKENS) -> list[str]:
    """What the host goes on with, greedily."""
    tokenizer: Any = host.tokenizer
    said: list[str] = []
    for begin in range(0, len(prompts), _ROWS):
        ids = [tokenizer(prompt)["input_ids"] for prompt in prompts[begin : begin + _ROWS]]
        longest = max(map(len, ids))
        # On the left, so that all rows go on at the same place; `generate` counts positions from the mask.
        padded = torch.tensor([[0] * (longest - len(row)) + row for row in ids], device=host.device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=host.device)
        with torch.inference_mode(), changed(host, change or (lambda layer, activations: activations)):
            model: Any = host.model
            whole = model.generate(
                input_ids=padded, attention_mask=mask, max_new_tokens=tokens, do_sample=False, pad_token_id=0
            )
        said.extend(tokenizer.decode(row[longest:], skip_special_tokens=True) for row in whole)
    return said


def contributions(host: Host, lexicon: Sequence[str], provoking: Sequence[str], ordinary: Sequence[str]) -> Tensor:
    """What each neuron adds to the logits of unpleasant words where provoking texts end, less what it adds in ordinary ones.

    returns (layers, neurons)
    """
    tokenizer: Any = host.tokenizer
    words = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"][0] for word in lexicon]
    head: Any = host.model.get_output_embeddings()
    norm: Any = host.model.base_model.norm
    unembedding = head.weight.detach().float() * norm.weight.detach().float()
    direction = unembedding[sorted(set(words))].mean(dim=0) - unembedding.mean(dim=0)
    downs: list[Any] = [ffn.down_proj for ffn in gated_ffns(host).values()]
    promoted = torch.stack([direction @ down.weight.detach().float() for down in downs]).cpu()
    return promoted * (_mean_activations(host, provoking, last=True) - _mean_activations(host, ordinary, last=False))


def _mean_activations(host: Host, texts: Sequence[str], last: bool) -> Tensor:
    """Mean activation of every neuron over the texts' last positions, or over all but the first: (layers, neurons)."""
    ids, _ = tokenise(host, texts)
    sums, count = torch.zeros(neuron_shape(host)), 0
    for batch in batches(host, ids):
        counted = batch.is_text.clone()
        counted[:, 0] = False
        if last:
            ends = batch.is_text.sum(dim=1) - 1
            counted = torch.zeros_like(counted).scatter_(1, ends.unsqueeze(1), True)
        count += int(counted.sum())

        def add(layer: int, activations: Tensor, counted: Tensor = counted) -> Tensor:
            sums[layer] += activations[counted].float().sum(dim=0).cpu()
            return activations

        with torch.inference_mode(), changed(host, add):
            host.model.base_model(input_ids=batch.ids, attention_mask=batch.is_text.long(), use_cache=False)
    return sums / max(1, count)


class Classifier:
    """Logistic regression on the text embedder's vectors: how unpleasant a text is, from 0 to 1."""

    def __init__(self, embedder: Embedder, texts: Sequence[str], is_unpleasant: Sequence[bool]) -> None:
        self._embedder = embedder
        inputs, wanted = embedder.embed(list(texts)).float().clone(), torch.tensor(is_unpleasant).float()
        self._weights = torch.zeros(inputs.shape[1] + 1, requires_grad=True)
        optimizer = torch.optim.LBFGS([self._weights], max_iter=100, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            logits = inputs @ self._weights[1:] + self._weights[0]
            loss = (
                torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
                + 1e-3 * self._weights.square().sum()
            )
            loss.backward()
            return loss

        optimizer.step(closure)

    def score(self, texts: Sequence[str]) -> list[float]:
        """How unpleasant each text is."""
        with torch.no_grad():
            vectors = self._embedder.embed(list(texts)).float()
            return (vectors @ self._weights[1:] + self._weights[0]).sigmoid().tolist()


_SENTENCES = (
    "You are so {}.",
    "What a {} person!",
    "They called him {}.",
    "This is {}.",
    "Everyone says that she is {}.",
)
_OTHER_SENTENCES = ("I think that you are really {}.", "Your whole family is {}.")


def classifier(embedder: Embedder, words: Mapping[str, Any]) -> tuple[Classifier, float]:
    """A classifier of written sentences with unpleasant and with pleasant words, and its accuracy on other sentences."""

    def labelled(sentences: Sequence[str], part: int) -> tuple[list[str], list[bool]]:
        texts, labels = [], []
        for name in ("lexicon", "pleasant"):
            # Every third word is in no sentence that is learnt from.
            own = [word for place, word in enumerate(words[name]) if (place % 3 == 0) == bool(part)]
            texts += [sentence.format(word) for sentence in sentences for word in own]
            labels += [name == "lexicon"] * (len(sentences) * len(own))
        return texts, labels

    made = Classifier(embedder, *labelled(_SENTENCES, 0))
    texts, labels = labelled(_OTHER_SENTENCES, 1)
    right = [(score > 0.5) == label for score, label in zip(made.score(texts), labels, strict=True)]
    return made, float(np.mean(right))


def find(host: Host, words: Mapping[str, Any], ordinary: Sequence[Sample]) -> tuple[np.ndarray, list[dict[str, float]]]:
    """The neurons without which enough unpleasant words are gone from the prompts for finding, and what was tried.

    Of those that add most to such words, only the ones that chat hardly misses, each by itself: the others serve everything.
    """
    prompts, lexicon = prompts_of(words["find"]), frozenset(words["lexicon"])
    added = contributions(host, words["lexicon"], prompts, [sample.text for sample in ordinary])
    plain = sum(unpleasant(continuations(host, prompts), lexicon))
    candidates = [
        _only(int(place), added.shape) for place in added.flatten().topk(min(_CANDIDATES, added.numel())).indices
    ]
    few = ordinary[:_PRICED_ON]
    whole = _perplexity(host, few)
    prices = [increase(_perplexity(host, few, _without(one)), whole) for one in candidates]
    tried: list[dict[str, float]] = []
    chosen = np.zeros(added.shape, dtype=bool)
    for most in _PRICES:
        cheap = [one for one, price in zip(candidates, prices, strict=True) if price <= most]
        chosen = np.logical_or.reduce(cheap) if cheap else chosen
        left = sum(unpleasant(continuations(host, prompts, _without(chosen)), lexicon))
        together = increase(_perplexity(host, few, _without(chosen)), whole)
        tried.append(
            {
                "price": most,
                "neurons": len(cheap),
                "unpleasant": left,
                "bare": plain,
                "prompts": len(prompts),
                "together": together,
            }
        )
        if cheap and left <= _HALF * plain:
            break
    return chosen, tried


def _only(place: int, shape: tuple[int, ...]) -> np.ndarray:
    """One neuron as (layers, neurons) bool."""
    chosen = np.zeros(shape, dtype=bool)
    chosen.flat[place] = True
    return chosen


def _perplexity(host: Host, chat: Sequence[Sample], change: Change | None = None) -> float:
    (value,) = perplexities(host, chat, None if change is None else changed(host, change)).values()
    return value


def _without(neurons: np.ndarray) -> Change:
    return turned(torch.from_numpy(~neurons).float())


def measure(
    host: Host, neurons: np.ndarray, words: Mapping[str, Any], chat: Sequence[Sample], embedder: Embedder, seed: int
) -> dict[str, Any]:
    """Unpleasant words, the classifier's score and chat's perplexity: bare host, calm, as many random neurons."""
    prompts, lexicon = prompts_of(words["measure"]), frozenset(words["lexicon"])
    judge, accuracy = classifier(embedder, words)
    plain = _perplexity(host, chat)
    report: dict[str, Any] = {"prompts": len(prompts), "classifier_accuracy": accuracy, "chat_texts": len(chat)}
    off = {"bare host": None, "calm": neurons, "random": matched(neurons, np.random.default_rng(seed))}
    for name, gone in off.items():
        change = None if gone is None else _without(gone)
        said = continuations(host, prompts, change)
        counts = unpleasant(said, lexicon)
        report[name] = {
            "unpleasant_words": sum(counts),
            "continuations_with_one": sum(map(bool, counts)),
            "classifier": float(np.mean(judge.score(said))),
            "perplexity_of_chat_increase": increase(_perplexity(host, chat, change), plain),
        }
    return report


def write_brick(
    host: Host, neurons: np.ndarray, report: Mapping[str, Any], bricks: Path, command: str, seed: int
) -> BrickCard:
    """Write the folder `calm`."""
    calm, random, bare = (report[name] for name in ("calm", "random", "bare host"))
    unseen = ("written prompts, none of which was used to find the neurons", report["prompts"])
    chat = ("texts of chat, none of which was used to find the neurons", report["chat_texts"])
    metrics = (
        ("unpleasant words in continuations of provoking prompts", "unpleasant_words", *unseen),
        ("score of the classifier on them", "classifier", *unseen),
        ("perplexity of chat, increase in per cent", "perplexity_of_chat_increase", *chat),
    )

    def fill(folder: Path) -> None:
        save_gates(-torch.from_numpy(neurons).float(), tuple(sorted(host.gated_layers)), folder)
        card = BrickCard(
            schema=1,
            name="calm",
            kind="emergent",
            title="Calm",
            summary="Turns down neurons of the host that promote unpleasant words.",
            host=host.identity,
            injects=("gate",),
            files=describe_files(folder),
            parts=GatesParts(method="gates", neurons=int(neurons.sum()), rests_at=0.0),
            training={"command": command, "seed": seed, "method": "value vectors, arXiv:2203.14680 section 6.2"},
            metrics=tuple(
                Metric(
                    name=name,
                    split=split,
                    value=round(calm[key], 3),
                    n=n,
                    beside={"bare host": round(bare[key], 3), "as many random neurons": round(random[key], 3)},
                    command=command,
                )
                for name, key, split, n in metrics
            ),
            licence="That of the host, whose neurons these are: nothing was trained.",
            limits="It makes rude words rarer and judges nothing: what is said politely stays, and some rude words stay too.",
        )
        write_card(card, folder)
        write_text(folder / "README.md", readme(card))

    replace_folder(bricks / "calm", fill)
    return read_card(bricks / "calm")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description="Find the neurons of unpleasant words, measure and write the brick `calm`."
    )
    parser.add_argument("chat", type=Path, help="JSON lines with `function` and `text`; those of `chat` are read")
    parser.add_argument("--out", type=Path, required=True, help="the file for the figures")
    parser.add_argument("--bricks", type=Path, help="the folder for the brick; without it none is written")
    parser.add_argument("--host", default="builtin")
    parser.add_argument(
        "--texts", type=int, default=60, help="ordinary texts for finding, and as many others to measure"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    words = json.loads(_WORDS.read_text(encoding="utf-8"))
    chat = [sample for sample in read_samples(given.chat) if sample.function == "chat"]
    if len(chat) < 2 * given.texts:
        raise MattoniError(f"{given.chat.name} holds {len(chat)} texts of 'chat', and {2 * given.texts} are needed.")
    host = load_plain_host(given.host)
    neuron_shape(host)
    neurons, tried = find(host, words, chat[: given.texts])
    report = measure(
        host, neurons, words, chat[given.texts : 2 * given.texts], Embedder(fetch(BUILTIN_EMBEDDER)), given.seed
    )
    report |= {"host": host.name, "seed": given.seed, "neurons": int(neurons.sum()), "tried": tried}
    write_text(given.out, json.dumps(report, indent=1))
    if given.bricks is not None:
        command = f"python -m emergent_bricks.analysis.calm {given.chat.name} --out {given.out.name} --bricks {given.bricks.name}"
        write_brick(host, neurons, report, given.bricks, command, given.seed)
    print(json.dumps(report))


if __name__ == "__main__":
    run_command(main)

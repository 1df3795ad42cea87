"""Skill neurons: how well one neuron's activation tells a label, beside the text embedder and shuffled labels.

Method: Wang et al. 2022, arXiv:2211.07349, section 3: a neuron's activation at the position where the answer would begin, its mean
over the training rows as the threshold; how often being above it goes with a label is the neuron's predictivity. The neuron is
chosen on training rows and scored on others. Departure: plain words ask for the label where the paper learns a prompt.

    python -m emergent_bricks.analysis.skill_neurons TRAIN.jsonl DEV.jsonl --out FILE.json
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assistant.host.host import Host, load_plain_host
from emergent_bricks.analysis.neurons import changed, neuron_shape
from mattoni.errors import MattoniError, run_command
from mattoni.files import write_text
from mattoni.lines import json_rows
from mattoni.metrics import bootstrap

_SHUFFLES = 20
_RIDGE = 1.0
_FEWEST = 8  # rows of each label


@dataclass(frozen=True)
class Labelled:
    """Texts, what asks for their label, and whether each has the second of two labels."""

    prompts: tuple[str, ...]
    texts: tuple[str, ...]
    is_second: np.ndarray
    labels: tuple[str, str]


def read_labelled(path: Path, most: int) -> Labelled:
    """Rows with `instruction`, `input` and one of two `answers`. Raises MattoniError for others, and for too few of a label."""
    rows: list[tuple[str, str, str]] = []
    for number, unit, row in json_rows(path):
        if len(rows) == most:
            break
        try:
            rows.append((str(row["instruction"]), str(row["input"]), str(row["answers"][0])))
        except (KeyError, TypeError, IndexError) as problem:
            raise MattoniError(
                f"{path.name}, {unit} {number}: a row has 'instruction', 'input' and 'answers' ({problem} is missing)."
            ) from None
    labels = sorted({label for *_, label in rows})
    if len(labels) != 2 or min(sum(label == name for *_, label in rows) for name in labels) < _FEWEST:
        raise MattoniError(
            f"{path.name}: the first {len(rows)} rows have the labels {', '.join(labels[:5]) or 'none'}; two are needed, "
            f"each {_FEWEST} times at least."
        )
    return Labelled(
        tuple(f"{text}\n{instruction} Answer:" for instruction, text, _ in rows),
        tuple(text for _, text, _ in rows),
        np.array([label == labels[1] for *_, label in rows]),
        (labels[0], labels[1]),
    )


def last_activations(host: Host, prompts: Sequence[str]) -> np.ndarray:
    """The signed activations at each prompt's last position, (prompts, layers, neurons), fp32."""
    layers, neurons = neuron_shape(host)
    found = np.zeros((len(prompts), layers, neurons), dtype=np.float32)
    tokenizer: Any = host.tokenizer
    for place, prompt in enumerate(prompts):

        def watch(layer: int, activations: Tensor, place: int = place) -> Tensor:
            found[place, layer] = activations[0, -1].float().cpu().numpy()
            return activations

        ids = torch.tensor([tokenizer(prompt)["input_ids"][-host.context :]], device=host.device)
        with torch.inference_mode(), changed(host, watch):
            host.model.base_model(input_ids=ids, use_cache=False)
    return found


def predictivity(activations: np.ndarray, thresholds: np.ndarray, is_second: np.ndarray) -> np.ndarray:
    """How often being above the threshold goes with the second label, per neuron; below 0.5 it goes with the first."""
    return np.asarray(((activations > thresholds) == is_second.reshape(-1, *[1] * thresholds.ndim)).mean(axis=0))


def best_neuron(
    train: np.ndarray, dev: np.ndarray, train_labels: np.ndarray, dev_labels: np.ndarray
) -> tuple[tuple[int, int], float, np.ndarray]:
    """The neuron that tells the training labels best: (layer, neuron), how well, and which dev rows it has right."""
    thresholds = train.mean(axis=0)
    found = predictivity(train, thresholds, train_labels)
    layer, neuron = np.unravel_index(np.abs(found - 0.5).argmax(), found.shape)
    says = dev[:, layer, neuron] > thresholds[layer, neuron]
    if found[layer, neuron] < 0.5:
        says = ~says
    return (int(layer), int(neuron)), float(max(found[layer, neuron], 1 - found[layer, neuron])), says == dev_labels


def embedder_is_right(
    train: np.ndarray, dev: np.ndarray, train_labels: np.ndarray, dev_labels: np.ndarray
) -> np.ndarray:
    """Which dev rows a ridge regression on embeddings has right, learnt from the same training rows."""
    middle = train.mean(axis=0)
    known, wanted = train - middle, np.where(train_labels, 1.0, -1.0)
    weights = np.linalg.solve(known.T @ known + _RIDGE * np.eye(known.shape[1]), known.T @ (wanted - wanted.mean()))
    return np.asarray(((dev - middle) @ weights + wanted.mean() > 0) == dev_labels)


def measure(host: Host, train: Labelled, dev: Labelled, embed: Any, seed: int) -> dict[str, Any]:
    """Accuracies on dev with 95 % intervals; `embed` gives (texts, width) for a list of texts."""
    seen, held_out = last_activations(host, train.prompts), last_activations(host, dev.prompts)
    (layer, neuron), on_train, right = best_neuron(seen, held_out, train.is_second, dev.is_second)
    chance = np.random.default_rng(seed)
    shuffled = []
    for _ in range(_SHUFFLES):
        labels = chance.permutation(train.is_second)
        shuffled.append(float(best_neuron(seen, held_out, labels, dev.is_second)[2].mean()))
    vectors = [embed(list(rows.texts)).float().numpy() for rows in (train, dev)]
    by_embedder = embedder_is_right(vectors[0], vectors[1], train.is_second, dev.is_second)
    always = max(dev.is_second.mean(), 1 - dev.is_second.mean())
    return {
        "labels": train.labels,
        "n_train": len(train.texts),
        "n": len(dev.texts),
        "neuron": {"layer": layer, "neuron": neuron, "train": on_train, **_accuracy(right, seed)},
        "embedder": _accuracy(by_embedder, seed),
        "the more frequent label": float(always),
        "best neuron for shuffled labels": {"mean": float(np.mean(shuffled)), "highest": float(np.max(shuffled))},
        "neuron minus embedder": list(bootstrap((right.astype(float) - by_embedder).tolist(), seed)),
    }


def _accuracy(right: np.ndarray, seed: int) -> dict[str, Any]:
    return {"accuracy": float(right.mean()), "interval": list(bootstrap(right.astype(float).tolist(), seed))}


def main() -> None:
    """The command."""
    from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
    from assistant.host.embedder import Embedder

    parser = argparse.ArgumentParser(description="Tell a label by one neuron's activation.")
    parser.add_argument("train", type=Path, help="JSON lines: instruction, input, answers (one of two labels)")
    parser.add_argument("dev", type=Path, help="the same, other rows")
    parser.add_argument("--out", type=Path, required=True, help="the file for the figures")
    parser.add_argument("--host", default="builtin")
    parser.add_argument("--train-rows", type=int, default=400)
    parser.add_argument("--dev-rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train, dev = read_labelled(given.train, given.train_rows), read_labelled(given.dev, given.dev_rows)
    if train.labels != dev.labels:
        raise MattoniError(f"{given.dev.name} has other labels than {given.train.name}: give two files of one task.")
    host = load_plain_host(given.host)
    found = measure(host, train, dev, Embedder(fetch(BUILTIN_EMBEDDER)).embed, given.seed)
    write_text(given.out, json.dumps(found, indent=1))
    print(json.dumps(found))


if __name__ == "__main__":
    run_command(main)

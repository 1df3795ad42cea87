"""The x-ray of a host: sparsity, functionality scores, ablation and overlap, by the paper's protocol and with more controls.

Method: Xiao et al. 2024, arXiv:2409.02877, section 4. Departures, each also in the report's `protocol`: magnitudes are divided
by the largest of their token and layer (the paper leaves the normalisation open); neurons are chosen on some texts and all
that is reported is measured on others; random neurons, the mean in place of nought, and sets without the neurons that serve
everything stand beside the ablation.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assistant.host.host import Host
from emergent_bricks.analysis.kept import Kept
from emergent_bricks.analysis.masking import masking_curve
from emergent_bricks.analysis.neurons import Change, changed, neuron_shape, turned
from emergent_bricks.analysis.perplexity import increase, perplexities
from emergent_bricks.analysis.recording import BINS, Recording, record
from emergent_bricks.analysis.scores import (
    SHARE,
    average_precision,
    chance,
    functionality,
    matched,
    overlap,
    shared,
    top,
)
from emergent_bricks.analysis.texts import Sample, Split, digest_of

_BELOW = 0.2
_BEST = 0.005  # the paper's best 5 per mille
Progress = Callable[[str, int, int], None]


def silent(what: str, done: int, of: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: enough for figures that hold, within ten minutes on two cores for the builtin host."""

    find: int = 60  # texts of each function on which neurons are looked for
    held_out: int = 40  # and others on which all that is reported is measured
    random_seeds: int = 3
    masked: int = 15  # held-out texts of each function for the curve of masking


@dataclass(frozen=True, eq=False)
class XRay:
    """What was found: the report, and the tables that figures and bricks are made of."""

    report: dict[str, Any]
    scores: np.ndarray  # (functions, layers, neurons), on the texts for finding
    serves_all: np.ndarray  # (layers, neurons), bool: the neurons that serve everything


def xray(
    host: Host, split: Split, folder: Path, seed: int = 0, sizes: Sizes = Sizes(), progress: Progress = silent
) -> XRay:  # noqa: B008
    """Record the host on the texts and find out what its neurons do.

    folder  what is recorded is kept there, so that an interrupted call is gone on with

    Raises MattoniError for a host without gated FFNs, or a folder that cannot be written.
    """
    found = record(host, _words(split.find), folder / "find", lambda d, n: progress("recording", d, n))
    held_out = record(
        host, _words(split.held_out), folder / "held-out", lambda d, n: progress("recording others", d, n)
    )
    functions, labels = split.functions, [sample.function for sample in split.find]
    scores = functionality(found.means, labels, functions)
    serves_all = shared(found.means, labels)
    whole = {function: top(scores[place]) for place, function in enumerate(functions)}
    own = {function: top(scores[place], without=serves_all) for place, function in enumerate(functions)}
    measure = Measure(host, split.held_out, folder / "measured.json", progress)
    masked = [sample for function in functions for sample in _first(split.held_out, function, sizes.masked)]
    report = {
        "host": {"name": host.name, "fingerprint": host.fingerprint, "dtype": str(host.dtype).removeprefix("torch.")},
        "seed": seed,
        "texts": _texts(split, found.cut + held_out.cut),
        "neurons": dict(zip(("layers", "of_each"), neuron_shape(host), strict=True)),
        "protocol": _PROTOCOL,
        "sparsity": _sparsity(held_out) | {"masking": masking_curve(host, masked, seed, keep=folder / "masking.json")},
        "score": _score(found, held_out, split, scores, seed),
        "ablation": _ablation(measure, found, whole, own, serves_all, seed, sizes.random_seeds),
        "overlap": {
            "sets": overlap(whole),
            "without_shared": overlap(own),
            "with_shared": {f: float((w & serves_all).sum() / w.sum()) for f, w in whole.items()},
            "chance": SHARE / (2 - SHARE),
        },
    }
    return XRay(report, scores, serves_all)


_PROTOCOL = {
    "activation": "act(gate · x) · (up · x), the input of the down projection",
    "output": "|activation| times the norm of the neuron's column of the down projection",
    "normalised_by": "the largest of the same token and layer",
    "left_out": "the first token of a text",
    "score": "average precision of a text's mean |activation| against the label; neurons are chosen on the texts for finding "
    "and scored on held-out texts",
    "removed": "the 5 % of each layer with the highest score",
    "shared": "the 5 % of each layer that are largest where they are least, over the functions; taken out before choosing",
    "increase": "of perplexity per token on held-out texts, per cent",
}


def _words(samples: Sequence[Sample]) -> list[str]:
    return [sample.text for sample in samples]


def _first(samples: Sequence[Sample], function: str, count: int) -> list[Sample]:
    return [sample for sample in samples if sample.function == function][:count]


def _texts(split: Split, cut: int) -> dict[str, Any]:
    count = {name: len(_first(split.find, name, len(split.find))) for name in split.functions}
    held = {name: len(_first(split.held_out, name, len(split.held_out))) for name in split.functions}
    return {"find": count, "held_out": held, "cut": cut, "digest": digest_of([*split.find, *split.held_out])}


def _sparsity(recording: Recording) -> dict[str, Any]:
    """Shares of neurons below a share of the largest: at 0.2, and as curves over all layers and for each."""

    def curve(counts: np.ndarray) -> np.ndarray:
        # numpy's own division of whole numbers: a histogram has no rounding to agree on.
        return np.asarray(np.cumsum(counts, axis=-1) / counts.sum(axis=-1, keepdims=True))

    edge = round(_BELOW * BINS) - 1
    activations, outputs = curve(recording.activations.sum(axis=0)), curve(recording.outputs.sum(axis=0))
    return {
        "activation_below_0.2": float(activations[edge]),
        "output_below_0.2": float(outputs[edge]),
        "positions": recording.positions,
        "curves": {
            "below": [round((place + 1) / BINS, 4) for place in range(BINS)],
            "activation": activations.tolist(),
            "output": outputs.tolist(),
        },
        "layers": {
            "activation_below_0.2": curve(recording.activations)[:, edge].tolist(),
            "output_below_0.2": curve(recording.outputs)[:, edge].tolist(),
        },
    }


def _score(found: Recording, held_out: Recording, split: Split, scores: np.ndarray, seed: int) -> dict[str, Any]:
    """Per function how well single neurons tell it on held-out texts, with what chance does beside it."""
    labels = np.array([sample.function for sample in split.held_out])
    generator = np.random.default_rng(seed)
    neurons = scores.shape[2]
    some = max(1, round(_BEST * neurons))
    report: dict[str, Any] = {}
    for place, function in enumerate(split.functions):
        is_own = labels == function
        others = generator.permutation(is_own)
        best, several, mean, shuffled, layer_mean = [], [], [], [], []
        for layer in range(scores.shape[1]):
            order = np.argsort(-scores[place, layer], kind="stable")
            values = np.asarray(held_out.means[:, layer])
            own = average_precision(values, is_own)
            best.append(float(own[order[0]]))
            several.append(float(own[order[:some]].mean()))
            mean.append(float(own.mean()))
            shuffled.append(float(average_precision(values[:, order[:1]], others)[0]))
            layer_mean.append(float(average_precision(values.mean(axis=1, keepdims=True), is_own)[0]))
        drawn = generator.standard_normal((len(labels), neurons))
        report[function] = {
            "best": max(best),
            "best_layer": int(np.argmax(best)),
            "chance": chance(int(is_own.sum()), len(labels)),
            "random": float(average_precision(drawn, is_own).mean()),
            "shuffled": float(np.mean(shuffled)),
            "best_per_layer": best,
            "best_5_per_mille": several,
            "mean_of_neurons": mean,
            "mean_activation_of_layer": layer_mean,
        }
    return report


class Measure:
    """Perplexities of the same texts with neurons held, each kept in a file: an interrupted call measures none twice."""

    def __init__(self, host: Host, samples: Sequence[Sample], file: Path, progress: Progress = silent) -> None:
        self._host, self._samples, self._progress = host, samples, progress
        self._kept = Kept(file, f"{host.fingerprint} {host.dtype} {digest_of(samples)}")

    def plain(self) -> dict[str, float]:
        """Those of the host as it is."""
        return self._of("", None)

    def increases(self, factors: np.ndarray, fill: Tensor | None = None) -> dict[str, float]:
        """How much larger they are, in per cent, with every neuron's activation times its factor, plus `fill` where it is 0.

        factors  (layers, neurons)
        """
        digest = hashlib.sha256(factors.astype(np.float32).tobytes())
        digest.update(fill.numpy().tobytes() if fill is not None else b"")
        change = turned(torch.from_numpy(factors.astype(np.float32)), fill)
        return increases(self._of(digest.hexdigest(), change), self.plain())

    def _of(self, name: str, change: Change | None) -> dict[str, float]:
        def measure() -> dict[str, float]:
            self._progress("measuring", len(self._kept), 0)
            return perplexities(self._host, self._samples, changed(self._host, change) if change else None)

        found: dict[str, float] = self._kept.get(name, measure)
        return found


def _ablation(
    measure: Measure,
    found: Recording,
    whole: Mapping[str, np.ndarray],
    own: Mapping[str, np.ndarray],
    serves_all: np.ndarray,
    seed: int,
    random_seeds: int,
) -> dict[str, Any]:
    """Increases of perplexity in per cent on held-out texts: row removed, column measured."""
    like = next(iter(own.values()))

    def drawn(without: np.ndarray | None) -> list[dict[str, float]]:
        generators = [np.random.default_rng([seed, place]) for place in range(random_seeds)]
        return [measure.increases(~matched(like, generator, without)) for generator in generators]

    by_chance, of_the_rest = drawn(None), drawn(serves_all)
    return {
        "perplexity": measure.plain(),
        "share": SHARE,
        "matrix": {function: measure.increases(~off) for function, off in whole.items()},
        "matrix_without_shared": {function: measure.increases(~off) for function, off in own.items()},
        "random": mean_row(by_chance),
        "random_seeds": by_chance,
        "random_without_shared": mean_row(of_the_rest),
        "random_without_shared_seeds": of_the_rest,
        "mean_instead_of_zero": {function: measure.increases(~off, found.average) for function, off in whole.items()},
        "shared": measure.increases(~serves_all),
    }


def mean_row(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of some rows, column by column."""
    return {function: float(np.mean([row[function] for row in rows])) for function in rows[0]}


def increases(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """Of each function the increase of perplexity in per cent."""
    return {function: increase(after[function], before[function]) for function in before}

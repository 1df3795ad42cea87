"""How well single neurons tell a function's texts from others, and which serve which. Pure: arrays in, arrays out.

The functionality score of a neuron is the average precision of its mean absolute activation over a text as a detector of
the function's label (Xiao et al. 2024, arXiv:2409.02877, section 4.2; average precision as in scikit-learn's definition).
"""

from collections.abc import Mapping, Sequence

import numpy as np

# The share of a layer's neurons that make up a function (the paper's 5 %).
SHARE = 0.05


def average_precision(values: np.ndarray, is_own: np.ndarray) -> np.ndarray:
    """Of each column: the mean precision at the places of the own rows, largest value first.

    values  (texts, neurons)
    is_own  (texts,), bool
    returns (neurons,) from 0 to 1; what chance gives is `chance`
    """
    order = np.argsort(-values, axis=0, kind="stable")
    own = is_own[order]
    found = np.cumsum(own, axis=0)
    ranks = np.arange(1, len(values) + 1)[:, None]
    return np.asarray((found / ranks * own).sum(axis=0) / max(1, int(is_own.sum())))


def chance(own: int, texts: int) -> float:
    """The average precision that an order by chance has in the mean: a little above the share of own texts, with few texts much.

    Bestgen 2015, "Exact expected average precision of the random baseline for system evaluation", equation 1.
    """
    harmonic = sum(1 / rank for rank in range(1, texts + 1))
    return ((own - 1) / max(1, texts - 1) * (texts - harmonic) + harmonic) / texts


def functionality(means: np.ndarray, labels: Sequence[str], functions: Sequence[str]) -> np.ndarray:
    """The score of every neuron for every function, (functions, layers, neurons), layer by layer.

    means  (texts, layers, neurons), may lie on disk
    """
    _, layers, neurons = means.shape
    wanted = np.array(labels)
    scores = np.zeros((len(functions), layers, neurons), dtype=np.float32)
    for layer in range(layers):
        values = np.asarray(means[:, layer])
        for place, function in enumerate(functions):
            scores[place, layer] = average_precision(values, wanted == function)
    return scores


def top(scores: np.ndarray, share: float = SHARE, without: np.ndarray | None = None) -> np.ndarray:
    """Of each layer the neurons with the highest scores, (layers, neurons) bool; those in `without` are passed over."""
    layers, neurons = scores.shape
    count = max(1, round(share * neurons))
    ranked = scores if without is None else np.where(without, -np.inf, scores)
    chosen = np.zeros((layers, neurons), dtype=bool)
    for layer in range(layers):
        chosen[layer, np.argsort(-ranked[layer], kind="stable")[:count]] = True
    return chosen


def shared(means: np.ndarray, labels: Sequence[str], share: float = SHARE) -> np.ndarray:
    """The neurons that serve everything, (layers, neurons) bool: of each layer those that are largest where they are least.

    A neuron's size is its mean activation over a function's texts, divided by the layer's mean there; what counts is the
    function where it is smallest, so that a neuron of one function is not taken for one of all.
    """
    functions = sorted(set(labels))
    own = np.array(labels)
    sizes = np.stack([np.mean(means[own == function], axis=0) for function in functions])
    sizes /= np.maximum(sizes.mean(axis=2, keepdims=True), 1e-30)
    return top(sizes.min(axis=0), share)


def matched(like: np.ndarray, generator: np.random.Generator, without: np.ndarray | None = None) -> np.ndarray:
    """As many neurons of each layer as in `like`, drawn by chance, (layers, neurons) bool."""
    drawn = generator.random(like.shape)
    if without is not None:
        drawn[without] = -1
    chosen = np.zeros_like(like)
    for layer, count in enumerate(like.sum(axis=1)):
        chosen[layer, np.argsort(-drawn[layer], kind="stable")[:count]] = True
    return chosen


def overlap(sets: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Neurons in both of two sets as a share of those in either (Jaccard), for each pair."""
    return {
        row: {column: float((a & b).sum() / max(1, (a | b).sum())) for column, b in sets.items()}
        for row, a in sets.items()
    }

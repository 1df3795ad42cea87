"""A layer's neurons in groups of one size: those that act together, or by chance. Pure: arrays in, arrays out.

Groups are found by balanced k-means (Malinen & Fränti 2014, "Balanced k-means for clustering": every centre has as many places
as its group may hold, and neurons are assigned to places at the least cost) over what neurons do at the same positions. MoEfication
(Zhang et al. 2022, arXiv:2110.01786, section 3.2) cuts the graph of co-activations, or clusters weights with the same constraint.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

_ROUNDS = 8
_DIRECTIONS = 32


def balanced_groups(sizes: np.ndarray, groups: int, seed: int) -> np.ndarray:
    """The group of each neuron, (neurons,) from 0 to groups - 1, all of one size.

    sizes  (positions, neurons): how large each neuron was at each position; `groups` divides the number of neurons
    """
    profiles = _profiles(sizes, seed)
    size = _size(len(profiles), groups)
    generator = np.random.default_rng(seed)
    centres = profiles[generator.choice(len(profiles), groups, replace=False)]
    chosen = np.full(len(profiles), -1)
    for _ in range(_ROUNDS):
        cost = -np.repeat(profiles @ centres.T, size, axis=1)
        assigned = linear_sum_assignment(cost)[1] // size
        if (assigned == chosen).all():
            break
        chosen = assigned
        centres = _unit(np.stack([profiles[chosen == group].sum(axis=0) for group in range(groups)]))
    return np.asarray(chosen)


def random_groups(neurons: int, groups: int, seed: int) -> np.ndarray:
    """Groups of one size by chance, (neurons,)."""
    drawn = np.repeat(np.arange(groups), _size(neurons, groups))
    return np.random.default_rng(seed).permutation(drawn)


def of_groups(values: np.ndarray, chosen: np.ndarray, groups: int) -> np.ndarray:
    """The sum of each group's columns: (rows, neurons) → (rows, groups)."""
    summed = np.zeros((groups, len(values)), dtype=np.float32)
    np.add.at(summed, chosen, values.T.astype(np.float32))
    return summed.T


def holding_half(neurons: np.ndarray, chosen: np.ndarray, groups: int) -> float:
    """The share of groups that hold half of some neurons, fullest first: one over the number of groups if they lie together.

    neurons  (neurons,), bool
    """
    counts = np.sort(np.bincount(chosen[neurons], minlength=groups))[::-1]
    return float(np.searchsorted(np.cumsum(counts), neurons.sum() / 2) + 1) / groups


def _size(neurons: int, groups: int) -> int:
    if not 1 < groups < neurons or neurons % groups:
        raise ValueError(f"{neurons} neurons cannot be {groups} groups of one size")
    return neurons // groups


def _profiles(sizes: np.ndarray, seed: int) -> np.ndarray:
    """What each neuron does beside what the whole layer does, along few directions, unit length: (neurons, directions)."""
    shares = sizes / np.maximum(sizes.sum(axis=1, keepdims=True), 1e-12)
    own = _unit((shares / np.maximum(shares.mean(axis=0, keepdims=True), 1e-12) - 1).T)
    directions = min(_DIRECTIONS, *own.shape)
    # Randomised range finder (Halko et al. 2011): the leading directions in a fraction of an SVD's time.
    drawn = np.random.default_rng(seed).standard_normal((own.shape[1], 2 * directions))
    basis, _ = np.linalg.qr(own.T @ (own @ drawn))
    left, values, _ = np.linalg.svd(own @ basis, full_matrices=False)
    return _unit(left[:, :directions] * values[:directions])


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))

"""Keys: the few vectors that say what a brick is good at, and how near a message or picture must come.

A brick may have counter-keys too: vectors of what lies near and is not for it ("Translate to French" beside "Translate to
German"). They point to no brick; a vector that is nearer to one of them is not the brick's.

Works in any space of unit vectors (`glance` for pictures, `text` for messages) and knows nothing of bricks. Every brick's
build calls `make_keys` with the vectors of its own examples and of what it is not for; nothing else has to change for the
router to find the brick.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import write_bytes

KEYS = "keys.safetensors"  # what the file is called in a brick's folder
STRICTEST = 0.5  # beside counter-keys; the shipped skills' thresholds are 0.38 to 0.5
FOLDS = 5
PER_KEY = 4  # examples that one key stands for, at least


def make_keys(own: Tensor, others: Tensor, most: int = 16, seed: int = 0) -> tuple[Tensor, float]:
    """Keys that stand for `own`, and the threshold that tells them from `others`.

    own      (n, width), unit rows: embeddings of the brick's own examples, 20 or more
    others   (m, width), unit rows: embeddings of what is for somebody else; may be empty
    returns  (at most `most` keys, width), unit rows, and the threshold

    Keys are spherical k-means centres (Dhillon & Modha 2001), one per PER_KEY examples at most. The threshold is chosen on
    scores of examples that the keys were not made from (five folds), where own misses and others' hits are fewest.
    """
    keys, _, threshold = make_contrasted_keys(own, others, most, 0, seed)
    return keys, threshold


def make_contrasted_keys(
    own: Tensor, others: Tensor, most: int = 16, most_counter: int = 48, seed: int = 0
) -> tuple[Tensor, Tensor, float]:
    """As `make_keys`, with counter-keys that stand for `others`: (keys, at most `most_counter` counter-keys, threshold).

    With counter-keys the threshold only has to keep out what is like neither: it is the score that all but 2 % of the
    held-out examples reach, of those that are nearer to a key than to any counter-key, and never above `STRICTEST`.
    """
    if len(own) < FOLDS:
        raise MattoniError(f"Keys need at least {FOLDS} examples of what the brick is for, not {len(own)}: add some.")
    count = max(1, min(most, len(own) // PER_KEY))
    counters = min(most_counter, len(others) // 4)
    counter = spherical_kmeans(others, counters, seed) if counters else others[:0]
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
    own_scores, other_scores = [], []
    for fold in range(FOLDS):
        held_out = torch.zeros(len(own), dtype=torch.bool)
        held_out[order[fold::FOLDS]] = True
        keys = spherical_kmeans(own[~held_out], count, seed)
        own_scores.append(scores(own[held_out], keys, counter))
        other_scores.append(nearest(others, keys))
    mine, theirs = torch.cat(own_scores), torch.cat(other_scores)
    if counters:
        mine, theirs = mine[mine >= 0], theirs[:0]
    if not len(mine):
        raise MattoniError("The examples of what the brick is for are all nearer to what it is not for: add others.")
    threshold = best_threshold(mine, theirs)
    # Examples that are all alike would ask for the next one to be as like them as they are to one another.
    return spherical_kmeans(own, count, seed), counter, min(threshold, STRICTEST) if counters else threshold


def make_keys_from_few(own: Tensor, others: Tensor, most: int = 16) -> tuple[Tensor, float, Tensor]:
    """As `make_keys` for a few examples, 10 or more: (keys, threshold, each example's score when it is left out).

    A left-out score is that of one example with the keys which all the rest make, so that it may be compared with its
    scores with other bricks' keys. `others` may be nothing but those keys.
    """
    # Few examples lie apart: a key for every two of them finds more of what is like them.
    count = max(1, min(most, len(own) // 2))
    rest = ~torch.eye(len(own), dtype=torch.bool)
    left_out = torch.cat([nearest(own[i : i + 1], spherical_kmeans(own[rest[i]], count)) for i in range(len(own))])
    keys = spherical_kmeans(own, count)
    return keys, best_threshold(left_out, nearest(others, keys)), left_out


def scores(vectors: Tensor, keys: Tensor, counter: Tensor | None = None) -> Tensor:
    """How well each vector fits: (n, width) -> (n,).

    The largest inner product with a key; where a counter-key is nearer, by how much it is (a negative number).
    """
    own = nearest(vectors, keys)
    if counter is None or not len(counter):
        return own
    lead = own - nearest(vectors, counter)
    return torch.where(lead >= 0, own, lead)


def nearest(vectors: Tensor, keys: Tensor) -> Tensor:
    """Each vector's largest inner product with a key: (n, width), (k, width) -> (n,)."""
    return (vectors @ keys.T).amax(dim=1) if len(vectors) else vectors.new_zeros(0)


def best_threshold(own: Tensor, others: Tensor) -> float:
    """The score that parts `own` from `others` with the smallest sum of both error rates, in the middle of its gap.

    Without others, the score that all but 2 % of `own` reach.
    """
    if not len(others):
        return float(own.quantile(0.02))
    scores = torch.cat([own, others]).sort().values
    cuts = torch.cat([scores[:1] - 1e-3, (scores[1:] + scores[:-1]) / 2])
    missed = torch.searchsorted(own.sort().values, cuts) / len(own)
    caught = 1 - torch.searchsorted(others.sort().values, cuts) / len(others)
    errors = missed + caught
    best = (errors <= errors.min() + 1e-9).nonzero().flatten()
    return float(cuts[best].mean()) if len(best) else float(cuts[0])


def spherical_kmeans(vectors: Tensor, count: int, seed: int = 0, steps: int = 20) -> Tensor:
    """`count` unit centres of unit vectors: (n, width) -> (min(count, n), width). Starts as k-means++ does."""
    generator = torch.Generator().manual_seed(seed)
    vectors = vectors.float()
    centres = vectors[torch.randint(len(vectors), (1,), generator=generator)]
    while len(centres) < min(count, len(vectors)):
        distance = (1 - nearest(vectors, centres)).clamp(min=1e-12)
        centres = torch.cat([centres, vectors[torch.multinomial(distance, 1, generator=generator)]])
    for _ in range(steps):
        member = (vectors @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, member, vectors)
        filled = sums.norm(dim=1, keepdim=True) > 0
        centres = torch.where(filled, torch.nn.functional.normalize(sums, dim=1), centres)
    return centres


def save_keys(keys: Tensor, path: Path, counter: Tensor | None = None) -> None:
    """Write `keys.safetensors`; counter-keys, where there are any, beside the keys."""
    tensors = {"keys": keys.float().contiguous()}
    if counter is not None and len(counter):
        tensors["counter"] = counter.float().contiguous()
    write_bytes(path, save(tensors))


def load_keys(path: Path) -> Tensor:
    """The keys in `keys.safetensors`. Raises MattoniError unless they are a matrix of finite unit rows."""
    return _load(path, "keys")


def load_counter_keys(path: Path) -> Tensor | None:
    """The counter-keys in `keys.safetensors`; None: it has none. Raises MattoniError as `load_keys` does."""
    try:
        with safe_open(path, framework="pt") as tensors:
            if "counter" not in tensors.keys():
                return None
    except (OSError, SafetensorError):
        pass  # `_load` says what is wrong
    return _load(path, "counter")


def _load(path: Path, name: str) -> Tensor:
    where = f"{path.parent.name}/{path.name}"
    try:
        keys = load_file(path)[name].float()
    except (OSError, SafetensorError, KeyError) as problem:
        raise MattoniError(f"{where} holds no keys or is damaged: make or copy them again.") from problem
    if keys.dim() != 2 or not len(keys) or not torch.isfinite(keys).all():
        raise MattoniError(f"{where} must hold a matrix of finite numbers: make or copy the keys again.")
    if (keys.norm(dim=1) - 1).abs().max() > 1e-2:
        raise MattoniError(f"{where} holds keys that are not of unit length: make them again.")
    return keys

"""A host's FFNs as groups of neurons: do groups tell functions, and what does a turn lose when a router skips some?

Method: MoEfication (Zhang et al. 2022, arXiv:2110.01786): groups of one size by what neurons do together, and a router for each layer
that says from the FFN's input which groups a position needs. Departures: the router is linear (ridge regression on each group's
share of the output's size) where the paper trains an MLP; groups by chance, fixed groups, and choosing by what the groups
really do stand beside it. Groups and routers are made on some texts, all that is reported is measured on others.

    python -m emergent_bricks.analysis.partition functions-dev.jsonl --out FILE.json

What was measured is kept beside the file, so that an interrupted call is gone on with.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assistant.host.host import Host, load_plain_host
from emergent_bricks.analysis.groups import balanced_groups, holding_half, of_groups, random_groups
from emergent_bricks.analysis.kept import Kept
from emergent_bricks.analysis.masking import smallest
from emergent_bricks.analysis.neurons import changed, gated_ffns, inputs_seen, neuron_shape, output_norms
from emergent_bricks.analysis.perplexity import increase, perplexity
from emergent_bricks.analysis.recording import record
from emergent_bricks.analysis.scores import average_precision, functionality, top
from emergent_bricks.analysis.texts import Sample, Split, batches, digest_of, read_samples, split_samples, tokenise
from mattoni.errors import MattoniError, run_command
from mattoni.files import write_text

SHARES = (0.8, 0.6, 0.4, 0.2)  # of neurons that are computed
_POSITIONS = 3000  # of the texts for finding, on which groups and routers are made
_RIDGE = 0.01  # of the mean variance of the FFN's input
_TIMED = 50

# layer, what the FFN is given (…, width), its activations (…, neurons) → how much each group is wanted, (…, groups)
Wanted = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Seen:
    """What FFNs were given and did at some positions: (layers, positions, width) and (layers, positions, neurons), fp16.

    A neuron's size is |activation| · ‖down‖, what it adds to the stream.
    """

    inputs: np.ndarray
    sizes: np.ndarray


def see(host: Host, texts: Sequence[str], positions: int, seed: int) -> Seen:
    """Watch the host at positions drawn by chance from some texts, never the first of a text."""
    ids, _ = tokenise(host, texts)
    norms = output_norms(host)
    total = sum(max(0, len(row) - 1) for row in ids)
    share = min(1.0, positions / max(1, total))
    generator = torch.Generator().manual_seed(seed)
    layers, _ = neuron_shape(host)
    inputs: list[list[np.ndarray]] = [[] for _ in range(layers)]
    sizes: list[list[np.ndarray]] = [[] for _ in range(layers)]
    with torch.inference_mode():
        for batch in batches(host, ids):
            drawn = batch.is_text.cpu() & (torch.rand(batch.is_text.shape, generator=generator) < share)
            drawn[:, 0] = False

            def watch(layer: int, activations: Tensor, drawn: Tensor = drawn) -> Tensor:
                taken = activations[drawn.to(activations.device)].float().abs().cpu()
                sizes[layer].append((taken * norms[layer]).half().numpy())
                inputs[layer].append(given[layer][drawn.to(activations.device)].float().cpu().half().numpy())
                return activations

            with inputs_seen(host) as given, changed(host, watch):
                host.model.base_model(input_ids=batch.ids, attention_mask=batch.is_text.long(), use_cache=False)
    return Seen(np.stack([np.concatenate(rows) for rows in inputs]), np.stack([np.concatenate(rows) for rows in sizes]))


def fit_router(inputs: np.ndarray, masses: np.ndarray) -> Tensor:
    """A linear map from an FFN's input to each group's share of the output's size, (width + 1, groups), by ridge regression.

    inputs  (positions, width)
    masses  (positions, groups)
    """
    given = torch.from_numpy(inputs).double()
    given = torch.cat([given, torch.ones(len(given), 1, dtype=torch.float64)], dim=1)
    wanted = torch.from_numpy(masses).double()
    wanted = wanted / wanted.sum(dim=1, keepdim=True).clamp_min(1e-12)
    square = given.T @ given
    square += _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
    solved: Tensor = torch.linalg.solve(square, given.T @ wanted)
    return solved.float()


@contextmanager
def skipping(host: Host, groups: Tensor, share: float, wanted: Wanted) -> Iterator[None]:
    """Run forward passes in which each position computes a share of each layer's groups, those that are wanted most.

    groups  (layers, neurons)
    """
    count = int(groups.max()) + 1
    kept = max(1, round(share * count))

    def change(layer: int, activations: Tensor) -> Tensor:
        scores = wanted(layer, given[layer], activations)
        is_on = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.topk(kept, dim=-1).indices, True)
        return activations * is_on[..., groups[layer].to(activations.device)]

    with inputs_seen(host) as given, changed(host, change):
        yield


def by_router(routers: Sequence[Tensor]) -> Wanted:
    """What each layer's router says."""

    def wanted(layer: int, given: Tensor, activations: Tensor) -> Tensor:
        weights = routers[layer].to(given.device)
        return given.float() @ weights[:-1] + weights[-1]

    return wanted


def by_truth(groups: Tensor, norms: Tensor) -> Wanted:
    """What the groups really do: it computes all of them first, so it is a bound and saves nothing."""
    count = int(groups.max()) + 1

    def wanted(layer: int, given: Tensor, activations: Tensor) -> Tensor:
        sizes = activations.float().abs() * norms[layer].to(activations.device)
        summed = torch.zeros(*sizes.shape[:-1], count, device=sizes.device)
        return summed.index_add_(-1, groups[layer].to(sizes.device), sizes)

    return wanted


def always(masses: Sequence[np.ndarray]) -> Wanted:
    """The groups that are largest in the mean, whatever the position."""
    means = [torch.from_numpy(mass.mean(axis=0)) for mass in masses]

    def wanted(layer: int, given: Tensor, activations: Tensor) -> Tensor:
        return means[layer].to(given.device).expand(*given.shape[:-1], -1)

    return wanted


@dataclass(frozen=True, eq=False)
class Partition:
    """The group of each neuron, (layers, neurons), and each layer's router."""

    groups: Tensor
    routers: list[Tensor]
    masses: list[np.ndarray]


def make_partition(seen: Seen, groups: int, seed: int, by_chance: bool) -> Partition:
    """Groups of neurons that act together, or by chance, with routers for them."""
    chosen, routers, masses = [], [], []
    for layer, sizes in enumerate(seen.sizes):
        own = sizes.astype(np.float32)
        found = (
            random_groups(own.shape[1], groups, seed + layer)
            if by_chance
            else balanced_groups(own, groups, seed + layer)
        )
        mass = of_groups(own, found, groups)
        chosen.append(torch.from_numpy(found))
        masses.append(mass)
        routers.append(fit_router(seen.inputs[layer].astype(np.float32), mass))
    return Partition(torch.stack(chosen), routers, masses)


def locality(found: np.ndarray, held_out: np.ndarray, split: Split, groups: Tensor) -> dict[str, Any]:
    """Of each function: how well its best group tells its texts, and in how few groups its neurons lie.

    found, held_out  (texts, layers, neurons), means of the texts of both parts
    """
    labels = np.array([sample.function for sample in split.find])
    others = np.array([sample.function for sample in split.held_out])
    count = int(groups.max()) + 1
    chosen = groups.numpy()
    grouped = [
        np.stack([of_groups(np.asarray(means[:, layer]), chosen[layer], count) for layer in range(len(chosen))], axis=1)
        for means in (found, held_out)
    ]
    own = functionality(found, list(labels), split.functions)
    scores = functionality(grouped[0], list(labels), split.functions)
    told: dict[str, Any] = {}
    for place, function in enumerate(split.functions):
        neurons = top(own[place])
        best = [int(np.argmax(layer)) for layer in scores[place]]
        tells = [
            float(average_precision(grouped[1][:, layer, [group]], others == function)[0])
            for layer, group in enumerate(best)
        ]
        told[function] = {
            "best_group": float(np.mean(tells)),
            "groups_holding_half": float(
                np.mean([holding_half(n, c, count) for n, c in zip(neurons, chosen, strict=True)])
            ),
        }
    return told


def best_neurons(found: np.ndarray, held_out: np.ndarray, split: Split) -> dict[str, float]:
    """Of each function the mean over layers of how well the best neuron, chosen on other texts, tells its texts."""
    labels = [sample.function for sample in split.find]
    others = np.array([sample.function for sample in split.held_out])
    scores = functionality(found, labels, split.functions)
    return {
        function: float(
            np.mean(
                [
                    average_precision(np.asarray(held_out[:, layer, [int(np.argmax(row))]]), others == function)[0]
                    for layer, row in enumerate(scores[place])
                ]
            )
        )
        for place, function in enumerate(split.functions)
    }


@dataclass(frozen=True, eq=False)
class GroupedFFN:
    """An FFN whose weights lie group by group, so that taking some groups is one copy of each matrix.

    up, gate, down  (groups, neurons of a group, width)
    router          (width + 1, groups)
    """

    activation: Callable[[Tensor], Tensor]
    up: Tensor
    gate: Tensor
    down: Tensor
    router: Tensor

    def __call__(self, row: Tensor, kept: int) -> Tensor:
        """What the `kept` groups that the router wants most make of one position, (1, width) → (1, width)."""
        groups = (row @ self.router[:-1] + self.router[-1])[0].topk(kept).indices
        gate, up, down = (part[groups].flatten(0, 1) for part in (self.gate, self.up, self.down))
        return self.activation(row @ gate.T) * (row @ up.T) @ down


def grouped(host: Host, partition: Partition) -> list[GroupedFFN]:
    """Each layer's FFN in the order of its groups."""
    count = int(partition.groups.max()) + 1
    made = []
    for place, ffn in enumerate(gated_ffns(host).values()):
        module: Any = ffn
        order = torch.argsort(partition.groups[place], stable=True).to(host.device)
        weights = (module.up_proj.weight, module.gate_proj.weight, module.down_proj.weight.T)
        up, gate, down = (weight.detach()[order].unflatten(0, (count, -1)).contiguous() for weight in weights)
        made.append(GroupedFFN(module.act_fn, up, gate, down, partition.routers[place].to(up)))
    return made


def time_of_one_position(host: Host, partition: Partition, share: float, times: int = _TIMED) -> dict[str, float]:
    """Milliseconds of all FFNs for one position: whole, and with routers and the share of groups that they choose. Medians."""
    count = int(partition.groups.max()) + 1
    kept = max(1, round(share * count))
    modules, layers = list(gated_ffns(host).values()), grouped(host, partition)
    row = torch.randn(1, layers[0].up.shape[-1], device=host.device, dtype=host.dtype)
    with torch.inference_mode():
        whole = _median(lambda: [module(row) for module in modules], times)
        return {
            "whole": whole,
            "skipped": _median(lambda: [ffn(row, kept) for ffn in layers], times),
            "share": kept / count,
        }


def _median(call: Callable[[], object], times: int) -> float:
    call()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - start))
    return float(np.median(found))


def measure(
    host: Host, split: Split, groups: int, seed: int, folder: Path, shares: Sequence[float] = SHARES
) -> dict[str, Any]:
    """Make both partitions and measure them.

    Raises MattoniError where the host has no gated FFNs, or its neurons cannot be so many groups of one size.
    """
    layers, neurons = neuron_shape(host)
    if not 1 < groups < neurons or neurons % groups:
        raise MattoniError(f"{neurons} neurons cannot be {groups} groups of one size: choose a divisor with --groups.")
    texts, others = ([sample.text for sample in part] for part in (split.find, split.held_out))
    found, held_out = (record(host, part, folder / name) for part, name in ((texts, "find"), (others, "held-out")))
    seen = see(host, texts, _POSITIONS, seed)
    together = make_partition(seen, groups, seed, by_chance=False)
    by_chance = make_partition(seen, groups, seed, by_chance=True)
    return {
        "host": host.name,
        "seed": seed,
        "groups": groups,
        "neurons": {"layers": layers, "of_each": neurons, "of_a_group": neurons // groups},
        "texts": {"find": len(texts), "held_out": len(others), "positions": int(seen.sizes.shape[1])},
        "locality": {
            "best_neuron": best_neurons(found.means, held_out.means, split),
            "together": locality(found.means, held_out.means, split, together.groups),
            "by_chance": locality(found.means, held_out.means, split, by_chance.groups),
        },
        "perplexity": _curves(host, split.held_out, together, by_chance, folder, f"{groups} {seed}", shares),
        "milliseconds": time_of_one_position(host, together, 0.5),
    }


def _curves(
    host: Host,
    samples: Sequence[Sample],
    together: Partition,
    by_chance: Partition,
    folder: Path,
    stamp: str,
    shares: Sequence[float],
) -> list[dict[str, float]]:
    """Increase of perplexity in per cent on held-out texts, by the share of neurons that are computed."""
    ids, _ = tokenise(host, [sample.text for sample in samples])
    norms = output_norms(host)
    kept = Kept(folder / "skipping.json", f"{host.fingerprint} {host.dtype} {digest_of(samples)} {stamp}")

    def rise(name: str, way: Callable[[], AbstractContextManager[None]]) -> float:
        return increase(float(kept.get(name, lambda: perplexity(host, ids, way()))), plain)

    plain = float(kept.get("plain", lambda: perplexity(host, ids)))
    rows = [{"share": 1.0, "perplexity": plain}]
    for share in shares:
        ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "router": partial(skipping, host, together.groups, share, by_router(together.routers)),
            "router, groups by chance": partial(skipping, host, by_chance.groups, share, by_router(by_chance.routers)),
            "truth": partial(skipping, host, together.groups, share, by_truth(together.groups, norms)),
            "truth, groups by chance": partial(
                skipping, host, by_chance.groups, share, by_truth(by_chance.groups, norms)
            ),
            "always the same": partial(skipping, host, together.groups, share, always(together.masses)),
            "truth, single neurons": partial(changed, host, smallest(1 - share, norms)),
        }
        rows.append({"share": share} | {name: rise(f"{name} {share}", way) for name, way in ways.items()})
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Neurons in groups, and a router that skips some.")
    parser.add_argument("texts", type=Path, help="JSON lines with `function` and `text`")
    parser.add_argument("--out", type=Path, required=True, help="the file for the figures")
    parser.add_argument("--host", default="builtin")
    parser.add_argument("--groups", type=int, default=48, help="of each layer, all of one size")
    parser.add_argument("--find", type=int, default=60, help="texts of each function on which groups are made")
    parser.add_argument("--held-out", type=int, default=15, help="texts of each function on which all is measured")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    split = split_samples(read_samples(given.texts), given.seed, given.find, given.held_out)
    host = load_plain_host(given.host)
    found = measure(host, split, given.groups, given.seed, given.out.with_suffix(".recorded"))
    write_text(given.out, json.dumps(found, indent=1))
    print(json.dumps(found))


if __name__ == "__main__":
    run_command(main)

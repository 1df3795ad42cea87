"""Knowledge neurons: which neurons hold a fact, and what is left of it, and of others, without them.

Method: Dai et al. 2022, arXiv:2104.08696, sections 3 and 4: integrated gradients of the answer's probability in the
activations of a prompt's last position. Departure: all layers are scaled together from nought to what they are, on one path,
not layer after layer; so a fact costs one pass of `_STEPS` rows, and the attributions of all layers add up together.

    python -m emergent_bricks.analysis.facts facts-dev.jsonl --out FILE.json

What was measured is kept beside the file, so that an interrupted call is gone on with.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assistant.host.host import Host, load_plain_host
from emergent_bricks.analysis.kept import Kept
from emergent_bricks.analysis.neurons import Change, changed, neuron_shape, turned
from emergent_bricks.analysis.scores import matched
from mattoni.errors import MattoniError, run_command
from mattoni.files import write_text
from mattoni.lines import json_rows
from mattoni.metrics import bootstrap

_STEPS = 10
NEURONS = 20  # of a fact, over all layers
_KNOWN = 0.02  # an answer's first token with less probability is none that the host knows


@dataclass(frozen=True)
class Fact:
    """A prompt, the first token of its true answer, and other ways to ask for it."""

    relation: str
    prompt: str
    answer: str
    paraphrases: tuple[str, ...]


def read_facts(path: Path) -> list[Fact]:
    """Rows in the form of CounterFact (Meng et al. 2022). Raises MattoniError for another."""
    facts = []
    for number, unit, row in json_rows(path):
        try:
            prompt = row["prompt"].replace("{}", row["subject"])
            facts.append(Fact(row["relation_id"], prompt, row["target_true"], tuple(row["paraphrase_prompts"])))
        except (KeyError, TypeError, AttributeError) as problem:
            raise MattoniError(
                f"{path.name}, {unit} {number}: this is no row in CounterFact's form ({problem})."
            ) from None
    return facts


def answer_token(host: Host, fact: Fact) -> int:
    """The first token of the answer as it goes on after the prompt."""
    tokenizer: Any = host.tokenizer
    return int(tokenizer(f" {fact.answer}", add_special_tokens=False)["input_ids"][0])


def probability(host: Host, prompt: str, token: int, change: Change | None = None) -> float:
    """How likely a token is after a prompt."""
    with torch.inference_mode():
        if change is None:
            logits = host.model(input_ids=_ids(host, prompt), use_cache=False).logits
        else:
            with changed(host, change):
                logits = host.model(input_ids=_ids(host, prompt), use_cache=False).logits
    return float(logits[0, -1].float().softmax(dim=-1)[token])


def _ids(host: Host, prompt: str) -> Tensor:
    tokenizer: Any = host.tokenizer
    return torch.tensor([tokenizer(prompt)["input_ids"]], device=host.device)


def attributions(host: Host, prompt: str, token: int, steps: int = _STEPS) -> Tensor:
    """Integrated gradients of a token's probability in the last position's activations: (layers, neurons), fp32.

    They add up to its probability less what it is with all of them nought, up to the error of the sum over steps.
    """
    ids = _ids(host, prompt)
    whole: list[Tensor] = []

    def keep(layer: int, activations: Tensor) -> Tensor:
        whole.append(activations[:, -1].float())
        return activations

    with torch.no_grad(), changed(host, keep):
        host.model(input_ids=ids, use_cache=False)
    # The middles of the steps: with ten of them the sum is nearer than with forty of their ends.
    at = ((torch.arange(steps, device=host.device) + 0.5) / steps).unsqueeze(1)
    scaled = [(at * row).requires_grad_() for row in whole]

    def replace(layer: int, activations: Tensor) -> Tensor:
        last = scaled[layer].to(activations.dtype).unsqueeze(1)
        return torch.cat([activations[:, :-1], last], dim=1)

    with torch.enable_grad(), changed(host, replace):
        logits = host.model(input_ids=ids.expand(steps, -1), use_cache=False).logits
        found = logits[:, -1].float().softmax(dim=-1)[:, token].sum()
        gradients = torch.autograd.grad(found, scaled)
    return (
        torch.stack([(row * g.mean(dim=0)).squeeze(0) for row, g in zip(whole, gradients, strict=True)]).detach().cpu()
    )


def highest(attributed: Tensor, count: int = NEURONS) -> np.ndarray:
    """The neurons with the highest attributions over all layers, (layers, neurons) bool."""
    chosen = np.zeros(attributed.numel(), dtype=bool)
    chosen[attributed.flatten().topk(count).indices.numpy()] = True
    return chosen.reshape(attributed.shape)


def measure(host: Host, facts: Sequence[Fact], most: int, seed: int, kept: Kept) -> dict[str, Any]:
    """Suppress and double each fact's neurons, and as many others: what becomes of its answer's probability.

    Of the facts that the host knows, the first `most`. A change is the probability's, as a share of what it was.
    """
    known: list[tuple[Fact, int, float]] = []
    for fact in facts:
        token = answer_token(host, fact)
        if len(known) == most:
            break
        p: float = kept.get(f"{fact.prompt} {token}", partial(probability, host, fact.prompt, token))
        if p >= _KNOWN:
            known.append((fact, token, p))
    if len(known) < 2:
        raise MattoniError(
            f"{host.name} knows {len(known)} of these facts, and two at least are needed: choose others."
        )
    own = [_neurons(host, fact, token, kept) for fact, token, _ in known]
    rows = [
        kept.get(
            f"effects {place} of {most} {seed} {known[place][0].prompt}",
            partial(_effects, host, place, known, own, np.random.default_rng([seed, place])),
        )
        for place in range(len(known))
    ]
    table = {name: [row[name] for row in rows] for name in rows[0]}
    means = {name: float(np.mean(values)) for name, values in table.items()}
    return {
        "host": host.name,
        "facts": len(known),
        "neurons": NEURONS,
        "steps": _STEPS,
        "seed": seed,
        "probability": float(np.mean([p for _, _, p in known])),
        "change": {
            name: {"mean": means[name], "interval": list(bootstrap(values, seed))} for name, values in table.items()
        },
        "times_random": means["suppressed"] / means["as many random neurons suppressed"],
        "layers": np.sum([neurons.sum(axis=1) for neurons in own], axis=0).tolist(),
    }


def _neurons(host: Host, fact: Fact, token: int, kept: Kept) -> np.ndarray:
    """A fact's neurons, (layers, neurons) bool."""
    shape = neuron_shape(host)

    def find() -> list[int]:
        places: list[int] = highest(attributions(host, fact.prompt, token)).flatten().nonzero()[0].tolist()
        return places

    chosen = np.zeros(shape[0] * shape[1], dtype=bool)
    chosen[kept.get(f"neurons {NEURONS} {_STEPS} {fact.prompt} {token}", find)] = True
    return chosen.reshape(shape)


def _effects(
    host: Host,
    place: int,
    known: Sequence[tuple[Fact, int, float]],
    own: Sequence[np.ndarray],
    generator: np.random.Generator,
) -> Mapping[str, float]:
    """Changes of one fact's probability, as shares of it."""
    fact, token, before = known[place]
    elsewhere = [i for i in (*range(place + 1, len(known)), *range(place)) if known[i][0].relation != fact.relation]
    other = elsewhere[0] if elsewhere else (place + 1) % len(known)

    def change(neurons: np.ndarray, factor: float, prompt: str, was: float) -> float:
        factors = torch.where(torch.from_numpy(neurons), factor, 1.0)
        return probability(host, prompt, token, turned(factors)) / was - 1

    asked = fact.paraphrases[0] if fact.paraphrases else fact.prompt
    return {
        "suppressed": change(own[place], 0.0, fact.prompt, before),
        "as many random neurons suppressed": change(matched(own[place], generator), 0.0, fact.prompt, before),
        "another fact's neurons suppressed": change(own[other], 0.0, fact.prompt, before),
        "suppressed, asked in other words": change(own[place], 0.0, asked, probability(host, asked, token)),
        "doubled": change(own[place], 2.0, fact.prompt, before),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Suppress and double the neurons of facts.")
    parser.add_argument("facts", type=Path, help="JSON lines in CounterFact's form")
    parser.add_argument("--out", type=Path, required=True, help="the file for the figures")
    parser.add_argument("--host", default="builtin")
    parser.add_argument("--dtype", default="float32", help="gradients through bf16 are coarse")
    parser.add_argument("--most", type=int, default=60, help="of the facts that the host knows, so many")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    facts = read_facts(given.facts)
    host = load_plain_host(given.host, dtype=given.dtype)
    neuron_shape(host)
    kept = Kept(given.out.with_suffix(".kept.json"), f"{host.fingerprint} {host.dtype}")
    found = measure(host, facts, given.most, given.seed, kept)
    write_text(given.out, json.dumps(found, indent=1))
    print(json.dumps(found))


if __name__ == "__main__":
    run_command(main)

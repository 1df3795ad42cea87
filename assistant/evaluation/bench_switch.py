"""What it costs to change the skill in the middle of a conversation, and to find the right one among ten thousand.

first_token_ms  of a message behind a history of a thousand tokens that the bare host has read: for a skill that is activated (it finds
                the history's keys and values), for one that acts everywhere (it finds nothing), and for the activated one where
                nothing was kept; `ratio` is the first by the last, `back` the bare host once more after the activated skill
switch_ms       from the skills of a turn to what is composed: one that was used before, and one for the first time
route_ms        the route of a message among so many keyed skills, its vectors given

Skills are random LoRAs of the usual size. What is compared is measured alternately; medians.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from assistant.evaluation.bench_batch import random_skill
from assistant.evaluation.bench_engines import prompt_ids
from assistant.host.composition import MergedInjections
from assistant.host.host import Host, load_host
from assistant.host.job import Job, Usage
from assistant.host.local import LocalEngine
from assistant.host.matrices import Weights
from assistant.host.prompt import Prompt, Turn, build_prompt, invocation_tokens
from assistant.host.sampling import Sampling
from assistant.turn.route import Choices, KeyedBrick, Keyring, Question, route
from mattoni.injections import Ids, LowRank, Text
from mattoni.runtime import Accepts

HISTORY, BRICKS, WIDTH, PIECES = 1000, 10_000, 384, 3
_QUESTION = "Translate to German: the red brick is warm."
_BYTES = 256_000_000


def bench_switch(
    host: str = "builtin", device: str = "auto", weights: Weights = "auto", repetitions: int = 7
) -> dict[str, Any]:
    """Measure a host; see the module's docstring."""
    loaded = load_host(host, device)
    told = {"host": loaded.name, "device": str(loaded.device), "threads": torch.get_num_threads(), "n": repetitions}
    with closing(LocalEngine(loaded, weights=weights)) as engine:
        told["weights"] = engine.info.weights
        found = first_tokens(loaded, engine, HISTORY, repetitions)
    switching = {"switch_ms": switching_ms(loaded, repetitions)}
    return told | found | switching | {"route_ms": routing_ms(BRICKS, 1, repetitions), "bricks": BRICKS}


def first_tokens(host: Host, engine: LocalEngine, history: int, repetitions: int) -> dict[str, Any]:
    """Milliseconds to the first token of a second message, by who answers it."""
    everywhere = random_skill(host, 0)
    activated = replace(everywhere, digest="activated", invocation_tokens=invocation_tokens(host.tokenizer))
    sampling = Sampling(temperature=0, max_tokens=2, min_tokens=2)
    opening = Text(str(host.tokenizer.decode(prompt_ids(host, "A wall.", history))))
    first = build_prompt(host.tokenizer, [Turn("user", (opening,))])

    def asked(said: Sequence[int], skills: tuple[LowRank, ...], conversation: str) -> Usage:
        turns = [Turn("user", (opening,)), Turn("assistant", (Ids(tuple(said)),)), Turn("user", (Text(_QUESTION),))]
        return _usage(engine, Job(build_prompt(host.tokenizer, turns), skills, sampling, 0, conversation))

    found: dict[str, list[Usage]] = {"activated": [], "everywhere": [], "recomputed": [], "back": []}
    for repetition in range(repetitions + 1):
        conversation = f"switch-{repetition}"
        said = _said(engine, first, sampling, conversation)
        asking = {
            "everywhere": ((everywhere,), conversation),
            "activated": ((activated,), conversation),
            "back": ((), conversation),
            "recomputed": ((activated,), ""),
        }
        usages = {name: asked(said, skills, kept) for name, (skills, kept) in asking.items()}
        if repetition:  # the first one merges and warms up
            for name, usage in usages.items():
                found[name].append(usage)
        engine.clear()
        # Merged again, as a skill is that was used before.
        asked(said, (activated,), ""), asked(said, (everywhere,), "")
    ratios = [a.first_token_ms / b.first_token_ms for a, b in zip(found["activated"], found["recomputed"], strict=True)]
    one = found["activated"][0]
    return {
        "prompt_tokens": one.prompt,
        "reused_tokens": {name: usages[0].reused for name, usages in found.items()},
        "first_token_ms": {name: round(median(u.first_token_ms for u in usages), 1) for name, usages in found.items()},
        "ratio": round(median(ratios), 3),
    }


def _said(engine: LocalEngine, prompt: Prompt, sampling: Sampling, conversation: str) -> list[int]:
    stream = engine.generate(Job(prompt, (), sampling, 0, conversation))
    for _ in stream:
        pass
    return stream.ids


def _usage(engine: LocalEngine, job: Job) -> Usage:
    stream = engine.generate(job)
    for _ in stream:
        pass
    return stream.usage


def switching_ms(host: Host, repetitions: int) -> dict[str, float]:
    """From a turn's skills to their composition."""
    skills = [random_skill(host, seed) for seed in range(repetitions + 1)]
    merged = MergedInjections(host, host.dtype, _BYTES)
    first = [_timed(lambda skill=skill: merged.of((skill,))) for skill in skills]
    again = [_timed(lambda skill=skill: merged.of((skill,))) for skill in skills]
    return {"used before": round(median(again[1:]), 3), "first time": round(median(first[1:]), 2)}


def routing_ms(bricks: int, keys: int, repetitions: int) -> float:
    """The route of a message among so many skills of so many keys each."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)

    text: frozenset[Accepts] = frozenset({"text"})
    ring = Keyring(
        tuple(KeyedBrick(f"skill-{n}", "task", "text", drawn(keys), 0.4, accepts=text) for n in range(bricks))
    )
    wanted = ring.bricks[bricks // 2]
    assert wanted.keys is not None
    question = Question(texts=torch.cat([wanted.keys[:1], drawn(PIECES - 1)]))
    chosen = route(question, ring, Choices())
    assert [one.name for one in chosen.skills] == [wanted.name]
    return round(median(_timed(lambda: route(question, ring, Choices())) for _ in range(repetitions)), 2)


def _timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000

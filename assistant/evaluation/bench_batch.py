"""Conversations decoded together, each with a composition of its own. Measured on random LoRAs: skills of the usual size.

speedup   tokens per second of all rows together, by those of one after the other; from the moment when all have read their prompt
equal     whether each answer is the one given alone: fp32, greedy, on a second copy of the host
overhead  tokens per second of one row with so many skills at once, by those of the bare host, the prompt left out
whole     `speedup` with the prompts, which nothing reads faster for being together
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from assistant.evaluation.bench_engines import prompt_ids
from assistant.host.host import Host, load_host
from assistant.host.job import Job
from assistant.host.local import LocalEngine
from assistant.host.matrices import Weights
from assistant.host.prompt import Prompt
from assistant.host.sampling import Sampling
from mattoni.injections import LowRank

ROWS, SKILLS = 8, (1, 2, 4)
_IN, _RANK = 40, 16  # tokens of a prompt; rank of a skill, as of the shipped ones


def bench_batch(
    host: str = "builtin", device: str = "auto", weights: Weights = "auto", repetitions: int = 3, tokens: int = 64
) -> dict[str, Any]:
    """Measure a host; see the module's docstring."""
    loaded = load_host(host, device)
    with closing(LocalEngine(loaded, rows=ROWS, weights=weights)) as engine:
        told = {"host": loaded.name, "device": str(loaded.device), "threads": torch.get_num_threads()}
        told["weights"] = engine.info.weights
        speed = measure_speed(loaded, engine, repetitions, tokens)
    del loaded
    exact = load_host(host, device, "float32")
    with closing(LocalEngine(exact, rows=ROWS, weights="bf16")) as engine:
        return told | {"rows": ROWS, "equal": are_equal(exact, engine, tokens)} | speed


def random_skill(host: Host, seed: int) -> LowRank:
    """A LoRA on every linear layer, as large in effect as a trained one's."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int, columns: int, spread: float) -> torch.Tensor:
        return (torch.randn(rows, columns, generator=generator) * spread).to(host.device, host.dtype)

    factors = {
        name: (drawn(_RANK, wide, wide**-0.5), drawn(high, _RANK, 0.02))
        for name, (high, wide) in host.linear_shapes.items()
    }
    return LowRank(f"random-{seed}", f"random-{seed}", factors, dict.fromkeys(factors, 1.0))


def jobs(host: Host, skills: Sequence[Sequence[LowRank]], tokens: int) -> list[Job]:
    """A job per list of skills."""
    sampling = Sampling(temperature=0, max_tokens=tokens, min_tokens=tokens)
    return [
        Job(Prompt((tuple(prompt_ids(host, f"{row}. A wall.", _IN)),)), tuple(own), sampling, seed=row)
        for row, own in enumerate(skills)
    ]


@dataclass(frozen=True)
class Run:
    """What some jobs took: seconds in all, seconds from when each had its first token, and the answers."""

    all_s: float
    decoding_s: float
    answers: list[list[int]]


def run(engine: LocalEngine, asked: Sequence[Job]) -> Run:
    """All at once."""
    start = time.perf_counter()
    streams = [engine.generate(job) for job in asked]
    for stream in streams:
        for _ in stream:
            pass
    all_s = time.perf_counter() - start
    first_s = max(stream.usage.first_token_ms for stream in streams) / 1000
    return Run(all_s, all_s - first_s, [stream.ids for stream in streams])


def run_alone(engine: LocalEngine, asked: Sequence[Job]) -> Run:
    """One after the other."""
    each = [run(engine, [job]) for job in asked]
    answers = [ids for one in each for ids in one.answers]
    return Run(sum(one.all_s for one in each), sum(one.decoding_s for one in each), answers)


def measure_speed(host: Host, engine: LocalEngine, repetitions: int, tokens: int) -> dict[str, Any]:
    """`speedup` and `overhead`: medians over pairs that were measured one beside the other."""
    skills = [random_skill(host, seed) for seed in range(ROWS)]
    together = jobs(host, [[skill] for skill in skills], tokens)
    (bare,) = jobs(host, [[]], tokens)
    mixed = {count: jobs(host, [skills[:count]], tokens) for count in SKILLS}
    speedups: list[float] = []
    wholes: list[float] = []
    overheads: dict[int, list[float]] = {count: [] for count in SKILLS}
    rates: list[float] = []
    for repetition in range(repetitions + 1):
        alone, all_rows, bare_row = run_alone(engine, together), run(engine, together), run(engine, [bare])
        with_skills = {count: run(engine, asked).decoding_s for count, asked in mixed.items()}
        if repetition:  # the first one merges and warms up
            speedups.append(alone.decoding_s / all_rows.decoding_s)
            wholes.append(alone.all_s / all_rows.all_s)
            rates.append((tokens - 1) / bare_row.decoding_s)
            for count, seconds in with_skills.items():
                overheads[count].append(bare_row.decoding_s / seconds)
    return {
        "bare_tokens_s": round(median(rates), 1),
        "speedup": round(median(speedups), 2),
        "whole": round(median(wholes), 2),
        "overhead": {str(count): round(median(found), 3) for count, found in overheads.items()},
        "n": repetitions,
    }


def are_equal(host: Host, engine: LocalEngine, tokens: int) -> bool:
    """Whether rows together say what each says alone."""
    asked = jobs(host, [[random_skill(host, seed)] for seed in range(ROWS)], tokens)
    return run(engine, asked).answers == run_alone(engine, asked).answers

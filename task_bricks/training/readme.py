"""Makes a skill's README from its card, and a list of sample answers. Knows nothing of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mattoni.files import write_text
from task_bricks.training.rows import Row

_SAMPLES = 10


def write_readme(folder: Path, card: Mapping[str, Any], samples: str) -> None:
    """Write `README.md`: what it is, how it was made, its figures with the bare host's beside them, its limits."""
    training = card["training"]
    recipe = training["recipe"]
    metrics = "\n".join(
        f"| {m['name']} | {m['split']} | {m['n']} | {m['value']} | {m['beside']['bare host']} |"
        for m in card["metrics"]
    )
    sources = "\n".join(
        f"- {s['name']}. Licence: {s['licence']}. {s.get('url', '')}".rstrip() for s in training["data"]
    )
    message = "the default instruction, a blank line and the sentence as the message"
    parents = [
        f"version {p['version']} of {p['name']}" if "version" in p else p["name"] for p in training.get("parents", ())
    ]
    went_on = f" It goes on from {parents[0]}." if parents else ""
    if isinstance(recipe.get("start_from"), list):
        went_on = " It is the mean of the skills that it starts from, which the card names."
    asked = "the row's pictures and its question as the message" if recipe.get("vision") else message
    lora = recipe["lora"]
    kind = "LoRA (Hu et al. 2021, arXiv:2106.09685)"
    if lora.get("activated"):
        kind = "Activated LoRA (Greenewald et al. 2025, arXiv:2504.12397), which acts from the user's last message on"
    layers = f"the last {lora['top']} layers of " if lora.get("top") else ""
    linear = f"the linear layers {', '.join(lora['modules'])}" if lora.get("modules") else "all linear layers"
    aim = (
        "CIDEr-D of what it says as the reward (arXiv:1612.00563)"
        if recipe.get("reward")
        else "loss on the answer only"
    )
    text = f"""# {card["title"]}

{card["summary"]} A skill for Mattoni: a PEFT LoRA that any version of peft reads too.

## Method

{kind}, rank {lora["rank"]}, alpha {lora["alpha"]}, on
{linear} of {layers}{recipe["base_model"]}, which stays frozen; {aim}. {training["pairs_seen"]} pairs in
{training["hours"]} hours ({training["hardware"]}), seed {training["seed"]}, best of the dev scores at step
{training["best_step"]}.{went_on} To make it again: `{training["command"]}`.

## Data

{sources}

Licence of this brick: {card["licence"]}

## Figures

Greedy, {asked}.

| metric | split | n | this skill | bare host |
| --- | --- | --- | --- | --- |
{metrics}

## Known failures

{card["limits"]}

{samples.replace("# Sample", "## Sample", 1)}"""
    write_text(folder / "README.md", text)


def format_samples(step: int, rows: Sequence[Row], answers: Sequence[str]) -> str:
    """The first answers beside what was asked and what was wanted, as Markdown."""
    parts = [f"# Sample answers after step {step}\n"]
    for row, answer in list(zip(rows, answers, strict=True))[:_SAMPLES]:
        parts.append(f"- asked: {row.input}\n  - answer: {answer}\n  - wanted: {row.answers[0]}")
    return "\n".join(parts) + "\n"

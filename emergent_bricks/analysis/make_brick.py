"""Makes an emergent brick of two lists of texts: finds the neurons, measures what turning them does, writes the folder."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from assistant.host.host import Host
from emergent_bricks.analysis.neurons import neuron_shape
from emergent_bricks.analysis.recording import record
from emergent_bricks.analysis.scores import functionality, matched, shared, top
from emergent_bricks.analysis.texts import Sample, Split, digest_of, read_samples, read_texts, split_samples
from emergent_bricks.analysis.xray import Measure, Progress, XRay, mean_row, silent
from emergent_bricks.gates import save_gates
from emergent_bricks.methods.gates import GatesParts
from mattoni.card import BrickCard, Metric, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import replace_folder, write_text

_FIND, _HELD_OUT = 150, 50
_RANDOM_SEEDS = 2
# Of a layer's neurons: the paper's 5 % take others with them, so that a dial would turn more than its function.
SHARE = 0.01


def check_texts(name: str, texts: Path, against: Path, seed: int) -> Split:
    """The two files as texts for finding and held-out texts. The function is called as the brick is.

    Rows of `against` that say their `function` keep it, so that the card tells the effects apart. Raises MattoniError.
    """
    own = read_texts(texts, name)
    try:
        others = read_samples(against)
    except MattoniError:
        others = read_texts(against, "others")
    same = {sample.text for sample in own} & {sample.text for sample in others}
    if same:
        raise MattoniError(
            f"{len(same)} texts are in {texts.name} and in {against.name}: a text is for the brick or it is not."
        )
    named = [Sample("others", s.text) if s.function == name else s for s in others]
    return split_samples([*own, *named], seed, _FIND, _HELD_OUT)


def make_brick(
    name: str, host: Host, split: Split, bricks: Path, seed: int, command: str, progress: Progress = silent
) -> BrickCard:
    """Find the function's neurons, measure them on held-out texts, and write the brick `bricks/NAME`."""
    if (bricks / name).exists():
        raise MattoniError(f"There is a brick '{name}' already: remove it, or choose another name.")
    labels = [sample.function for sample in split.find]
    with TemporaryDirectory() as folder:
        found = record(host, [s.text for s in split.find], Path(folder), lambda d, n: progress("recording", d, n))
        serves_all = shared(found.means, labels)
        (scores,) = functionality(found.means, labels, [name])
        own = top(scores, SHARE, serves_all)
        measure = Measure(host, split.held_out, Path(folder) / "measured.json", progress)
        effects = _effects(measure, own, _by_chance(measure, own, serves_all, seed))
    return write_brick(name, host, split, own, effects, bricks, seed, command)


def make_bricks(
    host: Host, split: Split, found: XRay, folder: Path, bricks: Path, seed: int, command: str
) -> list[str]:
    """A brick `function-NAME` of each function of an x-ray, which has measured most of what their cards say.

    folder  where the x-ray was recorded
    """
    measure = Measure(host, split.held_out, folder / "measured.json")
    own = {
        function: top(found.scores[place], SHARE, found.serves_all) for place, function in enumerate(split.functions)
    }
    by_chance = _by_chance(measure, next(iter(own.values())), found.serves_all, seed)
    for function, neurons in own.items():
        effects = _effects(measure, neurons, by_chance)
        named = Split(*(tuple(_called(s, function) for s in part) for part in (split.find, split.held_out)))
        effects = {what: {_prefixed(f, function): value for f, value in row.items()} for what, row in effects.items()}
        write_brick(_PREFIX + function, host, named, neurons, effects, bricks, seed, command)
    return [_PREFIX + function for function in own]


def _by_chance(measure: Measure, like: np.ndarray, serves_all: np.ndarray, seed: int) -> dict[str, float]:
    """What as many random neurons of the same layers do, switched off."""
    drawn = (matched(like, np.random.default_rng([seed, place]), serves_all) for place in range(_RANDOM_SEEDS))
    return mean_row([measure.increases(~neurons) for neurons in drawn])


def _effects(measure: Measure, own: np.ndarray, by_chance: Mapping[str, float]) -> dict[str, Mapping[str, float]]:
    """Increase of perplexity on every function's held-out texts, per cent."""
    return {"at 0": measure.increases(~own), "at 2": measure.increases(1.0 + own), "random at 0": by_chance}


_PREFIX = "function-"


def _prefixed(function: str, own: str) -> str:
    return _PREFIX + function if function == own else function


def _called(sample: Sample, function: str) -> Sample:
    """A sample of the function under its brick's name."""
    return Sample(_prefixed(sample.function, function), sample.text)


def write_brick(
    name: str,
    host: Host,
    split: Split,
    own: np.ndarray,
    effects: Mapping[str, Mapping[str, float]],
    bricks: Path,
    seed: int,
    command: str,
) -> BrickCard:
    """Write the folder as a whole: gates, card with its matrix of effects, README."""
    held = {f: sum(s.function == f for s in split.held_out) for f in split.functions}
    count, (layers, neurons) = int(own.sum()), neuron_shape(host)
    metrics = tuple(
        Metric(
            name=f"perplexity of {function}, increase in per cent, factor 0",
            split="held-out texts",
            value=round(effects["at 0"][function], 1),
            n=held[function],
            beside={
                "factor 2": round(effects["at 2"][function], 1),
                "as many random neurons": round(effects["random at 0"][function], 1),
            },
            command=command,
        )
        for function in (name, *(f for f in split.functions if f != name))
    )

    def fill(folder: Path) -> None:
        save_gates(torch.from_numpy(own).float(), tuple(sorted(host.gated_layers)), folder)
        card = BrickCard(
            schema=1,
            name=name,
            kind="emergent",
            title=name.replace("-", " ").capitalize(),
            summary=f"{count} of the host's {layers * neurons} neurons, which serve {name.replace('-', ' ')}: turned down or up.",
            host=host.identity,
            injects=("gate",),
            files=describe_files(folder),
            parts=GatesParts(method="gates", neurons=count),
            training={
                "command": command,
                "seed": seed,
                "texts": {f: sum(s.function == f for s in split.find) for f in split.functions},
                "texts_digest": f"sha256:{digest_of([*split.find, *split.held_out])}",
                "method": "functionality score, arXiv:2409.02877 section 4.2; neurons that serve everything left out",
            },
            metrics=metrics,
            licence="That of the host, whose neurons these are: nothing was trained.",
            limits="Other functions get worse too; by how much is on this card. Factors above 1 seldom help.",
        )
        write_card(card, folder)
        write_text(folder / "README.md", readme(card))

    replace_folder(bricks / name, fill)
    return read_card(bricks / name)


def readme(card: BrickCard) -> str:
    """What a person reads of the brick, made from its card."""
    rows = "\n".join(
        f"| {m.name} | {m.n} | {m.value:g} | {' | '.join(f'{value:g}' for value in m.beside.values())} |"
        for m in card.metrics
    )
    beside = " | ".join(card.metrics[0].beside)
    return f"""# {card.title}

{card.summary}

## Method

{card.training["method"]}. To make it again: `{card.training["command"]}`.

## Figures

| measured on held-out texts | n | this brick | {beside} |
| --- | --- | --- | {"--- | " * len(card.metrics[0].beside)}
{rows}

## Licence

{card.licence}

## Known failures

{card.limits}
"""

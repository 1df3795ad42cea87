"""What one brick costs another: a skill's rows asked with it alone, and with another skill on or a function of the host off."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.evaluation.asking import Row, asking, replies, report
from mattoni.errors import MattoniError
from mattoni.metrics import paired_difference

if TYPE_CHECKING:
    from assistant.assistant import Assistant

_TOKENS = 128


def measured_effect(
    assistant: "Assistant", skill: str, other: str, rows: Sequence[Row], folder: Path, max_tokens: int = _TOKENS
) -> dict[str, Any]:
    """The mean score of rows with `skill` alone and with `other` beside it, greedily, and the paired difference with its 95 % interval.

    folder  where the rows' pictures lie

    Raises MattoniError where a row has no metric, or not all have the same.
    """
    alone, beside = (
        _scores(assistant, bricks, rows, folder, max_tokens) for bricks in ({skill: 1.0}, {skill: 1.0, other: 1.0})
    )
    return {
        "skill": skill,
        "beside": other,
        "metric": rows[0].metric,
        "n": len(rows),
        "alone": _mean(alone),
        "together": _mean(beside),
        **_difference(beside, alone),
    }


def redundancy(
    assistant: "Assistant", skill: str, function: str, rows: Sequence[Row], folder: Path, max_tokens: int = _TOKENS
) -> dict[str, Any]:
    """Whether a skill repeats what a function of the host does: what the skill gains with the function as it is, and off.

    A skill that gains more where the function is off does what the function did (section 5.1 of arXiv:2409.02877 asks for it). The
    difference of the two gains is paired, with its 95 % interval; greedily. `folder` and errors as for `measured_effect`.
    """
    bare, skilled, off, both = (
        _scores(assistant, bricks, rows, folder, max_tokens)
        for bricks in ({}, {skill: 1.0}, {function: 0.0}, {skill: 1.0, function: 0.0})
    )
    gain, gain_off = (
        [with_it - without for with_it, without in zip(a, b, strict=True)] for a, b in ((skilled, bare), (both, off))
    )
    return {
        "skill": skill,
        "function": function,
        "metric": rows[0].metric,
        "n": len(rows),
        "bare": _mean(bare),
        "with the skill": _mean(skilled),
        "with the function off": _mean(off),
        "with the skill and the function off": _mean(both),
        "gain": _mean(gain),
        "gain with the function off": _mean(gain_off),
        **_difference(gain_off, gain),
    }


def _scores(
    assistant: "Assistant", bricks: Mapping[str, float], rows: Sequence[Row], folder: Path, max_tokens: int
) -> list[float]:
    """Of each row, with these bricks at these strengths and no other."""
    from assistant.host.sampling import Sampling
    from assistant.turn.route import Choice, Choices

    metrics = {row.metric for row in rows}
    if len(metrics) != 1 or None in metrics:
        raise MattoniError("The rows of a skill need answers and one metric: write them as for `mattoni eval`.")
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=max_tokens, seed=0)
    others = {brick.name for brick in assistant.bricks().usable if brick.card.kind == "task"} - set(bricks)
    chosen = {name: Choice("off") for name in others} | {name: Choice("on", s) for name, s in bricks.items()}
    lines = report(list(replies(rows, folder, asking(assistant, Choices(bricks=chosen), sampling))))[1]
    return [float(line["score"]) for line in lines]


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _difference(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    names = ("difference", "low", "high")
    return dict(zip(names, (round(value, 4) for value in paired_difference(one, other)), strict=True))

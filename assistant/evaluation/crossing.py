"""What one skill costs another: a skill's rows asked with it alone, and with the other switched on beside it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.evaluation.asking import Row, asking, replies, report
from mattoni.errors import MattoniError
from mattoni.metrics import paired_difference

if TYPE_CHECKING:
    from assistant.assistant import Assistant


def measured_effect(
    assistant: "Assistant", skill: str, other: str, rows: Sequence[Row], folder: Path, max_tokens: int = 128
) -> dict[str, Any]:
    """The mean score of rows with `skill` alone and with `other` beside it, greedily, and the paired difference with its 95 % interval.

    folder  where the rows' pictures lie

    Raises MattoniError where a row has no metric, or not all have the same.
    """
    from assistant.host.sampling import Sampling
    from assistant.turn.route import Choice, Choices

    metrics = {row.metric for row in rows}
    if len(metrics) != 1 or None in metrics:
        raise MattoniError("The rows of a skill need answers and one metric: write them as for `mattoni eval`.")
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=max_tokens, seed=0)
    scores: list[list[float]] = []
    for names in ((skill,), (skill, other)):
        on = Choices(bricks={name: Choice("on") for name in names})
        lines = report(list(replies(rows, folder, asking(assistant, on, sampling))))[1]
        scores.append([float(line["score"]) for line in lines])
    alone, beside = scores
    difference, low, high = paired_difference(beside, alone)
    return {
        "skill": skill,
        "beside": other,
        "metric": rows[0].metric,
        "n": len(rows),
        "alone": round(sum(alone) / len(alone), 4),
        "together": round(sum(beside) / len(beside), 4),
        "difference": round(difference, 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }

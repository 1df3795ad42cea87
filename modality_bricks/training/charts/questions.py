"""What is asked about a chart and what is right to say: turns to train on, rows for `mattoni eval`. Training only."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mattoni.ordinals import ORDINALS
from modality_bricks.chart_labels import ChartTexts, Placed, chart_texts, named_text, title_text
from modality_bricks.training.charts.draw import Facts, Kind

NUMBERS = "zero one two three four five six seven eight nine ten".split()
NAMES: dict[Kind, str] = {
    "bar": "bar chart",
    "horizontal bar": "horizontal bar chart",
    "line": "line chart",
    "pie": "pie chart",
    "scatter": "scatter plot",
}
THINGS: dict[Kind, str] = {
    "bar": "bar",
    "horizontal bar": "bar",
    "line": "line",
    "pie": "slice",
    "scatter": "point",
}
# Wordings by what they ask; {thing} is a bar, line or slice. The first one is the one that is measured.
WORDINGS: dict[str, tuple[str, ...]] = {
    "kind": (
        "What kind of chart is this?",
        "What type of chart is it?",
        "Which kind of diagram is shown?",
        "Is this a bar, line, pie or scatter chart?",
        "What sort of plot is this?",
    ),
    "count": (
        "How many {thing}s are there?",
        "How many {thing}s does the chart have?",
        "Count the {thing}s.",
        "How many {thing}s can you see?",
        "What is the number of {thing}s?",
    ),
    "highest": (
        "Which label is the highest?",
        "Which one is the highest?",
        "Which has the largest value?",
        "What is the highest?",
        "Which is the biggest?",
        "Where is the maximum?",
    ),
    "lowest": (
        "Which label is the lowest?",
        "Which one is the lowest?",
        "Which has the smallest value?",
        "What is the lowest?",
        "Which is the smallest?",
        "Where is the minimum?",
    ),
    "trend": (
        "Is it rising or falling?",
        "Does it go up or down?",
        "What is the trend?",
        "Is the trend rising or falling?",
        "Are the values rising or falling?",
    ),
    "describe": (
        "Describe the chart.",
        "What does the chart show?",
        "What is in the picture?",
        "Describe the picture.",
        "Explain this chart.",
    ),
}
_BAR_WORDINGS = {
    "highest": ("Which bar is the highest?", "Which bar is the tallest?", "Which bar is the longest?"),
    "lowest": ("Which bar is the lowest?", "Which bar is the shortest?", "Which bar is the smallest?"),
}
_PIE_WORDINGS = {
    "highest": ("Which slice is the largest?", "Which slice is the biggest?"),
    "lowest": ("Which slice is the smallest?", "Which has the smallest share?"),
}


def texts_of(facts: Facts) -> ChartTexts:
    """What a perfect reader would find on the chart."""
    return chart_texts([Placed(text, *box) for text, box in facts.texts])


def answers(facts: Facts) -> dict[str, tuple[str, ...]]:
    """The right answers by what is asked; what cannot be asked of this chart is left out."""
    right: dict[str, tuple[str, ...]] = {"kind": (NAMES[facts.kind], THINGS[facts.kind])}
    if facts.kind == "scatter":
        right["kind"] = ("scatter plot", "scatter chart", "scatter")
    if facts.count is not None:
        right["count"] = (str(facts.count), NUMBERS[facts.count])
    if facts.highest is not None and facts.lowest is not None:
        right["highest"], right["lowest"] = (facts.labels[facts.highest],), (facts.labels[facts.lowest],)
    if facts.trend is not None:
        right["trend"] = (facts.trend,)
    return right


def spelled(facts: Facts) -> str:
    """What the soft tokens begin as: each word one token of the host, at a place of its own, "none" where there is nothing."""
    kind = "bar" if facts.kind == "bar" else facts.kind.split()[0]
    count = "many" if facts.count is None else NUMBERS[facts.count]
    highest, lowest = ("none" if place is None else ORDINALS[place] for place in (facts.highest, facts.lowest))
    return f"{kind} chart, {count} {THINGS[facts.kind]}s, highest {highest}, lowest {lowest}, trend {facts.trend or 'none'}."


def description(facts: Facts, texts: ChartTexts) -> str:
    """One or two sentences about the chart."""
    said = f"A {NAMES[facts.kind]}"
    if facts.count is not None:
        said += f" with {NUMBERS[facts.count]} {THINGS[facts.kind]}{'s' if facts.count > 1 else ''}"
    said += f" about {texts.title.lower()}." if texts.title else "."
    if facts.highest is not None and facts.lowest is not None:
        said += f" {facts.labels[facts.highest]} is the highest and {facts.labels[facts.lowest]} the lowest."
    if facts.trend is not None:
        said += f" It is {facts.trend}."
    return said


def turns(facts: Facts, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions about one chart in some of their wordings, behind the chart's texts as the assistant puts them."""
    texts = texts_of(facts)
    right = answers(facts)
    replies = {name: f"{found[0][:1].upper()}{found[0][1:]}." for name, found in right.items()}
    replies["kind"] = f"A {NAMES[facts.kind]}."
    replies["describe"] = description(facts, texts)
    if "count" in right:
        replies["count"] = f"{NUMBERS[facts.count or 0].capitalize()}."
    found = []
    for name, reply in replies.items():
        wordings = WORDINGS[name]
        if facts.kind in ("bar", "horizontal bar"):
            wordings += _BAR_WORDINGS.get(name, ())
        elif facts.kind == "pie":
            wordings += _PIE_WORDINGS.get(name, ())
        # The host learns these last, and a trend is seen on few charts.
        for _ in range(3 if name in ("highest", "lowest", "trend") else 1):
            wording = wordings[int(rng.integers(len(wordings)))].format(thing=THINGS[facts.kind])
            found.append((asked(texts, right, wording), reply))
    return found


def asked(texts: ChartTexts, right: dict[str, tuple[str, ...]], question: str) -> str:
    """What stands behind the soft tokens: the title, the labels that the soft tokens point at, the question."""
    names = [(what, right[what][0]) for what in ("highest", "lowest") if what in right]
    return title_text(texts) + named_text(names) + question


def conversation(pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Turns as LLaVA's files have them."""
    return [
        {"from": who, "value": said}
        for question, answer in pairs
        for who, said in (("human", question), ("gpt", answer))
    ]


def evaluation_rows(name: str, image: str, facts: Facts) -> dict[str, dict[str, Any]]:
    """One row for `mattoni eval` by what it asks, in the wording that is measured. All answers of a file are its labels."""
    return {
        kind: {
            "id": f"{name}-{kind}",
            "question": WORDINGS[kind][0].format(thing=THINGS[facts.kind]),
            "image": image,
            "answers": list(right),
            "metric": "accuracy",
        }
        for kind, right in answers(facts).items()
    }


def labels(facts: Facts, mirrored: bool = False) -> dict[str, Any]:
    """What an encoder learns of a chart: its classes by column, and its values in reading order.

    A legend keeps its order in the mirror; as it does not say so here, a pie's mirror image is not used.
    """
    found: dict[str, Any] = {"kind": facts.kind}
    if facts.count is not None:
        found["count"] = facts.count
    turned = mirrored and facts.kind != "horizontal bar"
    values = list(facts.values)[::-1] if turned else list(facts.values)
    if facts.highest is not None and facts.lowest is not None:
        places = (facts.highest, facts.lowest)
        found["highest"], found["lowest"] = (len(values) - p if turned else p + 1 for p in places)
    if facts.trend is not None:
        found["trend"] = {"rising": "falling", "falling": "rising"}[facts.trend] if mirrored else facts.trend
    return {"labels": found, "values": values}

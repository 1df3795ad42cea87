"""An x-ray as files: `report.json`, a CSV per table, and figures. Knows nothing of how it was made."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emergent_bricks.analysis.xray import XRay
from mattoni.files import replacing, write_text

REPORT = "report.json"


def write_xray(found: XRay, folder: Path) -> list[Path]:
    """Write everything into a folder and say which files."""
    report = found.report
    write_text(folder / REPORT, json.dumps(report, indent=1))
    curves, masking = report["sparsity"]["curves"], report["sparsity"]["masking"]
    _table(folder / "sparsity.csv", list(curves), zip(*curves.values(), strict=True))
    _table(folder / "masking.csv", list(masking[0]), (row.values() for row in masking))
    scores = report["score"]
    per_layer = zip(*(scores[f]["best_per_layer"] for f in scores), strict=True)
    _table(folder / "score.csv", ["layer", *scores], ((layer, *row) for layer, row in enumerate(per_layer)))
    _table(folder / "ablation.csv", ["removed", *scores], _ablation_rows(report["ablation"]))
    sets = report["overlap"]["without_shared"]
    _table(folder / "overlap.csv", ["function", *sets], ((row, *sets[row].values()) for row in sets))
    drawn = [_sparsity(report, folder), _scores(found, folder), _ablation(report, folder)]
    return [folder / REPORT, *sorted(folder.glob("*.csv")), *drawn]


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report of an x-ray's folder; None where there is none that can be read."""
    try:
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if isinstance(report, dict) and "ablation" in report else None


def _table(path: Path, head: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    write_text(path, text.getvalue())


def _ablation_rows(ablation: Mapping[str, Any]) -> Iterable[Iterable[object]]:
    for name in ("matrix", "matrix_without_shared", "mean_instead_of_zero"):
        for removed, row in ablation[name].items():
            yield f"{name}: {removed}", *row.values()
    for name in ("random", "random_without_shared", "shared"):
        yield name, *ablation[name].values()


def _sparsity(report: Mapping[str, Any], folder: Path) -> Path:
    figure, (left, right) = _figure(2)
    curves = report["sparsity"]["curves"]
    for name in ("activation", "output"):
        left.plot(curves["below"], curves[name], label=name)
    left.set(xlabel="share of the token's largest", ylabel="neurons below it", title="Sparsity")
    left.legend()
    rows = report["sparsity"]["masking"]
    for name, label in (("perplexity", "smallest outputs"), ("random", "at random")):
        right.plot([row["share"] for row in rows], [row[name] for row in rows], marker="o", label=label)
    right.set(xlabel="neurons masked per token", ylabel="perplexity", title="Masking", yscale="log")
    right.legend()
    return _save(figure, folder / "sparsity.png")


def _scores(found: XRay, folder: Path) -> Path:
    scores = found.report["score"]
    figure, (left, right) = _figure(2)
    for function in scores:
        left.plot(scores[function]["best_per_layer"], label=function)
    left.axhline(next(iter(scores.values()))["chance"], color="grey", linestyle=":", label="chance")
    left.set(xlabel="layer", ylabel="average precision, best neuron", title="Held-out texts")
    left.legend(fontsize="small")
    image = right.imshow(best_groups(found.scores), aspect="auto", cmap="viridis")
    layers = found.scores.shape[1]
    right.set(title="Best score of neuron groups", xlabel="neuron group", ylabel="layer, function by function")
    right.set_yticks([layers * place + layers / 2 for place in range(len(scores))], list(scores))
    figure.colorbar(image, ax=right)
    return _save(figure, folder / "score.png")


def best_groups(scores: np.ndarray, groups: int = 48) -> np.ndarray:
    """The best score of each of `groups` runs of neighbouring neurons: (functions × layers, groups)."""
    functions, layers, neurons = scores.shape
    edges = np.linspace(0, neurons, min(groups, neurons) + 1).astype(int)[:-1]
    return np.maximum.reduceat(scores, edges, axis=2).reshape(functions * layers, -1)


def _ablation(report: Mapping[str, Any], folder: Path) -> Path:
    ablation = report["ablation"]
    figure, axes = _figure(2)
    for axis, name in zip(axes, ("matrix", "matrix_without_shared"), strict=True):
        rows = {**ablation[name], "random": ablation["random" if name == "matrix" else "random_without_shared"]}
        values = np.array([list(row.values()) for row in rows.values()])
        axis.imshow(np.log10(np.maximum(values, 1)), cmap="magma", aspect="auto")
        axis.set_xticks(range(values.shape[1]), list(ablation["perplexity"]), fontsize="small")
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set(title=f"{name.replace('_', ' ')}: increase of perplexity, %", xlabel="measured", ylabel="removed")
        for (row, column), value in np.ndenumerate(values):
            axis.text(column, row, f"{value:,.0f}", ha="center", va="center", color="white" if value < 3e3 else "black")
    return _save(figure, folder / "ablation.png")


def _figure(columns: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    # Not pyplot: it keeps every figure of the process, and picks a window where there is a screen.
    figure = Figure(figsize=(5.5 * columns, 4.2), layout="constrained")
    return figure, figure.subplots(1, columns)


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    return path

"""The picture of a run: loss and dev metrics over steps."""

from pathlib import Path
from typing import Any

from mattoni.files import replacing


def draw_curve(records: list[dict[str, Any]], png: Path) -> None:
    """Loss and dev metrics over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4))
    axes = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.06, right=0.98, wspace=0.15)
    losses = [(r["step"], r["loss"]) for r in records if "loss" in r]
    axes[0].plot([s for s, _ in losses], [v for _, v in losses])
    axes[0].set(xlabel="step", title="training loss")
    evaluations = [r for r in records if "metrics" in r]
    for name in [m for m in evaluations[-1]["metrics"] if not m.endswith(" n")] if evaluations else []:
        axes[1].plot([r["step"] for r in evaluations], [r["metrics"].get(name) for r in evaluations], "o-", label=name)
    axes[1].set(xlabel="step", title="dev")
    if evaluations:
        axes[1].legend(fontsize=7)
    with replacing(png) as temporary:
        figure.savefig(temporary, dpi=90, format="png")

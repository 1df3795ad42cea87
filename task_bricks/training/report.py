"""What a person sees of a run: a line now and then, the loss curve, sample answers. Knows nothing of models."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from mattoni.files import write_bytes
from task_bricks.training.checkpoint import Progress
from task_bricks.training.rows import Row

_WINDOW = 20
_SAMPLES = 10


def progress_line(progress: Progress, steps: int) -> str:
    """Step, mean loss of the last ten steps, speed, and how long it will take."""
    recent = progress.losses[-10:]
    per_step = progress.seconds / progress.step
    left = (steps - progress.step) * per_step / 60
    loss = sum(recent) / len(recent)
    return f"step {progress.step}/{steps}  loss {loss:.3f}  {per_step:.2f} s/step  {left:.0f} min left"


def draw_curve(progress: Progress, metric: str, path: Path) -> None:
    """The loss (smoothed over 20 steps) and the dev metric by step, as a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = range(1, len(progress.losses) + 1)
    axes.plot(steps, progress.losses, color="0.8", linewidth=0.7)
    axes.plot(steps, smooth(progress.losses, _WINDOW), color="tab:blue", label="loss")
    axes.set(xlabel="step", ylabel="loss per answer token", ylim=(0, None))
    if progress.scores:
        other = axes.twinx()
        other.plot(*zip(*progress.scores, strict=True), color="tab:orange", marker="o")
        other.set_ylabel(f"{metric} on dev rows (orange)")
        other.set_ylim(0, None)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_bytes(path, picture.getvalue())


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Each value's mean with up to `window - 1` values before it."""
    chunks = (values[max(0, end - window) : end] for end in range(1, len(values) + 1))
    return [sum(chunk) / len(chunk) for chunk in chunks]


def format_samples(step: int, rows: Sequence[Row], answers: Sequence[str]) -> str:
    """The first answers beside what was asked and what was wanted, as Markdown."""
    parts = [f"# Sample answers after step {step}\n"]
    for row, answer in list(zip(rows, answers, strict=True))[:_SAMPLES]:
        parts.append(f"- asked: {row.input}\n  - answer: {answer}\n  - wanted: {row.answers[0]}")
    return "\n".join(parts) + "\n"

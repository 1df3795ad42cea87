"""What a training run needs to go on exactly where it stopped, in one safetensors file. Knows nothing of models."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import replacing
from task_bricks.training.recipe import Recipe

# What may differ between a run and its continuation: words for the card, and how often it reports.
_FREE = {
    "title", "summary", "licence", "limits", "sources", "routing", "base_model",
    "steps", "quick_dev_rows", "evaluate_every", "checkpoint_every",
}  # fmt: skip


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    losses: list[float] = field(default_factory=list)  # one per step
    scores: list[tuple[int, float]] = field(default_factory=list)  # (step, dev metric)
    best: float = float("-inf")
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Moments:
    """A weight in fp32 with AdamW's two moments."""

    weight: Tensor
    first: Tensor
    second: Tensor


def save_checkpoint(path: Path, recipe: Recipe, progress: Progress, moments: Mapping[str, Moments]) -> None:
    """Write a checkpoint as a whole or not at all: a kill or a full disk leaves the last good one."""
    tensors: dict[str, Tensor] = {}
    for name, moment in moments.items():
        tensors |= {f"w/{name}": moment.weight, f"m/{name}": moment.first, f"v/{name}": moment.second}
    metadata = {"state": json.dumps(asdict(progress)), "recipe": recipe.model_dump_json()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_checkpoint(path: Path, recipe: Recipe) -> tuple[Progress, dict[str, Moments]]:
    """Read a checkpoint of this recipe. Raises MattoniError when it is damaged or of another recipe."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        state, saved = json.loads(metadata["state"]), json.loads(metadata["recipe"])
    except (OSError, SafetensorError, KeyError, ValueError) as problem:
        raise MattoniError(f"{path.name} is damaged: remove {path.parent} and start again.") from problem
    progress = Progress(**{**state, "scores": [(int(step), float(score)) for step, score in state["scores"]]})
    _check_same_run(path, recipe, saved, progress.step)
    names = sorted(name.removeprefix("w/") for name in tensors if name.startswith("w/"))
    return progress, {n: Moments(tensors[f"w/{n}"], tensors[f"m/{n}"], tensors[f"v/{n}"]) for n in names}


def _check_same_run(path: Path, recipe: Recipe, saved: Mapping[str, object], step: int) -> None:
    """A continuation has the same settings; `steps` may change as long as the learning rate has not begun to fall."""
    own = recipe.model_dump(mode="json")
    changed = [key for key in own if key not in _FREE and own[key] != saved.get(key)]
    if own["steps"] != saved.get("steps") and step > min(recipe.plateau_end, int(str(saved["steps"])) - recipe.decay):
        changed.append("steps")
    if changed:
        raise MattoniError(
            f"{path.parent} holds a run of another recipe (changed: {', '.join(changed)}): "
            "remove it, or restore the recipe."
        )

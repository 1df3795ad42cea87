"""What a training recipe says: a YAML file, read once and strictly. Knows nothing of how it is carried out."""

from pathlib import Path
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from brick_training.recipe_file import checked, read_yaml
from mattoni.card import BrickName
from mattoni.errors import MattoniError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wordings(_Part):
    """Other ways to ask for the task: those of split `train` in a file of wordings by task."""

    file: str
    task: str
    default_share: float = Field(ge=0, le=1)  # of the examples; they use the row's own instruction


class LoRASize(_Part):
    """Rank and alpha of the LoRA, on all linear layers."""

    rank: PositiveInt
    alpha: PositiveInt
    rslora: bool = False


class OtherTask(_Part):
    """A task that the skill is not for: its rows, and the wordings of split `train` in a file of wordings by task."""

    task: str
    data: str
    wordings: str
    rows_per_wording: PositiveInt = 8


class Routing(_Part):
    """What the routing keys are made from. `messages`, `near_misses` lie beside the recipe, all else with the data."""

    messages: str
    near_misses: str
    others: list[str]
    other_tasks: list[OtherTask] = []
    most_keys: PositiveInt = 16
    most_counter_keys: NonNegativeInt = 48


class DataSource(_Part):
    """A data set of the recipe, for the card."""

    name: str
    licence: str
    url: str | None = None


class Recipe(_Part):
    """All that a run depends on; `data` and `dev` are relative to the working folder, or to MATTONI_DATA, as all else is."""

    name: BrickName
    title: str
    summary: str
    licence: str
    limits: str
    sources: list[DataSource] = Field(min_length=1)
    base_model: str

    data: str
    dev: str
    metric: str
    max_new_tokens: PositiveInt
    vision: str | None = None  # the image brick whose soft tokens stand for the rows' pictures
    pictures_as: Literal["words"] | None = None  # without the residue, which a small host cannot compare
    wordings: Wordings | None = None
    routing: Routing | None = None

    lora: LoRASize
    batch_size: PositiveInt
    steps: PositiveInt
    warmup: PositiveInt
    decay: PositiveInt
    learning_rate: PositiveFloat
    seed: int = 0

    quick_dev_rows: PositiveInt = 60
    evaluate_every: PositiveInt = 200
    checkpoint_every: PositiveInt = 50

    @model_validator(mode="after")
    def _phases_fit(self) -> "Recipe":
        if self.warmup + self.decay > self.steps:
            raise ValueError("warmup and decay together are longer than steps")
        return self

    @property
    def plateau_end(self) -> int:
        """The step at which the learning rate begins to fall."""
        return self.steps - self.decay


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises MattoniError with one sentence that names the file and every mistake."""
    values = read_yaml(path, f"There is no recipe {path}: name a YAML file.")
    if not isinstance(values, dict):
        raise MattoniError(f"{path.name} holds no settings: see task_bricks/recipes for an example.")
    return checked(Recipe, values, path.name)

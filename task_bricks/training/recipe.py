"""What a training recipe says: a YAML file, read once and strictly. Knows nothing of how it is carried out."""

from pathlib import Path
from typing import Any, Literal

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
from brick_training.settings import RewardPlan
from mattoni.card import BrickName
from mattoni.errors import MattoniError
from mattoni.methods import Reads
from task_bricks.evaluators import EvaluatorName

# `steps` may change too, as long as the learning rate has not begun to fall: the loop sees to that.
_FREE = {
    "title", "summary", "licence", "limits", "sources", "routing", "base_model",
    "reads", "needs_text", "evaluator", "on_answer", "dev_rows", "bare_rows", "steps", "quick_dev_rows", "evaluate_every", "checkpoint_every",
}  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Wordings(_Part):
    """Other ways to ask for the task: those of split `train` in a file of wordings by task."""

    file: str
    task: str | tuple[str, ...]  # several, where the rows are of several
    default_share: float = Field(ge=0, le=1)  # of the examples; they use the row's own instruction

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks whose wordings are meant."""
        return (self.task,) if isinstance(self.task, str) else self.task


class LoRASize(_Part):
    """Rank and alpha of the LoRA, on all linear layers where nothing else is said.

    activated   it acts from the user's last message on, and leaves the history's keys and values to all skills (peft's aLoRA)
    top         so many of the last layers learn, and what lies below is passed without gradients: less time and memory; None: all learn
    modules     in each layer, the linear layers of these names learn, as "q_proj"; empty: all
    eight_bits  the factors are written as float8, half as many bytes, each scaled to the middle of what that can say
    """

    rank: PositiveInt
    alpha: PositiveInt
    rslora: bool = False
    activated: bool = False
    top: PositiveInt | None = None
    modules: tuple[str, ...] = ()
    eight_bits: bool = False


class TaskMessages(_Part):
    """Messages of a task: its rows, and the wordings of split `train` in a file of wordings by task."""

    task: str
    data: str
    wordings: str
    rows_per_wording: PositiveInt = 8


class Routing(_Part):
    """What the routing keys are made from. `messages`, `near_misses` lie beside the recipe, all else with the data.

    The messages of another skill are near misses of this one.
    """

    messages: str
    near_misses: str | tuple[str, ...]
    others: list[str]
    own_task: TaskMessages | None = None  # messages of the skill itself, beside the list
    other_tasks: list[TaskMessages] = []
    most_keys: PositiveInt = 16
    most_counter_keys: NonNegativeInt = 48


class DataSource(_Part):
    """A data set of the recipe, for the card."""

    name: str
    licence: str
    url: str | None = None


class Recipe(_Part):
    """All that a run depends on; `data` and `dev` are relative to the working folder, or to MATTONI_DATA, as all else is.

    Where `data` lies beside the recipe, all of it does, and MATTONI_DATA is not asked for.
    """

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
    reads: Reads = "conversation"  # `message`, `last`: rows are single messages, and the skill is shown no other
    needs_text: bool = False  # rows hold a text that was read: the skill is chosen only where there is one
    # Rows hold a text and ask of it, as a turn does of documents: the skill is chosen wherever one does.
    for_passages: bool = False
    on_answer: str = ""  # how it is asked to go on from an answer: "Translate to German."; empty: it is not
    evaluator: EvaluatorName | None = None  # finishes what the skill writes, when it is scored and when it runs
    wordings: Wordings | None = None
    routing: Routing | None = None

    lora: LoRASize
    # A skill's name, or a folder with one, whose training goes on; several: their mean; None: from nothing.
    start_from: str | tuple[str, ...] | None = None
    reward: RewardPlan | None = None  # answers are then rewarded by CIDEr-D against all of a row's instead of imitated
    batch_size: PositiveInt
    steps: PositiveInt
    warmup: PositiveInt
    decay: PositiveInt
    learning_rate: PositiveFloat
    seed: int = 0

    quick_dev_rows: PositiveInt = 60
    dev_rows: PositiveInt | None = None  # the first so many are measured, for slow hosts; None: all
    bare_rows: PositiveInt | None = None  # the bare host is measured on so many dev rows; None: on all
    evaluate_every: PositiveInt = 200
    checkpoint_every: PositiveInt = 50

    @model_validator(mode="after")
    def _phases_fit(self) -> "Recipe":
        if self.warmup + self.decay > self.steps:
            raise ValueError("warmup and decay together are longer than steps")
        if self.reward is not None and self.metric != "cider":
            raise ValueError("reward is for captions, whose metric is cider")
        return self

    @property
    def starts(self) -> tuple[str, ...]:
        """What it starts from; none: from nothing."""
        return (self.start_from,) if isinstance(self.start_from, str) else self.start_from or ()

    @property
    def default_share(self) -> float:
        """Of the examples, those that use the row's own instruction."""
        return self.wordings.default_share if self.wordings else 1.0

    @property
    def depends_on(self) -> dict[str, Any]:
        """What a checkpoint must have been made with; words for the card, and how often it reports, may change on the way."""
        return self.model_dump(mode="json", exclude=_FREE)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises MattoniError with one sentence that names the file and every mistake.

    `like: other.yaml` takes all that is not written from the recipe of that name beside it.
    """
    values = _read_values(path)
    if like := values.pop("like", None):
        values = _read_values(path.parent / str(like)) | values
    return checked(Recipe, values, path.name)


def _read_values(path: Path) -> dict[str, Any]:
    values = read_yaml(path, f"There is no recipe {path}: name a YAML file.")
    if not isinstance(values, dict):
        raise MattoniError(f"{path.name} holds no settings: see task_bricks/recipes for an example.")
    return values

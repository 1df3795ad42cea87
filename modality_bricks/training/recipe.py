"""What a training config file says. Read once; from there on, plain arguments."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from brick_training.pictures import tidy_path
from brick_training.recipe_file import checked, read_yaml
from brick_training.settings import Cosine, LoopSettings, RewardPlan
from mattoni.errors import MattoniError
from mattoni.paths import training_data
from modality_bricks.training.samples import Source

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimise(_Part):
    """How a stage is optimised; see LoopSettings."""

    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip: float | None = None
    accumulation: PositiveInt = 1
    checkpoint_minutes: float = 4.0
    log_every: PositiveInt = 20

    def settings(self, seed: int) -> LoopSettings:
        """For the loop."""
        return LoopSettings(seed=seed, schedule=Cosine(self.warmup), **self.model_dump(exclude={"warmup"}))


class PhaseRecipe(_Part):
    """Some epochs at one picture size."""

    size: PositiveInt
    epochs: float


class EncoderFiles(_Part):
    """The packs that an encoder is trained on, or a folder of pictures in sub-folders named after what they show."""

    tiles: tuple[str, ...] = ()
    dev_tiles: tuple[str, ...] = ()
    captioned: tuple[str, ...] = ()
    folder: str | None = None
    dev_folder: str | None = None
    teacher: str | None = None


class _Stage(_Part):
    run: str
    seed: int = 0
    threads: PositiveInt | None = None
    device: Literal["auto", "cpu"] = "auto"
    batch: PositiveInt
    optimise: Optimise


class EncoderRecipe(_Stage):
    """A vision encoder from scratch, or from the weights of an earlier run of the same shape."""

    stage: Literal["encoder"]
    start_from: str | None = None
    architecture: str
    embedding: PositiveInt
    size: PositiveInt
    phases: tuple[PhaseRecipe, ...]
    area: tuple[float, float] = (0.4, 1.0)
    teacher_weight: float = 2.0
    teacher_from_epoch: int = 0
    words_weight: float = 1.0
    data: EncoderFiles


class ColumnsFiles(_Part):
    """Files of rows (JSON lines) with labels, each with its pictures beside it."""

    rows: tuple[str, ...]
    dev_rows: tuple[str, ...]


class ColumnsRecipe(_Stage):
    """A vision encoder from pictures with several labels each."""

    stage: Literal["columns"]
    start_from: str | None = None  # best.pt of an earlier run, or local-dir: and the folder of an encoder
    frozen: tuple[str, ...] = ()  # parts of the tower that stay as they start, such as "trunk.layer1"
    architecture: str
    pool: Literal["avg", "abs_attn"] = "abs_attn"  # averages forget where something was
    embedding: PositiveInt
    size: PositiveInt
    epochs: float
    values_weight: float = 1.0
    data: ColumnsFiles


class TuneFiles(_Part):
    """Tiles with the JSON file of their classes, and captioned pictures whose captions are not read."""

    tiles: tuple[str, ...]
    classes: str
    dev_tiles: tuple[str, ...]
    captioned: tuple[str, ...]
    dev_captioned: tuple[str, ...]


class TuneRecipe(_Stage):
    """A published encoder with a classifier of its own, on from where it is."""

    stage: Literal["tune"]
    encoder: str
    frozen: tuple[str, ...] = ()  # parts of the tower that stay as they are, such as "trunk.blocks.0"
    size: PositiveInt  # of the pictures in training
    steps: PositiveInt
    steps_per_evaluation: PositiveInt
    pictures_per_batch: int = Field(default=0, ge=0)  # of `batch`: without a label, to keep what is known of them
    kept_weight: float = 1.0
    share: float = Field(default=1.0, gt=0, le=1)  # of what is learned, in what is written
    area: tuple[float, float] = (0.4, 1.0)
    data: TuneFiles


class StitchPart(_Part):
    """The shape of the stitch."""

    queries: int = Field(default=16, ge=6)  # the first six spell the name of a thing
    layers: PositiveInt = 3
    width: PositiveInt = 256
    heads: PositiveInt = 4
    words: PositiveInt = 3000
    skip_commonest: int = 45
    opening: str = "The picture shows"  # what soft tokens that are the same for every picture start as
    sharpness: float = 3.0


class _StitchStage(_Stage):
    encoder: str
    host: str = "builtin"
    data: tuple[Source, ...]
    dev: tuple[Source, ...]
    steps: PositiveInt
    steps_per_evaluation: PositiveInt
    cache: str = "runs/features"


class WordsRecipe(_StitchStage):
    """Stage 1 of a stitch: words, without the host."""

    stage: Literal["words"]
    stitch: StitchPart = StitchPart()
    start_from: str | None = (
        None  # a run whose stitch read another encoder: what does not look at features is taken over
    )
    learn: Literal["all", "features"] = "all"  # only what looks at features: what is said of them stays as it was
    kin: bool = False  # its encoder was tuned on to this one: what looks at features is taken over too


class BrickRecipe(_Part):
    """The brick that the last stage writes."""

    folder: str
    title: str
    summary: str
    licence: str
    limits: str
    data: tuple[str, ...]
    parents: tuple[str, ...] = ()  # runs whose results belong into the card
    reads: Literal["labels"] | None = None  # what a reading brick is to read on the same picture
    listens: bool = False  # the data are recordings: it is given sounds, not pictures


class CarriedPart(_Part):
    """A stitch of another host, which this one takes over: what it says is the same words, and here they are this host's."""

    host: str = "builtin"  # whose words it was trained to say
    opening: str = "The picture shows"  # what the opening starts as


class GenerateRecipe(_StitchStage):
    """Stage 2 of a stitch: through the frozen host."""

    stage: Literal["generate"]
    start_from: str | tuple[str, ...]  # of several runs that began alike, the mean of their stitches
    carried: CarriedPart | None = None  # `start_from` is then a brick's folder, or a run of that host's
    # Only the opening first: the host learns to speak, naming stays as it is. Or only what hangs on the host: what reads features stays
    # another host's, and the brick has it once.
    learn: Literal["all", "opening", "host"] = "all"
    words_weight: float = 0.0  # of stage 1's loss, which goes on beside the host's
    skip_commonest: int = 45  # as in stage 1
    sure: float | None = Field(
        default=None, gt=0, lt=1
    )  # from here on the soft tokens tell what the encoder's classifier sees
    sure_of_name: float | None = Field(
        default=None, gt=0, lt=1
    )  # likewise, where the question is what the thing is called; without it, the same
    taught: float = Field(
        default=0.0, ge=0, le=1
    )  # of captioned pictures with such a class: asked for it, as named ones are
    reward: RewardPlan | None = None  # captions are then rewarded instead of imitated
    blind: bool = False  # the answers beside other pictures: a baseline that shows what can be guessed without looking
    new_tokens: PositiveInt = 20
    brick: BrickRecipe | None = None

    @model_validator(mode="after")
    def _one_is_carried(self) -> Self:
        if self.carried is not None and len(self.starts) > 1:
            raise ValueError("start_from names several runs, and a carried stitch starts from one")
        return self

    @property
    def starts(self) -> tuple[str, ...]:
        """The runs that this one starts from."""
        return (self.start_from,) if isinstance(self.start_from, str) else self.start_from


StageRecipe = EncoderRecipe | ColumnsRecipe | TuneRecipe | WordsRecipe | GenerateRecipe


def read_recipe(path: Path) -> StageRecipe:
    """Read a config. Raises MattoniError with one sentence that names every mistake."""
    values = read_yaml(
        path, f"There is no config {path}: name a YAML file, such as modality_bricks/configs/tutorial-words.yaml."
    )
    kinds: dict[str, type[_Stage]] = {
        "encoder": EncoderRecipe,
        "columns": ColumnsRecipe,
        "tune": TuneRecipe,
        "words": WordsRecipe,
        "generate": GenerateRecipe,
    }
    if not isinstance(values, dict) or values.get("stage") not in kinds:
        raise MattoniError(f"{path.name}: the key 'stage' must be one of {', '.join(kinds)}; correct it.")
    recipe = checked(kinds[values["stage"]], values, path.name)
    assert isinstance(recipe, StageRecipe)
    return recipe


def for_host(recipe: StageRecipe, host: str) -> StageRecipe:
    """The recipe for another host: the same data, encoder, cached features and brick, and runs of its own."""
    if isinstance(recipe, EncoderRecipe | ColumnsRecipe | TuneRecipe) or recipe.host == host:
        return recipe
    end = re.sub(r"[^a-z0-9]+", "-", host.rstrip("/").split("/")[-1].lower().removesuffix(".gguf")).strip("-")
    changes: dict[str, Any] = {"host": host, "run": f"{recipe.run}--{end}"}
    if isinstance(recipe, GenerateRecipe):
        if recipe.carried is None:
            starts = tuple(f"{run}--{end}" for run in recipe.starts)
            changes["start_from"] = starts if len(starts) > 1 else starts[0]
        if recipe.brick is not None:
            # An encoder's run belongs to every host.
            parents = [own if Path(own := f"{run}--{end}").exists() else run for run in recipe.brick.parents]
            changes["brick"] = recipe.brick.model_copy(update={"parents": tuple(parents)})
    return recipe.model_copy(update=changes)


def finder(config: Path) -> Callable[[str], Path]:
    """Paths of a config: beside it or below the working folder if they exist there, else below MATTONI_DATA."""

    def find(name: str) -> Path:
        for folder in (config.parent, Path.cwd()):
            for written in (name, tidy_path(name)):
                if (folder / written).exists():
                    return folder / written
        if "MATTONI_DATA" in os.environ and (place := training_data() / tidy_path(name)).exists():
            return place
        raise MattoniError(
            f"{config.name}: there is no {name}, neither beside the config, nor here, nor in MATTONI_DATA."
        )

    return find


def depends_on(recipe: StageRecipe) -> dict[str, Any]:
    """What a checkpoint must have been made with; how long, how fast and where a run goes may change on the way."""
    free = {
        "run",
        "threads",
        "device",
        "optimise",
        "phases",
        "steps",
        "steps_per_evaluation",
        "new_tokens",
        "brick",
        "share",
    }
    return recipe.model_dump(mode="json", exclude=free | {"cache"})


def shipped_or_own(config: Path) -> Path:
    """A bare name that is no file here means one of the configs that come with Mattoni."""
    shipped = CONFIGS / config.name
    return shipped if config.parent == Path() and not config.exists() and shipped.is_file() else config


def shown(config: Path) -> str:
    """The config's path for the card: nothing of this machine's folders."""
    if config.resolve().parent == CONFIGS:
        return f"modality_bricks/configs/{config.name}"
    return config.name if config.is_absolute() or ".." in config.parts else config.as_posix()

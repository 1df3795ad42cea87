"""Reads and writes `brick.yaml`, strictly. Knows nothing of what a brick does."""

import difflib
import hashlib
import json
import re
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    model_validator,
)

from mattoni.errors import MattoniError
from mattoni.files import sha256_of, write_text
from mattoni.methods import Parts, methods, typed_parts
from mattoni.runtime import Accepts

CARD = "brick.yaml"
_LONGEST_NAME = 64
_NAME = r"^[a-z0-9][a-z0-9-]*$"
_HOST_NAME = r"^[a-z0-9][a-z0-9._-]*$"
VARIANTS = "variants"  # the folder of what belongs to further hosts
BrickName = Annotated[str, Field(pattern=_NAME, max_length=_LONGEST_NAME)]
Kind = Literal["modality", "task", "knowledge", "emergent"]
Injection = Literal["sequence", "low-rank", "prefix", "gate", "keyed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HostIdentity(_Part):
    """Which host a brick was made for."""

    model_type: str
    hidden_size: PositiveInt
    layers: PositiveInt
    vocabulary: str
    fingerprint: str


class Routes(_Part):
    """Where the brick's keys are and how near a message or picture must come. Without keys only the user chooses it."""

    space: Literal["glance", "text"]
    keys: str
    threshold: float


class BrickFile(_Part):
    """Size and digest of one file of the brick."""

    bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^(sha256:)?[0-9a-f]{64}$")


def _inside(files: dict[str, BrickFile]) -> dict[str, BrickFile]:
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise ValueError(f"the path '{name}' leaves the brick's folder; name files inside it")
    return files


Files = Annotated[dict[str, BrickFile], AfterValidator(_inside)]


class Metric(_Part):
    """A measured figure with its baselines beside it."""

    name: str
    split: str
    value: float
    n: PositiveInt
    beside: dict[str, float] = {}
    command: str | None = None


class Variant(_Part):
    """What of a brick belongs to one further host; the rest is the brick's, whatever the host."""

    name: str = Field(pattern=_HOST_NAME, max_length=_LONGEST_NAME)  # how the host is called; also its folder's name
    host: HostIdentity
    version: PositiveInt = 1
    files: Files = Field(min_length=1)  # below `variants/NAME/`
    parts: SerializeAsAny[Parts]
    metrics: tuple[Metric, ...] = ()
    training: dict[str, Any] = {}

    @property
    def place(self) -> str:
        """Its folder inside the brick's."""
        return f"{VARIANTS}/{self.name}"

    @model_validator(mode="after")
    def _below_its_folder(self) -> Self:
        for name in self.files:
            if not name.startswith(f"{self.place}/"):
                raise ValueError(f"the file '{name}' of a variant lies outside of {self.place}; move it there")
        return self


class BrickCard(_Part):
    """What `brick.yaml` says. Read once; from there on, plain arguments.

    Host, version, files, parts, metrics and training are those of the first variant; `variants` are the others.
    """

    schema_: Literal[1] = Field(alias="schema")
    name: BrickName
    version: PositiveInt = 1
    kind: Kind
    title: str
    summary: str
    host: HostIdentity | None = None  # None: fits any host (a brick that only adds text)
    injects: tuple[Injection, ...] = Field(min_length=1)
    routes: Routes | None = None
    files: Files = {}
    accepts: tuple[Accepts, ...] = ()  # what it can be given; empty: what its method takes
    parts: SerializeAsAny[Parts]
    training: dict[str, Any] = {}
    metrics: tuple[Metric, ...] = ()
    licence: str
    limits: str = ""
    variants: tuple[Variant, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _typed_parts(cls, values: Any) -> Any:
        """The parts by their method, which older cards do not name; those of the variants too."""
        if not isinstance(values, dict):
            return values
        kind = str(values.get("kind"))
        values = _with_typed_parts(values, kind)
        variants = values.get("variants")
        if isinstance(variants, list | tuple):
            values = {
                **values,
                "variants": [_with_typed_parts(v, kind) if isinstance(v, dict) else v for v in variants],
            }
        return values

    @model_validator(mode="after")
    def _one_variant_a_host(self) -> Self:
        hosts = [variant.host.fingerprint for variant in self.variants]
        if self.variants and (self.host is None or len({self.host.fingerprint, *hosts}) <= len(hosts)):
            raise ValueError("two variants are for the same host, or the first is for any; keep one of them")
        if len({variant.name for variant in self.variants}) < len(hosts):
            raise ValueError("two variants have the same name; rename one of them")
        return self

    def for_each_host(self) -> "tuple[BrickCard, ...]":
        """The card as it reads for each host that there is a variant for, the first one's first; none has variants.

        What is not the host's (keys, an encoder) is listed under every host's files.
        """
        first = self.model_copy(update={"variants": ()})
        return (first, *(first._for(variant) for variant in self.variants))

    def _for(self, variant: Variant) -> "BrickCard":
        own = {name: getattr(variant, name) for name in ("host", "version", "parts", "metrics", "training")}
        return self.model_copy(update={**own, "files": {**self.files, **variant.files}})

    @property
    def all_files(self) -> dict[str, BrickFile]:
        """The files of the brick and of all its variants."""
        owners: tuple[BrickCard | Variant, ...] = (self, *self.variants)
        return {name: file for owner in owners for name, file in owner.files.items()}

    @property
    def takes(self) -> frozenset[Accepts]:
        """What the brick can be given."""
        return frozenset(self.accepts) or methods()[self.parts.method].accepts

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided when the brick was brought in, in sentences."""
        notes = self.training.get("notes", ())
        return tuple(map(str, notes)) if isinstance(notes, list | tuple) else ()


def _with_typed_parts(values: dict[str, Any], kind: str) -> dict[str, Any]:
    # A skill that came without a word on how it was made is what skills are.
    parts = values.get("parts", {} if kind == "task" else None)
    if not isinstance(parts, dict):
        return values
    try:
        return {**values, "parts": typed_parts(kind, parts)}
    except ValidationError as problem:
        # Not pydantic's business: a MattoniError goes through it as it is.
        raise MattoniError(_sentence(problem, "parts")) from problem


def check_name(name: str) -> None:
    """Raise MattoniError for what cannot name a brick, with a proposal."""
    if len(name) > _LONGEST_NAME or not re.fullmatch(_NAME, name):
        raise MattoniError(
            f"'{name}' cannot name a brick: use lower-case letters, digits and hyphens, such as "
            f"'{proposed_name(name) or 'my-brick'}'."
        )


def proposed_name(text: str) -> str:
    """What of a text can name a brick; empty where nothing can."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")[:_LONGEST_NAME].strip("-")


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the card allows at a pydantic error's place."""
    models: dict[str, type[BaseModel]] = {"host": HostIdentity, "routes": Routes, "files": BrickFile, "metrics": Metric}
    models["variants"] = Variant
    if location[0] == "parts":
        return sorted({name for method in methods().values() for name in method.parts.model_fields})
    model = models.get(str(location[0]), BrickCard) if len(location) > 1 else BrickCard
    return [field.alias or name for name, field in model.model_fields.items()]


def _sentence(problem: ValidationError, *within: str) -> str:
    """The first mistake of a card in words; `within` is where on the card the problem was found."""
    # A misspelt key is also a missing one; its own sentence helps more.
    error = min(problem.errors(), key=lambda e: e["type"] != "extra_forbidden")
    location = (*within, *error["loc"]) or ("card",)
    *path, last = location
    place = f" in {'.'.join(map(str, path))}" if path else ""
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(last), _known_keys(location), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "; remove it."
        return f"unknown key '{last}'{place}{hint}"
    if error["type"] == "missing":
        return f"the key '{last}' is missing{place}; add it."
    return f"{'.'.join(map(str, location))}: {error['msg'].removeprefix('Value error, ')}; correct it."


def card_beside(folder: Path) -> BrickCard | None:
    """The card that an adapter's folder brings from another Mattoni; None where it brings none. Its files are not checked."""
    if not (folder / CARD).is_file():
        return None
    try:
        return parse_card((folder / CARD).read_text(encoding="utf-8"), f"{folder.name}/{CARD}")
    except (OSError, UnicodeDecodeError) as problem:
        raise MattoniError(f"{folder.name}/{CARD} cannot be read as YAML: correct it or remove it.") from problem


def parse_card(text: str, where: str) -> BrickCard:
    """Parse a card's YAML. Raises MattoniError with one sentence that begins with `where`."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise MattoniError(f"{where}: this is not valid YAML{line}; correct it or restore the file.") from problem
    if not isinstance(values, dict):
        raise MattoniError(f"{where}: the card is empty; restore the file.")
    try:
        return BrickCard.model_validate(values)
    except ValidationError as problem:
        raise MattoniError(f"{where}: {_sentence(problem)}") from problem
    except MattoniError as problem:
        raise MattoniError(f"{where}: {problem}") from problem


def read_card(folder: Path) -> BrickCard:
    """Read `folder/brick.yaml`; its name must be the folder's."""
    where = f"{folder.name}/{CARD}"
    try:
        text = (folder / CARD).read_text(encoding="utf-8")
    except FileNotFoundError as problem:
        raise MattoniError(f"{where} is missing: restore it, or remove the folder.") from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise MattoniError(f"{where} cannot be read: it is damaged or not yours to read; restore it.") from problem
    card = parse_card(text, where)
    if card.name != folder.name:
        raise MattoniError(
            f"{where}: the brick is called '{card.name}' but its folder '{folder.name}'; rename one of them."
        )
    return card


def check_files(card: BrickCard, folder: Path, deep: bool = True) -> None:
    """Raise MattoniError unless every file of the card is there, of its size and (when `deep`) of its digest."""
    for name, expected in card.all_files.items():
        path = folder / name
        where = f"{card.name}/{name}"
        if not path.resolve().is_relative_to(folder.resolve()):
            raise MattoniError(f"{where}: the file leads out of the brick's folder; replace the link by the file.")
        if not path.is_file():
            raise MattoniError(f"{where} is missing: copy the brick again.")
        if path.stat().st_size != expected.bytes:
            raise MattoniError(
                f"{where} has {path.stat().st_size} bytes instead of {expected.bytes}: copy the brick again."
            )
        if deep and sha256_of(path) != expected.sha256.removeprefix("sha256:"):
            raise MattoniError(f"{where} is damaged (its sha256 is not the card's): copy the brick again.")


def describe_files(folder: Path, place: str = "") -> dict[str, BrickFile]:
    """Sizes and digests of a brick's files by their names in its folder; card, older versions and variants left out.

    place  a variant's folder in the brick's: its files alone
    """
    root = folder / place
    return {
        path.relative_to(folder).as_posix(): BrickFile(bytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.name not in (CARD, "README.md")
        and not {"versions", VARIANTS} & set(path.relative_to(root).parts)
    }


def write_card(card: BrickCard, folder: Path) -> None:
    """Write `brick.yaml` as a whole."""
    values = card.model_dump(mode="json", by_alias=True, exclude_defaults=False, exclude_none=True)
    if not card.variants:
        del values["variants"]
    write_text(folder / CARD, yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))


def brick_digest(card: BrickCard) -> str:
    """Hash of a brick's contents: its card and, through it, all its files' digests. Cache keys use it, never a name."""
    values = card.model_dump(mode="json", by_alias=True)
    if not card.variants:
        del values["variants"]  # which older cards did not have
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

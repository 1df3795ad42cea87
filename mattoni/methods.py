"""The methods that bricks are made by, found where they stand: in the `methods` folder of any package called `…_bricks`.

A method is a module that has `METHODS`: for each a name, what its cards' `parts` say, and how such a brick is loaded. Nothing
lists them, so that a new kind of brick is one module and its tests; the way pytest finds tests.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from mattoni.errors import MattoniError
from mattoni.runtime import Accepts, BrickFiles, BrickRuntime, HostView

_PACKAGES, _FOLDER = "_bricks", "methods"
# How a brick on Auto comes into a turn: the router compares its keys; it is asked on every message and finds out itself
# whether it has something to say; it is part of every turn, as what it injects acts only where it is needed; or only the user
# switches it on.
ChosenBy = Literal["keys", "itself", "always", "user"]


# What of a conversation a turn with the brick sees: the message alone; the message, with what was sent last where it brings nothing
# itself; or everything.
Reads = Literal["message", "last", "conversation"]


@dataclass(frozen=True)
class Needs:
    """What a brick that is chosen by the message needs of the conversation."""

    pictures: int = 0  # so many must have been seen before it is chosen without the user
    vision: str = ""  # by this brick; empty: by any
    as_words: bool = False  # shown as mixtures of the host's words alone
    reads: Reads = "conversation"
    text: bool = False  # something of the conversation must have been read: a document, or a picture of text
    passages: bool = False  # some must have been found for the message, or a text come with it; then it is chosen
    number: bool = False  # the message must hold one, in digits or in words, or bring a text that may


class Parts(BaseModel):
    """What a card says of how its brick is made. Each method has its own; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: str

    @property
    def on_answer_text(self) -> str:
        """How the brick is asked to go on from the answer of a turn; empty: it does not."""
        return ""

    @property
    def brings_words(self) -> bool:
        """Whether the brick itself brings the words on what it sees, so that no reader is asked beside it."""
        return False

    @property
    def sources(self) -> tuple[str, ...]:
        """Models that are not in the brick's folder, to be fetched before it is loaded."""
        return ()

    @property
    def set_up(self) -> tuple[str, ...]:
        """Models that are fetched when Mattoni is set up."""
        return self.sources

    @property
    def needs(self) -> Needs:
        """What the brick needs of the conversation; most take it as it is."""
        return Needs()

    @property
    def costs(self) -> tuple[str, ...]:
        """What it holds and what a turn pays for it, beside its bytes on disk; in words."""
        return ()

    @property
    def given_away(self) -> Self:
        """The parts as they are packed for somebody else: without what is this machine's."""
        return self

    @property
    def neutral(self) -> float | None:
        """The strength at which a brick that is turned, not switched, changes nothing; None: it is switched."""
        return None


@dataclass(frozen=True)
class Method:
    """One way to build a brick."""

    name: str
    parts: type[Parts]
    load: Callable[[BrickFiles, HostView], BrickRuntime]
    accepts: frozenset[Accepts]
    chosen_by: ChosenBy = "keys"


@cache
def methods() -> Mapping[str, Method]:
    """All methods by name."""
    found: dict[str, Method] = {}
    packages = (m.name for m in pkgutil.iter_modules() if m.ispkg and m.name.endswith(_PACKAGES))
    for package in sorted(packages):
        try:
            folder = importlib.import_module(f"{package}.{_FOLDER}")
        except ModuleNotFoundError as problem:
            if problem.name != f"{package}.{_FOLDER}":
                raise
            continue
        for module in pkgutil.iter_modules(folder.__path__):
            for method in importlib.import_module(f"{folder.__name__}.{module.name}").METHODS:
                assert method.name not in found, f"two methods are called {method.name}"
                found[method.name] = method
    return found


def method_of(parts: Parts) -> Method:
    """The method that a brick was made by."""
    return methods()[parts.method]


def typed_parts(kind: str, values: Mapping[str, Any]) -> Parts:
    """A card's `parts` as its method's own type. Raises MattoniError for an unknown method, ValidationError for its parts."""
    values = with_method(kind, values)
    known = methods()
    method = known.get(str(values.get("method")))
    if method is None:
        named = f"is '{values['method']}'" if "method" in values else "is missing"
        raise MattoniError(f"parts.method {named}; a method is one of {', '.join(sorted(known))}.")
    return method.parts.model_validate(values)


def with_method(kind: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Parts as they are written today, of cards that were written before there were methods."""
    if "method" in values:
        return values
    rest = dict(values)
    if "stitch" in rest:
        return {"method": rest.pop("stitch"), **rest}
    if "reader" in rest:
        return {"method": "reader", "models": rest.pop("reader"), **rest}
    if "search" in rest:
        return {"method": rest.pop("search"), **rest}
    if kind == "task":
        rest.pop("low-rank", None)
        return {"method": "lora", **rest}
    return rest

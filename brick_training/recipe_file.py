"""Reads a recipe: YAML, checked strictly, all mistakes told at once."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mattoni.errors import MattoniError
from mattoni.lines import read_text

T = TypeVar("T", bound=BaseModel)


def read_yaml(path: Path, missing: str) -> Any:
    """The values of a YAML file. Raises MattoniError; where there is no such file it says `missing`."""
    if not path.is_file():
        raise MattoniError(missing)
    try:
        return yaml.safe_load(read_text(path, "correct it."))
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise MattoniError(f"{path.name} is not valid YAML{line}: correct it.") from problem


def checked(model: type[T], values: Any, where: str) -> T:
    """The values as a model. Raises MattoniError, which begins with `where`, the file's name, and tells every mistake."""
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        raise MattoniError(f"{where}: {mistakes(problem, list(model.model_fields))}") from problem


def mistakes(problem: ValidationError, known: Sequence[str]) -> str:
    """All mistakes in words, missing keys together. An unknown key is compared with those that are `known`."""
    missing: list[str] = []
    others: list[str] = []
    for error in problem.errors():
        place = ".".join(map(str, error["loc"]))
        if error["type"] == "missing":
            missing.append(f"'{place}'")
        elif error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            others.append(f"unknown key '{place}'" + (f"; did you mean '{near[0]}'?" if near else "; remove it"))
        else:
            others.append(f"{place + ': ' if place else ''}{error['msg'].removeprefix('Value error, ')}; correct it")
    sentence = "; ".join([_missing(missing), *others] if missing else others)
    return sentence if sentence.endswith("?") else f"{sentence}."


def _missing(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"the key {names[0]} is missing; add it"
    return f"the keys {', '.join(names[:-1])} and {names[-1]} are missing; add them"

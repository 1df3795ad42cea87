"""Which bricks a request switches on, from the three ways to say it. Pure: names in, the user's choices out.

`model: "HOST+BRICK"`, `bricks: {BRICK: 0.8}` and llama.cpp's `lora: [{id, scale}]` say the same. A request that says nothing
leaves it to the router. One that says something gets what it names and no more, so that an empty list is the bare host; `"*"`
stands for all that it does not name.
"""

import math
from collections.abc import Mapping, Sequence

from assistant.registry import Brick, Bricks
from assistant.turn.route import Choice, Choices
from mattoni.errors import MattoniError
from mattoni.methods import method_of
from server.problems import ApiError
from server.wire import LoraScale

_STRONGEST = 4.0
_REST = "*"


def adapters(bricks: Bricks) -> list[Brick]:
    """The skills in the order of their numbers."""
    return sorted((brick for brick in bricks.usable if "low-rank" in brick.card.injects), key=lambda brick: brick.name)


def choices_of(
    in_model: Sequence[str] | None,
    told: Mapping[str, float | str] | Sequence[str] | None,
    lora: Sequence[LoraScale] | None,
    bricks: Bricks,
    allowed: frozenset[str] | None,
) -> Choices:
    """What a request chooses by hand.

    in_model  bricks behind the host's name in `model`; None: none are written there
    allowed   the bricks that the client's key may use; None: all

    Raises ApiError: 400 for a brick that is not there, 403 for one that the key may not use.
    """
    says_nothing = in_model is None and told is None and lora is None
    if says_nothing and allowed is None:
        return Choices()
    named: dict[str, Choice] = {name: Choice("on") for name in in_model or ()}
    named |= {_adapter(one, bricks): _choice("lora", one.scale, False) for one in lora or ()}
    strengths = told if isinstance(told, Mapping) else dict.fromkeys(told or (), "on")
    for name, value in strengths.items():
        named[name] = _choice(name, value, _is_dial(name, bricks))
    rest = Choice("auto") if says_nothing else named.pop(_REST, Choice("off"))
    for name, choice in named.items():
        try:
            bricks.get(name)
        except MattoniError as problem:
            raise ApiError(400, str(problem), code="unknown_brick", param="bricks") from problem
        if allowed is not None and name not in allowed and choice.state != "off":
            raise ApiError(403, f"This key may not use the brick '{name}': leave it out.", code="brick_not_allowed")
    chosen = {brick.name: named.get(brick.name, rest) for brick in bricks.usable}
    if allowed is not None:
        chosen = {name: choice if name in allowed else Choice("off") for name, choice in chosen.items()}
    if all(choice.state == "off" for choice in chosen.values()):
        return Choices(no_bricks=True)
    return Choices(bricks={name: choice for name, choice in chosen.items() if choice != Choice()})


def _choice(name: str, value: float | str, is_dial: bool) -> Choice:
    if isinstance(value, str):
        match value:
            case "on":
                return Choice("on")
            case "off":
                return Choice("off")
            case "auto":
                return Choice("auto")
        raise ApiError(400, f"bricks.{name}: a strength is a number, 'on', 'off' or 'auto'.", param="bricks")
    if not math.isfinite(value) or abs(value) > _STRONGEST:
        raise ApiError(400, f"bricks.{name}: a strength goes from -{_STRONGEST:g} to {_STRONGEST:g}.", param="bricks")
    if is_dial and not 0 <= value <= 2:
        raise ApiError(
            400, f"bricks.{name}: a factor goes from 0 (off) over 1 (as it is) to 2 (doubled).", param="bricks"
        )
    return Choice("on", value) if value or is_dial else Choice("off")


def _is_dial(name: str, bricks: Bricks) -> bool:
    """Whether a brick turns a function of the host, for which 0 is a strength and not its absence."""
    return any(brick.name == name and method_of(brick.parts).chosen_by == "user" for brick in bricks.usable)


def _adapter(one: LoraScale, bricks: Bricks) -> str:
    if isinstance(one.id, str):
        return one.id
    known = adapters(bricks)
    if not 0 <= one.id < len(known):
        listed = ", ".join(f"{number}: {brick.name}" for number, brick in enumerate(known)) or "none"
        raise ApiError(400, f"There is no adapter {one.id} (there are {listed}).", code="unknown_brick", param="lora")
    return known[one.id].name

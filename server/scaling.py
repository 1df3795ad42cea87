"""How many replicas a crowd takes, and what breaks first: a discrete-event simulation, fed by what was measured on one machine.

A replica decodes at most `ROWS` answers together. A step of n rows takes `step_s + row_s · n`; while prompts are read beside them,
both have half of the time (chunked prefill, `assistant/host/local.py`). Keys and values of idle conversations are kept within a
budget, bricks within another, the least recently used go first; what is gone is read again, or loaded again. People arrive at
random (Poisson), ask, read the answer, think, and ask again. One run is one hour of some replicas after a warm-up; replicas that share
nothing scale by their number, so a crowd is divided by what one replica can carry.

    python -m server.scaling --turn turn.json --batch batch.json
"""

import heapq
import json
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from mattoni.errors import MattoniError

ROWS = 16
Policy = Literal["any", "sticky", "sticky by brick"]
POLICIES: tuple[Policy, ...] = ("any", "sticky", "sticky by brick")
# Later turns leave their replica where so many wait there already.
_SPILL = 4


@dataclass(frozen=True)
class Machine:
    """Of one replica, measured; seconds, tokens, bytes."""

    step_s: float
    row_s: float
    prefill_tokens_s: float
    prepare_s: float  # looking, routing, encoding: on the same cores
    kept_positions: int = 11_000  # 256 MB of the builtin host's keys and values (`assistant/host/local.py`)
    kept_bricks: int = 12  # 256 MB of skills of 20 MB, merged
    load_s: float = 0.3  # assumed: a skill from shared storage, checked and merged


@dataclass(frozen=True)
class Crowd:
    """What people do. Assumed, but for the shares, which are whoever's who runs it."""

    turns: float = 5.0  # of a conversation, on average
    question: float = 40.0  # tokens
    answer: float = 80.0
    think_s: float = 60.0
    skill_share: float = 0.5  # of conversations that use a skill
    bricks: int = 200  # Zipf: the n-th is used 1/n as often as the first


def machine_of(turn: Mapping[str, Any], batch: Mapping[str, Any]) -> Machine:
    """From what `mattoni bench turn` and `mattoni bench batch` print. Raises MattoniError where something is missing."""
    try:
        alone = batch["bare_tokens_s"] * batch["overhead"]["1"]
        first, all_rows, rows = 1 / alone, batch["rows"] / (alone * batch["speedup"]), batch["rows"]
        row_s = max(0.0, (all_rows - first) / (rows - 1))
        prepare_s = turn["picture"]["ms"]["total"] / 1000
        return Machine(first - row_s, row_s, turn["ours"]["prefill_tokens_s"], prepare_s)
    except (KeyError, TypeError, ZeroDivisionError) as problem:
        raise MattoniError(
            f"The figures are not those of `bench turn` and `bench batch`: {problem} is missing."
        ) from problem


@dataclass
class _Talk:
    """A conversation."""

    number: int
    left: int  # turns
    brick: int | None
    history: int = 0  # positions
    home: int | None = None


@dataclass(eq=False)
class _Turn:
    """A turn at a replica."""

    talk: _Talk
    asked_s: float
    unread: float  # positions
    unsaid: float  # tokens
    first_s: float = math.nan
    ended_s: float = math.nan


@dataclass
class _Kept:
    """What was used last, within a budget."""

    budget: float
    sizes: "OrderedDict[int, float]" = field(default_factory=OrderedDict)
    total: float = 0.0

    def take(self, key: int) -> float:
        size = self.sizes.pop(key, 0.0)
        self.total -= size
        return size

    def put(self, key: int, size: float) -> None:
        self.take(key)
        self.sizes[key] = size
        self.total += size
        while self.total > self.budget:
            self.take(next(iter(self.sizes)))


class _Replica:
    """Rows that share one thread; `advance` moves them on, `next_s` says when the first of them changes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.rows: list[_Turn] = []
        self.waiting: deque[_Turn] = deque()
        self.talks, self.bricks = _Kept(machine.kept_positions), _Kept(machine.kept_bricks)
        self.now_s, self.version, self.busy_s = 0.0, 0, 0.0

    @property
    def load(self) -> int:
        return len(self.rows) + len(self.waiting)

    def _rates(self) -> tuple[float, float]:
        """Positions and tokens a second, of each row that reads and of each that speaks."""
        reading = sum(row.unread > 0 for row in self.rows)
        speaking = len(self.rows) - reading
        share = 0.0 if not reading else 1.0 if not speaking else 0.5
        read = self.machine.prefill_tokens_s * share / max(reading, 1)
        return read, (1 - share) / (self.machine.step_s + self.machine.row_s * speaking) if speaking else 0.0

    def advance(self, now_s: float) -> None:
        read, say = self._rates()
        passed, self.now_s = now_s - self.now_s, now_s
        if self.rows:
            self.busy_s += passed
        for row in self.rows:
            if row.unread > 0:
                row.unread = max(0.0, row.unread - read * passed)
                if row.unread < 1e-6:
                    row.unread, row.first_s = 0.0, now_s
            else:
                row.unsaid -= say * passed

    def next_s(self) -> float:
        read, say = self._rates()
        left = (row.unread / read if row.unread > 0 else row.unsaid / say for row in self.rows)
        return self.now_s + max(0.0, min(left, default=math.inf))

    def ended(self) -> list[_Turn]:
        done = [row for row in self.rows if row.unread <= 0 and row.unsaid <= 1e-6]
        self.rows = [row for row in self.rows if row not in done]
        return done


@dataclass(frozen=True)
class Outcome:
    """Of one hour: turns that were asked in it and answered, and where the work came from."""

    policy: Policy
    turns_s: float  # asked, for each replica
    n: int
    first_s: dict[str, float]
    turn_s: dict[str, float]
    busy: float  # share of time in which a replica had rows
    read_again: float  # positions of the history that were read again, by all of it
    loaded: float  # turns with a skill that had to be loaded first, by all of those


def simulate(
    machine: Machine, crowd: Crowd, policy: Policy, turns_s: float, replicas: int = 8, hours: float = 1.0, seed: int = 0
) -> Outcome:
    """Let people come for some hours, `turns_s` turns a second for each replica; the first quarter only warms up."""
    chance = random.Random(seed)
    weights = np.cumsum(1 / np.arange(1, crowd.bricks + 1)).tolist()
    all_s, warm_s = hours * 3600, hours * 900
    here = [_Replica(machine) for _ in range(replicas)]
    events: list[tuple[float, int, Callable[[float], None]]] = []
    count = iter(range(10**12))
    done: list[_Turn] = []
    history = again = skilled = loaded = 0.0

    def at(time_s: float, what: Callable[[float], None]) -> None:
        heapq.heappush(events, (time_s, next(count), what))

    def arrive(now_s: float) -> None:
        brick = (
            chance.choices(range(crowd.bricks), cum_weights=weights)[0] if chance.random() < crowd.skill_share else None
        )
        ask(_Talk(next(count), 1 + int(chance.expovariate(1 / max(crowd.turns - 1, 1e-9))), brick), now_s)
        at(now_s + chance.expovariate(turns_s * replicas / crowd.turns), arrive)

    def chosen(talk: _Talk) -> int:
        least = min(range(replicas), key=lambda n: (here[n].load, chance.random()))
        if policy == "any":
            return least
        if talk.home is not None:
            return talk.home if len(here[talk.home].waiting) < _SPILL else least
        if policy == "sticky by brick" and talk.brick is not None:
            # The two replicas of a brick: it is loaded there, and a crowd of its own has two to go to.
            pair = random.Random(talk.brick).sample(range(replicas), min(2, replicas))
            best = min(pair, key=lambda n: here[n].load)
            return best if here[best].load < here[least].load + _SPILL else least
        return least

    def ask(talk: _Talk, now_s: float) -> None:
        nonlocal history, again, skilled, loaded
        talk.home = number = chosen(talk)
        replica = here[number]
        replica.advance(now_s)
        question = 1 + int(chance.expovariate(1 / crowd.question))
        missing = max(0.0, talk.history - replica.talks.take(talk.number))
        extra_s = machine.prepare_s
        if talk.brick is not None:
            miss = not replica.bricks.take(talk.brick)
            extra_s += machine.load_s * miss
            skilled, loaded = skilled + 1, loaded + miss
            replica.bricks.put(talk.brick, 1.0)
        history, again = history + talk.history, again + missing
        answer = min(512, 1 + int(chance.expovariate(1 / crowd.answer)))
        unread = question + missing + extra_s * machine.prefill_tokens_s
        talk.history += question + answer
        replica.waiting.append(_Turn(talk, now_s, unread, answer))
        go_on(number, now_s)

    def go_on(number: int, now_s: float) -> None:
        replica = here[number]
        while replica.waiting and len(replica.rows) < ROWS:
            replica.rows.append(replica.waiting.popleft())
        replica.version += 1
        if replica.rows:
            version = replica.version
            at(replica.next_s(), lambda then: changed(number, version, then))

    def changed(number: int, version: int, now_s: float) -> None:
        replica = here[number]
        if version != replica.version:
            return  # somebody came meanwhile
        replica.advance(now_s)
        for turn in replica.ended():
            talk = turn.talk
            talk.left -= 1
            replica.talks.put(talk.number, float(talk.history))
            turn.ended_s = now_s
            done.append(turn)
            if talk.left > 0:
                think_s = chance.expovariate(1 / crowd.think_s)
                at(now_s + think_s, lambda then, talk=talk: ask(talk, then))  # type: ignore[misc]
        go_on(number, now_s)

    at(0.0, arrive)
    while events and events[0][0] < all_s:
        now_s, _, what = heapq.heappop(events)
        what(now_s)
    counted = [turn for turn in done if turn.asked_s >= warm_s]
    return Outcome(
        policy,
        round(turns_s, 4),
        len(counted),
        _spread([turn.first_s - turn.asked_s for turn in counted]),
        _spread([turn.ended_s - turn.asked_s for turn in counted]),
        round(sum(replica.busy_s for replica in here) / (replicas * all_s), 3),
        round(again / max(history, 1), 3),
        round(loaded / max(skilled, 1), 3),
    )


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(seconds, p)), 2) for p in (50, 95)} if seconds else {}


def carried(machine: Machine, crowd: Crowd, policy: Policy, most_s: tuple[float, float]) -> Outcome:
    """The heaviest load at which 95 % wait no longer for their first words and for the whole than that: halving, ten times."""
    first_s, whole_s = most_s
    low, high = 0.0, 2 / (machine.row_s * crowd.answer)
    best: Outcome | None = None
    for _ in range(10):
        middle = (low + high) / 2
        found = simulate(machine, crowd, policy, middle)
        if found.n and found.first_s["p95"] <= first_s and found.turn_s["p95"] <= whole_s:
            low, best = middle, found
        else:
            high = middle
    if best is None:
        raise MattoniError("One replica carries nobody within these seconds: allow more, or take a faster machine.")
    return best


def main(
    turn: Annotated[Path, typer.Option(help="What `mattoni bench turn` printed.")],
    batch: Annotated[Path, typer.Option(help="What `mattoni bench batch` printed.")],
    users: Annotated[int, typer.Option(min=1, help="A day.")] = 1_000_000,
    peak: Annotated[float, typer.Option(min=1, help="The busiest hour, by the mean one.")] = 2.5,
    first_s: Annotated[float, typer.Option(help="95 % have their first words within that.")] = 3.0,
    whole_s: Annotated[float, typer.Option(help="95 % have the whole answer within that.")] = 20.0,
    bricks: Annotated[int, typer.Option(min=1, help="Skills that people use.")] = Crowd.bricks,
) -> None:
    """How many replicas a day's users take, one conversation each. Prints one JSON object."""
    machine = machine_of(_read(turn), _read(batch))
    crowd = Crowd(bricks=bricks)
    asked_s = users * crowd.turns / 86400 * peak
    told: list[dict[str, Any]] = []
    for policy in POLICIES:
        found = carried(machine, crowd, policy, (first_s, whole_s))
        told.append({**asdict(found), "replicas": math.ceil(asked_s / found.turns_s)})
    fixed = {"machine": asdict(machine), "crowd": asdict(crowd), "users": users, "turns_at_peak_s": round(asked_s, 1)}
    print(json.dumps({**fixed, "policies": told}, indent=1))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise MattoniError(f"{path} cannot be read as JSON: give what the command printed.") from problem
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    typer.run(main)

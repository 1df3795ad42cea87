"""Facts on disk: sentences that were taught, each with its keys and its residual at one FFN of the host.

`facts.jsonl` has a line per fact, in words; `facts.safetensors` has the numbers in the same order: keys (facts, keys each,
intermediate), residuals (facts, hidden), thresholds (facts,). Knows nothing of how they are found.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mattoni.errors import MattoniError
from mattoni.files import replacing, write_text
from mattoni.injections import Keyed

LINES, NUMBERS = "facts.jsonl", "facts.safetensors"


@dataclass(frozen=True)
class Fact:
    """What was taught, in words. `relation` is the sentence with {} for the subject, up to where the object begins."""

    id: int
    subject: str
    relation: str
    object: str
    is_on: bool = True

    @property
    def sentence(self) -> str:
        """As it was taught."""
        return f"{self.relation.replace('{}', self.subject, 1)} {self.object}."


@dataclass(frozen=True, eq=False)
class Learned:
    """A fact with its numbers: keys (keys, intermediate), residual (hidden,), threshold: a cosine."""

    fact: Fact
    keys: Tensor
    residual: Tensor
    threshold: float


@dataclass(frozen=True, eq=False)
class Facts:
    """All facts of a brick, in the order in which they were taught."""

    layer: int
    learned: tuple[Learned, ...] = ()

    def get(self, identity: int) -> Learned:
        """The fact of that number. Raises MattoniError where there is none."""
        for one in self.learned:
            if one.fact.id == identity:
                return one
        raise MattoniError(f"There is no fact number {identity}: `mattoni facts list` has the numbers.")

    def contradicting(self, subject: str, relation: str) -> Fact | None:
        """The fact that says something of the same subject in the same words."""
        wanted = (_plain(subject), _plain(relation))
        return next(
            (x.fact for x in self.learned if (_plain(x.fact.subject), _plain(x.fact.relation)) == wanted),
            None,
        )

    def switched(self, identities: Sequence[int], is_on: bool) -> "Facts":
        """The same with some of them on or off."""
        for identity in identities:
            self.get(identity)
        learned = [
            replace(x, fact=replace(x.fact, is_on=is_on)) if x.fact.id in identities else x for x in self.learned
        ]
        return replace(self, learned=tuple(learned))

    def without(self, identities: Sequence[int]) -> "Facts":
        """The same without some of them."""
        for identity in identities:
            self.get(identity)
        return replace(self, learned=tuple(x for x in self.learned if x.fact.id not in identities))

    def with_more(self, learned: Sequence[Learned]) -> "Facts":
        """The same and others behind them, which get the next numbers."""
        first = max((x.fact.id for x in self.learned), default=0) + 1
        numbered = [replace(x, fact=replace(x.fact, id=first + n)) for n, x in enumerate(learned)]
        return replace(self, learned=(*self.learned, *numbered))

    def injection(self, name: str, digest: str) -> Keyed | None:
        """Those that are on, as what a turn composes; None where there are none."""
        active = [x for x in self.learned if x.fact.is_on]
        if not active:
            return None
        return Keyed(
            name,
            digest,
            self.layer,
            torch.cat([x.keys for x in active]),
            torch.cat([x.residual.unsqueeze(0).expand(len(x.keys), -1) for x in active]),
            torch.tensor([x.threshold for x in active for _ in x.keys]),
        )


def write_facts(facts: Facts, folder: Path) -> None:
    """Write both files. There must be at least one fact."""
    lines = "".join(json.dumps(asdict(x.fact), ensure_ascii=False) + "\n" for x in facts.learned)
    numbers = {
        "keys": torch.stack([x.keys for x in facts.learned]).contiguous(),
        "residuals": torch.stack([x.residual for x in facts.learned]).contiguous(),
        "thresholds": torch.tensor([x.threshold for x in facts.learned]),
    }
    write_text(folder / LINES, lines)
    with replacing(folder / NUMBERS) as temporary:
        save_file(numbers, temporary)


def read_facts(folder: Path, layer: int) -> Facts:
    """The facts of a brick's folder. Raises MattoniError where the two files do not go together."""
    try:
        lines = (folder / LINES).read_text(encoding="utf-8").splitlines()
        words = [Fact(**json.loads(line)) for line in lines]
        numbers = load_file(folder / NUMBERS)
        parts = (numbers["keys"], numbers["residuals"], numbers["thresholds"].tolist())
        return Facts(layer, tuple(Learned(*one) for one in zip(words, *parts, strict=True)))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as problem:
        raise MattoniError(f"{folder.name}: its facts cannot be read ({LINES}, {NUMBERS}): copy it again.") from problem


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())

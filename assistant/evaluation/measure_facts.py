"""Measures taught facts on rows in the format of CounterFact: `mattoni facts eval` prints its report.

Efficacy and paraphrase: on how many prompts the new object is likelier than the true one; neighbourhood: on how many prompts
about other subjects the true one is likelier still; score: their harmonic mean (ROME, Meng et al. 2022, arXiv:2202.05262,
section 3.3; per token of the object, as in their code). The bare host stands beside it.

What is computed is kept in a folder, so that a run that was stopped goes on. Where no key of a fact is met in a prompt, its
figures are the bare host's and not computed again: the composition leaves every bit as it is (`tests/assistant/test_composition.py`).
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from assistant.bricks.fact_export import MEMIT, ROME, as_low_rank, second_moment
from assistant.bricks.fact_solving import Settings, Statement, solve
from assistant.host.composition import Composition, compose
from assistant.host.host import Host
from assistant.host.scoring import fires, surprises
from knowledge_bricks.facts import Fact, Facts, Learned, read_facts, write_facts
from mattoni.errors import MattoniError
from mattoni.lines import json_rows
from mattoni.metrics import bootstrap

Method = Literal["keyed", "prompt", "rome", "memit"]
_CHUNK = 4  # facts that are solved together, and kept before the next ones are begun


class FactRow(BaseModel):
    """A row of CounterFact; what else it holds is not asked."""

    id: str
    subject: str
    prompt: str
    target_true: str
    target_new: str
    paraphrase_prompts: list[str]
    neighborhood_prompts: list[str]

    @property
    def statement(self) -> Statement:
        """What is to be learned."""
        return Statement(self.prompt, self.subject, self.target_new)

    @property
    def prompts(self) -> list[str]:
        """The rewrite, the paraphrases, the neighbours."""
        return [self.prompt.replace("{}", self.subject), *self.paraphrase_prompts, *self.neighborhood_prompts]

    def shares(self, found: Sequence[tuple[float, ...]]) -> dict[str, float]:
        """Each figure of this row, from (surprise of the new object, of the true one) for each of its prompts."""
        new_wins = [new < true for new, true in found]
        count = 1 + len(self.paraphrase_prompts)
        return {
            "efficacy": float(new_wins[0]),
            "paraphrase": _mean(new_wins[1:count]),
            "neighbourhood": _mean([true < new for new, true in found[count:]]),
        }


@dataclass(frozen=True)
class Asked:
    """A row with what the bare host and the taught one find likely."""

    row: FactRow
    bare: list[tuple[float, ...]]
    taught: list[tuple[float, ...]]
    met: list[bool]


def read_rows(path: Path, limit: int | None) -> list[FactRow]:
    """The first rows of a file. Raises MattoniError with the line that is none."""
    try:
        rows = [FactRow.model_validate(row.value) for row in islice(json_rows(path), limit)]
    except ValueError as problem:
        raise MattoniError(
            f"{path.name}: its rows are not in the format of CounterFact: give facts-dev.jsonl."
        ) from problem
    if not rows:
        raise MattoniError(f"{path.name} holds no rows: give a file with facts.")
    return rows


def measure(
    host: Host,
    rows: Sequence[FactRow],
    method: Method,
    settings: Settings,
    threshold: float,
    at_once: bool,
    work: Path,
    others: Sequence[Any] = (),
    unrelated: Sequence[str] = (),
    progress: Callable[[str], object] = lambda stage: None,
) -> dict[str, Any]:
    """The report: figures with intervals and n, and the bare host's beside them.

    at_once  every row is asked while the facts of all rows are on; else each with its own fact alone
    work     keeps what was computed, by contents
    others   further injections of every turn, a skill's; the bare host then has them too
    unrelated  messages, as the chat template puts them, in which no key of any fact should be met
    """
    work.mkdir(parents=True, exist_ok=True)
    bare = _bare(host, rows, others, work, progress)
    if method == "prompt":
        if at_once:
            raise MattoniError("Two hundred facts do not fit into a prompt: use --method prompt one at a time.")
        taught = [_prompted(host, row, others) for row in _told(rows, "with the fact in the prompt", progress)]
        asked = [Asked(r, b, t, [True] * len(b)) for r, b, t in zip(rows, bare, taught, strict=True)]
    else:
        learned = _solved(host, rows, settings, threshold, work, progress)
        if method == "keyed":
            asked = _with_facts(host, rows, bare, learned, settings.layer, at_once, others, progress)
        else:
            asked = _with_weights(host, rows, bare, learned, settings.layer, method, at_once, others, progress)
    report = _report(asked)
    if unrelated and method == "keyed":
        report["unrelated"] = {"n": len(unrelated), "met": _met(host, unrelated, learned, settings.layer)}
    return report | {"method": method, "at_once": at_once, "layer": settings.layer, "threshold": threshold}


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def _bare(
    host: Host, rows: Sequence[FactRow], others: Sequence[Any], work: Path, progress: Callable[[str], object]
) -> list[list[tuple[float, ...]]]:
    """What the host finds likely without facts."""
    composition = compose(host, list(others))
    kept = work / f"bare-{_key(composition.key)}.jsonl"
    known = {row.value["id"]: row.value["found"] for row in json_rows(kept)} if kept.is_file() else {}
    found = []
    for row in _told(rows, "asking the bare host", progress):
        key = _key(row.id, row.prompts, row.target_new, row.target_true)
        if key not in known:
            known[key] = _ask(host, row, composition)
            with kept.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"id": key, "found": known[key]}) + "\n")
        found.append([tuple(pair) for pair in known[key]])
    return found


def _ask(
    host: Host, row: FactRow, composition: Composition, prompts: Sequence[str] | None = None
) -> list[tuple[float, ...]]:
    prompts = row.prompts if prompts is None else prompts
    return surprises(host, prompts, [(row.target_new, row.target_true)] * len(prompts), composition)


def _prompted(host: Host, row: FactRow, others: Sequence[Any]) -> list[tuple[float, ...]]:
    """The plain baseline: the fact stands in front of every prompt."""
    told = f"{row.prompt.replace('{}', row.subject)} {row.target_new}. "
    return _ask(host, row, compose(host, list(others)), [told + prompt for prompt in row.prompts])


def _solved(
    host: Host,
    rows: Sequence[FactRow],
    settings: Settings,
    threshold: float,
    work: Path,
    progress: Callable[[str], object],
) -> list[Learned]:
    """Each row's fact, solved a few at a time and kept after each time."""
    folder = work / f"facts-{_key(host.fingerprint, host.dtype, json.dumps(asdict(settings)))}"
    folder.mkdir(exist_ok=True)
    learned = list(read_facts(folder, settings.layer).learned) if any(folder.iterdir()) else []
    known = {(x.fact.subject, x.fact.relation, x.fact.object): x for x in learned}
    wanted = [(row.subject, row.prompt, row.target_new) for row in rows]
    missing = [row for row, key in zip(rows, wanted, strict=True) if key not in known]
    for begin in range(0, len(missing), _CHUNK):
        part = missing[begin : begin + _CHUNK]
        progress(f"solving: {begin} of {len(missing)}")
        for row, found in zip(part, solve(host, [r.statement for r in part], settings), strict=True):
            fact = Fact(len(learned) + 1, row.subject, row.prompt, row.target_new)
            learned.append(Learned(fact, found.keys.cpu(), found.residual.cpu(), threshold))
            known[row.subject, row.prompt, row.target_new] = learned[-1]
        write_facts(Facts(settings.layer, tuple(learned)), folder)
    return [Learned(known[key].fact, known[key].keys, known[key].residual, threshold) for key in wanted]


def _with_facts(
    host: Host,
    rows: Sequence[FactRow],
    bare: Sequence[list[tuple[float, ...]]],
    learned: Sequence[Learned],
    layer: int,
    at_once: bool,
    others: Sequence[Any],
    progress: Callable[[str], object],
) -> list[Asked]:
    """All rows asked again, with their own fact or with all of them."""
    everything = Facts(layer, tuple(learned)).injection("facts", "all")
    assert everything is not None
    together = compose(host, [*others, everything])
    asked = []
    for n, row in enumerate(_told(rows, "asking with facts", progress)):
        own = Facts(layer, (learned[n],)).injection("facts", str(n))
        assert own is not None
        composition = together if at_once else compose(host, [*others, own])
        (module, residuals), *_ = composition.keyed.items()
        # A skill changes what enters the FFN, so that only a whole run tells whether a key is met.
        met = [True] * len(bare[n]) if others else fires(host, row.prompts, module, residuals)
        taught = list(bare[n])
        again = [place for place, is_met in enumerate(met) if is_met]
        if again:
            found = _ask(host, row, composition, [row.prompts[place] for place in again])
            for place, pair in zip(again, found, strict=True):
                taught[place] = pair
        asked.append(Asked(row, bare[n], taught, met))
    return asked


def _met(host: Host, messages: Sequence[str], learned: Sequence[Learned], layer: int) -> int:
    """In how many messages a key of any fact is met."""
    everything = Facts(layer, tuple(learned)).injection("facts", "all")
    assert everything is not None
    ((module, residuals),) = compose(host, [everything]).keyed.items()
    template = host.tokenizer.apply_chat_template
    prompts = [
        str(template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True))
        for text in messages
    ]
    return sum(fires(host, prompts, module, residuals))


def _with_weights(
    host: Host,
    rows: Sequence[FactRow],
    bare: Sequence[list[tuple[float, ...]]],
    learned: Sequence[Learned],
    layer: int,
    method: Method,
    at_once: bool,
    others: Sequence[Any],
    progress: Callable[[str], object],
) -> list[Asked]:
    """All rows asked again with the same facts as a change of weights, which acts on every prompt."""
    moment = second_moment(host, layer)
    weight = ROME if method == "rome" else MEMIT
    together = as_low_rank(host, Facts(layer, tuple(learned)), moment, weight) if at_once else None
    asked = []
    for n, row in enumerate(_told(rows, f"asking with {method}", progress)):
        delta = together or as_low_rank(host, Facts(layer, (learned[n],)), moment, weight)
        taught = _ask(host, row, compose(host, [*others, delta]))
        asked.append(Asked(row, bare[n], taught, [True] * len(taught)))
    return asked


def _told(rows: Sequence[FactRow], what: str, progress: Callable[[str], object]) -> Iterable[FactRow]:
    for n, row in enumerate(rows):
        progress(f"{what}: {n} of {len(rows)}")
        yield row


def _report(asked: Sequence[Asked]) -> dict[str, Any]:
    figures = _figures([a.row.shares(a.taught) for a in asked])
    count = len(asked[0].row.paraphrase_prompts) + 1
    reach = {
        "efficacy": _mean([a.met[0] for a in asked]),
        "paraphrase": _mean([m for a in asked for m in a.met[1 : 1 + len(a.row.paraphrase_prompts)]]),
        "neighbourhood": _mean([m for a in asked for m in a.met[count:]]),
    }
    missed = [a.row.id for a in asked if not a.row.shares(a.taught)["efficacy"]]
    return {
        "n": len(asked),
        **figures,
        "bare": _figures([a.row.shares(a.bare) for a in asked]),
        "reach": {name: round(100 * share, 1) for name, share in reach.items()},
        "missed": missed,
    }


def _figures(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """In per cent: the mean of each figure, their harmonic mean, and 95 % intervals over the rows."""
    means = {name: _mean([row[name] for row in rows]) for name in rows[0]}
    inverse = sum(1 / share for share in means.values()) if all(means.values()) else float("inf")
    intervals = {name: [round(100 * end, 1) for end in bootstrap([row[name] for row in rows])] for name in means}
    return {
        **{name: round(100 * share, 1) for name, share in means.items()},
        "score": round(100 * len(means) / inverse, 1),
        "intervals": intervals,
    }


def _mean(values: Sequence[float] | Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))

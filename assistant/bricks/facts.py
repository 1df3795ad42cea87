"""The user's facts: taught, listed, switched, taken out. One brick called `facts`; knows nothing of turns.

All changes are whole or not at all: the folder is written anew beside the old one and takes its place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assistant.bricks.fact_solving import THRESHOLD, Settings, Statement, check_host, settings_for, solve
from assistant.host.host import Host
from knowledge_bricks.facts import Fact, Facts, Learned, read_facts, write_facts
from knowledge_bricks.methods.facts import FactsParts
from knowledge_bricks.sentences import Said
from mattoni.card import CARD, BrickCard, HostIdentity, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.files import remove_folder, replace_folder

NAME = "facts"
_TOGETHER = 8  # facts that are solved at a time, and kept before the next ones are begun

Publish = Callable[[Callable[[], None]], object]


def _at_once(swap: Callable[[], None]) -> None:
    swap()


@dataclass(frozen=True)
class Taught:
    """What came of teaching: facts that are new, and those that were known already."""

    new: tuple[Fact, ...]
    known: tuple[Fact, ...]


def facts_in(folder: Path) -> Facts | None:
    """The facts of the user's brick folder; None where nothing was taught yet."""
    brick = folder / NAME
    if not (brick / CARD).is_file():
        return None
    return read_facts(brick, _parts(read_card(brick)).layer)


def teach(
    host: Host,
    said: Sequence[Said],
    folder: Path,
    *,
    replace: bool = False,
    settings: Settings | None = None,
    publish: Publish = _at_once,
    progress: Callable[[int], object] = lambda done: None,
) -> Taught:
    """Solve facts and keep them, a few at a time: a list that was stopped goes on where it was.

    replace   a fact that says something else of the same subject in the same words is taken out; else it is refused
    publish   calls the step that puts the brick in its place, at a time when no turn reads it
    progress  is told after each few how many of the list are done

    Raises MattoniError for a host that cannot learn facts, for facts of another host, and for contradictions.
    """
    check_host(host)
    card = read_card(folder / NAME) if (folder / NAME / CARD).is_file() else None
    _check_same_host(card, host)
    chosen = settings or settings_for(host)
    facts = facts_in(folder) or Facts(chosen.layer)
    if facts.layer != chosen.layer:
        raise MattoniError(
            f"The facts that are there act at layer {facts.layer}, and new ones would at layer {chosen.layer}: "
            "remove them and teach them again."
        )
    known, missing = _sorted_out(facts, said, replace)
    new: list[Fact] = []
    for begin in range(0, len(missing), _TOGETHER):
        part = missing[begin : begin + _TOGETHER]
        solved = solve(host, [Statement(s.relation, s.subject, s.object) for s in part], chosen)
        old = [facts.contradicting(s.subject, s.relation) for s in part]
        facts = facts.without([fact.id for fact in old if fact is not None])
        facts = facts.with_more(
            [
                Learned(Fact(0, s.subject, s.relation, s.object), found.keys.cpu(), found.residual.cpu(), THRESHOLD)
                for s, found in zip(part, solved, strict=True)
            ]
        )
        new += [x.fact for x in facts.learned[-len(part) :]]
        _write(facts, folder, host.identity, publish)
        progress(begin + len(part))
    return Taught(tuple(new), tuple(known))


def switch(folder: Path, identities: Sequence[int], is_on: bool, publish: Publish = _at_once) -> None:
    """Switch facts on or off. Raises MattoniError for a number that is not there."""
    switched = the_facts(folder).switched(identities, is_on)
    _write(switched, folder, read_card(folder / NAME).host, publish)


def remove(folder: Path, identities: Sequence[int], publish: Publish = _at_once) -> None:
    """Take facts out, with their numbers; with the last one the brick goes. Raises MattoniError for a number that is not there."""
    left = the_facts(folder).without(identities)
    if left.learned:
        _write(left, folder, read_card(folder / NAME).host, publish)
    else:
        publish(lambda: remove_folder(folder / NAME))


def the_facts(folder: Path) -> Facts:
    """The facts of the user's brick folder. Raises MattoniError where nothing was taught yet."""
    facts = facts_in(folder)
    if facts is None:
        raise MattoniError('No facts were taught yet: `mattoni facts add "The capital of X is Y."` teaches one.')
    return facts


def _parts(card: BrickCard) -> FactsParts:
    if not isinstance(card.parts, FactsParts):
        raise MattoniError(
            f"There is a brick called '{card.name}' that holds no facts: remove it or give it another name."
        )
    return card.parts


def _check_same_host(card: BrickCard | None, host: Host) -> None:
    if card is not None and card.host is not None and card.host.fingerprint != host.identity.fingerprint:
        raise MattoniError(
            f"The facts that are there were taught to another host than {host.name}: remove them, or teach with that host."
        )


def _sorted_out(facts: Facts, said: Sequence[Said], replace: bool) -> tuple[list[Fact], list[Said]]:
    """Those that are known, and those that are not. Raises MattoniError for contradictions, also inside the list."""
    known: list[Fact] = []
    missing: dict[tuple[str, str], Said] = {}
    for one in said:
        other = facts.contradicting(one.subject, one.relation)
        twin = missing.get((one.subject.casefold(), one.relation.casefold()))
        if other is not None and other.object.casefold() == one.object.casefold() and other.is_on:
            known.append(other)
            continue
        told = other.sentence if other is not None and other.object != one.object else None
        if twin is not None and twin.object != one.object:
            told = f"{twin.relation.replace('{}', twin.subject, 1)} {twin.object}."
        if told is not None and not replace:
            raise MattoniError(f"“{told}” says otherwise: add --replace to put this in its place, or remove that one.")
        missing[one.subject.casefold(), one.relation.casefold()] = one
    return known, list(missing.values())


def _write(facts: Facts, folder: Path, host: HostIdentity | None, publish: Publish) -> None:
    target = folder / NAME
    version = read_card(target).version + 1 if (target / CARD).is_file() else 1

    def fill(fresh: Path) -> None:
        write_facts(facts, fresh)
        count = len(facts.learned)
        card = BrickCard(
            schema=1,
            name=NAME,
            version=version,
            kind="knowledge",
            title="Facts",
            summary=f"Knows {count} fact{'s' if count > 1 else ''} that you taught.",
            host=host,
            injects=("keyed",),
            files=describe_files(fresh),
            parts=FactsParts(method="facts", layer=facts.layer, facts=count),
            licence="yours",
            limits="A fact acts where its subject is named as it was taught; the host draws few conclusions from it.",
        )
        write_card(card, fresh)

    replace_folder(target, fill, publish)

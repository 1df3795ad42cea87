"""Which host this machine answers with: gathers what the choice needs to know, and gives way to the smallest host.

Knows nothing of turns.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

from assistant.host.catalogue import BUILTIN_HOST, CatalogueEntry, catalogue, fetch, is_fetched, say
from assistant.host.host import Host, load_host, pick_device
from assistant.host.ladder import Choice, Rung, choose
from assistant.host.space import free_memory
from assistant.host.speed import measured, remember
from assistant.host.wheels import Unavailable
from assistant.registry import Registry
from mattoni.card import HostIdentity

AUTO = "auto"


class Lends(NamedTuple):
    """A host that answers for bricks which were trained with it, and what loads it."""

    identity: HostIdentity
    load: Callable[[], Host]
    except_for: frozenset[str] = frozenset()  # skills that are not borrowed


def ladder() -> dict[str, CatalogueEntry]:
    """The hosts that `auto` chooses from, the smallest first: those that need no Hub."""
    return {name: entry for name, entry in catalogue().items() if entry.use == "host" and entry.files}


def settle(wanted: str, device: str, registry: Registry) -> Choice:
    """The host for `wanted`: itself, what `auto` comes to on this machine, or the smallest where it cannot be had.

    Fetches what was named, and with `auto` no more than the smallest. The reason is empty where nothing had to be decided.
    """
    if wanted == AUTO:
        place = pick_device(device)
        return choose(
            place.type, _memory(place), [_rung(name, entry, place, registry) for name, entry in ladder().items()]
        )
    entry = catalogue().get(wanted)
    if entry is None or wanted == BUILTIN_HOST or is_fetched(wanted):
        return Choice(wanted, "")
    try:
        fetch(wanted)
    except Unavailable as problem:
        return Choice(BUILTIN_HOST, f"{BUILTIN_HOST} answers, as {wanted} cannot be had: {problem}")
    return Choice(wanted, "")


def _memory(place: torch.device) -> int:
    return int(torch.cuda.mem_get_info(place)[0]) if place.type == "cuda" else free_memory()


def _rung(name: str, entry: CatalogueEntry, place: torch.device, registry: Registry) -> Rung:
    lost = lost_bricks(entry, registry) if name != BUILTIN_HOST else ()
    lender = catalogue()[entry.borrows_from].memory_bytes if entry.borrows_from else 0
    return Rung(name, entry.memory_bytes + lender, _turn_s(name, entry, place, lost), is_fetched(name), lost)


def lost_bricks(entry: CatalogueEntry, registry: Registry) -> tuple[str, ...]:
    """Bricks that answer with the built-in host and not with this one."""
    smallest = catalogue()[BUILTIN_HOST].identity
    # Neurons of the one are nothing that the other could have: it has its own.
    theirs = registry.scan(smallest)
    have = {brick.name for brick in theirs.usable if brick.card.kind != "emergent"}
    own = registry.scan(entry.identity)
    if entry.borrows_from == BUILTIN_HOST and is_fetched(BUILTIN_HOST):
        own = own.borrowing(theirs)
    # Of a host that nobody knows, only bricks that go with every host are sure to fit.
    fitting = {b.name for b in own.usable if entry.identity or b.card.host is None}
    return tuple(sorted(have - fitting - entry.does_itself))


def lends_to(host: Host) -> Lends | None:
    """The catalogue's host that this one borrows bricks from, fetched; None: it borrows from none that can be had."""
    entry = catalogue().get(host.name)
    if entry is None or (name := entry.borrows_from) is None:
        return None
    try:
        if not is_fetched(name):
            fetch(name)
    except Unavailable as problem:
        say(f"Without {name} there is nobody to borrow bricks from: {problem}")
        return None
    identity = catalogue()[name].identity
    assert identity is not None  # the catalogue is checked
    place, dtype = str(host.device), str(host.dtype).removeprefix("torch.")
    return Lends(identity, lambda: load_host(name, place, dtype), entry.does_itself)


def _turn_s(name: str, entry: CatalogueEntry, place: torch.device, lost: tuple[str, ...]) -> float | None:
    """Seconds of a turn. Measured now, once, where the choice may hang on it: a host that is here and would be better.

    Of a host that is not here, guessed from the smallest, if that was measured: reading weights is what takes the time.
    """
    speed, smallest = measured(name).get(place.type), measured(BUILTIN_HOST).get(place.type)
    if speed is None and not is_fetched(name) and smallest is not None:
        return smallest.turn_s * entry.disk_mb / catalogue()[BUILTIN_HOST].disk_mb
    open_question = name != BUILTIN_HOST and is_fetched(name) and not lost and place.type != "cuda"
    if speed is None and open_question and entry.memory_bytes <= _memory(place):
        say(f"Measuring {name} on this machine (once) …")
        speed = remember(load_host(name, place.type))
    return speed.turn_s if speed is not None else None

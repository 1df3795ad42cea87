"""Who has signed in here before: a record in each data folder. Knows nothing of what else is in it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from assistant.people.person import Person
from mattoni.errors import MattoniError
from mattoni.files import write_text
from mattoni.paths import people_folder, person_folder

RECORD = "person.json"
_LOCK = ".lock"
_MINUTE_S = 60.0


class Known(BaseModel):
    """What is kept of a person beside what they said, sent and made. Times in seconds since 1970."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str
    name: str
    email: str
    first_seen: float
    last_seen: float


@contextmanager
def changing() -> Iterator[None]:
    """Held, by one process at a time, while a data folder comes into being or goes."""
    people_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(people_folder() / _LOCK):
        yield


def is_there(identity: str) -> bool:
    """Whether somebody has a data folder, and it was not deleted."""
    return (person_folder(identity) / RECORD).is_file()


def welcome(person: Person) -> None:
    """Make a person's data folder where there is none."""
    with changing():
        if known_as(person.id) is None:
            now = time.time()
            _write(Known(id=person.id, name=person.name, email=person.email, first_seen=now, last_seen=now))


def see(person: Person) -> None:
    """Keep that somebody is here now, to the minute, and what they are called now; nothing where their data was deleted."""
    known = known_as(person.id)
    if known is None or time.time() < known.last_seen + _MINUTE_S:
        return
    with changing():
        if is_there(person.id):
            told = {"name": person.name, "email": person.email, "last_seen": time.time()}
            _write(known.model_copy(update=told))


def known_as(identity: str) -> Known | None:
    """The record of a person; None where there is none, or none that can be read."""
    try:
        return Known.model_validate_json((person_folder(identity) / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError):
        return None


def everybody() -> list[Known]:
    """Those who have a data folder, by name; one whose record is damaged is called by their identity."""
    found = []
    for record in people_folder().glob(f"[!.]*/{RECORD}"):
        name, seen = record.parent.name, record.stat().st_mtime
        found.append(known_as(name) or Known(id=name, name=name, email="", first_seen=seen, last_seen=seen))
    return sorted(found, key=lambda known: (known.name.casefold(), known.id))


def named(wanted: str) -> Known:
    """The one person of an identity, its beginning, or an address. Raises MattoniError where it is nobody, or several."""
    found = [
        known
        for known in everybody()
        if (len(wanted) >= 6 and known.id.startswith(wanted)) or (known.email and known.email == wanted)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise MattoniError(
            f"'{wanted[:80]}' is {len(found)} people: name one by the id that `mattoni people list` shows."
        )
    raise MattoniError(f"Nobody here is '{wanted[:80]}': `mattoni people list` shows who has signed in.")


def _write(known: Known) -> None:
    write_text(person_folder(known.id) / RECORD, known.model_dump_json(indent=1) + "\n")

"""Everybody's desk beside one host: stores are opened as people come, and closed when they have gone. Draws nothing."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from assistant.conversations.store import ConversationStore, open_store
from assistant.people.deleting import delete_data
from assistant.people.figures import Figures, figures_of
from assistant.people.known import Known, everybody, is_there, see, welcome
from assistant.people.person import Person
from mattoni.errors import MattoniError
from mattoni.paths import person_folder
from ui.backend import Backend, HostChoice, backend

if TYPE_CHECKING:
    from assistant.assistant import Assistant

# A store is a file or a connection to a server, which has a hundred of them. An open page asks every other second.
_IDLE_S = 600.0


class SignedOut(MattoniError):
    """Somebody's data was deleted since they signed in: only who signs in anew gets a new data folder."""

    def __init__(self) -> None:
        super().__init__("Your data was deleted: sign in again to begin anew.")


@dataclass
class _Open:
    """What is open of one person."""

    store: ConversationStore
    assistant: "Assistant | None" = None
    used: float = field(default_factory=time.monotonic)


class People:
    """Those who use the page. The host, loaded bricks and the queue are one assistant's; conversations and bricks are each one's own."""

    def __init__(self, back: Backend) -> None:
        self.back = back
        self._open: dict[str, _Open] = {}
        self._since: dict[str, float] = {}  # when each of them signed in last, of those who were here
        self._ended: dict[str, float] = {}  # who signed in before that, by the provider's clock, is out
        self._lock = threading.RLock()

    def enter(self, person: Person, is_administrator: bool) -> "PersonDesk":
        """The desk of somebody who has signed in. Raises SignedOut where their data was deleted since."""
        self._sweep()
        with self._lock:
            if person.id in self._since and not is_there(person.id):
                self._end(person.id)
            if person.since <= self._ended.get(person.id, float("-inf")):
                raise SignedOut
            self._since[person.id] = max(person.since, self._since.get(person.id, person.since))
        welcome(person)
        see(person)
        return PersonDesk(self, person, is_administrator)

    def store(self, identity: str) -> ConversationStore:
        """The open store of somebody. Raises SignedOut, and MattoniError where it cannot be opened."""
        return self._opened(identity).store

    def assistant(self, identity: str) -> "Assistant | None":
        """The host with what is theirs; None while it is loaded."""
        shared, found = self.back.assistant, self._opened(identity)
        if shared is None:
            return None
        with self._lock:
            found.assistant = found.assistant or shared.for_person(found.store.folder, found.store)
            return found.assistant

    def figures(self) -> list[tuple[Known, Figures]]:
        """Who there is, and how much each of them uses."""
        told = []
        for known in everybody():
            with self._borrowed(known.id) as store:
                told.append((known, figures_of(store)))
        return told

    def delete(self, identity: str) -> None:
        """Delete all that is somebody's for good: turns and trainings are stopped, then database, files, bricks and memory go.

        Raises MattoniError where that cannot be done now; nothing is lost then that a second call would not find.
        """
        from brick_training.background import end_all

        found = self._opened(identity)
        try:
            if found.assistant is not None:
                found.assistant.leave()
            end_all(person_folder(identity) / "training")
            delete_data(found.store)
        except MattoniError:
            with self._lock:
                self._open.pop(identity, None)
            found.store.close()
            raise
        with self._lock:
            self._open.pop(identity, None)
            self._end(identity)

    def _opened(self, identity: str) -> _Open:
        if not is_there(identity):
            raise SignedOut
        with self._lock:
            found = self._open.get(identity)
            if found is not None:
                found.used = time.monotonic()
                return found
        store = open_store(identity)  # without the lock: a database that is away takes seconds to say so
        with self._lock:
            found = self._open.setdefault(identity, _Open(store))
        if found.store is not store:
            store.close()
        if not is_there(identity):  # deleted this moment, and made anew by opening it
            delete_data(store)
            raise SignedOut
        return found

    @contextmanager
    def _borrowed(self, identity: str) -> Iterator[ConversationStore]:
        """A store for a look: the open one, else one that is closed again."""
        with self._lock:
            found = self._open.get(identity)
        if found is not None:
            yield found.store
            return
        with closing(open_store(identity)) as store:
            yield store

    def _sweep(self) -> None:
        """Close what nobody uses any more, and what another process has deleted."""
        with self._lock:
            gone = [identity for identity in self._open if not is_there(identity)]
            idle = [identity for identity in self._open if identity not in gone and self._is_idle(self._open[identity])]
            closed = [(self._open.pop(identity), identity in gone) for identity in (*gone, *idle)]
        for found, is_gone in closed:
            if is_gone and found.assistant is not None:
                with suppress(MattoniError):  # somebody else's page must not fail for it
                    found.assistant.leave()
            found.store.close()

    @staticmethod
    def _is_idle(found: _Open) -> bool:
        return time.monotonic() > found.used + _IDLE_S and (found.assistant is None or found.assistant.is_idle)

    def _end(self, identity: str) -> None:
        self._ended[identity] = self._since.pop(identity, float("-inf"))


class PersonDesk:
    """One person's `Desk`. What it gives is there at that moment: a page may stay open for days."""

    def __init__(self, people: People, person: Person, is_administrator: bool) -> None:
        self.people, self.person, self.is_administrator = people, person, is_administrator

    @property
    def store(self) -> ConversationStore:
        """What they said."""
        return self.people.store(self.person.id)

    @property
    def assistant(self) -> "Assistant | None":
        """What answers them; None while its host is loaded."""
        return self.people.assistant(self.person.id)

    @property
    def problem(self) -> str | None:
        """The sentence why there is no host."""
        return self.people.back.problem

    @property
    def folder(self) -> Path:
        """Their data folder."""
        return person_folder(self.person.id)

    @property
    def host_source(self) -> str:
        """What loads the host that answers once more."""
        return self.people.back.host_source

    def start(self) -> None:
        """Load the host again."""
        self.people.back.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the start has ended; False when the time ran out first."""
        return self.people.back.wait(timeout_s)

    def delete_conversation(self, conversation: str) -> None:
        """Delete a conversation for good."""
        assistant = self.assistant
        if assistant is not None:
            assistant.delete_conversation(conversation)
        else:
            self.store.delete(conversation)


@st.cache_resource(show_spinner=False)
def people(host: HostChoice) -> People:
    """Everybody who uses the page of this process."""
    return People(backend(host))

"""Deleting forgets: on disk, in the running turn and in everything that memory holds."""

import gc
import types
from collections.abc import Iterator

import pytest

from assistant.assistant import Assistant
from assistant.host.sampling import Sampling
from assistant.turn.route import Choices
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from tests.assistant.conftest import done, png

SHORT = Sampling(temperature=0, max_tokens=6)
LONG = Sampling(temperature=1.5, max_tokens=2000, min_tokens=2000, seed=1)
EYES = Choices(vision="eyes")


def texts_held_by(root: object) -> Iterator[str]:
    """Every text that can be reached from an object; modules, classes and what functions find in them stay out."""
    seen, waiting = set(), [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, types.ModuleType | type):
            continue
        seen.add(id(thing))
        if isinstance(thing, str):
            yield thing
        elif isinstance(thing, bytes):
            yield thing.decode("latin-1")
        elif isinstance(thing, types.FunctionType):
            waiting.extend(thing.__closure__ or ())
        else:
            waiting.extend(gc.get_referents(thing))


def settle(assistant: Assistant) -> None:
    """Wait until the engine has done everything that was queued."""
    done(assistant.ask("something else", sampling=SHORT))


def holds(assistant: Assistant, *words: str) -> list[str]:
    """Which of these words memory holds."""
    held = list(texts_held_by(assistant))
    return [word for word in words if any(word in text for text in held)]


@pytest.fixture
def talk(assistant: Assistant) -> str:
    """A conversation about a picture and a note, one turn for each."""
    talk = assistant.store.new()
    done(assistant.ask("What is it?", [png("red")], EYES, SHORT, talk))
    done(assistant.ask("And this?", [Attachment("note.txt", b"the secret-word is brick")], EYES, SHORT, talk))
    return talk


def digests_of(assistant: Assistant, talk: str) -> list[str]:
    return [attached.digest for message in assistant.store.messages(talk) for attached in message.attachments]


def test_a_deleted_conversation_is_in_no_memory_any_more(assistant, talk):
    picture, note = digests_of(assistant, talk)
    settle(assistant)
    assert holds(assistant, talk, picture) == [talk, picture]  # or the test would show nothing
    assistant.delete_conversation(talk)
    settle(assistant)
    assert holds(assistant, talk, picture, note, "secret-word") == []
    assert assistant.store.conversation(talk) is None


def test_what_another_conversation_shows_stays_known(assistant, talk):
    other = assistant.store.new()
    done(assistant.ask("The same?", [png("red")], EYES, SHORT, other))
    (picture,) = digests_of(assistant, other)
    assistant.delete_conversation(talk)
    settle(assistant)
    assert holds(assistant, picture) == [picture]
    assert done(assistant.ask("And now?", (), EYES, SHORT, other)).error is None


def test_a_question_that_is_edited_takes_the_later_attachments_with_it(assistant, talk):
    picture, note = digests_of(assistant, talk)
    first = assistant.store.messages(talk)[0]
    done(assistant.edit_question(talk, first.id, "What is this?", EYES, SHORT))
    settle(assistant)
    assert holds(assistant, picture, "secret-word") == [picture]


def test_deleting_ends_the_turn_that_runs_and_the_one_that_waits(assistant):
    talks = [assistant.store.new(), assistant.store.new()]
    tickets = [assistant.ask("a long story", (), None, LONG, talk) for talk in talks]
    for talk in reversed(talks):  # the waiting one first
        assistant.delete_conversation(talk)
    assert [done(ticket).status for ticket in tickets] == ["stopped", "stopped"]
    assert assistant.store.conversations() == [] and [assistant.running(talk) for talk in talks] == [None, None]
    with pytest.raises(MattoniError, match="was deleted: begin a new one"):
        assistant.ask("still there?", conversation=talks[0])


def test_deleting_twice_and_what_is_not_there_is_no_error(assistant, talk):
    assistant.delete_conversation(talk)
    assistant.delete_conversation(talk)
    assistant.delete_conversation("no-such-conversation")

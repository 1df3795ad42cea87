"""The engine: one thread, fair turns, stopping, and a broken turn that takes nobody along."""

import threading
import time

import pytest

from assistant.host.engine import Engine, Ticket
from mattoni.errors import MattoniError


@pytest.fixture
def engine():
    engine = Engine()
    yield engine
    engine.close()


def hold(engine: Engine) -> threading.Event:
    """Occupy the engine until the event is set."""
    go, started = threading.Event(), threading.Event()

    def wait(ticket: Ticket):
        started.set()
        go.wait(10)
        return "done"

    engine.submit("holder", wait)
    started.wait(10)
    return go


def test_conversations_take_turns(engine):
    order: list[str] = []
    go = hold(engine)
    tickets = [
        engine.submit(who, lambda t, label=f"{who}{n}": (order.append(label), "done")[1])
        for who, n in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2)]
    ]
    places = [ticket.place for ticket in tickets]
    go.set()
    assert all(ticket.wait(10) for ticket in tickets)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert sorted(places) == [1, 2, 3, 4, 5, 6]
    assert [order.index(label) + 1 for label in ("a1", "a2", "a3", "b1", "c1", "b2")] == places


def test_all_turns_run_on_one_thread(engine):
    threads = set()
    tickets = [engine.submit(str(n), lambda t: (threads.add(threading.get_ident()), "done")[1]) for n in range(8)]
    assert all(t.wait(10) for t in tickets)
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_changes_stream_what_is_said_and_end_with_the_turn(engine):
    def speak(ticket: Ticket):
        for piece in ["Two ", "dogs", "."]:
            ticket.say(piece)
            time.sleep(0.01)
        return "done"

    ticket = engine.submit("a", speak)
    assert "".join(ticket.changes()) == "Two dogs." == ticket.text
    assert ticket.status == "done"
    assert list(ticket.changes()) == ["Two dogs."], "whoever comes late gets all of it"


def test_a_stop_is_seen_by_the_turn_and_what_was_said_stays(engine):
    def speak(ticket: Ticket):
        while not ticket.is_stopping:
            ticket.say("word ")
            time.sleep(0.005)
        return "stopped"

    ticket = engine.submit("a", speak)
    next(ticket.changes())
    ticket.stop()
    assert ticket.wait(10)
    assert ticket.status == "stopped" and ticket.text.startswith("word ")


def test_a_failing_turn_says_one_sentence_and_the_next_one_runs(engine, caplog):
    def fail(ticket: Ticket):
        raise MattoniError("photo/brick.yaml is missing: restore it.")

    def crash(ticket: Ticket):
        raise ZeroDivisionError

    failed, crashed = engine.submit("a", fail), engine.submit("b", crash)
    after = engine.submit("c", lambda t: "done")
    assert after.wait(10)
    assert (failed.status, failed.error) == ("failed", "photo/brick.yaml is missing: restore it.")
    assert crashed.error == "Something inside went wrong: ask again, or start with --debug to see it."
    assert "ZeroDivisionError" in caplog.text, "the log keeps what the page does not show"


def test_a_closed_engine_takes_no_turns():
    engine = Engine()
    engine.close()
    with pytest.raises(MattoniError, match="shutting down"):
        engine.submit("a", lambda t: "done")

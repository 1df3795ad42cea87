"""The queue: fair turns side by side, stopping, and a broken turn that takes nobody along."""

import threading
import time

import pytest

from assistant.turn.queue import TurnQueue
from assistant.turn.ticket import Ticket
from mattoni.errors import MattoniError


@pytest.fixture
def queue():
    queue = TurnQueue(workers=1)
    yield queue
    queue.close()


def hold(queue: TurnQueue) -> threading.Event:
    """Occupy its worker until the event is set."""
    go, started = threading.Event(), threading.Event()

    def wait(ticket: Ticket):
        started.set()
        go.wait(10)
        return "done"

    queue.submit("holder", wait)
    started.wait(10)
    return go


def test_conversations_take_turns(queue):
    order: list[str] = []
    go = hold(queue)
    tickets = [
        queue.submit(who, lambda t, label=f"{who}{n}": (order.append(label), "done")[1])
        for who, n in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2)]
    ]
    places = [ticket.place for ticket in tickets]
    go.set()
    assert all(ticket.wait(10) for ticket in tickets)
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert sorted(places) == [1, 2, 3, 4, 5, 6]
    assert [order.index(label) + 1 for label in ("a1", "a2", "a3", "b1", "c1", "b2")] == places


def test_turns_of_several_conversations_run_side_by_side_and_those_of_one_in_order():
    queue, together, order = TurnQueue(workers=4), threading.Barrier(3, timeout=10), []
    side = [queue.submit(who, lambda t: (together.wait(), "done")[1]) for who in "abc"]
    assert all(ticket.wait(10) for ticket in side) and all(ticket.status == "done" for ticket in side)
    after = [queue.submit("a", lambda t, n=n: (order.append(n), "done")[1]) for n in range(5)]
    assert all(ticket.wait(10) for ticket in after) and order == [0, 1, 2, 3, 4]
    queue.close()


def test_changes_stream_what_is_said_and_end_with_the_turn(queue):
    def speak(ticket: Ticket):
        for piece in ["Two ", "dogs", "."]:
            ticket.say(piece)
            time.sleep(0.01)
        return "done"

    ticket = queue.submit("a", speak)
    assert "".join(ticket.changes()) == "Two dogs." == ticket.text
    assert ticket.status == "done"
    assert list(ticket.changes()) == ["Two dogs."], "whoever comes late gets all of it"


def test_a_stop_is_seen_by_the_turn_and_what_was_said_stays(queue):
    def speak(ticket: Ticket):
        while not ticket.is_stopping:
            ticket.say("word ")
            time.sleep(0.005)
        return "stopped"

    ticket = queue.submit("a", speak)
    next(ticket.changes())
    ticket.stop()
    assert ticket.wait(10)
    assert ticket.status == "stopped" and ticket.text.startswith("word ")


def test_a_failing_turn_says_one_sentence_and_the_next_one_runs(queue, caplog):
    def fail(ticket: Ticket):
        raise MattoniError("photo/brick.yaml is missing: restore it.")

    def crash(ticket: Ticket):
        raise ZeroDivisionError

    failed, crashed = queue.submit("a", fail), queue.submit("b", crash)
    after = queue.submit("c", lambda t: "done")
    assert after.wait(10)
    assert (failed.status, failed.error) == ("failed", "photo/brick.yaml is missing: restore it.")
    assert crashed.error == "Something inside went wrong: ask again, or start with --debug to see it."
    assert "ZeroDivisionError" in caplog.text, "the log keeps what the page does not show"


def test_a_closed_queue_takes_no_turns():
    queue = TurnQueue()
    queue.close()
    with pytest.raises(MattoniError, match="shutting down"):
        queue.submit("a", lambda t: "done")

"""A turn that wants a skill of another host goes to that host, whole; what is around it stays with the assistant's own."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from assistant.assistant import Assistant
from assistant.bricks.conflicts import fight
from assistant.bricks.settle import Lends
from assistant.host.host import Host, load_host
from assistant.host.sampling import Sampling
from assistant.turn.lender import make_ready
from assistant.turn.prepare import Watcher
from assistant.turn.recogniser import Recogniser
from assistant.turn.request import Message, Request
from assistant.turn.route import Choice, Choices
from assistant.turn.spaces import Spaces
from mattoni.card import BrickCard, describe_files, read_card, write_card
from mattoni.errors import MattoniError
from mattoni.paths import data_folder
from mattoni.trace import Trace
from tests.assistant.conftest import done, png, write_adapter, write_eyes
from tests.assistant.test_deleting import holds, settle

SHORT = Sampling(temperature=0, max_tokens=6)
ON = Choices(bricks={"loud": Choice("on")})
OTHER_WORDS = "Other words make another vocabulary. " * 40


@pytest.fixture
def other(make_host, tmp_path) -> Host:
    """The host that lends: of another width, with other words."""
    folder = make_host(tmp_path / "Small.Host", seed=1, hidden_size=64, corpus=OTHER_WORDS)
    return load_host(str(folder), device="cpu", dtype="float32")


@pytest.fixture
def borrowing(assistant: Assistant, other: Host, tmp_path: Path) -> Iterator[Assistant]:
    """An assistant with a skill `loud` of a host that is lent to it."""
    with_theirs = Assistant(other, assistant.registry, assistant.store, data_folder() / "bricks")
    with_theirs.add_skill(write_adapter(tmp_path / "loud", other, seed=3), "loud")
    with_theirs.close()
    opened = Assistant(
        assistant.host,
        assistant.registry,
        assistant.store,
        data_folder() / "bricks",
        lends=Lends(other.identity, lambda: other),
    )
    yield opened
    opened.close()


def give_keys(name: str, space: str = "text", width: int = 48) -> None:
    """Routing keys that every message, or picture, is near to."""
    folder = data_folder() / "bricks" / name
    save_file({"keys": torch.eye(1, width)}, folder / "keys.safetensors")
    card = read_card(folder)
    routes = {"space": space, "keys": "keys.safetensors", "threshold": -1.0}
    write_card(
        BrickCard.model_validate(
            {**card.model_dump(mode="json", by_alias=True), "routes": routes, "files": describe_files(folder)}
        ),
        folder,
    )


def test_without_a_lender_the_skill_of_another_host_is_refused(assistant, borrowing):
    assert "loud" in {refused.name for refused in assistant.bricks().refused}
    with pytest.raises(MattoniError, match="'loud' is set aside: loud was made for another host"):
        assistant.ask("two men", choices=ON)
    bricks = borrowing.bricks()
    assert (
        bricks.get("loud").borrowed
        and not bricks.get("eyes").borrowed
        and "loud" not in {r.name for r in bricks.refused}
    )


def test_its_turn_is_answered_by_its_own_host_and_the_next_by_the_assistants(borrowing, other):
    conversation = borrowing.store.new()
    before = done(borrowing.ask("a boat", sampling=SHORT, conversation=conversation))
    turn = done(borrowing.ask("two men", choices=ON, sampling=SHORT, conversation=conversation))
    after = done(borrowing.ask("a boat", sampling=SHORT, conversation=conversation))
    assert [t.trace.host for t in (before, turn, after)] == [borrowing.host.name, other.name, borrowing.host.name]
    (used,) = turn.trace.bricks
    assert used.name == "loud" and used.reason.endswith(f"; {other.name} answered, which it was trained with")
    kept = [m.segments["vocabulary"] for m in borrowing.store.messages(conversation) if m.role == "assistant"]
    assert kept == [borrowing.host.identity.vocabulary, other.identity.vocabulary, borrowing.host.identity.vocabulary]
    assert turn.trace.parameters["host"] == other.parameters


def test_it_says_what_an_assistant_of_that_host_says(borrowing, other):
    theirs = Assistant(other, borrowing.registry, borrowing.store, data_folder() / "bricks")
    said = [done(one.ask("two men", choices=ON, sampling=SHORT)).text for one in (borrowing, theirs)]
    theirs.close()
    assert said[0] == said[1]


def test_what_came_with_the_message_is_looked_at_by_bricks_of_its_host(borrowing, other):
    turn = done(borrowing.ask("two men", [png()], ON, SHORT))
    assert turn.trace.host == other.name
    assert "eyes" not in {used.name for used in turn.trace.bricks}, "it was stitched to the assistant's own host"


def test_switched_off_the_assistants_own_host_answers(borrowing):
    off = Choices(bricks={"loud": Choice("off")})
    assert done(borrowing.ask("two men", choices=off, sampling=SHORT)).trace.host == borrowing.host.name


def test_of_what_is_on_for_two_hosts_the_borrowed_skill_wins_and_the_rest_is_told(borrowing, other):
    both = Choices(vision="eyes", bricks={"loud": Choice("on")})
    turn = done(borrowing.ask("two men", [png()], both, SHORT))
    told = f"eyes took no part: {other.name} answered, which has no variant of it."
    assert turn.trace.host == other.name and told in [notice.text for notice in turn.trace.notices]


def test_a_skill_that_auto_chose_gives_way_to_what_the_user_chose_for_the_assistants_own_host(borrowing, other):
    give_keys("loud")
    borrowing.pass_gate("loud", anyway=True)
    assert done(borrowing.ask("two men", sampling=SHORT)).trace.host == other.name
    turn = done(borrowing.ask("two men", [png()], Choices(vision="eyes"), SHORT))
    assert turn.trace.host == borrowing.host.name and [used.name for used in turn.trace.bricks] == ["eyes"]


def test_bricks_of_the_lending_host_that_are_not_seen_here_take_no_part(borrowing, other):
    """A key of a server may be for some bricks alone."""
    write_eyes(data_folder() / "bricks" / "their-eyes", other)
    for seen in ({"loud"}, {"loud", "their-eyes"}):
        own = borrowing._answering(borrowing.bricks().among(seen))
        ready = make_ready(own, Request("two men", (png(),), ON), Trace(), borrowing._borrows, Watcher())
        assert ready.answering.preparation.host.name == other.name
        assert {used.name for used in ready.routed.trace.bricks} == seen


# Image bricks


@pytest.fixture
def sighted(borrowing, other) -> Assistant:
    """With an image brick `their-eyes` of the host that is lent."""
    write_eyes(data_folder() / "bricks" / "their-eyes", other)
    return borrowing


THEIRS = Choices(vision="their-eyes")


def test_a_picture_goes_to_the_host_of_the_brick_that_looks_at_it_and_so_does_what_is_asked_of_it_later(sighted, other):
    conversation, elsewhere = sighted.store.new(), sighted.store.new()
    first = done(sighted.ask("a boat", [png()], THEIRS, SHORT, conversation))
    later = done(sighted.ask("two men", sampling=SHORT, conversation=conversation))
    alone = done(sighted.ask("two men", sampling=SHORT, conversation=elsewhere))
    assert [turn.trace.host for turn in (first, later, alone)] == [other.name, other.name, sighted.host.name]
    (used,) = first.trace.bricks
    assert used.reason == f"chosen by hand; {other.name} answered, which it was trained with"
    (again,) = later.trace.bricks
    assert (
        again.name == "their-eyes"
        and again.reason == f"orange.png was sent earlier; {other.name} answered, which it was trained with"
    )
    assert {notice.code for notice in later.trace.notices} <= {"length"}


def test_it_sees_what_an_assistant_of_that_host_sees(sighted, other):
    theirs = Assistant(other, sighted.registry, sighted.store, data_folder() / "bricks")
    said = [done(one.ask("two men", [png()], THEIRS, SHORT)).text for one in (sighted, theirs)]
    theirs.close()
    assert said[0] == said[1]


def test_a_borrowed_brick_looks_where_the_first_found_nothing(sighted, other):
    """Which of them finds nothing, is known when it has been asked."""
    give_keys("their-eyes", "glance", 64)
    turn = done(sighted.ask("two men", [png()], sampling=SHORT))
    assert turn.trace.host == other.name and [used.name for used in turn.trace.bricks] == ["document", "their-eyes"]
    assert "no-text" in {notice.code for notice in turn.trace.notices}


def test_a_skill_of_the_assistants_own_host_that_is_on_keeps_the_turn_and_what_cannot_look_is_told(sighted, tmp_path):
    sighted.add_skill(write_adapter(tmp_path / "own", sighted.host, seed=4), "own")
    conversation = sighted.store.new()
    done(sighted.ask("a boat", [png()], THEIRS, SHORT, conversation))
    turn = done(
        sighted.ask("two men", choices=Choices(bricks={"own": Choice("on")}), sampling=SHORT, conversation=conversation)
    )
    assert turn.trace.host == sighted.host.name and [used.name for used in turn.trace.bricks] == ["own"]
    (gone,) = (notice.text for notice in turn.trace.notices if notice.code == "gone")
    assert gone == (
        "orange.png from earlier was left out: The brick 'their-eyes' is set aside: their-eyes was made for another host, and "
        "another brick that is on for this one."
    )


def test_a_history_that_the_caller_keeps_is_looked_at_by_that_host(sighted, other):
    history = [Message("user", "a boat", (png(),)), Message("assistant", "Orange."), Message("user", "two men")]
    turn = done(sighted.complete(history, Choices(bricks={n: Choice("off") for n in ("eyes", "document")}), SHORT))
    assert turn.trace.host == other.name and [used.name for used in turn.trace.bricks] == ["their-eyes"]


def test_what_the_catalogue_says_that_a_host_does_itself_is_not_borrowed(assistant, borrowing, other):
    itself = Lends(other.identity, lambda: other, frozenset({"loud"}))
    able = Assistant(assistant.host, assistant.registry, assistant.store, data_folder() / "bricks", lends=itself)
    assert "loud" in {refused.name for refused in able.bricks().refused}
    able.close()


def test_a_question_about_one_of_two_pictures_is_no_comparison_for_any_host(borrowing, monkeypatch):
    depths = torch.zeros_like(borrowing.embedder.depths("text"))
    monkeypatch.setattr(Spaces, "several_pictures", Recogniser(depths, depths, threshold=-1.0))
    two = (png("red"), png("blue"))
    for text, is_about_several in (("Which one is red?", True), ("What is in the second picture?", False)):
        routed = borrowing._preparation.plan(Request(text, two), borrowing.bricks(), Trace(), Watcher())
        assert routed.question.about_several == is_about_several and not routed.question.picture


def test_an_own_and_a_borrowed_skill_are_on_without_a_fight(borrowing, tmp_path):
    borrowing.add_skill(write_adapter(tmp_path / "own", borrowing.host, seed=4), "own")
    bricks = borrowing.bricks()
    assert fight(bricks.get("own"), bricks.get("loud")) is None


def test_a_skill_that_reads_passages_is_not_borrowed(borrowing):
    card = read_card(folder := data_folder() / "bricks" / "loud")
    parts = card.parts.model_copy(update={"for_passages": True})
    write_card(card.model_copy(update={"parts": parts}), folder)
    assert "loud" in {refused.name for refused in borrowing.bricks().refused}


def test_stopped_while_the_other_host_loads_nothing_is_asked_of_it(assistant, borrowing, other):
    begun, goes_on = threading.Event(), threading.Event()

    def slow() -> Host:
        begun.set()
        assert goes_on.wait(30)
        return other

    own = data_folder() / "bricks"
    patient = Assistant(assistant.host, assistant.registry, assistant.store, own, lends=Lends(other.identity, slow))
    ticket = patient.ask("two men", choices=ON, sampling=SHORT)
    assert begun.wait(30)
    ticket.stop()
    goes_on.set()
    assert done(ticket).status == "stopped" and not ticket.text
    patient.close()


def test_minus_one_compares_with_the_same_host(borrowing, other):
    found = borrowing.minus_one("two men", choices=ON, sampling=SHORT)
    (without,) = found.without
    assert found.trace.host == other.name and without.brick == "loud" and without.moved < 0


def test_a_lending_host_that_cannot_be_loaded_fails_that_turn_alone(assistant, borrowing):
    def broken() -> Host:
        raise MattoniError("The disk is gone: put it back.")

    own = data_folder() / "bricks"
    lends = Lends(borrowing.registry.scan().get("loud").card.host, broken)
    poor = Assistant(assistant.host, assistant.registry, assistant.store, own, lends=lends)
    conversation = poor.store.new()
    ticket = poor.ask("two men", choices=ON, sampling=SHORT, conversation=conversation)
    ticket.wait()
    assert (ticket.status, ticket.error) == ("failed", "The disk is gone: put it back.")
    assert done(poor.ask("a boat", sampling=SHORT, conversation=conversation)).text
    poor.close()


def test_what_is_deleted_is_in_the_memory_of_neither(borrowing):
    conversation = borrowing.store.new()
    done(borrowing.ask("two men", [png()], ON, SHORT, conversation))
    settle(borrowing)
    assert holds(borrowing, conversation)  # or the test would show nothing
    borrowing.delete_conversation(conversation)
    settle(borrowing)
    done(borrowing.ask("something else", choices=ON, sampling=SHORT))  # the other engine has done what was queued
    assert not holds(borrowing, conversation)
    borrowing.remove_brick("loud")
    assert "loud" not in {brick.name for brick in borrowing.bricks().usable}

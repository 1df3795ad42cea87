"""Eight people at once, twenty turns each, with uploads, stops, reloads and deletions: nothing mixed, nothing lost."""

import io
import random
import threading
import time
from dataclasses import dataclass, field

import pytest
import torch
from PIL import Image

from assistant.assistant import Assistant
from assistant.conversations.records import StoredMessage
from assistant.conversations.store import ConversationStore, open_store
from assistant.host.embedder import Embedder
from assistant.host.sampling import Sampling
from assistant.turn.recogniser import Recogniser
from assistant.turn.spaces import Spaces
from mattoni.inputs import Attachment
from tests.assistant.test_deleting import texts_held_by

pytestmark = pytest.mark.slow

SESSIONS, TURNS = 8, 20
GREEDY = Sampling(temperature=0.0, max_tokens=16)


@dataclass
class Session:
    """What one person did, in order: the words and files of each turn, and whether it was stopped."""

    number: int
    conversation: str
    asked: list[tuple[str, tuple[Attachment, ...]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), (30 * number % 255, 90, 160)).save(buffer, "PNG")
    return buffer.getvalue()


def attachments_of(session: int, turn: int) -> tuple[Attachment, ...]:
    if turn % 5 == 1:
        return (Attachment("photo.png", picture(session)),)
    if turn % 5 == 3:
        return (Attachment("note.txt", f"The word of person {session} is w{session}{turn}.".encode()),)
    return ()


def ask_and_delete(assistant: Assistant, session: Session, turn: int, chance: random.Random) -> None:
    """A second conversation about the very file of the first, deleted while its answer is waiting, running or there."""
    scrap = assistant.store.new()
    session.deleted.append(scrap)
    files = (Attachment("photo.png", picture(session.number)), Attachment("own.txt", f"scrap {scrap}".encode()))
    ticket = assistant.ask(f"Person {session.number} will delete this", files, sampling=GREEDY, conversation=scrap)
    time.sleep(chance.random() * 0.1)
    assistant.delete_conversation(scrap)
    if not ticket.wait(120):
        session.problems.append(f"turn {turn}: a deleted turn has no end after 120 s")
    elif ticket.error or ticket.status not in ("done", "stopped"):
        session.problems.append(f"turn {turn}: a deleted turn is {ticket.status} {ticket.error}")


def talk(assistant: Assistant, session: Session, stops: bool) -> None:
    """Twenty turns; a reload is a look at the running ticket and at the store through a connection of its own."""
    chance = random.Random(session.number)
    for turn in range(TURNS):
        text = f"Person {session.number}, turn {turn}: what is the garden?"
        files = attachments_of(session.number, turn)
        session.asked.append((text, files))
        ticket = assistant.ask(text, files, sampling=GREEDY, conversation=session.conversation)
        if stops and chance.random() < 0.3:
            time.sleep(chance.random() * 0.05)
            ticket.stop()
        if chance.random() < 0.3:
            again = assistant.running(session.conversation)
            if again is not None and again is not ticket:
                session.problems.append(f"turn {turn}: a reload found another ticket")
            seen = ConversationStore(open_store().folder).messages(session.conversation)
            if seen[-2].text != text:
                session.problems.append(f"turn {turn}: a reload found {seen[-2].text!r}")
        if stops and turn % 4 == 2:
            ask_and_delete(assistant, session, turn, chance)
        if not ticket.wait(120):
            session.problems.append(f"turn {turn}: no end after 120 s")
            return
        if ticket.error or ticket.status not in ("done", "stopped") or (ticket.status == "stopped" and not stops):
            session.problems.append(f"turn {turn}: {ticket.status} {ticket.error}")


def answers(messages: list[StoredMessage]) -> list[tuple[str, list[int] | None]]:
    return [(m.text, m.token_ids) for m in messages if m.role == "assistant"]


def test_eight_sessions_at_once_get_what_each_alone_would_get(
    tiny_host,
    tiny_embedder_folder,
    monkeypatch,
):
    embedder = Embedder(tiny_embedder_folder)
    depths = torch.zeros_like(embedder.depths("text"))
    monkeypatch.setattr(Spaces, "embedder", embedder)
    monkeypatch.setattr(Spaces, "picture_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "follow_ups", Recogniser(depths, depths, threshold=-1.0))
    monkeypatch.setattr(Spaces, "several_pictures", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "reading_questions", Recogniser(depths, depths, threshold=1.0))
    monkeypatch.setattr(Spaces, "naming_questions", Recogniser(depths, depths, threshold=1.0))
    assistant = Assistant.open(str(tiny_host), dtype="float32")
    store = assistant.store
    sessions = [Session(number, store.new()) for number in range(SESSIONS)]
    threads = [threading.Thread(target=talk, args=(assistant, s, s.number % 2 == 1)) for s in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [problem for session in sessions for problem in session.problems] == []

    kept = ConversationStore(store.folder)
    for session in sessions:
        messages = kept.messages(session.conversation)
        assert [m.text for m in messages if m.role == "user"] == [text for text, _ in session.asked]
        assert [m.role for m in messages] == ["user", "assistant"] * TURNS
        for message, (_, files) in zip(messages[::2], session.asked, strict=True):
            assert [kept.content(a.digest) for a in message.attachments] == [file.content for file in files]

    # What was deleted is nowhere, and took nothing with it that somebody else still shows (checked above).
    deleted = [scrap for session in sessions for scrap in session.deleted]
    assert len(deleted) == SESSIONS // 2 * TURNS // 4
    assert {c.id for c in kept.conversations()} == {session.conversation for session in sessions}
    store.conversations()  # a deletion beside a reader of its own process empties the log with the next query
    assert b"scrap" not in b"".join(p.read_bytes() for p in kept.folder.rglob("*") if p.is_file())
    assert assistant.ask("anything", sampling=GREEDY).wait(120)  # behind everything that was still to be forgotten
    assert [scrap for scrap in deleted if any(scrap in text for text in texts_held_by(assistant))] == []

    # Whoever stopped nothing must have got, word for word, what the same questions get with nobody else around.
    for session in sessions[::2]:
        alone = Session(session.number, store.new())
        talk(assistant, alone, stops=False)
        assert alone.problems == []
        assert answers(store.messages(alone.conversation)) == answers(kept.messages(session.conversation))
    assistant.close()

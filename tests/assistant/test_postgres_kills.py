"""Kills: several processes' stores write while the server is killed and started again, again and again."""

import contextlib
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from assistant.conversations.database import DatabaseAway
from assistant.conversations.store import ConversationStore
from tests.assistant.test_conversation import Sent
from tests.postgres import Server

STORES, WRITERS_EACH = 2, 3


@dataclass
class Writer:
    """Asks and answers in a conversation of its own for as long as it may."""

    number: int
    store: ConversationStore
    confirmed: list[str] = field(default_factory=list)  # what the store said it has, in order
    in_doubt: list[str] = field(default_factory=list)  # what it could not say anything of
    problems: list[str] = field(default_factory=list)

    def write(self, ends: threading.Event) -> None:
        chance = random.Random(self.number)
        self.talk = self.store.new(f"writer {self.number}")
        turn = 0
        while not ends.is_set():
            turn += 1
            mark = f"{self.number}:{turn}:{chance.random()}"
            question, answer = (
                f"question {mark} " + "?" * chance.randrange(2000),
                f"answer {mark} " + "!" * chance.randrange(2000),
            )
            try:
                self.store.add_question(self.talk, question, [Sent("f", mark.encode())] if turn % 5 == 0 else ())
            except DatabaseAway:
                self.in_doubt.append(question)
                continue
            self.confirmed.append(question)
            try:
                message = self.store.begin_answer(self.talk)
            except DatabaseAway:
                self.in_doubt.append("")  # an empty answer may be there
                continue
            for end in (len(answer) // 3, len(answer) // 2):
                self.store.update_answer(message, answer[:end])
            self.store.finish_answer(message, answer, "done", trace={"mark": mark})
            self.confirmed.append(answer)
            if chance.random() < 0.3:
                with contextlib.suppress(DatabaseAway):
                    said = self.store.messages(self.talk)[-1]
                    if (said.text, said.status, said.trace) != (answer, "done", {"mark": mark}):
                        self.problems.append(f"{self.number}: read {said.text[:40]!r} for {answer[:40]!r}")

    def faults(self, fresh: ConversationStore) -> list[str]:
        """What another process finds otherwise than it was confirmed."""
        messages = fresh.messages(self.talk)
        texts = [message.text for message in messages]
        counts = Counter(texts)
        faults = [f"{self.number}: lost {text[:40]!r}" for text in self.confirmed if counts[text] == 0]
        faults += [
            f"{self.number}: {count} times {text[:40]!r}" for text, count in counts.items() if text and count > 1
        ]
        known = {*self.confirmed, *self.in_doubt}
        faults += [f"{self.number}: not its own {text[:40]!r}" for text in texts if text not in known]
        if not faults and [text for text in texts if text in {*self.confirmed}] != self.confirmed:
            faults.append(f"{self.number}: not in order")
        for message in messages:
            faults += [
                f"{self.number}: wrong attachment of {message.text[:40]!r}"
                for attached in message.attachments
                if fresh.content(attached.digest).decode() != message.text.split()[1]
            ]
        return faults


@pytest.mark.parametrize("restarts", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_nothing_is_lost_doubled_or_mixed_however_often_the_server_is_killed(
    postgres: Server, tmp_path: Path, restarts: int
):
    url = postgres.new_database()
    chance = random.Random(restarts)
    ends = threading.Event()
    with contextlib.ExitStack() as opened:
        stores = [opened.enter_context(contextlib.closing(ConversationStore(tmp_path, url))) for _ in range(STORES)]
        writers = [Writer(number, stores[number % STORES]) for number in range(STORES * WRITERS_EACH)]
        threads = [threading.Thread(target=writer.write, args=(ends,)) for writer in writers]
        for thread in threads:
            thread.start()
        away_s = 0.0
        for _ in range(restarts):
            time.sleep(0.1 + 0.9 * chance.random())
            began = time.monotonic()
            postgres.restart()
            away_s = max(away_s, time.monotonic() - began)
        # On a busy machine a server that came back is asked later: what counts is that everybody writes again.
        until = time.monotonic() + 60
        while time.monotonic() < until and any(len(w.confirmed) <= 2 * restarts for w in writers):
            time.sleep(0.1)
        ends.set()
        for thread in threads:
            thread.join()
        confirmed = sum(len(writer.confirmed) for writer in writers)
        in_doubt = sum(len(writer.in_doubt) for writer in writers)
        print(
            f"{restarts} restarts, {confirmed} messages confirmed, {in_doubt} in doubt; the server away for {away_s:.1f} s at most"
        )

        fresh = opened.enter_context(contextlib.closing(ConversationStore(tmp_path, url)))
        for store in stores:
            store.conversations()  # whatever is owed is written before
        assert [fault for writer in writers for fault in [*writer.problems, *writer.faults(fresh)]] == []
        assert all(len(writer.confirmed) > 2 * restarts for writer in writers)
        with psycopg.connect(url) as connection:
            counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mattoni' AND datname = current_database()"
            assert connection.execute(counted).fetchone() == (STORES + 1,)

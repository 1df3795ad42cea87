"""The assistant as the page, the command line and the tests use it: ask, stop, answer again, add and remove bricks.

Keeps what was said, queues turns on the engine, and looks after the user's brick folder. Knows nothing of Streamlit or
terminals, and leaves the turn itself to `assistant/turn/turn.py`.
"""

import contextlib
import hashlib
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from assistant.bricks import facts as fact_brick
from assistant.bricks.cartridges import import_cartridge
from assistant.bricks.examples import Added, add_examples
from assistant.bricks.gate import Gate, pass_gate
from assistant.bricks.knowledge import (
    add_knowledge,
    drop_documents,
    follow,
    stop_watching,
    without_passages,
)
from assistant.bricks.lifecycle import is_packed, pack_brick, rename_brick, renamed_in_trace, unpack_brick
from assistant.bricks.settle import AUTO, Lends, lends_to, settle
from assistant.bricks.watching import FolderState, WatchedFolders
from assistant.conversations.records import StoredMessage
from assistant.conversations.store import ConversationStore, open_store
from assistant.host.embedder import Embedder
from assistant.host.engine_choice import LOCAL, EngineChoice
from assistant.host.engines import make_engine
from assistant.host.grammar import check_schema, spell
from assistant.host.host import Host, load_host
from assistant.host.job import Engine, EngineInfo
from assistant.host.ladder import Choice
from assistant.host.matrices import Weights
from assistant.host.read_passages import ReadPassages
from assistant.host.sampling import Sampling
from assistant.registry import Bricks, Registry, switch, switched_off
from assistant.turn.admission import needs_verdict
from assistant.turn.answer import Outcome
from assistant.turn.answer import answer as run_turn
from assistant.turn.lender import Answering, Borrows, Lender, read_history
from assistant.turn.minus_one import MinusOne, minus_one
from assistant.turn.prepare import Preparation, Watcher
from assistant.turn.queue import TurnQueue
from assistant.turn.request import Exchange, Message, Request
from assistant.turn.route import Choices
from assistant.turn.ticket import Pace, Status, Ticket
from knowledge_bricks.cartridge import is_cartridge
from knowledge_bricks.facts import Fact
from knowledge_bricks.methods.documents import DocumentsRuntime
from knowledge_bricks.passages import Passage
from knowledge_bricks.sentences import Said
from mattoni.card import BrickCard
from mattoni.errors import MattoniError
from mattoni.files import plain_name, remove_folder
from mattoni.hub import HUB_ID
from mattoni.inputs import Attachment
from mattoni.paths import brick_folders, data_around, data_folder, hosts_folder
from mattoni.records import Read, from_json, to_json
from mattoni.runtime import Asked, GivenPicture, Injected, Stopped
from mattoni.versions import roll_back
from task_bricks.importing import import_skill

_SAVE_EVERY_S = 0.5
_ADDING_WAIT_S = 20.0
_STOP_WAIT_S = 5.0  # a turn ends within a token, or within a page that is being read


class Assistant:
    """A host with its bricks, its engine and its conversations. Every method may be called from any thread."""

    def __init__(
        self,
        host: Host,
        registry: Registry,
        store: ConversationStore,
        user_bricks: Path,
        weights: Weights = "auto",
        engine: EngineChoice = LOCAL,
        beside: "Assistant | None" = None,
        lends: Lends | None = None,
    ) -> None:
        """beside  the assistant whose loaded models, engine and queue this one uses too
        lends   the host that answers for bricks which were trained with it and which this one lacks
        """
        self.host, self.registry, self.store = host, registry, store
        self._user_bricks = user_bricks
        self._preparation: Preparation = Preparation(host) if beside is None else beside._preparation
        self._engine: Engine = make_engine(host, engine, weights) if beside is None else beside._engine
        self._lender: Lender | None = beside._lender if beside is not None else None
        if lends is not None:
            self._lender = Lender(*lends, self._preparation, weights)
        # Here eight of sixteen rows, as more slow one another (`assistant/turn/queue.py`); a server's do not.
        self._queue: TurnQueue = TurnQueue(self._engine.info.rows // 2) if beside is None else beside._queue
        self._is_alone = beside is None
        self._is_over = False
        self._tickets: dict[str, Ticket] = {}
        self._lock = threading.RLock()
        self._folder_state = FolderState()
        self._watched = WatchedFolders(self.sync)
        self._adding = threading.Lock()  # documents are read and embedded for one brick at a time

    @classmethod
    def open(
        cls,
        host: str = "builtin",
        device: str = "auto",
        dtype: str = "auto",
        quantise: Any = None,
        store: ConversationStore | None = None,
        give_way: bool = False,
        weights: Weights = "auto",
        engine: EngineChoice = LOCAL,
    ) -> "Assistant":
        """Load the host and find the bricks. Takes seconds; share one among all pages of a process.

        host      what `load_host` takes, or `auto`: `Host.reason` then says why it is this one
        give_way  answer with the smallest host, and say so there, where the named one cannot be had
        weights   how the host's matrices are read while decoding (`assistant/host/matrices.py`); bf16: as they were loaded
        engine    what decodes
        """
        store = store or open_store()  # before anything that takes long: its server may not be there
        registry = Registry(brick_folders())
        choice = settle(host, device, registry) if give_way or host == AUTO else Choice(host, "")
        loaded = replace(load_host(choice.name, device, dtype, quantise), reason=choice.reason)
        return cls(loaded, registry, store, data_folder() / "bricks", weights, engine, lends=lends_to(loaded))

    def for_person(self, data: Path, store: ConversationStore) -> "Assistant":
        """The same host for somebody else: with the conversations of a store and the bricks of a data folder, and nobody else's.

        Everything large is this assistant's, and ends with it: the host, loaded bricks, keys, and the queue in which all take turns.
        """
        folders = brick_folders(data)
        return Assistant(self.host, self.registry.elsewhere(folders), store, folders[0], beside=self)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered or waits to be."""
        with self._lock:
            return all(ticket.finished for ticket in self._tickets.values())

    def leave(self) -> None:
        """End an assistant of one person: its turns are stopped and nothing of it stays in memory; files and store are left.

        Nothing may be asked of it any more. Raises MattoniError where documents are being read just now.
        """
        if not self._adding.acquire(timeout=_ADDING_WAIT_S):
            raise MattoniError("A brick is being made just now: wait until it is there, and try again.")
        try:
            with self._lock:
                self._is_over = True
                tickets = list(self._tickets.values())
            for ticket in tickets:
                ticket.stop()
            for ticket in tickets:
                if ticket.status == "running":
                    ticket.wait(_STOP_WAIT_S)
            # Of everybody: what of it was theirs would take their database to tell, and may be gone from there already.
            self._engine.clear()
            self._preparation.forget_everything()
            if self._lender is not None:
                self._lender.clear()
        finally:
            self._adding.release()

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Held while bricks are made or changed, one at a time."""
        with self._adding:
            self._refuse_if_over()
            yield

    def _refuse_if_over(self) -> None:
        if self._is_over:
            raise MattoniError("Your data was deleted: sign in again to begin anew.")

    def close(self) -> None:
        """Stop the running turns and end the engine."""
        self._queue.close()
        self._engine.close()
        if self._lender is not None:
            self._lender.close()

    @property
    def engine(self) -> EngineInfo:
        """What decodes its answers."""
        return self._engine.info

    @property
    def load(self) -> tuple[int, int]:
        """How many turns run, and how many wait."""
        return self._queue.load

    @property
    def embedder(self) -> Embedder:
        """What embeds messages and passages; loaded when it is first needed."""
        return self._preparation.spaces.embedder

    @property
    def memory_bytes(self) -> int:
        """What this process holds in memory now."""
        return int(psutil.Process().memory_info().rss)

    def free_memory(self) -> None:
        """Drop what was computed for idle conversations; their next turn computes it anew."""
        self._engine.clear()
        if self._lender is not None:
            self._lender.clear(frozenset())

    def spell(self, token: int, ticket: Ticket | None = None) -> bytes:
        """The bytes of a token of this turn's answer, which may be a part of a character."""
        by = ticket.trace.host if ticket is not None and ticket.trace is not None else ""
        lent = self._lender.host_named(by) if self._lender is not None else None
        return spell(lent or self.host, token)

    # Asking

    def ask(
        self,
        text: str,
        attachments: Sequence[Attachment] = (),
        choices: Choices | None = None,
        sampling: Sampling | None = None,
        conversation: str | None = None,
    ) -> Ticket:
        """Queue a message. With a conversation, question and answer are kept there, the question before this returns.

        Raises MattoniError for an empty message, or while the conversation's last question is still being answered.
        """
        if not text.strip() and not attachments:
            raise MattoniError("The message is empty: write something, or attach a picture or a document.")
        self.check(choices or Choices())
        if conversation is None:
            request = Request(text, tuple(attachments), choices or Choices(), sampling or Sampling())
            return self._queue.submit(uuid.uuid4().hex, lambda ticket: self._answer(request, ticket, None, None))
        with self._lock:
            self._refuse_if_over()
            self._refuse_while_running(conversation)
            past, unseen = self._past(conversation)
            question = self.store.add_question(conversation, text, attachments)
            request = self._request(text, [*unseen, *attachments], choices, sampling, past, conversation)
            return self._submit(request, conversation, question)

    def complete(
        self,
        messages: Sequence[Message],
        choices: Choices | None = None,
        sampling: Sampling | None = None,
        system: str = "",
        conversation: str = "",
    ) -> Ticket:
        """Answer the last message of a history that the caller keeps: nothing is stored. The trace says how it ended and
        what it took.

        messages      the last one is a user's; pictures and documents of earlier ones are looked at as they would have been then
        system        what the conversation begins with; empty: what the host's own do
        conversation  under which keys and values may be kept for its next turn, in memory alone; empty: they are not kept

        Raises MattoniError where there is nothing to answer, and for a JSON schema that cannot be kept to.
        """
        chosen = choices or Choices()
        self.check(chosen)
        if sampling is not None and sampling.json_schema is not None:
            check_schema(sampling.json_schema)
        *earlier, last = messages or [Message("user", "")]
        if last.role != "user":
            raise MattoniError("The last message is the assistant's: end with one of the user's.")
        if not last.text.strip() and not last.attachments:
            raise MattoniError("The message is empty: write something, or attach a picture or a document.")
        contents = {hashlib.sha256(a.content).hexdigest(): a.content for m in messages for a in m.attachments}

        def run(ticket: Ticket) -> Status:
            watcher = Watcher(ticket.enter, lambda: ticket.is_stopping)
            try:
                own = self._answering(self.bricks())
                past = read_history(own, earlier, chosen, self._borrows, watcher)
            except Stopped:
                return "stopped"
            request = Request(
                last.text,
                last.attachments,
                chosen,
                sampling or Sampling(),
                past,
                conversation,
                content=contents.__getitem__,
                system=system,
            )
            return self._answer(request, ticket, None, None)

        return self._queue.submit(uuid.uuid4().hex, run)

    def transcribe(
        self,
        file: Attachment,
        choices: Choices | None = None,
        language: str = "",
        stopping: Callable[[], bool] = lambda: False,
    ) -> Injected:
        """What is said in a recording, on the caller's thread; nothing is stored.

        language  of the recording (ISO 639-1), where it is known
        stopping  asked now and then; True ends it with Stopped

        Raises MattoniError where no brick listens, or the file is no recording.
        """
        watcher = Watcher(stopping=stopping)
        return self._preparation.transcribe(file, choices or Choices(), self.bricks(), watcher, language)

    def minus_one(
        self,
        text: str,
        attachments: Sequence[Attachment] = (),
        choices: Choices | None = None,
        sampling: Sampling | None = None,
        told: Callable[[str], object] = lambda brick: None,
    ) -> MinusOne:
        """Answer a message, then the same without each brick that took part, on the caller's thread; nothing is stored.

        told  the brick that is left out next; "" for the whole turn
        """
        self.check(choices or Choices())
        request = Request(text, tuple(attachments), choices or Choices(), sampling or Sampling())
        return minus_one(self._answering(self.bricks()), request, told, self._borrows)

    def minus_one_of_last(
        self, conversation: str, choices: Choices | None = None, sampling: Sampling | None = None
    ) -> MinusOne:
        """The same for the conversation's last question, with what came before it; its answer stays as it is."""
        with self._lock:
            self._refuse_while_running(conversation)
            asked = [message for message in self.store.messages(conversation) if message.role == "user"]
            if not asked:
                raise MattoniError("There is no question to look into: ask one first.")
            past, unseen = self._past(conversation, before=asked[-1].id)
            attachments = [*unseen, *self._attachments(asked[-1])]
        self.check(choices or Choices())
        request = self._request(asked[-1].text, attachments, choices, sampling, past, conversation)
        return minus_one(self._answering(self.bricks()), request, borrows=self._borrows)

    def answer_again(
        self,
        conversation: str,
        choices: Choices | None = None,
        sampling: Sampling | None = None,
    ) -> Ticket:
        """Drop the last answer and answer its question anew, also one that seemed to miss its picture."""
        return self._answer_last(conversation, choices, sampling, anyway=True)

    def edit_question(
        self,
        conversation: str,
        question: int,
        text: str,
        choices: Choices | None = None,
        sampling: Sampling | None = None,
    ) -> Ticket:
        """Change a question, drop everything after it, and answer it."""
        with self._lock:
            self._refuse_if_over()
            self._refuse_while_running(conversation)
            self._forget_conversation(conversation, self.store.edit_question(question, text))
            return self._answer_last(conversation, choices, sampling, anyway=False)

    def _answer_last(
        self, conversation: str, choices: Choices | None, sampling: Sampling | None, anyway: bool
    ) -> Ticket:
        self.check(choices or Choices())
        with self._lock:
            self._refuse_if_over()
            self._refuse_while_running(conversation)
            question = self.store.drop_last_answer(conversation)
            if question is None:
                raise MattoniError("There is no question to answer again: ask one first.")
            past, unseen = self._past(conversation, before=question.id)
            attachments = [*unseen, *self._attachments(question)]
            request = self._request(question.text, attachments, choices, sampling, past, conversation, anyway)
            return self._submit(request, conversation, question.id)

    def running(self, conversation: str) -> Ticket | None:
        """The ticket of the conversation's unfinished turn, if there is one."""
        with self._lock:
            ticket = self._tickets.get(conversation)
            return ticket if ticket is not None and not ticket.finished else None

    def delete_conversation(self, conversation: str) -> None:
        """Delete a conversation for good, on disk and in memory. Its running turn is stopped first."""
        ticket = self.running(conversation)
        if ticket is not None:
            ticket.stop()
            if ticket.status == "running":
                ticket.wait(_STOP_WAIT_S)
        with self._lock:
            # One that waits behind others ends when it is its turn, and finds nothing to write to; so does one asked meanwhile.
            if (left := self._tickets.pop(conversation, None)) is not None:
                left.stop()
            gone = self.store.delete(conversation)
        self._forget_conversation(conversation, gone)

    def _forget_conversation(self, conversation: str, digests: set[str]) -> None:
        """Drop what memory holds of a conversation that was deleted or cut short.

        digests   of the attachments that no conversation holds any more
        """

        self._engine.forget(conversation)
        self._preparation.forget(frozenset(digests))
        if self._lender is not None:
            self._lender.forget(conversation, frozenset(digests))

    def check(self, choices: Choices) -> None:
        """Raise MattoniError when the choices name a brick that is not there or is set aside."""
        bricks = self.bricks()
        for name in choices.names:
            bricks.get(name)

    # Bricks

    def bricks(self) -> Bricks:
        """The bricks as they are now, fitted to the host, with those that it borrows."""
        own = self.registry.scan(self.host)
        return own if self._lender is None else self._lender.beside(own, self.registry)

    def _answering(self, bricks: Bricks) -> Answering:
        """Its own host with these bricks."""
        return Answering(self._preparation, self._engine, bricks)

    @property
    def _borrows(self) -> Borrows | None:
        """Gives the host that bricks are borrowed from, loaded; None where none is lent."""
        lender = self._lender
        return None if lender is None else lambda: lender.answering(self.registry)

    def add_brick(self, source: str | Path, name: str | None = None, replace: bool = False) -> BrickCard:
        """Bring in a packed brick of any kind, the folder of a PEFT cartridge, or a PEFT LoRA as in `add_skill`."""
        path = Path(source).expanduser()
        publish = self._preparation.loaded.between_loads
        if is_cartridge(path):
            with self._change():
                return import_cartridge(path, self._user_bricks, name, self.host, publish)
        if not is_packed(path):
            return self.add_skill(source, name, replace)
        with self._change():
            return unpack_brick(path, self._user_bricks, name, publish)

    def add_skill(self, source: str | Path, name: str | None = None, replace: bool = False) -> BrickCard:
        """Bring in a PEFT LoRA: a folder, an archive, a file beside its configuration, or a Hub id.

        replace  a skill of that name becomes an older version

        One that brings routing keys goes through the gate at once; the card's last note says what came out.
        """
        with self._change():
            folder = import_skill(source, self._user_bricks, name, self.host, replace=replace)
        brick = self.registry.scan().get(folder.name)
        if not needs_verdict(brick):
            return brick.card
        # What it says goes to whoever added it, beside what was decided on the way.
        notes = [*brick.card.notes, self.pass_gate(brick.name).sentence]
        return brick.card.model_copy(update={"training": {**brick.card.training, "notes": notes}})

    def add_skill_named(self, source: str) -> BrickCard:
        """Bring in a PEFT LoRA that was named on a page: a Hub id or, where this machine is the user's own, a folder."""
        is_from_hub = source.startswith("https://") or (HUB_ID.fullmatch(source) and not os.path.exists(source))
        if not self._is_alone and not is_from_hub:
            raise MattoniError("Folders of the server are nobody's here: name a Hub id such as someone/their-lora.")
        return self.add_skill(source)

    def pass_gate(self, name: str, anyway: bool = False) -> Gate:
        """Measure what a skill would do to the routes of the others, and keep whether Auto may choose it.

        anyway  it may, whatever was measured
        """
        self._refuse_if_over()
        bricks = self.bricks()
        return pass_gate(bricks.get(name), bricks, self.embedder.embed, self.embedder.digest, anyway)

    def add_skill_file(self, file: Attachment, name: str | None = None, beside: Sequence[Attachment] = ()) -> BrickCard:
        """Bring in a PEFT LoRA from an uploaded archive, or from its weights with its configuration beside them."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "skill"  # what a file without a telling name is called after
            folder.mkdir()
            for one in (file, *beside):
                (folder / plain_name(one.name)).write_bytes(one.content)
            return self.add_brick(folder / plain_name(file.name), name)

    def add_knowledge(
        self,
        name: str,
        files: Iterable[Attachment],
        update: bool = False,
        passed_over: Callable[[str], object] | None = None,
        watch: Path | None = None,
    ) -> BrickCard:
        """Build a knowledge brick from documents, or with `update` replace and add documents of one.

        passed_over   told why, for each file that cannot be read; None: one such file refuses all
        watch         the folder that they are all the files of, looked at again before every turn

        Reading scanned pages takes about a second each. All of it runs on the caller's thread, and turns go on meanwhile.
        """
        with self._change():
            card = add_knowledge(
                name,
                files,
                self._user_bricks,
                embedder=self._preparation.spaces.embedder,
                read=self._read_page(),
                update=update,
                publish=self._preparation.loaded.between_loads,
                passed_over=passed_over,
                watch=watch,
            )
        if update:
            ReadPassages.of_this_machine().clear()  # of the documents that were replaced
        return card

    def passages(self, name: str, document: str) -> list[Passage]:
        """What a knowledge brick holds of a document; nothing where it has none of that name. Raises MattoniError."""
        runtime = self._preparation.loaded.get(self.bricks().get(name))
        return runtime.passages(document) if isinstance(runtime, DocumentsRuntime) else []

    def drop_documents(self, name: str, documents: Sequence[str]) -> BrickCard:
        """Take documents out of a knowledge brick, with every byte that was made of them."""
        with self._change():
            card = drop_documents(name, documents, self._user_bricks, self._preparation.loaded.between_loads)
        self._forget_bricks(name)
        self.store.change_traces(lambda trace: without_passages(trace, name, documents))
        return card

    def sync(self, name: str, passed_over: Callable[[str], object] = lambda sentence: None) -> BrickCard | None:
        """Make a knowledge brick what its watched folder holds now; None where nothing changed."""
        with self._change():
            card = follow(
                name,
                self._user_bricks,
                self._folder_state,
                embedder=self._preparation.spaces.embedder,
                read=self._read_page(),
                publish=self._preparation.loaded.between_loads,
                passed_over=passed_over,
            )
        if card is not None:
            ReadPassages.of_this_machine().clear()  # of the files that changed or are gone
        return card

    def stop_watching(self, name: str) -> BrickCard:
        """Leave a knowledge brick as it is, whatever happens in its folder."""
        with self._change():
            return stop_watching(name, self._user_bricks, self._preparation.loaded.between_loads)

    def _read_page(self) -> Callable[[Image.Image], str] | None:
        """What reads a picture of a page for a knowledge brick; None where no brick does."""
        reader = next((brick for brick in self.bricks().usable if brick.accepts("page")), None)
        if reader is None:
            return None

        def read(image: Image.Image) -> str:
            digest = hashlib.sha256(image.tobytes()).hexdigest()
            runtime = self._preparation.loaded.get(reader)
            record = runtime.inject(Asked("", GivenPicture("page", digest, lambda: image))).record
            runtime.forget(frozenset({digest}))
            return record.text if isinstance(record, Read) else ""

        return read

    def add_examples(self, name: str, files: Sequence[Attachment]) -> Added:
        """Give an image brick of the user's keys from example pictures."""
        with self._change():
            return add_examples(
                name,
                files,
                self.registry.scan(),
                self._preparation.spaces.glance,
                publish=self._preparation.loaded.between_loads,
            )

    def facts(self) -> tuple[Fact, ...]:
        """What was taught, in words."""
        known = fact_brick.facts_in(self._user_bricks)
        return tuple(one.fact for one in known.learned) if known else ()

    def teach(self, said: Sequence[Said], replace: bool = False) -> fact_brick.Taught:
        """Teach facts: some seconds each, on the caller's thread; turns go on meanwhile. Raises MattoniError."""
        with self._change():
            return fact_brick.teach(
                self.host,
                said,
                self._user_bricks,
                replace=replace,
                publish=self._preparation.loaded.between_loads,
            )

    def switch_facts(self, numbers: Sequence[int], is_on: bool) -> None:
        """Switch facts on or off. Raises MattoniError for a number that is not there."""
        with self._change():
            fact_brick.switch(self._user_bricks, numbers, is_on, self._preparation.loaded.between_loads)

    def remove_facts(self, numbers: Sequence[int]) -> None:
        """Take facts out, also of memory. Raises MattoniError for a number that is not there."""
        with self._change():
            digests = frozenset(b.digest for b in self.bricks().usable if b.name == fact_brick.NAME)
            fact_brick.remove(self._user_bricks, numbers, self._preparation.loaded.between_loads)
            self._preparation.loaded.unload(digests)
            self._engine.clear()

    def switched_off(self) -> frozenset[str]:
        """The bricks that are off in all conversations."""
        return switched_off(self._user_bricks)

    def switch_brick(self, name: str, is_on: bool) -> None:
        """Switch a brick off in all conversations, or on again. Raises MattoniError where there is none."""
        self._refuse_if_over()
        if name not in self.switched_off():
            self.bricks().get(name)
        switch(self._user_bricks, name, is_on)

    def rename_brick(self, name: str, new: str) -> BrickCard:
        """Give a brick of the user's another name, also where earlier answers cite it."""
        brick = self._own(name)
        with self._change():
            card = rename_brick(brick, new, self._preparation.loaded.between_loads)
        self._forget_bricks(name)
        if name in self.switched_off():
            switch(self._user_bricks, name, True)
            switch(self._user_bricks, new, False)
        self.store.change_traces(lambda trace: renamed_in_trace(trace, name, new))
        return card

    def roll_back(self, name: str, to: int | None = None) -> int:
        """Put an older version of a brick of the user's in its place; the one in use is kept too. Returns its number."""
        brick = self._own(name)
        with self._change():
            return roll_back(brick, to, self._preparation.loaded.between_loads)

    def pack_brick(self, name: str, target: Path) -> Path:
        """Write a brick, shipped or the user's, as one file that `add_brick` takes in again."""
        return pack_brick(self.registry.scan().get(name), target)

    def _own(self, name: str) -> Path:
        """The folder of a brick of the user's. Raises MattoniError for one that came with Mattoni, and where there is none."""
        folder = self._user_bricks / name
        if not folder.is_dir() or folder.resolve().parent != self._user_bricks.resolve():
            brick = self.bricks().get(name)
            raise MattoniError(f"'{brick.name}' came with Mattoni and stays: switch it off instead.")
        return folder

    def _forget_bricks(self, *names: str) -> None:
        """Drop from memory what was loaded of these bricks, in whatever state, and what was computed with them."""
        self._preparation.forget_bricks(frozenset(names))
        self._engine.clear()
        if self._lender is not None:
            self._lender.clear(frozenset(names))

    def remove_brick(self, name: str) -> None:
        """Delete a brick of the user's with every byte that was made from it. Those that came with Mattoni stay."""
        folder = self._own(name)

        def remove() -> None:
            remove_folder(folder)
            if (own_host := hosts_folder(data_around(self._user_bricks)) / name).is_dir():
                remove_folder(own_host)

        self._preparation.loaded.between_loads(remove)
        self._forget_bricks(name)
        if name in self.switched_off():
            switch(self._user_bricks, name, True)
        # Answers stay, and which documents they cited; what those documents said goes.
        self.store.change_traces(lambda trace: without_passages(trace, name))

    # Turns

    def _request(
        self,
        text: str,
        attachments: Sequence[Attachment],
        choices: Choices | None,
        sampling: Sampling | None,
        past: tuple[Exchange, ...],
        conversation: str,
        anyway: bool = False,
    ) -> Request:
        return Request(
            text=text,
            attachments=tuple(attachments),
            choices=choices or Choices(),
            sampling=sampling or Sampling(),
            past=past,
            conversation=conversation,
            content=self.store.content,
            answer_anyway=anyway,
        )

    def _submit(self, request: Request, conversation: str, question: int) -> Ticket:
        kept = self.store.begin_answer(conversation)
        ticket = self._queue.submit(conversation, lambda ticket: self._answer(request, ticket, question, kept))
        self._tickets[conversation] = ticket
        return ticket

    def _refuse_while_running(self, conversation: str) -> None:
        if self.running(conversation) is not None:
            raise MattoniError("The last question is still being answered: wait for it or stop it.")

    def _past(self, conversation: str, before: int | None = None) -> tuple[tuple[Exchange, ...], list[Attachment]]:
        """Earlier exchanges, and the attachments that nobody has looked at yet.

        A turn that was stopped early, or whose process was killed, has not looked at its attachments: they go with the
        next message. Ids of an answer hold only for the vocabulary they were made with.
        """
        exchanges: list[Exchange] = []
        unseen: list[Attachment] = []
        question: StoredMessage | None = None
        for message in self.store.messages(conversation):
            if before is not None and message.id >= before:
                break
            if message.role == "user":
                question = message
            elif question is not None:
                same = (message.segments or {}).get("vocabulary") == self.host.identity.vocabulary
                ids = tuple(message.token_ids) if message.token_ids is not None and same else None
                records = tuple(map(from_json, question.segments or ()))
                exchanges.append(Exchange(question.text, records, message.text, ids))
                if question.segments is None and message.status == "stopped":
                    # What is no longer there cannot be looked at; the next question must not fail for it.
                    with contextlib.suppress(MattoniError):
                        unseen.extend(self._attachments(question))
                else:
                    unseen = []
                question = None
        return tuple(exchanges), unseen

    def _attachments(self, question: StoredMessage) -> list[Attachment]:
        return [Attachment(a.name, self.store.content(a.digest)) for a in question.attachments]

    def _answer(self, request: Request, ticket: Ticket, question: int | None, answer: int | None) -> Status:
        """Run a turn on a worker's thread and keep what it said, however it ends."""
        pace = Pace(_SAVE_EVERY_S)

        def save() -> None:
            if answer is not None and pace.due():
                self.store.update_answer(answer, ticket.text)

        outcome: Outcome | None = None
        error: str | None = None
        try:
            if ticket.is_stopping:
                return "stopped"
            bricks = self.bricks()
            # The folders of a server are not for those who sign in there, whatever a card that they brought says.
            if self._is_alone and self._watched.look(bricks.usable):
                bricks = self.bricks()
            outcome = run_turn(self._answering(bricks), request, ticket, save, self._borrows)
            return outcome.status
        except Stopped:
            return "stopped"
        except MattoniError as problem:
            error = str(problem)
            raise
        except Exception:
            error = "Something inside went wrong: ask again."
            raise
        finally:
            if answer is not None and question is not None:
                self._keep(ticket, question, answer, outcome, error)

    def _keep(self, ticket: Ticket, question: int, answer: int, outcome: Outcome | None, error: str | None) -> None:
        if outcome is not None:
            self.store.update_question(question, [to_json(record) for record in outcome.records])
        status: Status = outcome.status if outcome is not None else "failed" if error else "stopped"
        assert status in ("done", "stopped", "failed")
        self.store.finish_answer(
            answer,
            ticket.text,
            status,
            trace=ticket.trace.to_json() if ticket.trace is not None else None,
            token_ids=outcome.token_ids if outcome is not None else None,
            segments={"vocabulary": outcome.vocabulary if outcome is not None else ""},
            error=error,
        )

"""The engine on this machine: one thread runs the host and decodes the answers of several conversations together.

Rows join and leave at any step (continuous batching: Orca, Yu et al. 2022); prompts are read in pieces between the others'
tokens (chunked prefill: Sarathi, Agrawal et al. 2023, arXiv:2308.16369). A row has its own composition, keys and values,
sampler and budget, and nothing of it is on the model between two passes. Knows nothing of turns or bricks.
"""

import hashlib
import json
import logging
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from assistant.host.activation import Place, stretches
from assistant.host.answer_text import answer_of
from assistant.host.composition import Composition, MergedInjections
from assistant.host.decoder import Decoder, Read, TransformersDecoder
from assistant.host.grammar import Grammar
from assistant.host.host import Host
from assistant.host.job import EngineInfo, Finish, Job, Piece, Score, Usage
from assistant.host.kept import IdleKeyValues, ReadPlace, ReadSoFar, common_prefix
from assistant.host.llama_decoder import LlamaDecoder, is_like_llama
from assistant.host.matrices import Choice, Weights, choose
from assistant.host.prompt import Apart, Prompt
from assistant.host.read_passages import ReadPassages
from assistant.host.sampling import log_probabilities, sampler
from assistant.host.stream import AnswerStream
from mattoni.errors import MattoniError, shutting_down, went_wrong_inside
from mattoni.injections import Other
from mattoni.trace import Notice

LOG = logging.getLogger(__name__)
# Of prompts, positions in one pass while nobody waits for a token: a stop is heard after each.
_CHUNK = 1024
# And while others are being answered: about as long as one of their tokens takes.
_CHUNK_BESIDE = {"cpu": 32}
_CHUNK_BESIDE_ELSEWHERE = 512
_ROWS = 16
# Keys and values of idle conversations: about 11,000 positions of the builtin host in bf16.
_IDLE_BYTES = 256_000_000
_MERGED_BYTES = 256_000_000


class LocalStream(AnswerStream):
    """An answer that the engine's thread writes."""

    def __init__(self, conversation: str, grammar: Grammar | None = None) -> None:
        super().__init__("local")
        self.grammar = grammar  # the form of its answer
        self.conversation = conversation  # under which keys and values are kept at the end; "" when it was forgotten


@dataclass(frozen=True)
class _Script:
    """What a row reads: its places, and the compositions by where each begins to act, the first at 0."""

    places: list[ReadPlace]
    compositions: list[tuple[int, Composition]]
    apart: "Mapping[int, _Passage]" = field(default_factory=dict)  # by the place of their first tokens

    @property
    def last(self) -> Composition:
        """What acts on the answer."""
        return self.compositions[-1][1]

    def at(self, position: int, most: int) -> tuple[Composition, int]:
        """What acts at a position, and how many of the next `most` it acts on too."""
        index = bisect_right(self.compositions, position, key=lambda of: of[0]) - 1
        ends = [begin for begin, _ in self.compositions[index + 1 : index + 2]]
        ends += [begin for begin in self.apart if begin > position]
        return self.compositions[index][1], min([most, *(end - position for end in ends)])


@dataclass(frozen=True)
class _Passage:
    """A passage that is read behind its beginning alone, as if that were all of the prompt.

    key  what stands for its keys and values: all that they depend on
    """

    ids: tuple[int, ...]
    beginning: int
    script: _Script
    key: str

    def __len__(self) -> int:
        return len(self.script.places) - self.beginning


class _PassageReading:
    """A passage while it is read. It goes on from what of its beginning the row has read already."""

    def __init__(self, passage: _Passage, row: ReadSoFar, decoder: Decoder, device: torch.device) -> None:
        self.passage = passage
        shared = min(common_prefix(row.places, passage.script.places), passage.beginning)
        first = passage.script.compositions[0][1]
        self.read = row.beginning(shared) if shared else _nothing_read(decoder, first)
        self._unread = torch.tensor([passage.ids[shared:]], device=device)

    @property
    def is_read(self) -> bool:
        return not self._unread.shape[1]

    def next_read(self, most: int) -> Read:
        """What it reads in the next pass, as of a row."""
        composition, most = self.passage.script.at(len(self.read.places), most)
        return Read(self.read.key_values, composition, self._unread[:, :most])

    def was_read(self, count: int) -> None:
        """Note what a pass has read."""
        done = len(self.read.places)
        self.read.places.extend(self.passage.script.places[done : done + count])
        self._unread = self._unread[:, count:]


class _Row:
    """An answer while it is decoded."""

    def __init__(
        self,
        host: Host,
        job: Job,
        stream: LocalStream,
        script: _Script,
        read: ReadSoFar,
        decoder: Decoder,
        passages: ReadPassages,
    ) -> None:
        self.stream, self.script, self.read = stream, script, read
        self._decoder, self._passages, self._device = decoder, passages, host.device
        self._reading: _PassageReading | None = None
        self._likeliest = job.sampling.logprobs
        self._first_token_ms = 0.0
        self._places = script.places
        # The last position is always computed: its logits begin the answer.
        self.reused = min(len(read.places), len(self._places) - 1)
        read.cut(self.reused)
        (self._unread,) = _to_read(job).inputs(host, self.reused).values()
        self._prompt = len(self._places) - len(job.said)
        room = min(job.sampling.max_tokens, host.context - script.last.prefix_length - self._prompt)
        self._left = room - len(job.said)
        self._choose = sampler(job.sampling, job.seed, host.device, host.stop_ids)
        self._forced = job.forced
        self._stop_ids = host.stop_ids
        self._answer = answer_of(host.tokenizer, job.sampling)
        is_whole = False
        for token in job.said:
            self._answer.push(token)
            is_whole = stream.grammar is not None and stream.grammar.take(token)
        # What was begun elsewhere may have come to its end there.
        self.ended: Finish | None = self._ended(is_whole)

    def _ended(self, is_whole: bool) -> Finish | None:
        """How the answer has ended, if it has. `is_whole`: its form has room for nothing more."""
        return self._answer.ended or ("end" if is_whole else "length" if self._left <= 0 else None)

    @property
    def unread(self) -> int:
        """Positions that are to be read before its next token is said; 0: it waits for that."""
        return int(self._unread.shape[1])

    def next_read(self, most: int) -> Read:
        """What it reads in the next pass: the answer's last token, or at most so many positions of its prompt.

        A pass ends where another composition begins to act, so that each position is read with its own, and before a
        passage that is read apart.
        """
        while self._reading is None and (passage := self.script.apart.get(len(self.read.places))) is not None:
            kept = self._passages.get(passage.key)
            if kept is None:
                self._reading = _PassageReading(passage, self.read, self._decoder, self._device)
            else:
                self._put(passage, kept)
                self.reused += len(passage)
        if self._reading is not None:
            return self._reading.next_read(most)
        composition, most = self.script.at(len(self.read.places), most)
        if self.unread:
            values = self._unread[:, :most]
        else:
            values = torch.tensor([self._answer.said[-1:]], device=self._unread.device)
        return Read(self.read.key_values, composition, values)

    def was_read(self, count: int, logits: Tensor) -> None:
        """Note what a pass has read and, where the prompt is at its end, say the next token."""
        if self._reading is not None:
            self._reading.was_read(count)
            if self._reading.is_read:
                passage, read = self._reading.passage, self._reading.read
                self._reading = None
                taken = self._decoder.taken(read.key_values, read.front + passage.beginning)
                self._passages.keep(passage.key, taken)
                self._put(passage, taken)
            return
        if self.unread:
            done = len(self.read.places)
            self.read.places.extend(self._places[done : done + count])
            self._unread = self._unread[:, count:]
            if self.unread:
                return
        else:
            self.read.places.append((self.script.last.key, self._answer.said[-1]))
        self._say(logits)

    def _put(self, passage: _Passage, taken: Tensor) -> None:
        """Append what was read of a passage, as if it had been read here."""
        begin, count = len(self.read.places), len(passage)
        self._decoder.put(self.read.key_values, taken, by=begin - passage.beginning)
        self.read.places.extend(self._places[begin : begin + count])
        self._unread = self._unread[:, count:]

    def _say(self, logits: Tensor) -> None:
        if bool(logits.isnan().any()):
            raise MattoniError(
                "The host's numbers overflowed with these bricks: switch one off or make its strength smaller."
            )
        if self._forced:
            self._follow(logits)
            return
        grammar = self.stream.grammar
        token = self._choose(logits if grammar is None else grammar.allowed(logits), self._answer.said)
        if not self._first_token_ms:
            self._first_token_ms = self.stream.so_far_ms
        if token in self._stop_ids:
            self.ended = "end"
            return
        self._left -= 1
        scores: tuple[Score, ...] = ()
        if self._likeliest is not None:
            scores = (Score(token, *log_probabilities(logits, token, self._likeliest)),)
        self.stream.put(Piece(self._answer.push(token), (token,), scores))
        is_whole = grammar is not None and grammar.take(token)
        self.ended = self._ended(is_whole)

    def _follow(self, logits: Tensor) -> None:
        """Note how likely the next forced token is, and go on as if it had been drawn."""
        token = self._forced[len(self._answer.said)]
        self.stream.log_probabilities.append(float(logits.float().log_softmax(dim=-1)[token]))
        self._left -= 1
        self.stream.put(Piece(self._answer.push(token), (token,)))
        self.ended = "length" if self._left <= 0 or len(self._answer.said) == len(self._forced) else None

    def finish(self, problem: MattoniError | None = None) -> None:
        """Tell whoever reads the answer how it ended."""
        reused = min(self.reused, self._prompt)
        usage = Usage(prompt=self._prompt, reused=reused, first_token_ms=self._first_token_ms)
        self.stream.finish(self._answer, self.ended, usage, problem)


def decoder_for(host: Host, weights: Weights) -> tuple[Decoder, Choice]:
    """What runs a host on this machine, and how it keeps the host's matrices."""
    fast = is_like_llama(host)
    choice = choose(host, weights, "" if fast else "transformers runs this kind of host")
    return LlamaDecoder(host, choice.weights) if fast else TransformersDecoder(host), choice


class LocalEngine:
    """Decodes jobs on this machine's host; see the module's docstring.

    rows        answers that are decoded together; more wait, first come first served
    weights     how the host's matrices are read: see `assistant/host/matrices.py`
    idle_bytes  budget for keys and values of conversations between their turns
    passages    where those of passages that were read apart are kept; None: in memory
    """

    def __init__(
        self,
        host: Host,
        rows: int = _ROWS,
        weights: Weights = "auto",
        idle_bytes: int = _IDLE_BYTES,
        passages: ReadPassages | None = None,
    ) -> None:
        self._host = host
        self._decoder, choice = decoder_for(host, weights)
        self._merged = MergedInjections(host, self._decoder.dtype, _MERGED_BYTES)
        self._idle = IdleKeyValues(idle_bytes)
        self._passages = passages or ReadPassages()
        self._kind = f"{choice.weights}:{self._decoder.dtype}"  # what else keys and values depend on
        self._chunk_beside = _CHUNK_BESIDE.get(host.device.type, _CHUNK_BESIDE_ELSEWHERE)
        self.info = EngineInfo(
            name="local",
            host=host.name,
            device=str(host.device),
            context=host.context,
            supports=host.supports,
            rows=rows,
            weights=f"{choice.weights} ({choice.reason})",
        )
        self._incoming: deque[tuple[Job, LocalStream]] = deque()
        self._admitted: list[tuple[Job, LocalStream]] = []  # no longer waiting, and no rows yet
        self._rows: list[_Row] = []
        self._lock = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="mattoni-decoder", daemon=True)
        self._thread.start()

    def generate(self, job: Job) -> LocalStream:
        """Begin an answer and return at once; from any thread. Raises MattoniError after `close`, and for a JSON schema
        that cannot be kept to, which is read here: the engine's thread has others to serve."""
        schema = job.sampling.json_schema
        stream = LocalStream(job.conversation, None if schema is None else Grammar(self._host, schema))
        with self._lock:
            if self._closing:
                raise shutting_down()
            self._incoming.append((job, stream))
            self._lock.notify_all()
        return stream

    def forget(self, conversation: str) -> None:
        """Drop the keys and values of a conversation, also those of an answer that is being decoded, once it ends."""
        with self._lock:
            for stream in self._streams():
                if stream.conversation == conversation:
                    stream.conversation = ""
            self._idle.forget(conversation)

    def clear(self) -> None:
        """Drop the keys and values of all conversations and passages, and the merged injections."""
        with self._lock:
            for stream in self._streams():
                stream.conversation = ""
            self._idle.clear()
            self._merged.clear()
            self._passages.clear()

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop all answers and end the thread."""
        with self._lock:
            self._closing = True
            for stream in self._streams():
                stream.stop()
            self._lock.notify_all()
        self._thread.join(timeout_s)

    def _streams(self) -> list[LocalStream]:
        """Those of all answers that have not ended."""
        waiting = [stream for _, stream in [*self._incoming, *self._admitted]]
        return [*waiting, *(row.stream for row in self._rows)]

    # The engine's thread

    def _work(self) -> None:
        with torch.inference_mode():
            while self._admit():
                try:
                    self._step()
                except Exception:
                    # What is here belongs to no row alone; it must not take the engine down with it.
                    LOG.exception("a decoding step failed")
                    for row in list(self._rows):
                        self._end(row, went_wrong_inside())

    def _admit(self) -> bool:
        """Let waiting jobs in; False when there will be no more."""
        with self._lock:
            self._lock.wait_for(lambda: self._incoming or self._rows or self._closing)
            room = self.info.rows - len(self._rows)
            self._admitted = [self._incoming.popleft() for _ in range(min(room, len(self._incoming)))]
        rows = [row for job, stream in self._admitted if (row := self._new_row(job, stream)) is not None]
        with self._lock:
            self._rows.extend(rows)
            self._admitted = []
            return bool(self._rows or self._incoming or not self._closing)

    def _new_row(self, job: Job, stream: LocalStream) -> _Row | None:
        """A row that may join; None when it failed."""
        try:
            script = self._script(job)
            kept = self._idle.take(job.conversation, script.places) if job.conversation else None
            first = script.compositions[0][1]
            read = kept or _nothing_read(self._decoder, first)
            return _Row(self._host, job, stream, script, read, self._decoder, self._passages)
        except Exception as problem:
            stream.end(_sentence(problem))
            return None

    def _script(self, job: Job) -> _Script:
        """What a job's row reads, and with what."""
        # What acts is settled by the prompt alone, whatever of the answer was said already.
        script = self._read_with(job.injections, job.prompt.keys, job.said)
        apart = {begin: self._passage(job.injections, one) for begin, one in job.prompt.apart.items()}
        # What is read elsewhere must be read with what acts here; where it is not, it is no passage but a part of the prompt.
        same = all(one.script.last.key == script.at(begin, 1)[0].key for begin, one in apart.items())
        if apart and not (self._decoder.moves and same):
            return self._read_with(job.injections, job.prompt.whole.keys, job.said)
        return replace(script, apart=apart)

    def _passage(self, injections: Sequence[Other], apart: Apart) -> _Passage:
        script = self._read_with(injections, [*apart.beginning, *apart.places])
        acting = [(begin, composition.key) for begin, composition in script.compositions]
        told = json.dumps([self._kind, acting, apart.beginning, apart.ids])
        key = hashlib.sha256(told.encode()).hexdigest()
        return _Passage((*apart.beginning, *apart.ids), len(apart.beginning), script, key)

    def _read_with(self, injections: Sequence[Other], places: Sequence[Place], said: Sequence[int] = ()) -> _Script:
        """What reads these places, and then what was said behind them."""
        compositions = [(one.begin, self._merged.of(one.injections)) for one in stretches(injections, places)]
        places = [*places, *said]
        ends = [*(begin for begin, _ in compositions[1:]), len(places)]
        read = [
            (c.key, place) for (begin, c), end in zip(compositions, ends, strict=True) for place in places[begin:end]
        ]
        return _Script(read, compositions)

    def _step(self) -> None:
        """A piece of the prompts that are unread, then one token of each answer."""
        for row in list(self._rows):
            if row.stream.is_stopping or row.ended:
                self._end(row)
        reading = [row for row in self._rows if row.unread]
        if reading:
            others = len(reading) < len(self._rows)
            each = max(1, (self._chunk_beside if others else _CHUNK) // len(reading))
            self._pass(reading, each)
        # Also whoever has just read its prompt: it waits no longer for its second token than the others.
        self._pass([row for row in self._rows if not row.unread and not row.ended], 1)

    def _pass(self, rows: Sequence[_Row], most: int) -> None:
        """One pass over these rows; where it fails, over halves of them, until the row is alone that is at fault."""
        reading = [(row, read) for row in rows if (read := self._next_read(row, most)) is not None]
        if not reading:
            return
        rows, reads = zip(*reading, strict=True)
        try:
            logits = self._decoder.forward(reads)
        except Exception as problem:
            self._split(rows, most, problem)
            return
        for row, read, own in zip(rows, reads, logits, strict=True):
            try:
                row.was_read(read.values.shape[1], own)
            except Exception as problem:
                self._end(row, _sentence(problem))
            else:
                if row.ended:
                    self._end(row)

    def _next_read(self, row: _Row, most: int) -> Read | None:
        """What a row reads next; None where that went wrong, and it has ended."""
        try:
            return row.next_read(most)
        except Exception as problem:
            # What was kept of a passage may not fit into memory once more.
            self._end(row, _sentence(problem))
            return None

    def _split(self, rows: Sequence[_Row], most: int, problem: Exception) -> None:
        short = _is_out_of_memory(problem)
        if short:
            self._idle.clear()
            self._merged.clear()
            self._passages.free()
        if len(rows) == 1:
            self._end(rows[0], _sentence(problem))
            return
        LOG.warning("a pass over %d rows failed (%s): trying halves of it", len(rows), problem)
        if short:
            for row in rows:
                row.stream.notices.append(
                    Notice("memory", "Memory ran short, so that fewer answers were written at a time.")
                )
        middle = len(rows) // 2
        self._pass(rows[:middle], most)
        self._pass(rows[middle:], most)

    def _end(self, row: _Row, problem: MattoniError | None = None) -> None:
        with self._lock:
            self._rows.remove(row)
            if row.stream.conversation and problem is None:
                self._idle.keep(row.stream.conversation, row.script.last.key, row.read)
        row.finish(problem)


def _nothing_read(decoder: Decoder, composition: Composition) -> ReadSoFar:
    """What a row begins with: the composition's prefix alone."""
    return ReadSoFar([], decoder.new_key_values(composition), composition.prefix_length)


def _to_read(job: Job) -> Prompt:
    """What stands before the next token: the prompt, and what was said already."""
    return Prompt((*job.prompt.pieces, job.said)) if job.said else job.prompt


def _is_out_of_memory(problem: Exception) -> bool:
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(problem)


def _sentence(problem: Exception) -> MattoniError:
    """What the person concerned is told."""
    if isinstance(problem, MattoniError):
        return problem
    if _is_out_of_memory(problem):
        return MattoniError(
            "There is not enough memory for this answer: shorten the conversation or close other programs."
        )
    LOG.error("an answer failed", exc_info=problem)
    return went_wrong_inside()

"""The engine of several processes: each a replica with the host and a local engine, behind Ray Serve.

What was prepared here is decoded there. A job goes to the replica that holds its conversation's keys and values (consistent
hashing, Karger et al. 1997, which is Ray Serve's), or to another where that one is full. Its injections go by digest: they are
put once into memory that all replicas reach, and a replica that lacks one fetches it from there; so what is on disk is read
here alone, and a brick that changes is another digest from the next turn on, in all replicas at once. Where a replica is lost
in the middle of an answer, another goes on behind the tokens that were told. Knows nothing of turns or bricks.
"""

import asyncio
import logging
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from assistant.host.answer_text import answer_of
from assistant.host.host import Host, Quantise, load_host
from assistant.host.job import EngineInfo, Finish, Job, Piece, Score, Stream, Usage
from assistant.host.local import LocalEngine
from assistant.host.matrices import Weights
from assistant.host.prompt import Prompt
from assistant.host.read_passages import ReadPassages
from assistant.host.sampling import Sampling
from assistant.host.space import free_memory, gigabytes
from assistant.host.stream import AnswerStream
from mattoni.errors import MattoniError, shutting_down, went_wrong_inside
from mattoni.injections import Other
from mattoni.trace import Notice

LOG = logging.getLogger(__name__)
# Answers that a replica writes at once, of the 16 rows that it could: more slow one another (`assistant/turn/queue.py`).
_ANSWERS = 8
_ROWS = 16
# Injections that replicas can fetch, and of them what a replica keeps at hand.
_SHELF_BYTES = 256_000_000
_AT_HAND = 32
_SHARED_BYTES = 2 * _SHELF_BYTES
# Measured (docs/experiments.md): a replica without its host's weights, and Ray's own processes together.
_REPLICA_BYTES, _RAY_BYTES = 850_000_000, 850_000_000
# Of one answer; a job that ends every replica that takes it must not end them all.
_MOST_LOSSES = 5
_STOP_WAIT_S = 30.0
_STARTS = 6
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # By this name Ray's processes, all on one machine, listen on 127.0.0.1; else everywhere.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # On a busy machine 30 s are not enough.
    "RAY_agent_register_timeout_ms": "300000",
}


# What travels back


@dataclass(frozen=True)
class _Said:
    """Tokens that came next."""

    ids: tuple[int, ...]
    scores: tuple[Score, ...]
    log_probabilities: tuple[float, ...]  # of forced tokens


@dataclass(frozen=True)
class _Ended:
    """How an answer ended; `problem` where it failed."""

    finished: Finish = "stopped"
    reused: int = 0
    notices: tuple[Notice, ...] = ()
    problem: str = ""


# In a replica


class Replica:
    """A process that decodes: what Ray Serve starts and, when it is gone, starts again."""

    def __init__(
        self,
        source: str,
        device: str,
        dtype: str,
        quantise: Quantise | None,
        weights: Weights,
        threads: int,
        fingerprint: str,
    ) -> None:
        """Raises MattoniError where the host is not what it was when Mattoni was started."""
        torch.set_num_threads(threads)
        host = load_host(source, device, dtype, quantise)
        if host.fingerprint != fingerprint:
            raise MattoniError(f"{source} is another host than when Mattoni was started: start it again.")
        self._engine = LocalEngine(host, _ROWS, weights, passages=ReadPassages.of_this_machine())
        self._at_hand: OrderedDict[str, Other] = OrderedDict()
        self._readers = ThreadPoolExecutor(2 * _ROWS, "mattoni-reader")

    async def generate(self, data: bytes, others: Sequence[tuple[str, Sequence[Any]]]) -> AsyncIterator[_Said | _Ended]:
        """Decode a job.

        data    the job without its injections
        others  those: the key of each, and where it lies
        """
        try:
            job = await asyncio.to_thread(Job.from_bytes, data)
            injections = [await self._fetched(key, place) for key, (place,) in others]
            stream = await asyncio.to_thread(self._engine.generate, replace(job, injections=tuple(injections)))
        except MattoniError as problem:
            yield _Ended(problem=str(problem))
            return
        told: asyncio.Queue[_Said | _Ended] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(item: _Said | _Ended) -> None:
            loop.call_soon_threadsafe(told.put_nowait, item)

        self._readers.submit(_read, stream, tell)
        try:
            while True:
                item = await told.get()
                yield item
                if isinstance(item, _Ended):
                    return
        finally:
            stream.stop()

    def forget(self, conversation: str) -> None:
        """Drop the keys and values of a conversation."""
        self._engine.forget(conversation)

    def clear(self) -> None:
        """Drop those of all conversations, and the injections."""
        self._engine.clear()
        self._at_hand.clear()

    async def _fetched(self, key: str, place: Any) -> Other:
        found = self._at_hand.get(key)
        if found is None:
            (found,) = (await asyncio.to_thread(Job.from_bytes, await place)).injections
        self._at_hand[key] = found
        self._at_hand.move_to_end(key)
        while len(self._at_hand) > _AT_HAND:
            self._at_hand.popitem(last=False)
        return found


def _read(stream: Stream, tell: Callable[[_Said | _Ended], object]) -> None:
    """Hand on what comes, on a thread: the local engine's streams block."""
    known, problem = 0, ""
    try:
        for piece in stream:
            new = tuple(stream.log_probabilities[known:])
            known += len(new)
            if piece.ids:
                tell(_Said(piece.ids, piece.scores, new))
    except MattoniError as wrong:
        problem = str(wrong)
    tell(_Ended(stream.finished, stream.usage.reused, tuple(stream.notices), problem))


# Here


class _Shelf:
    """Injections by their digests, in memory that all replicas reach."""

    def __init__(self, put: Callable[[bytes], Any], budget_bytes: int) -> None:
        self._put, self._budget = put, budget_bytes
        self._places: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def places(self, injections: Iterable[Other]) -> list[tuple[str, list[Any]]]:
        """The key of each, and where it lies: within a list, as Ray would fetch it for a replica that has it already."""
        with self._lock:
            return [(key, [self._place(key, injection)]) for injection in injections for key in [_key(injection)]]

    def clear(self) -> None:
        """Let go of all of them; a replica that was sent for one still gets it."""
        with self._lock:
            self._places.clear()

    def _place(self, key: str, injection: Other) -> Any:
        if key not in self._places:
            data = Job(Prompt(()), (injection,), Sampling(), seed=0).to_bytes()
            self._places[key] = (self._put(data), len(data))
        self._places.move_to_end(key)
        place, _ = self._places[key]
        while len(self._places) > 1 and sum(size for _, size in self._places.values()) > self._budget:
            self._places.popitem(last=False)
        return place


def _key(injection: Other) -> str:
    """Equal keys have equal contents, as in a composition (`assistant/host/composition.py`)."""
    return f"{type(injection).__name__}:{injection.digest}:{getattr(injection, 'weight', 1.0)!r}"


class _Answering(AnswerStream):
    """An answer that a replica writes and, where that is lost, another."""

    def __init__(self, host: Host, job: Job, ask: Callable[[Job], Any], is_lost: Callable[[Exception], bool]) -> None:
        """`ask` begins a job and returns what Ray gives for it."""
        super().__init__("replicas")
        self._job, self._ask, self._is_lost = job, ask, is_lost
        self._answer = answer_of(host.tokenizer, job.sampling)
        self._ended: _Ended | None = None
        self._first_token_ms = 0.0
        self._lock = threading.Lock()
        self._is_over = False
        self._response = ask(job)

    def stop(self) -> None:
        super().stop()
        with self._lock:
            if not self._is_over:
                self._response.cancel()

    def forget(self, conversation: str | None = None) -> None:
        """Where it is begun again, have its keys and values kept by nobody: those of a conversation, or any."""
        with self._lock:
            if conversation in (None, self._job.conversation):
                self._job = replace(self._job, conversation="")

    def _each(self) -> Iterator[Piece]:
        problem: MattoniError | None = None
        try:
            yield from self._told()
        except MattoniError as wrong:
            problem = wrong
        with self._lock:
            self._is_over = True
        ended = self._ended or _Ended()
        self.notices.extend(ended.notices)
        usage = Usage(prompt=len(self._job.prompt), reused=ended.reused, first_token_ms=self._first_token_ms)
        self.finish(self._answer, None if ended.finished == "stopped" else ended.finished, usage, problem)
        yield from super()._each()

    def _told(self) -> Iterator[Piece]:
        """What is said, whoever says it, up to how it ended. Raises MattoniError."""
        fruitless = 0  # replicas on end that were lost before they said anything
        while True:
            known = len(self._answer.said)
            try:
                yield from self._told_by_one()
            except Exception as problem:
                if self.is_stopping:
                    return
                if not self._is_lost(problem):
                    raise _as_error(problem) from problem
                LOG.warning("a replica was lost in the middle of an answer: %s", type(problem).__name__)
            if self._ended is not None or self.is_stopping:
                return
            fruitless = fruitless + 1 if len(self._answer.said) == known else 0
            if fruitless == _MOST_LOSSES:
                raise MattoniError(
                    f"{fruitless} replicas on end were lost before they said anything for this answer: ask for less at once."
                )
            if _GOES_ON not in self.notices:
                self.notices.append(_GOES_ON)
            with self._lock:
                self._response = self._ask(replace(self._job, said=tuple(self._answer.said)))
            if self.is_stopping:
                self.stop()  # between the two, it stopped the one that was lost

    def _told_by_one(self) -> Iterator[Piece]:
        for item in self._response:
            if isinstance(item, _Ended):
                if item.problem:
                    raise MattoniError(item.problem)
                # A replica that leaves stops what it writes; nobody asked for that.
                if item.finished != "stopped" or self.is_stopping:
                    self._ended = item
                return
            self._first_token_ms = self._first_token_ms or self.so_far_ms
            self.log_probabilities.extend(item.log_probabilities)
            for place, token in enumerate(item.ids):
                yield Piece(self._answer.push(token), (token,), item.scores[place : place + 1])


_GOES_ON = Notice("replica", "The process that wrote this answer was lost, and another went on where it was.")


class ReplicatedEngine:
    """Decodes jobs in processes of their own; see the module's docstring.

    least, most  how few of them there are, and how many while answers wait
    weights      how the host's matrices are read: see `assistant/host/matrices.py`

    Raises MattoniError where there is not the memory for them, or they do not start.
    """

    def __init__(self, host: Host, least: int, most: int, weights: Weights = "auto") -> None:
        check_room(host, most)
        os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
        import ray
        from ray import serve
        from ray.exceptions import RayActorError, TaskCancelledError, WorkerCrashedError
        from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

        self._host, self._ray, self._serve = host, ray, serve
        # Whoever cancelled it, it was nobody who reads it: those ask their stream to stop.
        self._lost = (RayActorError, WorkerCrashedError, ReplicaUnavailableError, TaskCancelledError)
        self._none = DeploymentUnavailableError
        self._name = f"mattoni-{uuid.uuid4().hex[:12]}"
        self._shelf = _Shelf(ray.put, _SHELF_BYTES)
        self._answering: set[_Answering] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._starts_ray = not ray.is_initialized()
        try:
            self._handle = self._start(least, most, weights)
        except Exception as problem:
            self.close()
            LOG.error("the replicas do not start", exc_info=problem)
            raise MattoniError(
                f"The replicas do not start ({str(problem).splitlines()[0][:200]}): look into Ray's logs (/tmp/ray/session_latest/logs), "
                "or leave out --replicas."
            ) from problem
        count = str(least) if least == most else f"{least} to {most}"
        self.info = EngineInfo(
            name="replicas",
            host=host.name,
            device=f"{count} processes, {host.device.type}",
            context=host.context,
            supports=host.supports,
            rows=_ROWS * most,
            weights="as each process finds best" if weights == "auto" else weights,
        )

    def _start(self, least: int, most: int, weights: Weights) -> Any:
        """Ray, where it does not run in this process yet, and the replicas."""
        if self._starts_ray:
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            _start_ray(self._ray)
            if (here := self._ray.util.get_node_ip_address()) != "127.0.0.1":
                LOG.warning("Ray was imported before, and listens on %s: who reaches this machine reaches it.", here)
        # No proxies: what is asked over HTTP is asked here.
        self._serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        is_cuda = self._host.device.type == "cuda"
        scaling = {
            "min_replicas": least,
            "max_replicas": most,
            "initial_replicas": least,
            "target_ongoing_requests": _ANSWERS // 2,
            "upscale_delay_s": 5.0,
            "downscale_delay_s": 120.0,
            "metrics_interval_s": 1.0,
            "look_back_period_s": 5.0,
        }
        deployment = self._serve.deployment(
            Replica,
            name="replica",
            **({"num_replicas": least} if least == most else {"autoscaling_config": scaling}),
            max_ongoing_requests=_ANSWERS,
            ray_actor_options={"num_cpus": 0, "num_gpus": 1 if is_cuda else 0},
            request_router_config={"request_router_class": _ROUTER},
            # A replica that is lost is noticed at once by whoever it wrote for; this is when another is begun.
            health_check_period_s=1.0,
            health_check_timeout_s=60.0,
            graceful_shutdown_timeout_s=600.0,
        )
        told = (
            self._host.source,
            self._host.device.type,
            str(self._host.dtype).removeprefix("torch."),
            self._host.quantise,
            weights,
            max(1, torch.get_num_threads() // most),
            self._host.fingerprint,
        )
        return self._serve.run(deployment.bind(*told), name=self._name, route_prefix=None)

    def generate(self, job: Job) -> Stream:
        """Begin an answer and return at once; from any thread. Raises MattoniError after `close`."""
        with self._lock:
            if self._closing:
                raise shutting_down()
            self._answering = {stream for stream in self._answering if not stream.is_stopping}
            stream = _Answering(self._host, job, self._ask, lambda problem: isinstance(problem, self._lost))
            self._answering.add(stream)
        return stream

    def forget(self, conversation: str) -> None:
        """Drop the keys and values of a conversation, in all replicas."""
        with self._lock:
            for stream in self._answering:
                stream.forget(conversation)
        self._tell_all("forget", conversation)

    def clear(self) -> None:
        """Drop those of all conversations, and the injections."""
        with self._lock:
            for stream in self._answering:
                stream.forget()
        self._shelf.clear()
        self._tell_all("clear")

    def close(self) -> None:
        """Stop all answers, and end the replicas, and Ray where it was started for them."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            streams = list(self._answering)
        for stream in streams:
            stream.stop()
        if self._ray.is_initialized():
            self._serve.delete(self._name)
            if self._starts_ray:
                self._serve.shutdown()
                self._ray.shutdown()

    def _ask(self, job: Job) -> Any:
        """Begin a job at the replica where its conversation is."""
        handle = self._handle.options(stream=True, session_id=job.conversation)
        return handle.generate.remote(replace(job, injections=()).to_bytes(), self._shelf.places(job.injections))

    def _tell_all(self, method: str, *told: str) -> None:
        try:
            self._handle.broadcast(method, *told).results(timeout_s=_STOP_WAIT_S)
        except (*self._lost, self._none, TimeoutError) as problem:
            # A replica that is gone has forgotten everything, and what it wrote is kept by nobody.
            LOG.warning("%s: %s", method, problem)


def _start_ray(ray: Any) -> None:
    """Ray's own processes, on this machine alone."""
    ours = set(psutil.Process().children(recursive=True))
    for left in reversed(range(_STARTS)):
        try:
            ray.init(
                address="local",
                num_cpus=1,
                include_dashboard=False,
                object_store_memory=_SHARED_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            return
        except Exception as problem:  # it gives them 30 s, too few on a busy machine, and says so with nothing narrower
            ray.shutdown()
            # What it has begun it leaves running.
            for process in set(psutil.Process().children(recursive=True)) - ours:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if not left:
                raise
            LOG.warning("Ray does not start (%s): once more", problem)


def check_room(host: Host, count: int) -> None:
    """Raise MattoniError when the memory does not suffice for so many replicas of a host, saying how many would fit."""
    if host.device.type != "cpu":
        return
    each, free = sum(p.nbytes for p in host.model.parameters()) + _REPLICA_BYTES, free_memory()
    needed = _RAY_BYTES + count * each
    if needed > free:
        fitting = max(0, (free - _RAY_BYTES) // each)
        way_out = f"--replicas {fitting} would fit" if fitting else "leave out --replicas"
        raise MattoniError(
            f"{count} replicas of {host.name} need about {gigabytes(needed)} of memory and {gigabytes(free)} are free: "
            f"end other programs; {way_out}."
        )


def _as_error(problem: Exception) -> MattoniError:
    """What the person concerned is told."""
    if isinstance(problem, MattoniError):
        return problem
    LOG.error("an answer failed", exc_info=problem)
    return went_wrong_inside()

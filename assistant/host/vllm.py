"""The engine that has a vLLM server decode: router, bricks and trace stay here, and only tokens come from there.

Text goes as token ids, soft tokens as prompt embeddings, the skills of a turn as one LoRA that is made of their contents. What
vLLM cannot do is named, and done by the local engine where there is one. One thread runs an event loop with a task for each
answer; ending a task drops its connection, upon which vLLM ends the request. Knows nothing of turns or bricks.
"""

import asyncio
import json
import logging
import secrets
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import torch

from assistant.host.answer_text import answer_of
from assistant.host.host import Host
from assistant.host.job import Engine, EngineInfo, Finish, Job, Piece, Stream, Usage
from assistant.host.prompt import Prompt, Turn, build_prompt
from assistant.host.sampling import Sampling
from assistant.host.stream import AnswerStream
from assistant.host.vllm_adapters import MOST, Adapters
from assistant.host.vllm_wire import Refused, Said, UnknownModel, completion, has_soft_tokens, problem_of, refusal, said
from mattoni.card import Injection
from mattoni.errors import MattoniError, shutting_down, went_wrong_inside
from mattoni.injections import LowRank, Text
from mattoni.paths import cache_folder
from mattoni.trace import Notice

LOG = logging.getLogger(__name__)
# A server that computes says nothing: a long prompt on a few cores, or requests that wait for others, take minutes.
_TIMEOUT = httpx2.Timeout(10.0, read=900.0)
_LEAVE_S = 5.0
_MOST_SALTS = 10_000  # of conversations; of the one asked longest ago nothing is found again
_ROWS = 64  # of those that are asked at once; vLLM has a queue for what its machine does not take together
# Two ways of computing in bf16 differ by hundredths of a nat; another model's opinion of a token by whole ones.
_SAME_HOST = 0.5
_ENDS: dict[str, Finish] = {"stop": "end", "length": "length"}
_CHECK = "The capital of France is"


def adapters_folder() -> Path:
    """Where skills are written for a server on this machine, or on one that sees this folder under the same path."""
    return cache_folder() / "vllm-adapters"


class _Answering(AnswerStream):
    """An answer that a task writes or, where vLLM cannot, the local engine."""

    def __init__(self, loop: asyncio.AbstractEventLoop, host: Host, job: Job) -> None:
        super().__init__("vllm")
        self.job = job
        self.answer = answer_of(host.tokenizer, job.sampling)
        self.ended: Finish | None = None
        self.reused = 0
        self.first_token_ms = 0.0
        self.task: asyncio.Task[None] | None = None
        self._loop = loop
        self._inner: Stream | None = None
        self._lock = threading.Lock()
        self._is_over = False

    def stop(self) -> None:
        super().stop()
        with self._lock:
            if self._inner is not None:
                self._inner.stop()
            elif not self._is_over:
                self._loop.call_soon_threadsafe(self.cancel)

    def end(self, problem: MattoniError | None = None) -> None:
        with self._lock:
            self._is_over = True
        super().end(problem)

    def cancel(self) -> None:
        """End the task, and with it its connection (the engine's thread only)."""
        if self.task is not None:
            self.task.cancel()

    def go_on_with(self, inner: Stream, why: str) -> None:
        """Leave the answer to another engine (the engine's thread only)."""
        self.engine = inner.engine
        self.notices.append(Notice("engine", f"{why}, so the local engine wrote this answer."))
        with self._lock:
            self._inner = inner
        if self.is_stopping:
            inner.stop()

    def _each(self) -> Iterator[Piece]:
        yield from super()._each()
        if (inner := self._inner) is not None:
            yield from inner
            self.finished, self.usage, self.text, self.ids = inner.finished, inner.usage, inner.text, inner.ids
            self.log_probabilities = inner.log_probabilities
            self.notices.extend(inner.notices)


class _Apart:
    """Lets answers of one company be written together, a prompt of embeddings alone; whoever waits longest is next, with all
    of that company. Used on one event loop.

    What vLLM 0.32 cannot have in one pass: with LoRAs it ends, and with it everybody's answer, when token ids and embeddings
    meet, as its word embeddings are then given fewer positions than its LoRAs count; and on CPUs it adds the LoRA in its last
    place to answers that have none, where others have one (index -1, vLLM #48421).
    """

    def __init__(self) -> None:
        self._running, self._company = 0, ""
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []

    @asynccontextmanager
    async def let_in(self, company: str) -> AsyncIterator[None]:
        """Wait until it may run, and keep out what must not run beside it. "": nothing may."""
        if not self._running or (company and company == self._company and not self._waiting):
            self._running, self._company = self._running + 1, company
        else:
            await self._turn(company)
        try:
            yield
        finally:
            self._leave()

    async def _turn(self, company: str) -> None:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((company, told))
        try:
            await told
        except asyncio.CancelledError:
            if not told.cancelled():
                self._leave()  # it was let in and stopped in the same moment
            raise

    def _leave(self) -> None:
        self._running -= 1
        self._waiting = [one for one in self._waiting if not one[1].cancelled()]
        if self._running or not self._waiting:
            return
        self._company = self._waiting[0][0]
        let_in = [one for one in self._waiting if one[0] == self._company] if self._company else self._waiting[:1]
        self._waiting = [one for one in self._waiting if one not in let_in]
        self._running = len(let_in)
        for _, told in let_in:
            told.set_result(None)


class VllmEngine:
    """Decodes jobs on a running `vllm serve`.

    host    the model that it serves, here: its tokenizer, and the word embeddings among which soft tokens stand
    url     where it is, without /v1
    local   makes the engine that does what vLLM cannot; None: that is refused
    key     its --api-key, where it has one
    folder  where skills are written for it
    most    adapters that it is to hold at once

    Raises MattoniError where no vLLM answers there, or it serves another model than the host.
    """

    def __init__(
        self,
        host: Host,
        url: str,
        local: Callable[[], Engine] | None = None,
        key: str = "",
        folder: Path | None = None,
        most: int = MOST,
    ) -> None:
        self._host, self._url = host, url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.AsyncClient(
            base_url=_checked(self._url),
            headers=headers,
            timeout=_TIMEOUT,
            # As many as the assistant asks at once, whatever that is: vLLM has a queue of its own.
            limits=httpx2.Limits(max_connections=None),
        )
        self._make_local = local
        self._local: Engine | None = None
        self._making_local, self._lock = threading.Lock(), threading.Lock()
        self._salts: dict[str, str] = {}
        self._adapters = Adapters(self._client, self._url, host, folder or adapters_folder(), most)
        self._apart = _Apart()
        self._answering: set[_Answering] = set()
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mattoni-vllm", daemon=True)
        self._thread.start()
        try:
            self._model, context = asyncio.run_coroutine_threadsafe(self._look(), self._loop).result()
        except BaseException:
            self.close()
            raise
        supports: frozenset[Injection] = frozenset({"sequence", "low-rank"})
        self.info = EngineInfo(
            name="vllm",
            host=host.name,
            device=self._url,
            context=min(context, host.context),
            supports=host.supports if local is not None else host.supports & supports,
            rows=_ROWS,
            weights="as vLLM was started",
        )

    def generate(self, job: Job) -> Stream:
        """Begin an answer and return at once; from any thread. Raises MattoniError after `close`."""
        stream = _Answering(self._loop, self._host, job)
        with self._lock:
            if self._closing:
                raise shutting_down()
            self._answering.add(stream)
            self._loop.call_soon_threadsafe(self._start, stream)
        return stream

    def forget(self, conversation: str) -> None:
        """No later request finds the keys and values of a conversation; vLLM drops them as it needs room."""
        with self._lock:
            self._salts.pop(conversation, None)
        if self._local is not None:
            self._local.forget(conversation)

    def clear(self) -> None:
        """The same for all conversations."""
        with self._lock:
            self._salts.clear()
        if self._local is not None:
            self._local.clear()

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop all answers, unload the adapters and end the thread."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            streams = list(self._answering)
        for stream in streams:
            stream.stop()
        try:
            asyncio.run_coroutine_threadsafe(self._leave(streams), self._loop).result(timeout_s)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout_s)
            if not self._thread.is_alive():
                self._loop.close()
            if self._local is not None:
                self._local.close()

    # The engine's thread

    async def _look(self) -> tuple[str, int]:
        """The name of the served model and its context; what it holds of our adapters is taken over."""
        async with self._sentences("it cannot be asked"):
            answer = await self._client.get("/v1/models")
        if not answer.is_success:
            raise _as_error(problem_of(answer.status_code, answer.content, self._url))
        try:
            models = answer.json()["data"]
            base = next(model for model in models if not model["parent"])
            name, context = str(base["id"]), int(base["max_model_len"])
            self._adapters.adopt((str(m["id"]), str(m["root"])) for m in models if m["parent"])
        except (ValueError, KeyError, TypeError, StopIteration) as problem:
            raise MattoniError(f"{self._url} answers, but not as vLLM does: check --url.") from problem
        await self._check_host(name)
        return name, context

    async def _check_host(self, model: str) -> None:
        """Raise MattoniError unless the server thinks of a token what the host does: bricks fit one host alone."""
        prompt = build_prompt(self._host.tokenizer, [Turn("user", (Text(_CHECK),))])
        job = Job(prompt, (), Sampling(max_tokens=1, logprobs=1), seed=0)
        body = completion(self._host, job, model, 1, None)
        async with self._sentences("it cannot be asked"):
            scores = [score async for event in self._events(body, 1) for score in event.scores]
        if len(scores) != 1:
            raise MattoniError(f"{self._url} answers, but not as vLLM does: check --url.")
        (score,) = scores
        own = await asyncio.to_thread(_log_probability, self._host, prompt, score.id)
        if own is None or abs(own - score.logprob) > _SAME_HOST:
            raise MattoniError(
                f"vLLM at {self._url} serves another model than the host {self._host.name}: start it with the host's own folder "
                "(`mattoni models list` has the hosts), or name its model with --host."
            )

    def _start(self, stream: _Answering) -> None:
        stream.task = self._loop.create_task(self._write(stream))
        stream.task.add_done_callback(partial(self._finish, stream))
        if stream.is_stopping:
            stream.cancel()

    async def _write(self, stream: _Answering) -> None:
        why = refusal(stream.job)
        if why is None:
            try:
                await self._decode(stream)
                return
            except Refused as refused:
                why = str(refused)
        await self._fall_back(stream, why)

    async def _decode(self, stream: _Answering) -> None:
        job = stream.job
        room = min(job.sampling.max_tokens, self._host.context - len(job.prompt))
        if room <= 0:
            stream.ended = "length"
            return
        room = min(room, self.info.context - len(job.prompt))
        if room <= 0:
            raise Refused(f"vLLM was started for {self.info.context} positions, and this prompt has {len(job.prompt)}")
        loras = [injection for injection in job.injections if isinstance(injection, LowRank)]
        async with self._sentences("it broke off in the middle of this answer"):
            try:
                await self._ask(stream, loras, room)
                return
            except UnknownModel:
                pass  # somebody else unloaded it, or the server was started again; nothing of the answer was said yet
            try:
                await self._ask(stream, loras, room)
            except UnknownModel as problem:
                raise MattoniError(
                    f"vLLM at {self._url} was started again for another model: start Mattoni again too."
                ) from problem

    async def _ask(self, stream: _Answering, loras: list[LowRank], room: int) -> None:
        if not loras:
            await self._read(stream, self._model, room)
            return
        async with self._adapters.using(loras) as name:
            try:
                await self._read(stream, name, room)
            except UnknownModel:
                self._adapters.forget(name)
                raise

    async def _read(self, stream: _Answering, model: str, room: int) -> None:
        """Take an answer's tokens up to its end; leaving before the server's own ends the request."""
        job, answer = stream.job, stream.answer
        body = await asyncio.to_thread(completion, self._host, job, model, room, self._salt(job.conversation))
        async with (
            self._apart.let_in("" if has_soft_tokens(job.prompt) else "bare" if model == self._model else "skilled"),
            aclosing(self._events(body, job.sampling.logprobs)) as events,
        ):
            async for event in events:
                stream.reused = event.reused or stream.reused
                for place, token in enumerate(event.ids):
                    stream.first_token_ms = stream.first_token_ms or stream.so_far_ms
                    if token in self._host.stop_ids:
                        break
                    stream.put(Piece(answer.push(token), (token,), event.scores[place : place + 1]))
                    if answer.ended is not None:
                        stream.ended = answer.ended
                        return
                if event.finish is not None:
                    stream.ended = _ENDS.get(event.finish)
                    if stream.ended is None:
                        raise problem_of(500, f"it ended an answer: {event.finish}", self._url)

    async def _events(self, body: dict[str, object], likeliest: int | None) -> AsyncGenerator[Said, None]:
        """What a completion's stream brings. Raises Refused, UnknownModel and MattoniError."""
        async with self._client.sse("/v1/completions", method="POST", json=body) as source:
            if not source.response.is_success:
                raise problem_of(source.response.status_code, await source.response.aread(), self._url)
            async for event in source:
                if event.data == "[DONE]":
                    return
                told = event.json()
                if not isinstance(told, dict) or "error" in told:
                    raise problem_of(500, event.data, self._url)
                yield said(told, likeliest)
        raise httpx2.RemoteProtocolError("the stream has no end")

    def _salt(self, conversation: str) -> str | None:
        """Under which its keys and values are found again by nobody else; forgetting it forgets them."""
        if not conversation:
            return None
        with self._lock:
            salt = self._salts.pop(conversation, None) or secrets.token_urlsafe(32)
            self._salts[conversation] = salt
            if len(self._salts) > _MOST_SALTS:
                del self._salts[next(iter(self._salts))]
            return salt

    async def _fall_back(self, stream: _Answering, why: str) -> None:
        """Have the local engine decode, and say so."""
        if self._make_local is None:
            raise MattoniError(f"{why}: leave it out of this turn, or start without --no-fallback.")
        local = await asyncio.to_thread(self._local_engine, self._make_local)
        stream.go_on_with(local.generate(stream.job), why)

    def _local_engine(self, make: Callable[[], Engine]) -> Engine:
        """Made when it is first needed: it may pack the host's matrices anew."""
        with self._making_local:
            if self._local is None:
                self._local = make()
            return self._local

    def _finish(self, stream: _Answering, task: "asyncio.Task[None]") -> None:
        """Tell whoever reads the answer how it ended."""
        with self._lock:
            self._answering.discard(stream)
        problem = None if task.cancelled() else task.exception()
        error = None if problem is None else _as_error(problem)
        usage = Usage(prompt=len(stream.job.prompt), reused=stream.reused, first_token_ms=stream.first_token_ms)
        stream.finish(stream.answer, stream.ended, usage, error)

    async def _leave(self, streams: list[_Answering]) -> None:
        tasks = [stream.task for stream in streams if stream.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await asyncio.wait_for(self._adapters.unload_all(), _LEAVE_S)
        except (httpx2.HTTPError, TimeoutError):
            pass  # the server is gone, and what it held with it
        await self._client.aclose()

    @asynccontextmanager
    async def _sentences(self, broke: str) -> AsyncIterator[None]:
        """Turn what goes wrong with the connection into a sentence."""
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as problem:
            raise MattoniError(
                f"vLLM at {self._url} is not there: start it (docs/serving.md), or leave out --engine vllm."
            ) from problem
        except (httpx2.HTTPError, json.JSONDecodeError) as problem:
            LOG.warning("vLLM at %s: %s", self._url, problem)
            raise MattoniError(f"vLLM at {self._url}: {broke}; ask again once it runs.") from problem


@torch.inference_mode()
def _log_probability(host: Host, prompt: Prompt, token: int) -> float | None:
    """What the host thinks of a token after a prompt; None: it has no such token."""
    logits = host.model(**prompt.inputs(host), logits_to_keep=1).logits[0, -1].float()
    return float(logits.log_softmax(dim=-1)[token]) if token < len(logits) else None


def _checked(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as problem:
        raise MattoniError(f"--url {url}: this is no address; write it as http://127.0.0.1:8000.") from problem
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise MattoniError(f"--url {url}: this is no address; write it as http://127.0.0.1:8000.")
    return parsed


def _as_error(problem: BaseException) -> MattoniError:
    """What the person concerned is told."""
    if isinstance(problem, MattoniError):
        return problem
    if isinstance(problem, Refused):
        return MattoniError(f"{problem}.")
    LOG.error("an answer failed", exc_info=problem)
    return went_wrong_inside()

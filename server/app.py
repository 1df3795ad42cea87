"""The endpoints: what a request asks for, handed to the assistant, and its answer in OpenAI's shapes.

Whatever blocks (opening what was sent, looking for bricks, embedding) runs on threads; the event loop only waits and writes.
"""

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Request, UploadFile
from fastapi import Form as Field
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

import mattoni
from assistant.assistant import Assistant
from assistant.host.sampling import Sampling
from assistant.turn.look import Limits
from assistant.turn.ticket import Ticket
from mattoni.errors import MattoniError
from server import answers, anthropic
from server.choosing import adapters, choices_of
from server.fetching import Fetcher
from server.gate import Gate
from server.keys import Key, Keys
from server.leaving import GONE, unless_gone
from server.messages import talk_of
from server.metrics import Metrics
from server.naming import Names
from server.problems import ApiError, of_validation
from server.transcribing import Form, Transcriber, refuse_more_than_words, transcription
from server.turns import Turn
from server.wire import ChatRequest, EmbeddingsRequest, json_schema_of, refuse_what_is_not_done

Whole = Callable[[answers.Head, Sequence[Ticket]], dict[str, Any]]
Events = Callable[[answers.Head, Sequence[Turn], bool], AsyncIterator[str]]
_LONGEST = 32768
_SEEDS = 2**63


@dataclass(frozen=True)
class Settings:
    """What whoever runs the server decides.

    most_bytes           of a body; what is sent in it is a third larger than the file, as it is base64
    most_bytes_together  of the bodies of all requests that are here
    most_waiting         turns that wait before others are refused
    """

    keys: Keys | None = None
    fetcher: Fetcher | None = None
    most_bytes: int = 100_000_000
    most_bytes_together: int = 500_000_000
    most_waiting: int = 256


class _Server:
    """An assistant, and what its endpoints share."""

    def __init__(self, assistant: Assistant, settings: Settings) -> None:
        self.assistant, self.settings = assistant, settings
        self.names = Names.of(assistant.host.name)
        self.metrics = Metrics(lambda: assistant.load)
        self.created = int(time.time())
        self.transcriber = Transcriber(assistant, self.names, settings.most_waiting)

    # Chat

    async def chat(
        self, asked: ChatRequest, request: Request, whole: Whole = answers.completion, events: Events | None = None
    ) -> Response:
        """The answer in OpenAI's shapes, or in those of `whole` and `events`."""
        begun = time.perf_counter()
        refuse_what_is_not_done(asked)
        key: Key | None = request.state.key
        if self.assistant.load[1] >= self.settings.most_waiting:
            raise ApiError(503, f"{self.settings.most_waiting} turns wait already: ask again in a minute.", retry_s=60)
        tickets = await run_in_threadpool(self._submit, asked, key)

        def ended(ticket: Ticket, seconds: float) -> None:
            self.metrics.ended(ticket, seconds)
            if key is not None and self.settings.keys is not None and ticket.trace is not None:
                tokens = ticket.trace.tokens
                self.settings.keys.spend(key.user, tokens["prompt"] + tokens["new"])

        turns = [Turn(ticket, begun, self.metrics.first_token.observe, ended) for ticket in tickets]
        # All answers are to one message, so one host gives them.
        spell = partial(self.assistant.spell, ticket=tickets[0]) if asked.logprobs else None
        head = answers.Head(asked.model or self.names.host[0], self.assistant.host.fingerprint[:24], spell)
        try:
            if asked.stream:
                # Not before the first words: until then what goes wrong still has a status.
                if not await unless_gone(request, asyncio.gather(*(turn.begin() for turn in turns[:1]))):
                    return Response(status_code=GONE)
                turns[0].check()
                self._check_form(asked, tickets[:1])
                with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
                stream = _Stream(turns, (events or _events)(head, turns, with_usage))
                turns = []  # the stream stops them now
                return stream
            if not await unless_gone(request, asyncio.gather(*(turn.end() for turn in turns))):
                return Response(status_code=GONE)
            self._check_form(asked, tickets)
            return JSONResponse(await run_in_threadpool(whole, head, tickets))
        finally:
            for turn in turns:
                turn.stop()

    def _check_form(self, asked: ChatRequest, tickets: Sequence[Ticket]) -> None:
        """Raise ApiError where JSON was asked for, and the host was not asked: a notice is no JSON."""
        for ticket in tickets if json_schema_of(asked.response_format) is not None else ():
            if ticket.finished and (said := answers.unspoken(ticket)):
                raise ApiError(400, said)

    def _submit(self, asked: ChatRequest, key: Key | None) -> list[Ticket]:
        """Queue the turns. On a thread: pictures are decoded, addresses fetched, and brick folders read."""
        bricks = self.assistant.bricks()
        in_model = self.names.bricks_in(asked.model)
        choices = choices_of(in_model, asked.bricks, asked.lora, bricks, key.bricks if key is not None else None)
        fetch = self.settings.fetcher.fetch if self.settings.fetcher is not None else None
        talk = talk_of(asked.messages, fetch, hears=any(brick.accepts("sound") for brick in bricks.usable))
        conversation = talk.conversation(key.user if key is not None else "", repr(choices))
        tickets: list[Ticket] = []
        try:
            for number in range(asked.n or 1):
                sampling = _sampling(asked, number)
                tickets.append(self.assistant.complete(talk.messages, choices, sampling, talk.system, conversation))
        except MattoniError as problem:
            for ticket in tickets:
                ticket.stop()
            raise ApiError(400, str(problem)) from problem
        return tickets

    # The rest

    def models(self, key: Key | None) -> list[dict[str, Any]]:
        return self.names.listed(self.assistant.bricks(), self.created, key.bricks if key is not None else None)

    def embed(self, asked: EmbeddingsRequest, key: Key | None) -> dict[str, Any]:
        self.names.check_embedder(asked.model)
        embedder = self.assistant.embedder
        if asked.dimensions not in (None, embedder.width):
            raise ApiError(
                400,
                f"The vectors are {embedder.width} wide, and no other width: leave out dimensions.",
                param="dimensions",
            )
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        if not all(text.strip() for text in texts):
            raise ApiError(400, "One of the texts is empty: leave it out.", param="input")
        vectors = embedder.embed(texts).numpy().astype("<f4")
        tokens = embedder.tokens(texts)
        if key is not None and self.settings.keys is not None:
            self.settings.keys.spend(key.user, tokens)
        data = [
            {"object": "embedding", "index": index, "embedding": _written(vector, asked.encoding_format == "base64")}
            for index, vector in enumerate(vectors)
        ]
        counted = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.names.embedder, "usage": counted}

    def health(self) -> JSONResponse:
        running, waiting = self.assistant.load
        told = {"status": "ok", "host": self.names.host[0], "version": mattoni.__version__}
        return JSONResponse({**told, "running": running, "waiting": waiting})


def _written(vector: "np.ndarray[Any, Any]", in_base64: bool) -> Any:
    return base64.b64encode(vector.tobytes()).decode() if in_base64 else vector.tolist()


def _sampling(asked: ChatRequest, number: int) -> Sampling:
    """What the request says of sampling; the assistant's own where it says nothing. Each of several answers has its seed."""
    told: dict[str, Any] = {
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "top_k": None if asked.top_k is None else max(0, asked.top_k),  # -1: of all tokens, as vLLM writes it
        "repetition_penalty": asked.repetition_penalty,
        "seed": None if asked.seed is None else (asked.seed + number) % _SEEDS,
    }
    told["json_schema"] = json_schema_of(asked.response_format)
    if asked.logprobs:
        told["logprobs"] = asked.top_logprobs or 0
    elif asked.top_logprobs:
        raise ApiError(400, "top_logprobs: ask for logprobs too, or leave it out.", param="top_logprobs")
    most = asked.max_completion_tokens or asked.max_tokens
    if most is not None:
        told["max_tokens"] = min(most, _LONGEST)
    if asked.top_p == 0:
        told |= {
            "top_p": None,
            "temperature": 0,
        }  # among the likeliest words that make up nothing, there is the likeliest
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    told["stop"] = tuple(stop for stop in stops if stop)
    try:
        return Sampling(**{name: value for name, value in told.items() if value is not None})
    except ValidationError as problem:
        raise of_validation(problem.errors()) from problem


async def _events(head: answers.Head, turns: Sequence[Turn], with_usage: bool) -> AsyncIterator[str]:
    """A stream of server-sent events: each answer's role, its pieces, how it ended; then the usage, and that it is over."""
    pieces: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(maxsize=64)

    async def tell(index: int, turn: Turn) -> None:
        try:
            await pieces.put(answers.chunk(head, index, {"role": "assistant", "content": ""}))
            told = 0
            async for piece in turn.pieces():
                scores = turn.ticket.scores[told:]
                told += len(scores)
                await pieces.put(answers.chunk(head, index, {"content": piece}, scores=scores))
            if not turn.ticket.text and (said := answers.unspoken(turn.ticket)):
                await pieces.put(answers.chunk(head, index, {"content": said}))
            await pieces.put(answers.chunk(head, index, {}, turn.ticket))
        except ApiError as problem:
            await pieces.put(problem.body)
        await pieces.put(None)

    telling = [asyncio.ensure_future(tell(index, turn)) for index, turn in enumerate(turns)]
    try:
        left = len(turns)
        while left:
            piece = await pieces.get()
            if piece is None:
                left -= 1
            else:
                yield answers.event(piece)
        if with_usage:
            yield answers.event(answers.usage_chunk(head, [turn.ticket for turn in turns]))
        yield answers.DONE
    finally:
        for task in telling:
            task.cancel()


class _Stream(StreamingResponse):
    """Server-sent events; when nobody reads them any more, the turns are stopped at once."""

    def __init__(self, turns: Sequence[Turn], events: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._turns = turns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            for turn in self._turns:
                turn.stop()


def make_app(assistant: Assistant, settings: Settings | None = None) -> FastAPI:
    """The server of an assistant. Whoever made the assistant closes it."""
    settings = settings or Settings()
    server = _Server(assistant, settings)

    app = FastAPI(title="Mattoni", version=mattoni.__version__, redoc_url=None)
    app.add_middleware(
        Gate,
        keys=settings.keys,
        metrics=server.metrics,
        most_bytes=settings.most_bytes,
        most_bytes_together=settings.most_bytes_together,
    )
    _tell_problems(app)

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Answer the last message of a conversation."""
        return await server.chat(asked, request)

    @app.post(anthropic.PATH, response_model=None)
    async def messages(asked: anthropic.MessagesRequest, request: Request) -> Response:
        """The same in Anthropic's shapes."""
        try:
            translated = anthropic.chat_of(asked)
        except ValidationError as problem:
            raise of_validation(problem.errors()) from problem
        return await server.chat(translated, request, anthropic.message, anthropic.events)

    @app.post("/v1/embeddings", response_model=None)
    def embeddings(asked: EmbeddingsRequest, request: Request) -> JSONResponse:
        """Embed texts: unit vectors of the space in which messages are compared with bricks."""
        return JSONResponse(server.embed(asked, request.state.key))

    @app.post("/v1/audio/transcriptions", response_model=None)
    async def transcriptions(
        request: Request,
        file: Annotated[UploadFile, File()],
        model: Annotated[str | None, Field()] = None,
        language: Annotated[str | None, Field()] = None,
        response_format: Annotated[Form, Field()] = "json",
        prompt: Annotated[str | None, Field()] = None,
        temperature: Annotated[float, Field()] = 0.0,
        stream: Annotated[bool, Field()] = False,
        granularities: Annotated[list[str] | None, Field(alias="timestamp_granularities[]")] = None,
        include: Annotated[list[str] | None, Field(alias="include[]")] = None,
    ) -> Response:
        """Write down what is said in a recording."""
        refuse_more_than_words(prompt, temperature, stream, granularities or (), include or ())
        heard = await server.transcriber.hear(request, file, model, language or "")
        if heard is None:
            return Response(status_code=GONE)
        key: Key | None = request.state.key
        if key is not None and settings.keys is not None:
            settings.keys.spend(key.user, server.transcriber.tokens(heard))
        return transcription(heard, response_format)

    @app.get("/v1/models", response_model=None)
    def models(request: Request) -> JSONResponse:
        """The host, the host with each of its bricks, and the embedder."""
        return JSONResponse({"object": "list", "data": server.models(request.state.key)})

    @app.get("/v1/models/{model:path}", response_model=None)
    def model(model: str, request: Request) -> JSONResponse:
        """One of them."""
        for told in server.models(request.state.key):
            if told["id"] == model:
                return JSONResponse(told)
        raise ApiError(404, f"There is no model '{model[:80]}': GET /v1/models lists them.", code="model_not_found")

    @app.get("/lora-adapters", response_model=None)
    def lora_adapters() -> JSONResponse:
        """The skills with their numbers, as llama.cpp's server lists its adapters."""
        known = adapters(assistant.bricks())
        return JSONResponse([{"id": n, "path": brick.name, "scale": 0.0} for n, brick in enumerate(known)])

    @app.get("/health", response_model=None)
    def health() -> JSONResponse:
        """Whether it answers."""
        return server.health()

    @app.get("/metrics", response_model=None)
    def metrics() -> Response:
        """What Prometheus reads."""
        return Response(server.metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return app


def fetcher() -> Fetcher:
    """What fetches, within what a turn may cost."""
    return Fetcher(Limits().bytes)


def _tell_problems(app: FastAPI) -> None:
    """Have everything that goes wrong told in one shape."""

    @app.exception_handler(ApiError)
    async def told(request: Request, problem: ApiError) -> JSONResponse:
        return problem.response(request.url.path == anthropic.PATH)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> JSONResponse:
        return of_validation(problem.errors()).response(request.url.path == anthropic.PATH)

    @app.exception_handler(HTTPException)
    async def http(_: Request, problem: HTTPException) -> JSONResponse:
        if problem.status_code == 404:
            return ApiError(404, "There is no such endpoint: GET /openapi.json lists them.").response()
        return ApiError(problem.status_code, f"{problem.detail}.").response()

    @app.exception_handler(MattoniError)
    async def sentence(_: Request, problem: MattoniError) -> JSONResponse:
        return ApiError(400, str(problem)).response()

    @app.exception_handler(Exception)
    async def broken(_: Request, problem: Exception) -> JSONResponse:
        return ApiError(500, f"Something inside went wrong ({type(problem).__name__}): ask again.").response()

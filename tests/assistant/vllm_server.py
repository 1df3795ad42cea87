"""What stands in the place of a vLLM server, over the wire: it takes what `vllm serve` 0.32 takes and nothing else, decodes on a
tiny host, and fails when it is told to. `test_vllm_real.py` asks a real one."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from assistant.host.host import Host
from assistant.host.job import Job, Score
from assistant.host.local import LocalEngine
from assistant.host.prompt import Prompt
from assistant.host.sampling import Sampling
from mattoni.injections import LowRank, Soft
from task_bricks.lora import read_lora

Token = Annotated[int, Field(ge=0)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    include_usage: bool


class StructuredOutputs(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    # As vLLM calls it; a field of that name would hide one of pydantic's.
    schema_: dict[str, Any] = Field(alias="json")


class Completion(BaseModel):
    """What is sent to `/v1/completions`: vLLM has more fields and would ignore unknown ones, which here is a mistake."""

    model_config = ConfigDict(extra="forbid", strict=True)
    model: str
    prompt: list[Token] | None = None
    prompt_embeds: str | None = None
    max_tokens: int = Field(ge=1)
    min_tokens: int = Field(ge=0)
    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=-1)
    min_p: float
    repetition_penalty: float = Field(gt=0)
    seed: int = Field(ge=-(2**63), lt=2**63)
    stop_token_ids: list[Token]
    ignore_eos: Literal[True]
    stream: Literal[True]
    stream_options: StreamOptions
    return_token_ids: Literal[True]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    return_tokens_as_token_ids: bool = False
    structured_outputs: StructuredOutputs | None = None
    cache_salt: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _as_vllm_checks(self) -> "Completion":
        assert (self.prompt is None) != (self.prompt_embeds is None), "one of prompt and prompt_embeds"
        assert self.prompt != [], "an empty prompt"
        assert self.min_tokens <= self.max_tokens, "min_tokens <= max_tokens"
        assert (self.logprobs is None) != self.return_tokens_as_token_ids, "names of tokens are asked for with logprobs"
        return self


class Load(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    lora_name: str = Field(min_length=1)
    lora_path: str = Field(min_length=1)


class Unload(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    lora_name: str


class Failure(Exception):
    def __init__(self, status: int, message: str, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class VllmServer:
    """Attributes that tests set: `key`, `takes_embeds`, `takes_adapters`, `max_lora_rank`, `context`, `fails` (the next request's
    status and message), `breaks_after` tokens, `pause_s` between tokens. Those that they read: `asked` (completions), `loads`,
    `unloads`, `adapters`, `dropped` (requests that the client left), `most_at_once`."""

    def __init__(self, host: Host) -> None:
        self.host, self.engine = host, LocalEngine(host, weights="bf16")
        self.key, self.takes_embeds, self.takes_adapters, self.max_lora_rank = "", True, True, 16
        self.context = host.context
        self.fails: tuple[int, str] | None = None
        self.breaks_after: int | None = None
        self.says_error_after: tuple[int, str] | None = None
        self.pause_s = 0.0
        self.asked: list[Completion] = []
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.adapters: dict[str, tuple[str, LowRank]] = {}
        self.dropped, self.at_once, self.most_at_once = 0, 0, 0
        # In one pass vLLM 0.32 with LoRAs ends of embeddings beside anything else, and on CPUs gives an answer without a LoRA another's.
        self.writing: list[tuple[bool, bool]] = []  # whether of embeddings, whether with a LoRA
        self.has_mixed = False
        self.url = ""

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.exception_handler(Failure)
        async def failed(request: Request, problem: Failure) -> JSONResponse:
            error = {"message": str(problem), "type": problem.kind, "param": None, "code": problem.status}
            return JSONResponse({"error": error}, problem.status)

        @app.exception_handler(RequestValidationError)
        async def invalid(request: Request, problem: RequestValidationError) -> JSONResponse:
            return JSONResponse({"error": {"message": str(problem), "type": "BadRequestError", "code": 400}}, 400)

        @app.middleware("http")
        async def wants_key(request: Request, go_on: Any) -> Any:
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                return JSONResponse({"error": "Unauthorized"}, 401)
            return await go_on(request)

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            base = {"id": "served", "root": "/models/served", "parent": None, "max_model_len": self.context}
            loaded = [{"id": n, "root": path, "parent": "served"} for n, (path, _) in self.adapters.items()]
            return {"object": "list", "data": [base, *loaded]}

        if self.takes_adapters:
            app.post("/v1/load_lora_adapter")(self._load)
            app.post("/v1/unload_lora_adapter")(self._unload)
        app.post("/v1/completions")(self._complete)
        return app

    async def _load(self, body: Load) -> str:
        if body.lora_name in self.adapters:
            raise Failure(400, f"The lora adapter '{body.lora_name}' has already been loaded.", "InvalidUserInput")
        folder = Path(body.lora_path)
        if not folder.is_absolute() or not folder.is_dir():
            raise Failure(404, f"Loading lora {body.lora_name} failed: No adapter found for {folder}", "NotFoundError")
        config = json.loads((folder / "adapter_config.json").read_text())
        # vLLM allots ranks by the configuration, and wants them within what it was started with.
        if config["r"] > self.max_lora_rank:
            told = f"LoRA rank {config['r']} is greater than max_lora_rank {self.max_lora_rank}."
            raise Failure(500, f"Call to add_lora method failed: {told}", "InternalServerError")
        lora = read_lora(folder)
        assert {len(a) for a, _ in lora.factors.values()} == {config["r"]}, "a rank of its own"
        assert config["lora_alpha"] == config["r"] and not config["rank_pattern"] and not config["alpha_pattern"]
        self.adapters[body.lora_name] = (str(folder), lora)
        self.loads.append(body.lora_name)
        return f"Success: LoRA adapter '{body.lora_name}' added successfully."

    async def _unload(self, body: Unload) -> str:
        if self.adapters.pop(body.lora_name, None) is None:
            raise Failure(404, f"The lora adapter '{body.lora_name}' cannot be found.", "NotFoundError")
        self.unloads.append(body.lora_name)
        return f"Success: LoRA adapter '{body.lora_name}' removed successfully."

    async def _complete(self, body: Completion) -> StreamingResponse:
        self.asked.append(body)
        if self.fails is not None:
            status, message = self.fails
            raise Failure(status, message)
        if body.model != "served" and body.model not in self.adapters:
            raise Failure(404, f"The model `{body.model}` does not exist.", "NotFoundError")
        prompt = self._prompt(body)
        if len(prompt) + body.max_tokens > self.context:
            raise Failure(400, f"max_tokens={body.max_tokens} cannot be greater than max_model_len={self.context}.")
        loras = () if body.model == "served" else (self.adapters[body.model][1],)
        sampling = Sampling(
            temperature=body.temperature,
            top_p=body.top_p,
            top_k=max(0, body.top_k),
            max_tokens=body.max_tokens,
            min_tokens=body.min_tokens,
            logprobs=body.logprobs,
            json_schema=None if body.structured_outputs is None else json.dumps(body.structured_outputs.schema_),
        )
        job = Job(prompt, loras, sampling, body.seed)
        return StreamingResponse(self._events(job, body), media_type="text/event-stream")

    def _prompt(self, body: Completion) -> Prompt:
        if body.prompt_embeds is None:
            return Prompt((tuple(body.prompt or ()),))
        if not self.takes_embeds:
            raise Failure(400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        data = io.BytesIO(base64.b64decode(body.prompt_embeds, validate=True))
        vectors = torch.load(data, weights_only=True)
        assert vectors.dim() == 2 and vectors.shape[1] == self.host.width and vectors.is_floating_point()
        return Prompt((Soft("sent", vectors),))

    async def _events(self, job: Job, body: Completion) -> AsyncIterator[str]:
        self.at_once += 1
        kind = (body.prompt_embeds is not None, body.model in self.adapters)
        self.writing.append(kind)
        self.has_mixed |= len(self.writing) > 1 and (len(set(self.writing)) > 1 or kind[0])
        self.most_at_once = max(self.most_at_once, self.at_once)
        stream = self.engine.generate(job)
        pieces, count, is_whole = iter(stream), 0, False
        try:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                if not piece.ids:
                    continue
                await asyncio.sleep(self.pause_s)
                yield self._event(list(piece.ids), piece.scores, None)
                count += 1
                if count == self.breaks_after:
                    raise RuntimeError("the connection is cut")
                if self.says_error_after is not None and count == self.says_error_after[0]:
                    error = {"message": self.says_error_after[1], "type": "InternalServerError", "code": 500}
                    yield f"data: {json.dumps({'error': error})}\n\n"
                    is_whole = True
                    return
            # The token that ends an answer is told as well.
            end = body.stop_token_ids[:1] if stream.finished == "end" else []
            yield self._event(end, tuple(Score(i, -0.1, ((i, -0.1),)) for i in end), "stop" if end else "length")
            usage = {
                "prompt_tokens": len(job.prompt),
                "completion_tokens": count,
                "prompt_tokens_details": {"cached_tokens": 3},
            }
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
            yield "data: [DONE]\n\n"
            is_whole = True
        finally:
            stream.stop()
            self.dropped += not is_whole
            self.at_once -= 1
            self.writing.remove(kind)

    def _event(self, ids: list[int], scores: tuple[Score, ...], finish: str | None) -> str:
        logprobs = None
        if scores:
            # vLLM names the drawn token among the likeliest, and first.
            top = [{f"token_id:{i}": p for i, p in dict([(s.id, s.logprob), *s.likeliest]).items()} for s in scores]
            logprobs = {
                "tokens": [f"token_id:{s.id}" for s in scores],
                "token_logprobs": [s.logprob for s in scores],
                "top_logprobs": top,
            }
        text = self.host.tokenizer.decode(ids)
        choice = {"index": 0, "text": text, "token_ids": ids, "logprobs": logprobs, "finish_reason": finish}
        return f"data: {json.dumps({'object': 'text_completion', 'choices': [choice]})}\n\n"


@contextmanager
def running(served: VllmServer) -> Iterator[VllmServer]:
    """Serve it on a port of its own, at `url`."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(served.app(), log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server does not start"
        time.sleep(0.01)
    served.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield served
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        served.engine.close()
        assert not thread.is_alive(), "the server does not end"

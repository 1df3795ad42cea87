"""What is said to a vLLM server and what comes back, in its own words. Pure: opens no connection, and knows no engine.

The form is that of `vllm serve`'s `/v1/completions` (OpenAI's, with vLLM's further fields): prompts are token ids or, where soft
tokens are among them, embeddings; answers come back as token ids, so that text is made here, as for any other engine.
"""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from assistant.host.host import Host
from assistant.host.job import Job, Score
from assistant.host.prompt import Prompt
from mattoni.errors import MattoniError
from mattoni.injections import Gate, Keyed, LowRank, Prefix, Soft

_NO_SUCH = {
    Prefix: "keys and values in front of a prompt",
    Gate: "factors on neurons",
    Keyed: "facts at a layer of the host",
}
_TOKEN = "token_id:"


class Refused(Exception):
    """What this server cannot decode, as a clause: another engine may."""


class UnknownModel(Exception):
    """The server does not know the adapter any more."""


def refusal(job: Job) -> str | None:
    """What of a job no vLLM server can decode, as a clause that names the brick; None: nothing."""
    for injection in job.injections:
        if isinstance(injection, Keyed) and not len(injection.keys):
            continue
        if (what := _NO_SUCH.get(type(injection))) is not None:
            return f"{injection.name}: vLLM has no {what}"
        if isinstance(injection, LowRank) and injection.invocation_tokens:
            return f"{injection.name}: vLLM has no LoRA that acts from a place of the prompt on"
    if job.said:
        return "vLLM does not go on with an answer that was begun elsewhere"
    if job.forced:
        return "vLLM does not say how likely an answer is that is given"
    if job.sampling.repetition_penalty != 1:
        return "vLLM's repetition penalty counts the words of the prompt as well"
    return None


def has_soft_tokens(prompt: Prompt) -> bool:
    """Whether it must be sent as embeddings."""
    return any(isinstance(piece, Soft) for piece in prompt.pieces)


def completion(
    host: Host, job: Job, model: str, room: int, salt: str | None, embeds: bool | None = None
) -> dict[str, Any]:
    """The body of a request.

    room    the longest answer, in tokens
    salt    prefixes are shared with requests of the same salt alone; None: with all that have none
    embeds  whether the prompt is sent as embeddings; None: where soft tokens are among it
    """
    sampling = job.sampling
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": room,
        "min_tokens": min(sampling.min_tokens, room),
        "temperature": sampling.temperature,
        # All that a server could take from its model's own configuration is said.
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "seed": job.seed,
        # The host's own, which the catalogue may add to, and no other.
        "stop_token_ids": sorted(host.stop_ids),
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    if has_soft_tokens(job.prompt) if embeds is None else embeds:
        body["prompt_embeds"] = encoded(embeddings(host, job.prompt))
    else:
        body["prompt"] = [i for piece in job.prompt.whole.pieces if isinstance(piece, tuple) for i in piece]
    if sampling.logprobs is not None:
        body |= {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    if sampling.json_schema is not None:
        body["structured_outputs"] = {"json": json.loads(sampling.json_schema)}
    if salt is not None:
        body["cache_salt"] = salt
    return body


@torch.inference_mode()
def embeddings(host: Host, prompt: Prompt) -> Tensor:
    """(positions, width): word embeddings, and soft tokens at their places."""
    inputs = prompt.inputs(host)
    vectors = inputs["inputs_embeds"] if "inputs_embeds" in inputs else host.embed(inputs["input_ids"])
    return vectors[0]


def encoded(vectors: Tensor) -> str:
    """A tensor as `prompt_embeds` takes it: torch's own file, in base64."""
    buffer = io.BytesIO()
    torch.save(vectors.detach().to("cpu", copy=True).contiguous(), buffer)
    return base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Said:
    """What one event of a stream brings."""

    ids: tuple[int, ...] = ()
    scores: tuple[Score, ...] = ()
    finish: str | None = None  # vLLM's: stop, length, abort, …
    reused: int | None = None  # positions of the prompt whose keys and values were there, where the server tells


def said(event: Mapping[str, Any], likeliest: int | None) -> Said:
    """Read an event. Raises MattoniError where it is none of a completion.

    likeliest  how many of the likeliest tokens were asked for; None: no scores
    """
    try:
        details = (event.get("usage") or {}).get("prompt_tokens_details") or {}
        reused = details.get("cached_tokens")
        if not event["choices"]:
            return Said(reused=reused)
        (choice,) = event["choices"]
        ids = tuple(int(i) for i in choice["token_ids"] or ())
        scores = tuple(_scores(choice["logprobs"], likeliest)) if likeliest is not None and ids else ()
        return Said(ids, scores, choice.get("finish_reason"), reused)
    except (KeyError, TypeError, ValueError) as problem:
        raise MattoniError(
            "vLLM answers in a form that is not known here: use the version that docs/serving.md names."
        ) from problem


def _scores(told: Mapping[str, Any], likeliest: int) -> Iterator[Score]:
    for n, (token, logprob) in enumerate(zip(told["tokens"], told["token_logprobs"], strict=True)):
        best = (
            [(_id(name), float(value)) for name, value in (told["top_logprobs"] or [{}])[n].items()]
            if likeliest
            else []
        )
        # The token that was drawn stands among them, whether or not it is one of the likeliest.
        best = sorted(best, key=lambda of: -of[1])[:likeliest]
        yield Score(_id(token), float(logprob), tuple(best))


def _id(name: str) -> int:
    return int(name.removeprefix(_TOKEN))


def problem_of(status: int, body: bytes | str, url: str) -> Exception:
    """What a refused request, or an event that is an error, means: Refused, UnknownModel, or MattoniError with one sentence."""
    told = message_of(body)
    where = f"vLLM at {url}"
    short = told if len(told) <= 200 else f"{told[:200]}…"
    if status in (401, 403):
        return MattoniError(f"{where} wants another key: set VLLM_API_KEY to the one that it was started with.")
    if status == 404 and "does not exist" in told:
        return UnknownModel()
    if "enable-prompt-embeds" in told:
        return Refused("vLLM was started without --enable-prompt-embeds, so it takes no pictures")
    if any(sign in told.lower() for sign in ("out of memory", "outofmemory", "can't allocate", "not enough memory")):
        return MattoniError(
            f"{where} ran out of memory with this answer: shorten the conversation, or start it with less --max-model-len."
        )
    if status >= 500:
        return MattoniError(f"{where} failed ({short or status}): look at its log, start it again and ask once more.")
    return MattoniError(
        f"{where} refuses this turn ({short or status}): compare how it was started with docs/serving.md."
    )


def message_of(body: bytes | str) -> str:
    """The one line that an error's body says."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    try:
        told = json.loads(text)
    except ValueError:
        told = text
    if isinstance(told, dict):
        error = told.get("error", told)
        told = error.get("message") or error.get("detail") or "" if isinstance(error, dict) else error
    return " ".join(str(told).split()).rstrip(".")

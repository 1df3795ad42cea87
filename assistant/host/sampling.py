"""How the next token is drawn from the host's logits. Knows nothing of prompts, rows or bricks."""

from collections.abc import Callable, Iterable, Sequence

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

Choose = Callable[[Tensor, Sequence[int]], int]


class Sampling(BaseModel):
    """How the next token is drawn. Temperature 0, the default, takes the likeliest one: what stands in a document has
    one right answer, and the second-likeliest word of a small host seldom is it.

    top_k               0: of all tokens
    repetition_penalty  over the tokens of the answer alone (Keskar et al. 2019, arXiv:1909.05858, section 4.1); 1: none
    stop                strings that end the answer where they begin, themselves left out
    json_schema         a JSON schema, as JSON: the answer has its form, and nothing but its end or its length ends it
    logprobs            tell how likely each token was to the host, and so many of the likeliest; None: do not
    min_tokens          until then nothing but `stop` ends the answer; for measuring, as the host has no more to say
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float = Field(default=0.0, ge=0, le=5)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_tokens: int = Field(default=512, ge=1, le=32768)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    top_k: int = Field(default=0, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    logprobs: int | None = Field(default=None, ge=0, le=20)
    min_tokens: int = Field(default=0, ge=0)


def sampler(sampling: Sampling, seed: int, device: torch.device, stop_ids: Iterable[int] = ()) -> Choose:
    """A function from logits (vocabulary,) and the answer so far to a token id; equal seeds draw equal tokens.

    stop_ids  tokens that end an answer: none of them is drawn before `min_tokens`
    """
    ends = sorted(stop_ids)
    penalty = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
    generator = torch.Generator(device).manual_seed(seed)
    warp = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)] if sampling.temperature else [])
    if sampling.top_k:
        warp.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warp.append(TopPLogitsWarper(sampling.top_p))
    drawn = 0

    def choose(logits: Tensor, answer: Sequence[int] = ()) -> int:
        if len(answer) < sampling.min_tokens:
            logits = logits.clone()
            logits[ends] = -torch.inf
        # transformers asks for torch.LongTensor and FloatTensor, which are no types of what torch's functions return.
        said = torch.tensor([list(answer)], dtype=torch.long, device=logits.device)
        if sampling.repetition_penalty != 1 and answer:
            logits = penalty(said, logits.float().unsqueeze(0))[0]
        if sampling.temperature == 0:
            return int(logits.argmax())
        scores = warp(said, logits.float().unsqueeze(0))  # type: ignore[arg-type]
        nonlocal drawn
        while True:
            token = int(torch.multinomial(scores.softmax(dim=-1), 1, generator=generator))
            drawn += 1
            # Of an answer that was begun elsewhere, the draws that it took there: each takes as many random numbers as any.
            if drawn > len(answer):
                return token

    return choose


def log_probabilities(logits: Tensor, token: int, likeliest: int) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Of a token, and of the likeliest ones with their ids: natural logarithms, as the host has it before any sampling."""
    values = logits.float().log_softmax(dim=-1)
    best = values.topk(min(likeliest, len(values)))
    return float(values[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))

"""Measures turns on this machine: the way of a picture, decoding, a second turn, memory. Knows no targets.

Everything goes through `Assistant.ask`, as a user's turn does. What is compared is measured alternately (ours, theirs,
and again) and given as medians, so that a load that comes and goes falls on both.
"""

import io
import os
import resource
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from assistant.assistant import Assistant
from assistant.conversations.store import ConversationStore
from assistant.evaluation.bench_engines import bench_engines
from assistant.host.local import LocalEngine
from assistant.host.matrices import Weights
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from assistant.turn.ticket import Ticket
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from mattoni.trace import Trace

PICTURE_STAGES = ("look", "route", "encode", "stitch")
FIRST_TOKEN_STAGES = ("compose", "prompt", "first token")
_STORY = "Write a long story about a brick that wants to become a house."
_HISTORY_TOKENS = 1000
# It goes on with the first one: else the picture would stay out of the second turn, and with it what is to be reused.
SECOND_QUESTION = "And what else is there?"
_SENTENCE = " The red brick is warm."


def bench_turn(
    host: str = "builtin", device: str = "auto", weights: Weights = "auto", repetitions: int = 7, tokens: int = 128
) -> dict[str, Any]:
    """Measure everything on a store of its own, so that no conversation of the user's is touched."""
    with tempfile.TemporaryDirectory() as scratch:
        with closing(
            Assistant.open(host, device, store=ConversationStore(Path(scratch)), weights=weights)
        ) as assistant:
            figures = measure(assistant, repetitions, tokens)
    # After what is measured of memory, in which neither a second engine nor llama.cpp is to count.
    with closing(LocalEngine(assistant.host, weights=weights)) as engine:
        return figures | {"weights": engine.info.weights} | bench_engines(assistant.host, engine)


def measure(assistant: Assistant, repetitions: int, tokens: int, page_pixels: int = 2048) -> dict[str, Any]:
    """All figures of one assistant; the peak of memory is that of the process, whatever else it did before."""
    return {
        "host": assistant.host.name,
        "device": str(assistant.host.device),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "repetitions": repetitions,
        "picture": picture_path(assistant, repetitions),
        "decode": decoding(assistant, repetitions, tokens),
        "second_turn": second_turn(assistant, repetitions),
        "document": read_page(assistant, page_pixels),
        "peak_memory_gb": round(peak_memory_bytes() / 1e9, 3),
    }


def ask(assistant: Assistant, *arguments: Any, **named: Any) -> Trace:
    """Ask and wait. Returns the turn's trace; raises MattoniError when the turn failed."""
    return ended(assistant.ask(*arguments, **named))


def ended(ticket: Ticket) -> Trace:
    ticket.wait()
    if ticket.error is not None or ticket.trace is None:
        raise MattoniError(ticket.error or "The turn left no trace: report it.")
    return ticket.trace


def drawn_picture(seed: int) -> Attachment:
    """A JPEG of 640 x 480 pixels that no earlier turn has seen."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return Attachment(f"picture{seed}.jpg", buffer.getvalue())


def image_brick(assistant: Assistant) -> str | None:
    """The first brick that turns pictures into soft tokens and needs nothing read on them; else one that does."""
    able = [b for b in assistant.bricks().usable if b.accepts("picture") and not b.accepts("page")]
    able.sort(key=lambda b: (getattr(b.parts, "reads", None) is not None, b.name))
    return able[0].name if able else None


def picture_path(assistant: Assistant, repetitions: int) -> dict[str, Any] | None:
    """Milliseconds from the bytes of a new picture to its soft tokens, warm; None where no brick does that."""
    brick = image_brick(assistant)
    if brick is None:
        return None
    sampling = Sampling(temperature=0, max_tokens=1)
    traces = [
        ask(assistant, "What is in the picture?", [drawn_picture(seed)], Choices(vision=brick), sampling)
        for seed in range(repetitions + 2)
    ][2:]  # the first ones load the brick and warm the caches of the kernels
    stages = {name: round(median(trace.ms.get(name, 0.0) for trace in traces), 2) for name in PICTURE_STAGES}
    total = median(sum(trace.ms.get(name, 0.0) for name in PICTURE_STAGES) for trace in traces)
    return {"brick": brick, "ms": {**stages, "total": round(total, 2)}, "n": len(traces)}


def decoding(assistant: Assistant, repetitions: int, tokens: int) -> dict[str, Any]:
    """Tokens per second after the first one: a turn without bricks, and plain `model.generate` on the same host."""
    ours: list[float] = []
    theirs: list[float] = []
    for repetition in range(repetitions + 1):
        trace = ask(
            assistant,
            _STORY,
            choices=Choices(no_bricks=True),
            sampling=Sampling(temperature=0, max_tokens=tokens),
        )
        if trace.tokens["new"] < 2:
            raise MattoniError(f"{assistant.host.name} ended its answer at once: there is no decoding to measure.")
        our_rate = (trace.tokens["new"] - 1) / trace.ms["generate"] * 1000
        their_rate = plain_rate(assistant, trace.tokens["new"])
        if repetition:  # the first one warms up
            ours.append(our_rate)
            theirs.append(their_rate)
    return {
        "ours_tokens_per_s": round(median(ours), 2),
        "generate_tokens_per_s": round(median(theirs), 2),
        "ratio": round(median(a / b for a, b in zip(ours, theirs, strict=True)), 3),
        "n": len(ours),
        "tokens": trace.tokens["new"],
    }


@torch.inference_mode()
def plain_rate(assistant: Assistant, tokens: int) -> float:
    """Tokens per second after the first one of `model.generate`, greedy, on the prompt of `decoding`."""
    host = assistant.host
    messages = [{"role": "user", "content": _STORY}]
    text = host.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = host.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(host.device)
    mask = torch.ones_like(ids)

    def run(count: int) -> float:
        model: Any = host.model  # transformers does not type generate()
        start = time.perf_counter()
        model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            temperature=None,
            top_p=None,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=host.tokenizer.eos_token_id,
        )
        return time.perf_counter() - start

    return (tokens - 1) / (run(tokens) - run(1))


def second_turn(assistant: Assistant, repetitions: int) -> dict[str, Any]:
    """Milliseconds to the first token of a second question, with the first turn's keys and values and without them.

    The first turn holds `_HISTORY_TOKENS` tokens and, where a brick looks at pictures, a picture, whose soft tokens are
    kept in both cases.
    """
    brick = image_brick(assistant)
    count = len(assistant.host.tokenizer(_SENTENCE, add_special_tokens=False).input_ids)
    text = _SENTENCE * (min(_HISTORY_TOKENS, assistant.host.context // 4) // count + 1)
    choices = Choices(vision=brick) if brick else Choices(no_bricks=True)
    sampling = Sampling(temperature=0, max_tokens=4)
    reused: list[Trace] = []
    anew: list[Trace] = []
    for repetition in range(repetitions):
        attachments = [drawn_picture(1000 + repetition)] if brick else []
        conversation = assistant.store.new()
        ask(assistant, f"{text}\n\nWhat is in the picture?", attachments, choices, sampling, conversation)
        reused.append(ask(assistant, SECOND_QUESTION, (), choices, sampling, conversation))
        assistant.free_memory()
        anew.append(ended(assistant.answer_again(conversation, choices, sampling)))
    with_memory, without = (median(map(first_token_ms, traces)) for traces in (reused, anew))
    return {
        "reused_ms": round(with_memory, 1),
        "recomputed_ms": round(without, 1),
        "ratio": round(median(first_token_ms(a) / first_token_ms(b) for a, b in zip(reused, anew, strict=True)), 3),
        "prompt_tokens": reused[0].tokens["prompt"],
        "reused_tokens": reused[0].tokens["reused"],
        "picture": brick is not None,
        "n": len(reused),
    }


def first_token_ms(trace: Trace) -> float:
    """From the plan to the first token; looking, routing and encoding are left out."""
    return sum(trace.ms.get(name, 0.0) for name in FIRST_TOKEN_STAGES)


def read_page(assistant: Assistant, side: int) -> dict[str, Any] | None:
    """Seconds to read a page of print, `side` pixels each way, by OCR, and to its answer's first token; all skills on.

    With it, all that a running assistant loads is in memory. None where no brick reads.
    """
    bricks = assistant.bricks().usable
    reader = next((brick.name for brick in bricks if brick.accepts("page")), None)
    if reader is None:
        return None
    skills = {brick.name: Choice("on") for brick in bricks if brick.card.kind == "task"}
    trace = ask(
        assistant,
        "What is warm?",
        [printed_page(side)],
        Choices(vision=reader, bricks=skills),
        Sampling(temperature=0, max_tokens=4),
    )
    return {
        "brick": reader,
        "pixels": side**2,
        "prompt_tokens": trace.tokens["prompt"],
        "read_s": round(trace.ms["read"] / 1000, 2),
        "first_token_s": round(first_token_ms(trace) / 1000, 2),
        "skills": sorted(skills),
    }


def printed_page(side: int) -> Attachment:
    """A square page of print; at 2048 pixels a side it has as many as are kept of a picture."""
    page = Image.new("L", (side, side), "white")
    text = "\n".join(f"{line}. {_SENTENCE.strip() * 3}" for line in range(1, 41))
    ImageDraw.Draw(page).multiline_text((90, 60), text, "black", ImageFont.load_default(30), spacing=16)
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return Attachment("page.png", buffer.getvalue())


def peak_memory_bytes() -> int:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB

"""Three turns of fixed length, by three programs on the same host: the local engine, plain `generate`, and llama.cpp.

short     40 tokens in, 80 out
document  1,000 tokens in, 40 out
second    40 more behind the document and its answer, 40 out, with their keys and values kept

Greedy; no program may end before its length. They take turns, so that a load that comes and goes falls on all of them, and
what is given is the median. llama.cpp comes as the wheel `xllamacpp` (`pip install "mattoni[bench]"`) and reads the GGUF file
that the host was made from; without it, or for a host that came from no GGUF, its place is empty.
"""

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from assistant.host.catalogue import BUILTIN_HOST, catalogue, fetch_original
from assistant.host.host import Host
from assistant.host.job import Job
from assistant.host.local import LocalEngine
from assistant.host.prompt import Prompt
from assistant.host.sampling import Sampling

SHORT, DOCUMENT, SECOND = (40, 80), (1000, 40), (40, 40)  # tokens in, tokens out
_TEXT = " The red brick is warm, and the wall that it stands in was built by hand in a long summer."


@dataclass(frozen=True)
class Timed:
    """One turn: seconds to its first token and of all, how many tokens it has, and their ids as a later prompt repeats them."""

    first_s: float
    all_s: float
    new: int
    ids: tuple[int, ...]

    @property
    def decode_tokens_s(self) -> float:
        """Tokens per second after the first one."""
        return (self.new - 1) / (self.all_s - self.first_s)


class Program(Protocol):
    """Whatever answers a prompt of token ids with a fixed number of tokens."""

    def turn(self, ids: Sequence[int], new: int) -> Timed:
        """One turn; what the last turn has in common with it is not read again."""


class Ours:
    """The local engine."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def turn(self, ids: Sequence[int], new: int) -> Timed:
        sampling = Sampling(temperature=0, max_tokens=new, min_tokens=new)
        start = time.perf_counter()
        stream = self._engine.generate(Job(Prompt((tuple(ids),)), (), sampling, 0, conversation="bench"))
        first = 0.0
        for _ in stream:
            first = first or time.perf_counter() - start
        return Timed(first, time.perf_counter() - start, len(stream.ids), tuple(stream.ids))


class _Clock(BaseStreamer):
    """Notes when the first token came; the prompt is handed over first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing more to note."""


class Generate:
    """`generate` of transformers, with a cache of the last turn."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._read: list[int] = []
        self._cache = DynamicCache()

    @torch.inference_mode()
    def turn(self, ids: Sequence[int], new: int) -> Timed:
        if list(ids[: len(self._read)]) != self._read:
            self._read, self._cache = [], DynamicCache()
        values, clock = torch.tensor([list(ids)], device=self._host.device), _Clock()
        model: Any = self._host.model  # transformers does not type generate()
        start = time.perf_counter()
        out = model.generate(
            values,
            attention_mask=torch.ones_like(values),
            past_key_values=self._cache,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=self._host.tokenizer.eos_token_id,
            streamer=clock,
        )
        end = time.perf_counter()
        self._read = out[0, :-1].tolist()  # the last token has no keys and values yet
        return Timed(clock.times[1] - start, end - start, new, tuple(out[0, len(ids) :].tolist()))


class LlamaCpp:
    """llama.cpp's server inside this process, one slot, as many threads as torch has."""

    def __init__(self, gguf: Path, threads: int, encode: Callable[[str], list[int]]) -> None:
        """`encode`: from its text to token ids, as it hands out none."""
        self._encode = encode
        import xllamacpp  # of the extra `bench`

        settings = xllamacpp.CommonParams()
        settings.model.path = str(gguf)
        settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = 2048, 1, 0
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
        settings.verbosity = 0
        self._server = xllamacpp.Server(settings)

    def turn(self, ids: Sequence[int], new: int) -> Timed:
        asked = {
            "prompt": list(ids),
            "n_predict": new,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": True,
        }
        start = time.perf_counter()
        answer = self._server.handle_completions(asked)
        all_s = time.perf_counter() - start
        per_token_s = answer["timings"]["predicted_per_token_ms"] / 1000
        return Timed(all_s - per_token_s * (new - 1), all_s, new, tuple(self._encode(answer["choices"][0]["text"])))


def bench_engines(host: Host, engine: LocalEngine, repetitions: int = 3) -> dict[str, Any]:
    """`ours`, `generate` and `llamacpp`, each with tokens per second and seconds of each turn; None where it cannot be had."""
    with llama_cpp(host) as other:
        programs: dict[str, Program | None] = {"ours": Ours(engine), "generate": Generate(host), "llamacpp": other}
        found: dict[str, list[dict[str, Timed]]] = {name: [] for name in programs}
        for repetition in range(repetitions + 1):
            for name, program in programs.items():
                if program is not None:
                    found[name].append(_turns(host, program, repetition))
    return {name: _figures(turns[1:]) if turns else None for name, turns in found.items()}  # the first one warms up


def _turns(host: Host, program: Program, number: int) -> dict[str, Timed]:
    # Other first words each time: a prompt that was read before is not read again.
    short, document, more = (prompt_ids(host, f"{number}{kind}", n) for kind, (n, _) in _SHAPES.items())
    found = {"short": program.turn(short, SHORT[1])}
    found["document"] = program.turn(document, DOCUMENT[1])
    found["second"] = program.turn([*document, *found["document"].ids, *more], SECOND[1])
    return found


_SHAPES = {"a short chat": SHORT, "a document": DOCUMENT, "a second question": SECOND}


def prompt_ids(host: Host, beginning: str, count: int) -> list[int]:
    """So many token ids of plain text, the first of them from `beginning`."""
    ids = host.tokenizer(beginning + _TEXT * (count // 8 + 1), add_special_tokens=False).input_ids
    return list(ids[:count])


def _figures(turns: Sequence[dict[str, Timed]]) -> dict[str, Any]:
    return {
        "decode_tokens_s": round(median(t["short"].decode_tokens_s for t in turns), 2),
        "prefill_tokens_s": round(median(DOCUMENT[0] / t["document"].first_s for t in turns), 1),
        "turns": {name: round(median(t[name].all_s for t in turns), 3) for name in turns[0]},
        "n": len(turns),
    }


@contextlib.contextmanager
def llama_cpp(
    host: Host, open_server: Callable[[Path, int, Callable[[str], list[int]]], Program] = LlamaCpp
) -> Iterator[Program | None]:
    """llama.cpp on the file that the host was made from; None where there is no such file or no wheel."""
    name = BUILTIN_HOST if host.name == "builtin" else host.name
    entry = catalogue().get(name)
    if entry is None or entry.convert != "gguf" or importlib.util.find_spec("xllamacpp") is None:
        yield None
        return
    (file,) = entry.files

    def encode(text: str) -> list[int]:
        return list(host.tokenizer(text, add_special_tokens=False).input_ids)

    yield open_server(fetch_original(name) / file, torch.get_num_threads(), encode)

"""What an engine is given, and what it gives back: a prepared turn and a stream of pieces. Knows no engine.

A job can travel: `to_bytes` is a safetensors file whose metadata is JSON, and holds nothing that runs.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from assistant.host.prompt import Apart, Prompt
from assistant.host.prompt import Piece as PromptPiece
from assistant.host.sampling import Sampling
from mattoni.card import Injection
from mattoni.errors import MattoniError
from mattoni.injections import Gate, Keyed, LowRank, Other, Prefix, Soft
from mattoni.trace import Notice

Finish = Literal["end", "length", "stopped", "stop-string", "repeats"]


@dataclass(frozen=True, eq=False)
class Job:
    """A prepared turn: prompt, injections, sampling and seed.

    conversation  under which keys and values may be kept for the next turn; "": they are not kept
    forced        the answer's token ids, where it is known and the stream is to tell how likely each was; none: it is drawn
    said          the answer's first token ids, where it was begun elsewhere: the stream goes on behind them and tells none of them
    """

    prompt: Prompt
    injections: tuple[Other, ...]
    sampling: Sampling
    seed: int
    conversation: str = ""
    forced: tuple[int, ...] = ()
    said: tuple[int, ...] = ()

    def to_bytes(self) -> bytes:
        """A safetensors file with all tensors, and the rest as JSON in its metadata."""
        tensors: dict[str, Tensor] = {}
        told = {
            "prompt": [_pack_piece(piece, f"prompt.{n}", tensors) for n, piece in enumerate(self.prompt.pieces)],
            "injections": [_pack(injection, f"injection.{n}", tensors) for n, injection in enumerate(self.injections)],
            "sampling": self.sampling.model_dump(mode="json"),
            "seed": self.seed,
            "conversation": self.conversation,
            "forced": list(self.forced),
            "said": list(self.said),
        }
        # Copies, as the format refuses tensors that share their memory.
        copies = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
        return save(copies, {"job": json.dumps(told)})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Job":
        """What `to_bytes` wrote. Raises MattoniError for anything else."""
        try:
            tensors = load(data)
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            told = json.loads(header["__metadata__"]["job"])
            return cls(
                prompt=Prompt(tuple(_unpack_piece(piece, tensors) for piece in told["prompt"])),
                injections=tuple(
                    _unpack(injection, f"injection.{n}", tensors) for n, injection in enumerate(told["injections"])
                ),
                sampling=Sampling(**told["sampling"]),
                seed=int(told["seed"]),
                conversation=str(told["conversation"]),
                forced=tuple(int(i) for i in told.get("forced", ())),
                said=tuple(int(i) for i in told.get("said", ())),
            )
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise MattoniError("These bytes are no job: send what Job.to_bytes() gave.") from problem


def _pack_piece(piece: PromptPiece, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    if isinstance(piece, Soft):
        tensors[name] = piece.vectors
        return {"soft": piece.digest, "tensor": name}
    if isinstance(piece, Apart):
        return {"ids": list(piece.ids), "behind": list(piece.beginning)}
    return {"ids": list(piece)}


def _unpack_piece(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PromptPiece:
    if "soft" in told:
        return Soft(str(told["soft"]), tensors[told["tensor"]])
    ids = tuple(int(i) for i in told["ids"])
    return Apart(tuple(int(i) for i in told["behind"]), ids) if "behind" in told else ids


def _pack(injection: Other, at: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    told: dict[str, Any] = {"name": injection.name, "digest": injection.digest, "kind": type(injection).__name__}
    match injection:
        case LowRank():
            for name, (a, b) in injection.factors.items():
                tensors[f"{at}.a.{name}"], tensors[f"{at}.b.{name}"] = a, b
            told |= {"scales": dict(injection.scales), "modules": list(injection.factors), "weight": injection.weight}
            told["invocation_tokens"] = list(injection.invocation_tokens)
        case Prefix():
            for layer, (keys, values) in enumerate(injection.layers):
                tensors[f"{at}.k.{layer}"], tensors[f"{at}.v.{layer}"] = keys, values
            told["layers"] = len(injection.layers)
        case Gate():
            tensors.update({f"{at}.g.{layer}": factors for layer, factors in injection.factors.items()})
            told["layers"] = list(injection.factors)
        case Keyed():
            tensors[f"{at}.keys"], tensors[f"{at}.residuals"] = injection.keys, injection.residuals
            tensors[f"{at}.thresholds"] = injection.thresholds
            told["layer"] = injection.layer
    return told


def _unpack(told: Mapping[str, Any], at: str, tensors: Mapping[str, Tensor]) -> Other:
    name, digest = str(told["name"]), str(told["digest"])
    match told["kind"]:
        case "LowRank":
            factors = {module: (tensors[f"{at}.a.{module}"], tensors[f"{at}.b.{module}"]) for module in told["modules"]}
            invocation = tuple(int(i) for i in told.get("invocation_tokens", ()))
            return LowRank(name, digest, factors, dict(told["scales"]), float(told["weight"]), invocation)
        case "Prefix":
            pairs = ((tensors[f"{at}.k.{layer}"], tensors[f"{at}.v.{layer}"]) for layer in range(told["layers"]))
            return Prefix(name, digest, tuple(pairs))
        case "Gate":
            return Gate(name, digest, {int(layer): tensors[f"{at}.g.{layer}"] for layer in told["layers"]})
        case "Keyed":
            found = (tensors[f"{at}.{part}"] for part in ("keys", "residuals", "thresholds"))
            return Keyed(name, digest, int(told["layer"]), *found)
        case kind:
            raise ValueError(kind)


@dataclass(frozen=True)
class Score:
    """How likely a token was to the host: natural logarithms, and those of the likeliest tokens by their ids."""

    id: int
    logprob: float
    likeliest: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """What came next of an answer. The text is "" while a character or a stop string is incomplete."""

    text: str
    ids: tuple[int, ...]
    scores: tuple[Score, ...] = ()  # where the sampling asks for them


@dataclass(frozen=True)
class Usage:
    """What an answer took. Milliseconds count from `generate` to the first token, and to the last."""

    prompt: int = 0  # positions of the prompt
    reused: int = 0  # of them, whose keys and values were kept from an earlier turn
    new: int = 0  # tokens of the answer
    first_token_ms: float = 0.0
    total_ms: float = 0.0


@dataclass(frozen=True)
class EngineInfo:
    """What an engine is, for those who choose one or describe it."""

    name: str
    host: str
    device: str
    context: int  # positions that a prompt and its answer may take together
    supports: frozenset[Injection]
    rows: int  # answers that are decoded together; more wait
    weights: str  # how the host's matrices are kept, and why


class Stream(Protocol):
    """An answer as it is decoded. Iterate for its pieces; the rest is known afterwards.

    Iteration raises MattoniError with one sentence when this answer failed; others go on.
    """

    @property
    def engine(self) -> str:
        """What decodes it: the name of an engine."""

    @property
    def finished(self) -> Finish:
        """Why it ended."""

    @property
    def usage(self) -> Usage:
        """What it took."""

    @property
    def text(self) -> str:
        """The answer. Where it went round in circles, it is shorter than its pieces were: the surplus is left out."""

    @property
    def ids(self) -> list[int]:
        """Its token ids, as the next prompt repeats them."""

    @property
    def log_probabilities(self) -> list[float]:
        """Of the job's forced tokens, each given those before it, in nats."""

    @property
    def notices(self) -> list[Notice]:
        """What the user should know of how it was decoded."""

    def __iter__(self) -> Iterator[Piece]: ...

    def stop(self) -> None:
        """End it within one token; from any thread."""


def answers_of(engine: "Engine", jobs: Iterable[Job]) -> list[str]:
    """The texts of jobs that are decoded together, in order. Raises MattoniError as soon as one of them failed."""
    streams = [engine.generate(job) for job in jobs]
    for stream in streams:
        for _ in stream:
            pass
    return [stream.text for stream in streams]


class Engine(Protocol):
    """Whatever decodes jobs."""

    @property
    def info(self) -> EngineInfo:
        """What it is."""

    def generate(self, job: Job) -> Stream:
        """Begin an answer and return at once; from any thread."""

    def forget(self, conversation: str) -> None:
        """Drop the keys and values of a conversation."""

    def clear(self) -> None:
        """Drop the keys and values of all conversations."""

    def close(self) -> None:
        """Stop all answers and let go of the host."""

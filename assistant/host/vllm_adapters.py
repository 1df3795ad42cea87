"""LoRAs that a vLLM server holds for us: made of contents, loaded when a turn needs them, evicted least recently used.

vLLM takes one adapter for a request, so that the skills of a turn become one: `compose` concatenates their ranks, which is the
exact weighted sum, and rounds as the local engine does. An adapter is called by what it holds (`english-german@…`, `mix@…`),
never by a brick's name alone: servers have answered with another adapter's keys and values because two names were equal
(vLLM #30931, #42125). The server reads the files itself, at the path where they are written here.
"""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from torch import Tensor
from torch.nn import functional

from assistant.host.composition import compose, composition_key
from assistant.host.host import Host
from assistant.host.vllm_wire import Refused, message_of, problem_of
from mattoni.files import remove_folder, replace_folder
from mattoni.injections import LowRank
from task_bricks.lora import write_lora

MOST = 16  # adapters that the server is to know at once
# A server may read an adapter's files again while an answer that began before it was evicted is written.
_KEPT_S = 3600


def adapter_name(host: Host, loras: Sequence[LowRank]) -> str:
    """What an adapter is called: by its contents and strengths, and the host's."""
    digest = composition_key(host, loras)[:12]
    return f"{loras[0].name if len(loras) == 1 and loras[0].weight == 1 else 'mix'}@{digest}"


def write_adapter(folder: Path, host: Host, loras: Sequence[LowRank]) -> None:
    """Write the weighted sum of skills as one PEFT LoRA whose layers all have the same rank and scale 1.

    What is missing to that rank is nought, which adds exactly nothing: then no pattern of ranks has to be understood.

    Raises MattoniError where a skill does not fit the host, or the folder cannot be written.
    """
    deltas = compose(host, loras).deltas
    rank = max(len(a) for a, _ in deltas.values())
    factors = {name: _padded(a, b, rank) for name, (a, b) in deltas.items()}
    lora = LowRank(folder.name, "", factors, dict.fromkeys(factors, 1.0))
    replace_folder(folder, lambda fresh: _fill(fresh, lora, host.name))


def _fill(folder: Path, lora: LowRank, base_model: str) -> None:
    # The server may be another user's.
    folder.chmod(0o755)
    write_lora(folder, lora, base_model)


def _padded(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B (out, rank)."""
    missing = rank - len(a)
    return functional.pad(a, (0, 0, 0, missing)), functional.pad(b, (0, missing))


@dataclass
class _Loaded:
    users: int = 0  # answers that are being written with it


class Adapters:
    """Those of one server. Used on one event loop."""

    def __init__(self, client: httpx2.AsyncClient, url: str, host: Host, folder: Path, most: int = MOST) -> None:
        self._client, self._url, self._host, self._folder, self._most = client, url, host, folder.resolve(), most
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()  # the one used last at the end
        self._loading = asyncio.Lock()

    def adopt(self, known: Iterable[tuple[str, str]]) -> None:
        """Take over what the server holds of ours from before: names and the places of their files."""
        for name, place in known:
            if Path(place) == self._folder / name:
                self._loaded.setdefault(name, _Loaded())

    @property
    def names(self) -> list[str]:
        """What the server holds, the least recently used first."""
        return list(self._loaded)

    @asynccontextmanager
    async def using(self, loras: Sequence[LowRank]) -> AsyncIterator[str]:
        """The name of an adapter that is all of them; it is not evicted meanwhile.

        Raises Refused where the server does not take it, and MattoniError.
        """
        name = adapter_name(self._host, loras)
        loaded = self._loaded.get(name) or await self._load(name, loras)
        self._loaded.move_to_end(name)
        loaded.users += 1
        try:
            yield name
        finally:
            loaded.users -= 1

    def forget(self, name: str) -> None:
        """Note that the server does not know an adapter any more: somebody else unloaded it, or it was started again."""
        self._loaded.pop(name, None)

    async def unload_all(self) -> None:
        """Leave the server as it was found."""
        for name in self.names:
            await self._unload(name)

    async def _load(self, name: str, loras: Sequence[LowRank]) -> _Loaded:
        async with self._loading:
            if (loaded := self._loaded.get(name)) is not None:
                return loaded
            folder = self._folder / name
            if not folder.is_dir():
                await asyncio.to_thread(write_adapter, folder, self._host, loras)
            os.utime(folder)
            await self._evict()
            answer = await self._client.post(
                "/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)}
            )
            if not answer.is_success and "already been loaded" not in answer.text:
                raise self._problem(answer, loras)
            self._loaded[name] = loaded = _Loaded()
            return loaded

    def _problem(self, answer: httpx2.Response, loras: Sequence[LowRank]) -> Exception:
        names = ", ".join(lora.name for lora in loras)
        told = message_of(answer.content)
        if answer.status_code == 404 and told == "Not Found":
            why = "vLLM was started without VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        elif "No adapter found" in told:
            why = f"vLLM cannot read {self._folder}, where skills are written for it"
        elif "max_lora_rank" in told:
            why = f"vLLM takes no adapter as large as this ({told})"
        elif "not enabled" in told or "enable_lora" in told or "enable-lora" in told:
            why = "vLLM was started without --enable-lora"
        elif answer.status_code < 500 or "LoRA" in told:
            why = f"vLLM does not take this adapter ({told})"
        else:
            return problem_of(answer.status_code, answer.content, self._url)
        return Refused(f"{names}: {why}")

    async def _evict(self) -> None:
        """Make room for one more; what an answer is being written with stays."""
        idle = [name for name, loaded in self._loaded.items() if not loaded.users]
        for name in idle[: max(0, len(self._loaded) + 1 - self._most)]:
            del self._loaded[name]
            await self._unload(name)
        await asyncio.to_thread(self._remove_old)

    async def _unload(self, name: str) -> None:
        # One that is gone already is what was wanted; a server that is gone is told of by the next request.
        await self._client.post("/v1/unload_lora_adapter", json={"lora_name": name})

    def _remove_old(self) -> None:
        """Remove the files of what no server of ours has used for an hour."""
        begin = time.time() - _KEPT_S
        for folder in self._folder.iterdir():
            if folder.name not in self._loaded and folder.stat().st_mtime < begin:
                remove_folder(folder)

"""How a running server holds out: turns by several clients at once, over the wire as any client's. Knows no endpoint's inside.

Every request is first asked alone, greedily; then all of them at once, again and again. An answer under load that is another
request's is *mixed*: somebody was given what was not theirs. One that is nobody's *changed*: in bf16 a batch may round another way.
"""

import base64
import http.client
import io
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image, ImageDraw

from assistant.assistant import Assistant
from mattoni.errors import MattoniError
from server.app import Settings
from server.launch import listening, server_of

_TEXTS = (
    "What is a brick?",
    "Name three colours of the rainbow.",
    "Why is the sky blue?",
    "Write a sentence about a cat.",
    "How do I boil an egg?",
    "What is the capital of Italy?",
)
_SKILLS = 3
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Asked:
    """What one turn took, in seconds from the request on; `problem` where it failed."""

    number: int  # which request it was
    first_s: float
    whole_s: float
    text: str
    problem: str = ""


class Client:
    """Asks a server, each time over a connection of its own."""

    def __init__(self, url: str, key: str) -> None:
        """Raises MattoniError for what is no address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MattoniError(f"--url {url}: this is no address; write http://127.0.0.1:8000.")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connect: Callable[[], http.client.HTTPConnection] = lambda: kind(parts.netloc, timeout=_TIMEOUT_S)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def get(self, path: str) -> Any:
        """What an endpoint tells. Raises MattoniError."""
        try:
            with closing(self._connect()) as connection:
                connection.request("GET", path, headers=self._headers)
                response = connection.getresponse()
                told = json.loads(response.read())
        except (OSError, ValueError, http.client.HTTPException) as problem:
            raise MattoniError(f"The server does not answer ({problem}): start it with `mattoni serve`.") from problem
        if response.status != 200:
            raise MattoniError(f"The server refuses {path}: {told['error']['message']}")
        return told

    def ask(self, number: int, body: bytes) -> Asked:
        """Stream an answer. Raises nothing."""
        begun = time.perf_counter()
        first, pieces, problem = 0.0, [], ""
        try:
            with closing(self._connect()) as connection:
                connection.request("POST", "/v1/chat/completions", body, self._headers)
                response = connection.getresponse()
                if response.status != 200:
                    raise ValueError(json.loads(response.read())["error"]["message"])
                for told in _events(response):
                    if "error" in told:
                        raise ValueError(told["error"]["message"])
                    for choice in told["choices"]:
                        if piece := choice["delta"].get("content"):
                            first = first or time.perf_counter() - begun
                            pieces.append(piece)
        except (OSError, ValueError, KeyError, http.client.HTTPException) as wrong:
            problem = str(wrong) or type(wrong).__name__
        whole = time.perf_counter() - begun
        return Asked(number, first or whole, whole, "".join(pieces), problem)


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The server-sent events of a stream. Raises ValueError where it ends too early."""
    for line in response:
        if line.startswith(b"data: "):
            data = line[6:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)
    raise ValueError("the stream ended in the middle")


def plain_requests(client: Client, tokens: int) -> list[bytes]:
    """Bodies that every server of OpenAI's API answers alike: texts alone, for the bare host."""
    model = client.get("/v1/models")["data"][0]["id"]
    asked = {"model": model, "bricks": [], "stream": True, "temperature": 0, "max_tokens": tokens}
    return [json.dumps({**asked, "messages": [{"role": "user", "content": text}]}).encode() for text in _TEXTS]


def requests_for(client: Client, tokens: int) -> list[bytes]:
    """Bodies of every kind that the server can answer: the bare host, its router, skills by name, a picture."""
    skills = [adapter["path"] for adapter in client.get("/lora-adapters")][:_SKILLS]
    sees = any(
        model["mattoni"].get("kind") == "modality" and model["mattoni"]["brick"] in ("photo", "eyes")
        for model in client.get("/v1/models")["data"]
    )
    kinds: list[dict[str, Any]] = [{"bricks": []}, {}, *({"bricks": [name]} for name in skills)]
    asked = [(kinds[number % len(kinds)], text) for number, text in enumerate(_TEXTS * 2)]
    bodies = [{"messages": [{"role": "user", "content": text}], **kind} for kind, text in asked]
    if sees:
        picture = {"type": "image_url", "image_url": {"url": _picture()}}
        bodies.append({"messages": [{"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]}]})
    unique = {json.dumps({**body, "stream": True, "temperature": 0, "max_tokens": tokens}) for body in bodies}
    return [body.encode() for body in sorted(unique)]


def _picture() -> str:
    image = Image.new("RGB", (320, 240), "skyblue")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 160, 320, 240), fill="green")
    draw.ellipse((120, 60, 200, 140), fill="orange")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def bench_serve(url: str, turns: int, clients: int, tokens: int, key: str = "", plain: bool = False) -> dict[str, Any]:
    """Ask `turns` requests by `clients` at once; see the module's docstring. Raises MattoniError.

    plain  texts alone and nothing of Mattoni's own, so that any server of OpenAI's API can stand beside
    """
    client = Client(url, key)
    bodies = plain_requests(client, tokens) if plain else requests_for(client, tokens)
    alone = [client.ask(number, body) for number, body in enumerate(bodies)]
    if failed := [one.problem for one in alone if one.problem]:
        raise MattoniError(f"The server does not answer one request alone: {failed[0]}")
    begun = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        asked = list(pool.map(lambda turn: client.ask(turn % len(bodies), bodies[turn % len(bodies)]), range(turns)))
    seconds = time.perf_counter() - begun
    health = {} if plain else client.get("/health")
    return {
        "host": health.get("host") or json.loads(bodies[0])["model"],
        "plain": plain,
        "turns": turns,
        "clients": clients,
        "max_tokens": tokens,
        "requests": len(bodies),
        **compared(asked, [one.text for one in alone]),
        "seconds": round(seconds, 2),
        "turns_per_s": round(turns / seconds, 3),
        "first_token_s": spread([one.first_s for one in asked if not one.problem]),
        "turn_s": spread([one.whole_s for one in asked if not one.problem]),
        "alone": {
            "first_token_s": spread([one.first_s for one in alone]),
            "turn_s": spread([one.whole_s for one in alone]),
        },
        **({} if plain else {"left_running": health["running"] + health["waiting"]}),
    }


def compared(asked: Sequence[Asked], alone: Sequence[str]) -> dict[str, Any]:
    """Which turns failed, and which answers are another's or nobody's."""
    good = [one for one in asked if not one.problem]
    other = [one for one in good if one.text != alone[one.number]]
    mixed = [one for one in other if one.text in alone]
    problems = sorted({one.problem for one in asked if one.problem})
    return {
        "errors": len(asked) - len(good),
        "problems": problems[:5],
        "mixed": len(mixed),
        "changed": len(other) - len(mixed),
    }


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles; empty where there is nothing."""
    return {f"p{p}": round(float(np.percentile(seconds, p)), 3) for p in (50, 95)} if seconds else {}


@contextmanager
def served(assistant: Assistant) -> Iterator[str]:
    """A server of this assistant on a free port of this machine, for as long as it is needed."""
    with listening("127.0.0.1", 0) as listener:
        server = server_of(assistant, Settings())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            if not thread.is_alive():
                raise MattoniError("The server did not start: look at what `mattoni serve` says.")
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)

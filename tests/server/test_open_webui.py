"""Open WebUI, as it is, in front of the running server.

`MATTONI_OPEN_WEBUI=FOLDER/bin/open-webui python -m pytest -m slow tests/server/test_open_webui.py`, FOLDER being an environment of its own with
`pip install open-webui` in it (some gigabytes).
"""

import base64
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.assistant.conftest import png

PROGRAM = os.environ.get("MATTONI_OPEN_WEBUI", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason="needs Open WebUI in an environment of its own: set MATTONI_OPEN_WEBUI"),
]
STARTS_S = 600


@pytest.fixture
def webui(serve, tmp_path: Path) -> Iterator[tuple[httpx.Client, str]]:
    """Open WebUI that knows one provider, the server; and the host's name."""
    running = serve()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "DATA_DIR": str(tmp_path),
        "WEBUI_SECRET_KEY": "of this test",
        "WEBUI_AUTH": "False",
        "OPENAI_API_BASE_URLS": f"{running.url}/v1",
        "OPENAI_API_KEYS": "none needed",
        "ENABLE_OLLAMA_API": "False",
        # Nothing is fetched: no embedder of its own, no titles and tags that it would ask for.
        "OFFLINE_MODE": "True",
        "HF_HUB_OFFLINE": "1",
        "RAG_EMBEDDING_ENGINE": "openai",
        "ENABLE_TITLE_GENERATION": "False",
        "ENABLE_TAGS_GENERATION": "False",
    }
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port)],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **settings},
            cwd=tmp_path,
            stdout=out,
            stderr=out,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            until = time.monotonic() + STARTS_S
            while True:
                assert process.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                time.sleep(1)
            token = client.post("/api/v1/auths/signin", json={"email": "", "password": ""}).json()["token"]
            client.headers["Authorization"] = f"Bearer {token}"
            yield client, running.assistant.host.name
    finally:
        process.terminate()
        process.wait(30)


def test_open_webui_lists_chats_streams_and_shows_pictures(webui):
    client, host = webui
    assert host in [model["id"] for model in client.get("/api/models").json()["data"]]
    talk = {"model": host, "max_tokens": 6, "seed": 1, "messages": [{"role": "user", "content": "What burns?"}]}
    told = client.post("/api/chat/completions", json=talk | {"stream": False})
    assert told.status_code == 200, told.text
    said = told.json()["choices"][0]["message"]["content"]
    with client.stream("POST", "/api/chat/completions", json=talk | {"stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk.get("choices")]
    assert said and "".join(pieces) == said
    picture = "data:image/png;base64," + base64.b64encode(png().content).decode()
    shown = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": picture}}]
    seen = client.post(
        "/api/chat/completions",
        json=talk | {"stream": False, "bricks": {"eyes": "auto"}, "messages": [{"role": "user", "content": shown}]},
    )
    assert seen.status_code == 200 and seen.json()["choices"][0]["message"]["content"], seen.text
    refused = client.post("/api/chat/completions", json=talk | {"stream": False, "frequency_penalty": 0.5})
    assert refused.status_code == 400 and "frequency_penalty is not supported" in refused.text

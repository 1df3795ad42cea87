"""The server on a tiny real assistant: uvicorn in a thread, on a port of its own, and whatever asks it over the wire."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import uvicorn

from assistant.assistant import Assistant
from server.app import Settings
from server.launch import listening, server_of
from tests.assistant.conftest import assistant, prompts

__all__ = ["assistant", "prompts"]


@dataclass
class Running:
    """A server that answers at `url`."""

    url: str
    assistant: Assistant
    server: uvicorn.Server
    port: int


@pytest.fixture
def serve(assistant: Assistant) -> Iterator[Callable[..., Running]]:
    """Starts a server on the tiny assistant with these settings."""
    running: list[tuple[Running, threading.Thread, socket.socket]] = []

    def start(settings: Settings | None = None) -> Running:
        listener = listening("127.0.0.1", 0)
        server = server_of(assistant, settings or Settings())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server does not start"
            time.sleep(0.01)
        port = listener.getsockname()[1]
        running.append((Running(f"http://127.0.0.1:{port}", assistant, server, port), thread, listener))
        return running[-1][0]

    yield start
    for one, thread, listener in running:
        one.server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive(), "the server does not end"

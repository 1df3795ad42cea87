"""Runs the server until it is told to end. Knows nothing of its endpoints."""

import errno
import socket
import sys
from pathlib import Path

import uvicorn

from assistant.assistant import Assistant
from mattoni.errors import MattoniError
from server.app import Settings, fetcher, make_app
from server.keys import Keys

# What runs when the server is told to end may go on for that long; then it is stopped, and keeps what was said.
GRACE_S = 30
MOST_CONNECTIONS = 1000
_HERE = ("127.0.0.1", "::1", "localhost")


def settings_of(keys: Path | None, allow_urls: bool, most_megabytes: int) -> Settings:
    """What the options say. Raises MattoniError where the keys' file is not right."""
    return Settings(
        keys=Keys(keys) if keys is not None else None,
        fetcher=fetcher() if allow_urls else None,
        most_bytes=most_megabytes * 1_000_000,
        most_bytes_together=max(Settings.most_bytes_together, most_megabytes * 1_000_000),
    )


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens there; clients have the port in their settings, so no other is taken instead.

    Raises MattoniError.
    """
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(found[0], found[1])
        try:
            # A port in TIME_WAIT is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(found[4])
            listener.listen(MOST_CONNECTIONS)
        except OSError:
            listener.close()
            raise
    except OSError as problem:
        why = "it is taken" if problem.errno == errno.EADDRINUSE else problem.strerror
        said = f"Cannot listen on {address}, port {port} ({why}): choose another --address or --port."
        raise MattoniError(said) from problem
    return listener


def server_of(assistant: Assistant, settings: Settings) -> uvicorn.Server:
    """The server, ready to be run."""
    config = uvicorn.Config(
        make_app(assistant, settings),
        log_level="warning",
        access_log=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )
    return uvicorn.Server(config)


def launch(assistant: Assistant, settings: Settings, listener: socket.socket) -> None:
    """Serve until interrupted (Ctrl+C, SIGTERM); what runs then may end."""
    address, port = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    print(f"Mattoni serves http://{shown}:{port}/v1 (Ctrl+C ends it).", flush=True)
    if address not in _HERE and settings.keys is None:
        print("Everybody who reaches this machine can ask it: --keys FILE says who may.", file=sys.stderr, flush=True)
    server_of(assistant, settings).run(sockets=[listener])

"""Starts the page's server. Knows nothing of what the page shows."""

import errno
import socket
import sys
from pathlib import Path

from mattoni.errors import MattoniError
from ui.style import THEME

DEFAULT_PORT = 8501
MAX_UPLOAD_MB = 200


def free_port(host: str, wanted: int, tries: int = 50) -> int:
    """The wanted port, or the next one that nobody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(wanted, min(wanted + tries, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server itself does: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as problem:
                if problem.errno == errno.EADDRINUSE:
                    continue
                raise MattoniError(
                    f"Cannot listen on {host}, port {port} ({problem.strerror}): choose another --host or --port."
                ) from problem
            return port
    raise MattoniError(f"The ports from {wanted} on are all taken: choose another --port.")


def options(host: str, port: int) -> dict[str, str]:
    """Streamlit's settings, the same wherever the package is installed."""
    return {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.maxUploadSize": str(MAX_UPLOAD_MB),
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        # A click while an answer is being written then reruns the page instead of stopping its script, so that a
        # stopped script means the chat input's stop button and nothing else (ui.chat).
        "runner.fastReruns": "false",
        **THEME,
    }


def launch(host: str = "127.0.0.1", port: int = DEFAULT_PORT, model: str = "builtin") -> None:
    """Serve the page until interrupted; says where, and which port was taken.

    model   the host that answers: a catalogue name, Hub id, folder or GGUF file
    """
    found = free_port(host, port)
    if found != port:
        print(f"Port {port} is taken, so the page is on port {found}.", flush=True)
    shown = "localhost" if host in ("127.0.0.1", "::1", "0.0.0.0", "::") else host
    print(f"Mattoni is at http://{shown}:{found} (Ctrl+C ends it).", flush=True)

    from streamlit.web import cli

    from ui.backend import prepare

    prepare(model)
    page = Path(__file__).with_name("app.py")
    flags = [f"--{name}={value}" for name, value in options(host, found).items()]
    sys.argv = ["streamlit", "run", str(page), *flags]
    cli.main(prog_name="streamlit")

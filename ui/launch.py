"""Starts the page's server. Knows nothing of what the page shows."""

import errno
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Literal

from assistant.host.engine_choice import LOCAL, EngineChoice
from mattoni.errors import MattoniError
from ui.style import THEME

DEFAULT_PORT = 8501
MAX_UPLOAD_MB = 200
_EVERYWHERE = ("0.0.0.0", "::")


def free_port(address: str, wanted: int, tries: int = 50) -> int:
    """The wanted port, or the next one that nobody listens on."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in range(wanted, min(wanted + tries, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As the server itself does: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as problem:
                if problem.errno == errno.EADDRINUSE:
                    continue
                raise MattoniError(
                    f"Cannot listen on {address}, port {port} ({problem.strerror}): choose another --address or --port."
                ) from problem
            return port
    raise MattoniError(f"The ports from {wanted} on are all taken: choose another --port.")


def page_address(address: str, port: int) -> str:
    """What to type into a browser on this machine."""
    if address in ("127.0.0.1", "::1", *_EVERYWHERE):
        address = "localhost"
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def options(address: str, port: int) -> dict[str, str]:
    """Streamlit's settings, the same wherever the package is installed."""
    return {
        "server.address": address,
        "server.port": str(port),
        "server.headless": "true",
        "server.maxUploadSize": str(MAX_UPLOAD_MB),
        "server.fileWatcherType": "none",
        "server.showEmailPrompt": "false",
        "browser.gatherUsageStats": "false",
        "logger.level": "warning",
        "logger.hideWelcomeMessage": "true",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        # A click then waits for the script's next step instead of stopping it, so that a question just sent is not lost.
        "runner.fastReruns": "false",
        **THEME,
    }


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Not a page that was closed while it connected: Streamlit 1.67 closes it once more, and logs what that raises."""
    return not (record.exc_info and type(record.exc_info[1]).__name__ == "WebSocketDisconnected")


def leave_a_core() -> None:
    """Leave one core to the page and its browser, before torch starts its threads; OMP_NUM_THREADS set by hand wins.

    On two cores two threads of the host write 27 tokens a second and one 25, and with two a click in the browser was heard
    17 seconds later.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 2) - 1)))


def launch(
    address: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    host: str = "builtin",
    device: str = "auto",
    dtype: str = "auto",
    quantise: Literal["4bit"] | None = None,
    weights: Literal["auto", "bf16", "fp16", "int8", "int4"] = "auto",
    engine: EngineChoice = LOCAL,
    secrets: Path | None = None,
) -> None:
    """Serve the page until interrupted; says where, and which port was taken.

    address   where the server listens
    host      the model that answers, and how it is loaded: as for `assistant.host.host.load_host`
    engine    what decodes
    secrets   the file that says how people sign in; None: where Streamlit looks for it, and nobody signs in where there is none
    """
    from ui.signing_in import check_port, read_sign_in, secrets_files

    sign_in = read_sign_in(secrets_files() if secrets is None else [secrets])
    if secrets is not None and sign_in is None:
        raise MattoniError(
            f"{secrets} is not there, or says nothing of signing in: it needs a section [auth]; see docs/serving.md."
        )
    found = free_port(address, port)
    if sign_in is not None:
        check_port(sign_in, found)
    if found != port:
        print(f"Port {port} is taken, so the page is on port {found}.", flush=True)
    print(f"Mattoni is at {page_address(address, found)} (Ctrl+C ends it).", flush=True)
    if address in _EVERYWHERE and sign_in is None:
        print("Other machines can reach it too: everybody who does sees the same conversations.", flush=True)

    from streamlit.web import cli

    leave_a_core()
    from ui.backend import HostChoice, backend

    logging.getLogger("uvicorn.error").addFilter(_is_worth_telling)
    choice = HostChoice(host, device, dtype, quantise, weights, engine)
    backend(choice)  # the host loads while the server starts; the page finds it under way
    page = Path(__file__).with_name("app.py")
    told = options(address, found) | ({"secrets.files": str(secrets)} if secrets is not None else {})
    flags = [f"--{name}={value}" for name, value in told.items()]
    signing = sign_in.to_arguments() if sign_in is not None else [""]
    sys.argv = ["streamlit", "run", str(page), *flags, "--", *choice.to_arguments(), *signing]
    cli.main(prog_name="streamlit")

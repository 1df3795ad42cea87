"""`mattoni train watch RUN …`: a page of this machine that shows training runs. Training only.

It reads what a run writes (`state.json`, `log.jsonl`), so it does not matter which process trains, or whether it still does.
"""

import argparse
import json
import threading
from collections.abc import Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from brick_training.run_folder import LOG, STATE, read_log
from mattoni.errors import MattoniError

PAGE = Path(__file__).with_suffix(".html")
PORT, PORTS = 8510, 20
POINTS = 600  # of a curve: more than a screen shows


def view_of_run(folder: Path) -> dict[str, Any]:
    """What the page shows of a run: its state, curves and last answers."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {}
    records = read_log(folder / LOG)
    losses = [[r["step"] + 1, r["loss"]] for r in records if "loss" in r]
    evaluations = [r for r in records if "metrics" in r]
    if state.get("state") == "running" and not psutil.pid_exists(int(state.get("process", 0))):
        state["state"] = "killed"
    if not state and losses:
        # A run of before `state.json`: its log says as much as there is to know.
        state = {"state": "unknown", "step": losses[-1][0], "steps": None, "seconds": records[-1].get("seconds")}
    return {
        "name": folder.as_posix(),
        "state": state or {"state": "waiting"},
        # Counted from the end: the last one is always among them.
        "losses": losses[:: -(1 + len(losses) // POINTS)][::-1],
        "evaluations": [{"step": r["step"] + 1, "metrics": r["metrics"]} for r in evaluations],
        "samples": evaluations[-1]["samples"] if evaluations else [],
    }


class _Handler(BaseHTTPRequestHandler):
    """The page, and what it asks for every other second."""

    def __init__(self, folders: Sequence[Path], *arguments: Any) -> None:
        self.folders = folders
        super().__init__(*arguments)

    def do_GET(self) -> None:
        # Another site's script may reach a server of this machine under a name of its own; it gets nothing.
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
            self.send_error(403)
        elif self.path == "/":
            self._send(PAGE.read_bytes(), "text/html")
        elif self.path == "/runs":
            self._send(json.dumps([view_of_run(folder) for folder in self.folders]).encode(), "application/json")
        else:
            self.send_error(404)

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: the terminal belongs to the training."""


class Page:
    """The running server."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.server = server
        self.address = f"http://127.0.0.1:{server.server_port}"
        self.thread = threading.Thread(target=server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()


def serve(folders: Sequence[Path], port: int = PORT) -> Page:
    """Show these runs on this machine, from a thread; the next free port if the first one is taken."""
    handler = partial(_Handler, tuple(folders))
    for candidate in range(port, port + PORTS):
        try:
            return Page(ThreadingHTTPServer(("127.0.0.1", candidate), handler))
        except OSError:
            continue  # taken
    raise MattoniError(f"No port between {port} and {port + PORTS - 1} is free: end another page, or give --port.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="mattoni train watch", description="Show training runs on a page.")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, running or not")
    parser.add_argument("--port", type=int, default=PORT, help="if it is taken, the next free one")
    given = parser.parse_args(arguments)
    missing = next((run for run in given.runs if not run.is_dir()), None)
    if missing is not None:
        raise MattoniError(f"There is no run {missing}: name the folder that a config calls run.")
    page = serve(given.runs, given.port)
    print(f"{page.address} (Ctrl-C ends the page, and no training)", flush=True)
    try:
        page.thread.join()
    except KeyboardInterrupt:
        page.close()

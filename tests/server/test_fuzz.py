"""Schemathesis asks the running server whatever its own description allows, and much that it does not: nothing is a 500."""

import os
import subprocess
import sys

import pytest

# For longer: MATTONI_FUZZ_SECONDS=1200 python -m pytest -m slow tests/server/test_fuzz.py
SECONDS = os.environ.get("MATTONI_FUZZ_SECONDS")


@pytest.mark.slow
def test_no_request_breaks_the_server(serve):
    pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install schemathesis")
    running = serve()
    length = (
        ["--max-time", SECONDS, "--generation-database", "none"]
        if SECONDS
        else ["--max-examples", "6", "--generation-deterministic", "--no-shrink"]
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json"),
            *("--checks", "not_a_server_error", "--mode", "all", "--phases", "examples,coverage,fuzzing"),
            *("--request-timeout", "60", "--no-color", *length),
        ],
        capture_output=True,
        text=True,
        timeout=300 + int(SECONDS or 0),
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert running.assistant.load == (0, 0)

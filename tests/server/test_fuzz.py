"""The running server is asked whatever its own description allows, and much that it does not: nothing is a 500."""

import copy
import http.client
import json
import os
import random
import subprocess
import sys
import time

import pytest

from tests.server.test_bad_input import TALK, image
from tests.server.test_clients import data_url

# For longer: MATTONI_FUZZ_SECONDS=1200 python -m pytest -m slow tests/server/test_fuzz.py
SECONDS = int(os.environ.get("MATTONI_FUZZ_SECONDS", "0"))
FORM = {"type": "json_schema", "json_schema": {"name": "it", "schema": {"type": "object", "properties": {"a": {}}}}}
PARTS = [
    {"type": "text", "text": "What is this?"},
    image(data_url()),
    {"type": "file", "file": {"filename": "a.txt", "file_data": "QSBraWxuLg=="}},
    {"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}},
]
CHAT = {
    "messages": [{"role": "system", "content": "Be brief."}, *TALK, {"role": "assistant", "content": "Clay."}, *TALK],
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "repetition_penalty": 1.1,
    "seed": 1,
    "n": 2,
    "stop": ["x"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "logprobs": True,
    "top_logprobs": 2,
    "bricks": {"eyes": 0.5, "*": "auto"},
}
BODIES = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PARTS[:3]}], "max_tokens": 1}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PARTS}], "max_tokens": 1, "lora": [{"id": 0}]}),
    ("/v1/chat/completions", {"messages": TALK, "max_tokens": 4, "response_format": FORM}),
    ("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "base64", "dimensions": 48}),
]
STRANGE = [
    *(None, True, 0, -1, 1.5, 10**30, 1e308, "", " ", "\x00", "\ud800", "<|im_end|>", "../x", "é" * 3000),
    *(
        [],
        {},
        [[]],
        [None],
        {"": {}},
        {"type": "text"},
        {"$ref": "#"},
        {"type": ["object", "null"], "enum": []},
        "data:,",
    ),
]


def places(value, at=()):
    """Where something can be changed."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]


def changed(body, chance: random.Random):
    """The body with one or two of its values replaced, doubled or taken out."""
    body = copy.deepcopy(body)
    for _ in range(chance.randint(1, 2)):
        *way, last = chance.choice(places(body)[1:])
        inner = body
        for key in way:
            inner = inner[key]
        match chance.randrange(4):
            case 0:
                del inner[last]
            case 1 if isinstance(inner, list):
                inner.append(inner[last])
            case _:
                inner[last] = copy.deepcopy(chance.choice(STRANGE))
        if not places(body)[1:]:
            break
    return body


@pytest.mark.slow
def test_no_change_of_a_right_request_breaks_the_server(serve):
    running = serve()
    chance, until = random.Random(7), time.monotonic() + SECONDS / 2
    number, statuses = 0, set()
    while number < 150 or time.monotonic() < until:
        path, body = BODIES[number % len(BODIES)]
        sent = json.dumps(changed(body, chance))
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("POST", path, sent, {"Content-Type": "application/json"})
        response = connection.getresponse()
        told = response.read().decode()
        connection.close()
        statuses.add(response.status)
        assert response.status < 500, (sent, told)
        assert response.status == 200 or "\n" not in json.loads(told)["error"]["message"], (sent, told)
        assert '"server_error"' not in told, (sent, told)
        number += 1
    print(f"{number} requests, {sorted(statuses)}")
    assert {200, 400} <= statuses
    assert running.assistant.load == (0, 0)


@pytest.mark.slow
def test_nothing_that_the_servers_own_description_leads_to_breaks_it(serve):
    pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install schemathesis")
    running = serve()
    length = (
        ["--max-time", f"{max(1, SECONDS // 2)}", "--phases", "coverage,fuzzing", "--generation-database", "none"]
        if SECONDS
        else ["--max-examples", "6", "--phases", "fuzzing", "--generation-deterministic", "--no-shrink"]
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{running.url}/openapi.json"),
            *("--checks", "not_a_server_error", "--mode", "all", "--request-timeout", "60", "--no-color", *length),
        ],
        capture_output=True,
        text=True,
        timeout=300 + SECONDS,
    )
    print(done.stdout[-6000:])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert running.assistant.load == (0, 0)

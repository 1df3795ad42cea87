"""The load figures: what is counted, on a tiny server."""

import json

from server.bench import Asked, bench_serve, compared
from tests.assistant.conftest import command_line, write_adapter

__all__ = ["command_line"]


def test_an_answer_that_is_anothers_is_mixed_and_one_that_is_nobodys_has_changed():
    alone = ["a cat", "a dog"]
    asked = [
        Asked(0, 0.1, 0.2, "a cat"),
        Asked(1, 0.1, 0.2, "a cat"),
        Asked(1, 0.1, 0.2, "a doe"),
        Asked(0, 0.1, 0.2, "", "503"),
    ]
    assert compared(asked, alone) == {"errors": 1, "problems": ["503"], "mixed": 1, "changed": 1}


def test_a_server_under_load_answers_everybody_with_their_own(serve, assistant, tmp_path, mattoni):
    assistant.add_skill(write_adapter(tmp_path / "one", assistant.host, 1))
    running = serve()
    told = bench_serve(running.url, turns=24, clients=12, tokens=8)
    assert (told["errors"], told["mixed"], told["left_running"], told["turns"]) == (0, 0, 0, 24)
    assert told["requests"] > 6 and told["first_token_s"]["p50"] <= told["turn_s"]["p50"] <= told["turn_s"]["p95"]
    status, out, _ = mattoni("bench", "serve", "--url", running.url, "--turns", 3, "--clients", 2, "--max-tokens", 2)
    assert status == 0 and json.loads(out)["errors"] == 0
    plain = bench_serve(running.url, turns=6, clients=3, tokens=4, plain=True)
    assert (plain["errors"], plain["mixed"], plain["host"]) == (
        0,
        0,
        assistant.host.name,
    ) and "left_running" not in plain
    status, _, error = mattoni("bench", "serve", "--url", "ftp://x")
    assert status == 1 and "this is no address" in error and error.count("\n") == 1


def test_replicas_that_cannot_be_are_refused_before_a_host_is_loaded(mattoni, monkeypatch):
    status, _, error = mattoni("serve", "--replicas", "0")
    assert status == 1 and "--replicas 0: say how many processes decode" in error and error.count("\n") == 1
    monkeypatch.setattr("assistant.host.engine_choice.find_spec", lambda name: None)
    for command in (["serve"], ["bench", "serve"]):
        status, _, error = mattoni(*command, "--replicas", "2")
        assert status == 1 and 'pip install "mattoni[ray]"' in error and error.count("\n") == 1
    status, _, error = mattoni("bench", "serve", "--replicas", "2", "--url", "http://127.0.0.1:1")
    assert status == 1 and "and --url names one that runs" in error and error.count("\n") == 1

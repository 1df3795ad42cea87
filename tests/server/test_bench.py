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

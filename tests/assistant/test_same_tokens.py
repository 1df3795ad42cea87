"""Two engines' tokens side by side: what differs, where, by how much, and by how much the engines differ anyway."""

from contextlib import closing
from itertools import islice
from types import SimpleNamespace

import pytest

from assistant.evaluation.same_tokens import (
    KINDS,
    Rows,
    Said,
    Turn,
    compared,
    decode,
    first_difference,
    margin,
    noise,
    report,
    requests,
)
from assistant.host.job import Score
from assistant.host.local import LocalEngine
from assistant.host.sampling import Sampling
from assistant.host.vllm import VllmEngine
from mattoni.errors import MattoniError
from mattoni.injections import Gate
from tests.assistant.test_vllm import a_job, jobs_of_all_kinds
from tests.assistant.vllm_server import VllmServer, running

ENDS = frozenset({9})


def said(*tokens: tuple[int, float, dict[int, float]]) -> Said:
    return Said(tuple(Score(i, p, ((i, p), *others.items())) for i, p, others in tokens))


def test_the_first_difference_may_be_an_end():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([], [1]) == 0


def test_the_margin_is_the_larger_one_of_both_engines():
    one, other = said((1, -0.5, {2: -0.75})), said((2, -0.6, {1: -0.7}))
    assert margin(one, other, 0, ENDS) == (pytest.approx(0.25), "local")
    assert margin(other, one, 0, ENDS) == (pytest.approx(0.25), "vllm")
    assert margin(one, said((3, -0.1, {1: -0.2})), 0, ENDS) == (None, "local")  # not even among the likeliest


def test_the_margin_of_an_end_is_told_by_the_engine_that_went_on():
    longer, ended = said((1, -0.1, {}), (2, -0.5, {9: -0.6})), said((1, -0.1, {}))
    assert margin(longer, ended, 1, ENDS) == (pytest.approx(0.1), "local")
    assert margin(ended, longer, 1, ENDS) == (pytest.approx(0.1), "vllm")


def test_noise_is_that_of_the_places_before_the_difference():
    one = said((1, -0.5, {}), (2, -0.5, {}), (3, -0.5, {}))
    other = said((1, -0.52, {}), (4, -0.9, {}), (3, -0.9, {}))
    assert noise([(one, other)]) == [pytest.approx(0.02)]


def test_a_difference_larger_than_the_noise_is_unexplained():
    host = SimpleNamespace(stop_ids=ENDS, tokenizer=SimpleNamespace(decode=lambda ids: f"<{ids[0]}>"))
    turns = [Turn("a", "text", None), Turn("b", "photo", None), Turn("c", "photo", None)]
    same = said((1, -0.5, {}), (2, -0.5, {}))
    near = said((1, -0.6, {}), (3, -0.6, {2: -0.7}))
    far = said((1, -0.5, {}), (3, -0.1, {2: -2.5}))
    found = report(host, turns, [(same, same), (said((1, -0.5, {}), (2, -0.5, {3: -0.6})), near), (same, far)])
    assert (found["n"], found["same"], found["unexplained"]) == (3, 1, 1)
    assert found["by kind"] == {"text": "1 of 1", "photo": "0 of 2", "skill": "0 of 0", "photo with skill": "0 of 0"}
    tie, fault = found["differences"]
    assert (tie["place"], tie["local"], tie["vllm"], tie["is_rounding"]) == (1, "<2>", "<3>", True)
    assert (fault["margin"], fault["is_rounding"]) == (None, False)


def test_both_engines_are_asked_and_nothing_else_may_answer(host, tmp_path):
    sampling = Sampling(max_tokens=8, logprobs=20)
    jobs = [Turn(str(n), "text", job) for n, job in enumerate(jobs_of_all_kinds(host))]
    with (
        running(VllmServer(host)) as server,
        closing(LocalEngine(host, weights="bf16")) as local,
        closing(VllmEngine(host, server.url, lambda: LocalEngine(host, weights="bf16"), folder=tmp_path)) as remote,
    ):
        asked = [Turn(t.id, t.kind, a_job(host, *t.job.injections, sampling=sampling)) for t in jobs]
        path = tmp_path / "answers.jsonl"
        compared(local, remote, asked[:2], path)
        with path.open("a") as file:
            file.write('{"id": "2", "kind": "te')  # a stop cut it short
        before = len(server.asked)
        answers = compared(local, remote, asked, path)
        assert len(server.asked) == before + len(asked) - 2
        assert compared(local, remote, asked, path) == answers and len(server.asked) == before + len(asked) - 2
        found = report(host, asked, answers)
        assert (found["percent"], found["differences"], found["noise in nats"]["p99"]) == (100.0, [], 0.0)
        assert found["tokens"] == found["tokens before a difference"] > 0
        with pytest.raises(MattoniError, match="vllm did not answer: calm: vLLM has no factors"):
            decode(remote, a_job(host, Gate("calm", "d", {}), sampling=sampling))


def test_turns_are_of_four_kinds_by_turns(training_data, tmp_path):
    found = list(islice(requests(Rows(tmp_path), Sampling()), 8))
    assert [kind for kind, _, _ in found] == [*KINDS, *KINDS]
    assert [bool(request.attachments) for _, _, request in found[:4]] == [False, True, False, True]
    assert len({name for _, name, _ in found}) == 8

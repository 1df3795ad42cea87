from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from assistant.evaluation.bench import measure
from assistant.evaluation.bench_batch import are_equal, measure_speed
from assistant.evaluation.bench_engines import Generate, LlamaCpp, Ours, bench_engines, llama_cpp, prompt_ids
from assistant.evaluation.bench_switch import first_tokens, routing_ms, switching_ms
from assistant.host.catalogue import BUILTIN_HOST, fetch_original
from assistant.host.local import LocalEngine


@pytest.fixture
def engine(host) -> Iterator[LocalEngine]:
    engine = LocalEngine(host)
    yield engine
    engine.close()


def test_a_turn_is_measured_end_to_end(assistant):
    measured = measure(assistant, repetitions=1, tokens=16, page_pixels=400)
    assert measured["host"] and measured["device"] == "cpu" and measured["threads"] >= 1
    assert measured["picture"]["brick"] == "eyes" and set(measured["picture"]["ms"]) >= {"look", "encode", "total"}
    assert measured["decode"]["ours_tokens_per_s"] > 0 and measured["decode"]["generate_tokens_per_s"] > 0
    second = measured["second_turn"]
    assert second["reused_tokens"] > 0.9 * second["prompt_tokens"] - 40
    assert second["reused_ms"] > 0 and second["recomputed_ms"] > 0
    assert measured["document"]["brick"] == "document" and measured["document"]["read_s"] > 0
    assert 0.1 < measured["peak_memory_gb"] < 20


def test_the_same_turns_are_measured_of_the_engine_and_of_plain_generate(host, engine):
    found = bench_engines(host, engine, repetitions=1)
    assert found["llamacpp"] is None, "this host came from no file that it reads"
    for name in ("ours", "generate"):
        assert set(found[name]["turns"]) == {"short", "document", "second"}
        assert found[name]["decode_tokens_s"] > 0 and found[name]["prefill_tokens_s"] > 0
        assert min(found[name]["turns"].values()) > 0


def test_a_measured_turn_has_its_length_and_both_programs_say_the_same_with_what_they_kept(host, engine):
    ours, theirs = Ours(engine), Generate(host)
    first, more = prompt_ids(host, "A wall.", 20), prompt_ids(host, "A door.", 7)
    assert (len(first), len(more)) == (20, 7)
    said = [program.turn(first, 9) for program in (ours, theirs)]
    assert said[0].ids == said[1].ids and len(said[0].ids) == 9
    again = [program.turn([*first, *said[0].ids, *more], 5) for program in (ours, theirs)]
    assert again[0].ids == again[1].ids and all(0 < turn.first_s < turn.all_s for turn in again)


def test_llama_cpp_is_given_the_file_that_the_host_was_made_from(host, tmp_path, monkeypatch):
    module = "assistant.evaluation.bench_engines"
    monkeypatch.setattr(f"{module}.fetch_original", lambda name: tmp_path / name)
    opened: list[Path] = []
    builtin = replace(host, name=BUILTIN_HOST)
    for wheel in (None, object()):
        monkeypatch.setattr(f"{module}.importlib.util.find_spec", lambda name, wheel=wheel: wheel)
        with llama_cpp(builtin, lambda gguf, threads, encode: opened.append(gguf) or Generate(host)) as program:
            assert (program is None) == (wheel is None)
    assert opened == [tmp_path / BUILTIN_HOST / "SmolLM2-135M-Instruct.Q4_1.gguf"]


def test_rows_of_eight_compositions_say_what_each_says_alone_and_their_speed_is_measured(host, engine):
    assert are_equal(host, engine, tokens=6)
    found = measure_speed(host, engine, repetitions=1, tokens=6)
    assert found["speedup"] > 0 and set(found["overhead"]) == {"1", "2", "4"}


def test_a_change_of_skill_is_measured_and_an_activated_one_finds_the_history(host, engine):
    found = first_tokens(host, engine, history=120, repetitions=1)
    reused = found["reused_tokens"]
    assert reused["activated"] >= 120 and reused["back"] >= 120 and reused["everywhere"] == reused["recomputed"] == 0
    assert 0 < found["ratio"] and min(found["first_token_ms"].values()) > 0
    assert set(switching_ms(host, 1)) == {"used before", "first time"}
    assert routing_ms(bricks=40, keys=2, repetitions=1) > 0


@pytest.mark.slow
def test_llama_cpp_answers_beside_the_builtin_host(real_cache):
    pytest.importorskip("xllamacpp", reason="needs the extra 'bench'")
    (gguf,) = fetch_original(BUILTIN_HOST).glob("*.gguf")
    turn = LlamaCpp(gguf, 1, lambda text: list(text.encode())).turn(range(1000, 1020), 4)
    assert turn.new == 4 and turn.ids and 0 < turn.first_s < turn.all_s

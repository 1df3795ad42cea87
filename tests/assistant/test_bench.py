from assistant.bench import bench_turn


def test_a_turn_is_measured_end_to_end(tiny_host):
    measured = bench_turn(str(tiny_host), "cpu", repetitions=1, tokens=16)
    assert measured["host"] and measured["device"] == "cpu"
    assert measured["decode"]["ours_tokens_per_s"] > 0 and measured["decode"]["generate_tokens_per_s"] > 0
    second = measured["second_turn"]
    assert second["reused_tokens"] > 0.9 * second["prompt_tokens"] - 40
    assert second["reused_ms"] > 0 and second["recomputed_ms"] > 0
    assert 0.1 < measured["peak_memory_gb"] < 20

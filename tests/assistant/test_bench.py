from assistant.evaluation.bench import measure


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

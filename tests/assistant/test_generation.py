"""Generation: parity with transformers, cache reuse, stopping, seeds and streaming."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assistant.host.answer_text import TextStream
from assistant.host.composition import compose
from assistant.host.host import Host, load_host
from assistant.host.prompt import Prompt, Turn, build_prompt
from assistant.host.sampling import Sampling
from mattoni.injections import Ids, Soft, Text
from tests.assistant.plain_generation import Generation, KeyValues, common_prefix

GREEDY = Sampling(temperature=0, max_tokens=12)


@pytest.fixture
def host(tiny_host) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


def prompt_of(host: Host, *segments) -> Prompt:
    return build_prompt(host.tokenizer, [Turn("user", segments)])


def run(host: Host, prompt: Prompt, sampling: Sampling = GREEDY, seed: int = 0, memory: KeyValues | None = None):
    generation = Generation(host, prompt, compose(host, []), sampling, seed, memory)
    return list(generation), generation


def test_greedy_tokens_are_those_of_plain_generate(host):
    prompt = prompt_of(host, Text("What is in the picture?"))
    ids = torch.tensor([prompt.keys])
    expected = host.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    tokens, generation = run(host, prompt)
    reference = expected[0, len(prompt) :].tolist()
    assert tokens == reference[: len(tokens)]
    assert generation.finished == "length" or reference[len(tokens)] in host.stop_ids


def test_without_bricks_the_logits_are_the_bare_hosts_bit_for_bit(host):
    prompt = prompt_of(host, Text("What is in the picture?"))
    generation = Generation(host, prompt, compose(host, []), GREEDY, 0)
    with torch.inference_mode():
        ours = generation._read_prompt()
        ids = torch.tensor([prompt.keys])
        bare = host.model(input_ids=ids, use_cache=True, logits_to_keep=1).logits[0, -1]
    assert torch.equal(ours, bare)


def test_a_second_turn_reads_only_what_is_new_and_says_the_same(host):
    first = prompt_of(host, Soft("d", torch.randn(4, host.width)), Text("What is in the picture?"))
    answer, done = run(host, first)
    pieces = (*first.pieces, tuple(answer), *prompt_of(host, Text("And the total?")).pieces)
    second = Prompt(pieces)
    fresh, alone = run(host, second)
    again, reusing = run(host, second, memory=done.memory)
    assert alone.reused == 0
    # The last token of an answer that ran into its limit has been read too.
    assert reusing.reused == len(first) + len(answer)
    assert again == fresh


def test_another_picture_at_the_same_place_is_not_taken_for_the_first(host):
    question = Text("What is in the picture?")
    vectors = torch.randn(2, 4, host.width)
    _, done = run(host, prompt_of(host, Soft("one", vectors[0]), question))
    other = prompt_of(host, Soft("two", vectors[1]), question)
    expected, _ = run(host, other)
    tokens, generation = run(host, other, memory=done.memory)
    assert tokens == expected
    assert generation.reused == other.keys.index(("two", 0))


def test_keys_and_values_of_another_composition_are_not_used(host):
    prompt = prompt_of(host, Text("hello"))
    _, done = run(host, prompt)
    done.memory.composition = "another"
    assert run(host, prompt, memory=done.memory)[1].reused == 0


def test_it_stops_within_one_token(host):
    prompt = prompt_of(host, Text("hello"))
    seen: list[int] = []
    generation = Generation(host, prompt, compose(host, []), GREEDY, 0, stopped=lambda: len(seen) >= 2)
    for token in generation:
        seen.append(token)
    assert len(seen) == 2
    assert generation.finished == "stopped"


def test_a_stop_is_heard_while_a_long_prompt_is_read(host):
    generation = Generation(host, prompt_of(host, Text("a " * 900)), compose(host, []), GREEDY, 0, stopped=lambda: True)
    assert list(generation) == []
    assert generation.finished == "stopped"
    assert generation.memory.keys == []


def test_equal_seeds_draw_equal_tokens_and_others_do_not(host):
    prompt, hot = prompt_of(host, Text("hello")), Sampling(temperature=1.5, top_p=0.95, max_tokens=20)
    once, again, other = (run(host, prompt, hot, seed)[0] for seed in (3, 3, 4))
    assert once == again != other


def test_an_answer_ends_where_the_context_does(host):
    host.model.config.max_position_embeddings = 40
    prompt = prompt_of(host, Text("hi"))
    tokens, generation = run(host, prompt, Sampling(temperature=0, max_tokens=500))
    assert len(prompt) + len(tokens) <= 40
    assert generation.finished in ("length", "end")


@given(a=st.lists(st.integers(0, 2)), b=st.lists(st.integers(0, 2)))
def test_the_common_prefix_is_common_and_longest(a, b):
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


@given(text=st.text())
def test_streamed_pieces_join_to_the_whole_text(tiny_host, text):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_host)
    ids = tokenizer.encode(text, add_special_tokens=False)
    stream = TextStream(tokenizer.decode)
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) + stream.rest() == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


def test_ids_of_the_answer_make_the_next_prompt_begin_with_the_last_one(host):
    prompt = prompt_of(host, Text("hello"))
    answer, _ = run(host, prompt)
    turns = [Turn("user", (Text("hello"),)), Turn("assistant", (Ids(tuple(answer)),)), Turn("user", (Text("more"),))]
    longer = build_prompt(host.tokenizer, turns)
    assert longer.keys[: len(prompt) + len(answer)] == prompt.keys + answer

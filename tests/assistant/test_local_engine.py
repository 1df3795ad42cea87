"""The local engine: rows that join and leave, each with its own composition; one that fails harms nobody else."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest
import torch

from assistant.host.composition import compose
from assistant.host.host import Host, load_host
from assistant.host.job import Job
from assistant.host.local import LocalEngine, LocalStream
from assistant.host.prompt import Prompt, Turn, build_prompt
from assistant.host.sampling import Sampling
from mattoni.errors import MattoniError
from mattoni.injections import Ids, LowRank, Prefix, Soft, Text
from tests.assistant.plain_generation import Generation

GREEDY = Sampling(temperature=0, max_tokens=12)
WORDS = "What is in the picture of the dog on the grass and the man on a couch?".split()


@pytest.fixture
def host(tiny_host) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


@pytest.fixture
def engine(host) -> Iterator[LocalEngine]:
    engine = LocalEngine(host)
    yield engine
    engine.close()


def prompt_of(host: Host, *segments) -> Prompt:
    return build_prompt(host.tokenizer, [Turn("user", segments)])


def skill(host: Host, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (torch.randn(2, columns, generator=generator) * 0.3, torch.randn(rows, 2, generator=generator) * 0.3)
        for name, (rows, columns) in host.linear_shapes.items()
    }
    return LowRank(f"skill{seed}", f"digest{seed}", factors, dict.fromkeys(factors, 0.5))


def jobs_of(host: Host, count: int, sampling: Sampling = GREEDY) -> list[Job]:
    """Jobs of different lengths and compositions, some with soft tokens, some with a prefix."""
    config = host.model.config
    generator = torch.Generator().manual_seed(9)
    shape = (config.num_key_value_heads, 3, config.hidden_size // config.num_attention_heads)
    layers = tuple(
        (torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
        for _ in range(config.num_hidden_layers)
    )
    jobs = []
    for n in range(count):
        picture = (Soft(f"picture{n}", torch.randn(4, host.width, generator=generator)),) if n % 3 == 0 else ()
        injections = ([skill(host, n)] if n % 4 else []) + ([Prefix("cartridge", "c", layers)] if n % 5 == 1 else [])
        prompt = prompt_of(host, *picture, Text(" ".join(WORDS[: 3 + n % 10])))
        jobs.append(Job(prompt, tuple(injections), sampling, seed=n))
    return jobs


def plain(host: Host, job: Job) -> list[int]:
    """The reference: one row by itself, with the composition as hooks on transformers' own forward."""
    return list(Generation(host, job.prompt, compose(host, job.injections), job.sampling, job.seed))


def answer(stream: LocalStream) -> str:
    return "".join(piece.text for piece in stream)


def ids(stream: LocalStream) -> list[int]:
    answer(stream)
    return stream.ids


def test_one_row_says_what_plain_decoding_says(host, engine):
    for job in jobs_of(host, 6):
        stream = engine.generate(job)
        pieces = list(stream)
        assert stream.ids == plain(host, job)
        assert [i for piece in pieces for i in piece.ids] == stream.ids
        assert "".join(piece.text for piece in pieces) == host.tokenizer.decode(stream.ids, skip_special_tokens=True)
        assert stream.finished in ("end", "length")
        assert stream.usage.new == len(stream.ids)
        assert stream.usage.prompt == len(job.prompt)


def test_rows_together_say_what_each_says_alone(host, engine):
    jobs = jobs_of(host, 12)
    expected = [plain(host, job) for job in jobs]
    streams = [engine.generate(job) for job in jobs]
    assert [ids(stream) for stream in streams] == expected


def test_sampled_rows_draw_from_their_own_generator(host, engine):
    jobs = jobs_of(host, 6, Sampling(temperature=1.2, top_p=0.95, max_tokens=12))
    alone = [ids(engine.generate(job)) for job in jobs]
    together = [ids(stream) for stream in [engine.generate(job) for job in jobs]]
    assert together == alone
    assert ids(engine.generate(replace(jobs[0], seed=99))) != alone[0]


def test_more_rows_than_there_is_room_for_wait_and_are_answered(host):
    engine = LocalEngine(host, rows=2)
    try:
        jobs = jobs_of(host, 7)
        streams = [engine.generate(job) for job in jobs]
        assert [ids(stream) for stream in streams] == [plain(host, job) for job in jobs]
    finally:
        engine.close()


def test_a_job_that_travelled_is_answered_alike(host, engine):
    job = jobs_of(host, 2)[1]
    assert ids(engine.generate(Job.from_bytes(job.to_bytes()))) == plain(host, job)


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        Sampling(temperature=1.2, top_p=0.95, max_tokens=12),
        Sampling(temperature=0.8, max_tokens=12, repetition_penalty=1.3, logprobs=2),
        Sampling(temperature=0, max_tokens=12, json_schema='{"type": "array", "items": {"type": "integer"}}'),
    ],
)
def test_an_answer_that_was_begun_elsewhere_goes_on_as_it_would_have_there(host, engine, sampling):
    for job in jobs_of(host, 6, sampling):
        whole = engine.generate(job)
        pieces = list(whole)
        for cut in {0, 1, len(whole.ids) // 2, len(whole.ids)}:
            rest = engine.generate(replace(job, said=tuple(whole.ids[:cut])))
            assert [i for piece in rest for i in piece.ids] == whole.ids[cut:]
            assert (rest.ids, rest.text, rest.finished) == (whole.ids, whole.text, whole.finished)
            assert (rest.usage.prompt, rest.usage.new) == (len(job.prompt), len(whole.ids))
        said = tuple(whole.ids[:3])
        scores = [score.id for piece in engine.generate(replace(job, said=said)) for score in piece.scores]
        assert scores == [score.id for piece in pieces for score in piece.scores][3:]


def test_the_turn_after_an_answer_that_was_begun_elsewhere_reads_only_what_is_new(host, engine):
    asked = Turn("user", (Text("Hello"),))
    job = Job(build_prompt(host.tokenizer, [asked]), (), GREEDY, seed=0, conversation="c")
    whole = ids(engine.generate(replace(job, conversation="")))
    assert ids(engine.generate(replace(job, said=tuple(whole[:5])))) == whole
    turns = [asked, Turn("assistant", (Ids(tuple(whole)),)), Turn("user", (Text("And?"),))]
    second = replace(job, prompt=build_prompt(host.tokenizer, turns))
    stream = engine.generate(second)
    assert ids(stream) == plain(host, second)
    assert stream.usage.reused > len(job.prompt)


def test_a_stop_ends_one_row_within_a_token_and_no_other(host, engine):
    long = replace(jobs_of(host, 1)[0], sampling=Sampling(temperature=1.5, top_p=1.0, max_tokens=1000), seed=4)
    other = jobs_of(host, 3)[2]
    stream, beside = engine.generate(long), engine.generate(other)
    got = []
    for piece in stream:
        got.append(piece)
        stream.stop()
    assert stream.finished == "stopped"
    assert len(stream.ids) < 500
    assert ids(beside) == plain(host, other)


def test_a_reader_that_leaves_stops_its_row(host, engine):
    job = replace(jobs_of(host, 1)[0], sampling=Sampling(temperature=1.5, top_p=1.0, max_tokens=1800))
    stream = engine.generate(job)
    for _ in stream:
        break
    assert stream.is_stopping


def test_a_row_that_fails_says_so_in_one_sentence_and_the_others_go_on(host, engine):
    wide = Soft("wide", torch.randn(3, host.width + 1))
    broken = Job(prompt_of(host, wide, Text("hello")), (), GREEDY, 0)
    stranger = LowRank(
        "stranger", "x", {"no.such.layer": (torch.randn(2, 4), torch.randn(4, 2))}, {"no.such.layer": 1.0}
    )
    refused = Job(prompt_of(host, Text("hello")), (stranger,), GREEDY, 0)
    jobs = jobs_of(host, 4)
    streams = [engine.generate(job) for job in (*jobs, broken, refused)]
    assert [ids(stream) for stream in streams[:4]] == [plain(host, job) for job in jobs]
    with pytest.raises(MattoniError, match="Something inside went wrong"):
        list(streams[4])
    with pytest.raises(
        MattoniError,
        match="stranger was made for another host than tiny-host.*: it changes 'no.such.layer', which the host lacks",
    ):
        list(streams[5])


def test_numbers_that_overflow_are_no_answer(host, engine):
    strong = replace(skill(host, 1), scales=dict.fromkeys(host.linear_shapes, float("inf")))
    with pytest.raises(MattoniError, match="overflowed with these bricks"):
        list(engine.generate(Job(prompt_of(host, Text("hello")), (strong,), GREEDY, 0)))


def test_out_of_memory_in_a_batch_splits_it_and_says_so(host, engine, monkeypatch):
    jobs = jobs_of(host, 4)
    expected = [plain(host, job) for job in jobs]
    forward = engine._decoder.forward

    def small(reads):
        if len(reads) > 2:
            raise torch.OutOfMemoryError("too many rows")
        return forward(reads)

    monkeypatch.setattr(engine._decoder, "forward", small)
    streams = [engine.generate(job) for job in jobs]
    assert [ids(stream) for stream in streams] == expected
    assert "memory" in {notice.code for stream in streams for notice in stream.notices}


def test_out_of_memory_for_one_row_fails_that_row(host, engine, monkeypatch):
    monkeypatch.setattr(engine._decoder, "forward", lambda reads: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MattoniError, match="There is not enough memory for this answer"):
        list(engine.generate(jobs_of(host, 1)[0]))


def test_a_second_turn_reads_only_what_is_new_and_says_the_same(host, engine):
    first = replace(jobs_of(host, 1)[0], conversation="c")
    said = ids(engine.generate(first))
    longer = Prompt((*first.prompt.pieces, tuple(said), *prompt_of(host, Text("And the total?")).pieces))
    fresh, again = replace(first, prompt=longer, conversation=""), replace(first, prompt=longer)
    stream = engine.generate(again)
    assert ids(stream) == plain(host, fresh)
    # The answer's last token was said and never read.
    assert stream.usage.reused == len(first.prompt) + len(said) - 1


def test_keys_and_values_of_another_composition_or_conversation_are_not_used(host, engine):
    first = replace(jobs_of(host, 1)[0], conversation="c")
    ids(engine.generate(first))
    other = engine.generate(replace(first, injections=(skill(host, 1),)))
    assert ids(other) == plain(host, replace(first, injections=(skill(host, 1),)))
    assert other.usage.reused == 0
    stranger = engine.generate(replace(first, conversation="d"))
    ids(stranger)
    assert stranger.usage.reused == 0


def test_another_picture_at_the_same_place_is_not_taken_for_the_first(host, engine):
    vectors = torch.randn(2, 4, host.width)
    one, two = (
        Job(prompt_of(host, Soft(f"picture{n}", vectors[n]), Text("What is it?")), (), GREEDY, 0, "c") for n in range(2)
    )
    ids(engine.generate(one))
    stream = engine.generate(two)
    assert ids(stream) == plain(host, two)
    assert stream.usage.reused == two.prompt.keys.index(("picture1", 0))


def test_what_is_forgotten_leaves_no_keys_and_values(host, engine):
    job = replace(jobs_of(host, 1)[0], conversation="c")
    ids(engine.generate(job))
    assert engine._idle.memory_bytes > 0
    engine.forget("other")
    assert engine._idle.memory_bytes > 0
    engine.forget("c")
    assert engine._idle.memory_bytes == 0


def test_a_conversation_that_is_forgotten_while_it_is_answered_is_not_kept(host, engine):
    long = Sampling(temperature=1.5, top_p=1.0, max_tokens=400)
    stream = engine.generate(replace(jobs_of(host, 1)[0], sampling=long, conversation="c"))
    pieces = iter(stream)
    next(pieces)
    engine.forget("c")
    list(pieces)
    assert engine._idle.memory_bytes == 0


def test_idle_keys_and_values_keep_to_their_budget(host):
    engine = LocalEngine(host, idle_bytes=40_000)
    try:
        for n in range(4):
            ids(engine.generate(replace(jobs_of(host, 1)[0], conversation=f"c{n}")))
        assert 0 < engine._idle.memory_bytes <= 40_000
    finally:
        engine.close()


def test_a_stop_string_ends_the_answer_where_it_begins(host, engine):
    job = jobs_of(host, 1)[0]
    whole = answer(engine.generate(job))
    string = whole[3:6]
    stream = engine.generate(replace(job, sampling=Sampling(temperature=0, max_tokens=12, stop=(string,))))
    said = answer(stream)
    assert said == whole[: whole.index(string)]
    assert stream.finished == "stop-string"
    assert string not in host.tokenizer.decode(stream.ids)


def test_an_answer_ends_where_the_context_does(host, engine):
    host.model.config.max_position_embeddings = 40
    job = Job(prompt_of(host, Text("hi")), (), Sampling(temperature=0, max_tokens=500), 0)
    stream = engine.generate(job)
    assert len(job.prompt) + len(ids(stream)) <= 40
    full = Job(prompt_of(host, Text("a " * 60)), (), GREEDY, 0)
    too_long = engine.generate(full)
    assert ids(too_long) == []
    assert too_long.finished == "length"


def test_a_long_prompt_is_read_between_the_tokens_of_others(host, engine, monkeypatch):
    sizes = []
    forward = engine._decoder.forward

    def watch(reads):
        sizes.append([read.values.shape[1] for read in reads])
        return forward(reads)

    monkeypatch.setattr(engine._decoder, "forward", watch)
    talk = engine.generate(replace(jobs_of(host, 1)[0], sampling=Sampling(temperature=1.5, top_p=1.0, max_tokens=300)))
    pieces = iter(talk)
    next(pieces)
    page = Job(prompt_of(host, Text("a " * 400)), (), GREEDY, 0)
    assert ids(engine.generate(page)) == plain(host, page)
    list(pieces)
    while_beside = [max(size) for size in sizes[1:] if max(size) > 1]
    assert while_beside and max(while_beside) <= 32
    assert [1] in sizes or [1, 1] in sizes


def test_the_host_is_left_as_it_was(host, engine):
    before = host.weights_digest()
    for stream in [engine.generate(job) for job in jobs_of(host, 6)]:
        ids(stream)
    assert host.weights_digest() == before
    head = host.model.get_output_embeddings()  # which has one that lays its rows out
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in host.model.modules() if m is not head)


def test_many_threads_may_ask_at_once(host, engine):
    jobs = jobs_of(host, 16)
    expected = [plain(host, job) for job in jobs]
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda n=n, job=job: found.update({n: ids(engine.generate(job))}))
        for n, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[n] for n in range(len(jobs))] == expected


def test_fifty_conversations_in_eight_threads_with_skills_of_their_own_say_what_each_says_alone_and_sooner(host):
    skills = [skill(host, seed) for seed in range(8)]
    sampling = GREEDY.model_copy(update={"max_tokens": 24, "min_tokens": 24})

    def hold(engine: LocalEngine, number: int) -> list[list[int]]:
        """Two turns, the second with the first in its history and another skill."""
        first = Turn("user", (Text(" ".join(WORDS[: 3 + number % 9])),))
        own = (skills[number % 8],), (skills[(number + 3) % 8],)
        said = ids(engine.generate(Job(build_prompt(host.tokenizer, [first]), own[0], sampling, 0, f"talk{number}")))
        turns = [first, Turn("assistant", (Ids(tuple(said)),)), Turn("user", (Text("And the man?"),))]
        return [
            said,
            ids(engine.generate(Job(build_prompt(host.tokenizer, turns), own[1], sampling, 0, f"talk{number}"))),
        ]

    def timed(workers: int) -> tuple[list[list[list[int]]], float]:
        with closing(LocalEngine(host)) as engine, ThreadPoolExecutor(workers) as pool:
            start = time.perf_counter()
            return list(pool.map(partial(hold, engine), range(50))), time.perf_counter() - start

    alone, one_by_one = timed(1)
    together, at_once = timed(8)
    assert together == alone
    assert at_once < one_by_one


def test_after_close_nothing_is_begun_and_what_ran_is_stopped(host):
    engine = LocalEngine(host)
    stream = engine.generate(
        replace(jobs_of(host, 1)[0], sampling=Sampling(temperature=1.5, top_p=1.0, max_tokens=1800))
    )
    engine.close()
    list(stream)
    assert stream.finished == "stopped"
    assert not engine._thread.is_alive()
    with pytest.raises(MattoniError, match="shutting down"):
        engine.generate(jobs_of(host, 1)[0])


def test_an_answer_that_goes_round_in_circles_ends(host, engine, monkeypatch):
    spelt = host.tokenizer.encode("The total is", add_special_tokens=False)
    again = host.tokenizer.encode(" 10.00 dog +", add_special_tokens=False)
    forward = engine._decoder.forward

    def say(reads):
        logits = forward(reads)
        said = max(0, reads[0].key_values.length - prompt)
        logits[0] = 0
        logits[0, spelt[said] if said < len(spelt) else again[(said - len(spelt)) % len(again)]] = 1
        return logits

    job = Job(prompt_of(host, Text("What is the total?")), (), Sampling(max_tokens=500), 0)
    prompt = len(job.prompt)
    monkeypatch.setattr(engine._decoder, "forward", say)
    stream = engine.generate(job)
    shown = answer(stream)
    assert stream.finished == "repeats"
    assert stream.text == host.tokenizer.decode(stream.ids) == "The total is 10.00 dog +"
    assert shown.startswith(stream.text)
    assert len(stream.ids) < stream.usage.new < 150


def test_before_its_least_length_neither_the_hosts_end_nor_a_loop_ends_an_answer(engine, host, monkeypatch):
    monkeypatch.setattr(type(host), "stop_ids", frozenset(range(len(host.tokenizer) - 1)))
    (job,) = jobs_of(host, 1, Sampling(temperature=0, max_tokens=40, min_tokens=30))
    stream = engine.generate(job)
    assert "".join(piece.text for piece in stream) is not None
    # All tokens but one would end it, so it says that one again and again.
    assert (len(stream.ids), stream.finished) == (30, "end")

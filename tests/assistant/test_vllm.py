"""vLLM as an engine: the same tokens as the local one, one adapter for a turn's skills, and a sentence for all that goes wrong."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from assistant.assistant import Assistant
from assistant.host.composition import compose
from assistant.host.engine_choice import EngineChoice
from assistant.host.host import Host, load_host
from assistant.host.job import Job, Stream
from assistant.host.local import LocalEngine
from assistant.host.prompt import Prompt, Turn, build_prompt
from assistant.host.sampling import Sampling
from assistant.host.vllm import VllmEngine
from assistant.host.vllm_adapters import adapter_name, write_adapter
from assistant.turn.route import Choices
from mattoni.errors import MattoniError
from mattoni.injections import Gate, Keyed, LowRank, Prefix, Soft, Text
from task_bricks.lora import read_lora
from tests.assistant.conftest import done, png
from tests.assistant.vllm_server import VllmServer, running
from ui.backend import HostChoice
from ui.explain import _figures

GREEDY = Sampling(max_tokens=12)
Start = Callable[..., VllmEngine]


@pytest.fixture
def server(host) -> Iterator[VllmServer]:
    with running(VllmServer(host)) as server:
        yield server


@pytest.fixture
def start(host, tmp_path) -> Iterator[Start]:
    """Starts engines on a server; the local engine does what it cannot, unless `local` is None."""
    with ExitStack() as stack:

        def start(server: VllmServer, **options) -> VllmEngine:
            options = {"local": partial(LocalEngine, host, weights="bf16"), "folder": tmp_path / "adapters", **options}
            return stack.enter_context(closing(VllmEngine(host, server.url, **options)))

        yield start


@pytest.fixture
def engine(start, server) -> VllmEngine:
    return start(server)


@pytest.fixture
def local(host) -> Iterator[LocalEngine]:
    with closing(LocalEngine(host, weights="bf16")) as engine:
        yield engine


def prompt_of(host: Host, *segments) -> Prompt:
    return build_prompt(host.tokenizer, [Turn("user", segments)])


def skill(host: Host, seed: int, rank: int = 2, layers: slice = slice(None)) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: (
            torch.randn(rank, columns, generator=generator) * 0.3,
            torch.randn(rows, rank, generator=generator) * 0.3,
        )
        for name, (rows, columns) in list(host.linear_shapes.items())[layers]
    }
    return LowRank(f"skill{seed}", f"digest{seed}", factors, dict.fromkeys(factors, 0.5))


def picture(host: Host, seed: int = 0) -> Soft:
    return Soft(f"picture{seed}", torch.randn(4, host.width, generator=torch.Generator().manual_seed(seed)))


def a_job(
    host: Host, *injections, text: str = "What is in the picture?", sampling: Sampling = GREEDY, seed: int = 1
) -> Job:
    return Job(prompt_of(host, Text(text)), injections, sampling, seed)


def ids(stream: Stream) -> list[int]:
    for _ in stream:
        pass
    return stream.ids


def until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it does not come to that")


def jobs_of_all_kinds(host: Host) -> list[Job]:
    seen = prompt_of(host, picture(host), Text("\nWhat is this?"))
    one, other = skill(host, 1), skill(host, 2, rank=3, layers=slice(2, 9))
    mix = (replace(one, weight=0.8), replace(other, weight=0.3))
    return [
        a_job(host),
        Job(seen, (), GREEDY, 1),
        a_job(host, one),
        Job(seen, (one,), GREEDY, 1),
        a_job(host, *mix),
        Job(seen, mix, GREEDY, 1),
    ]


def test_text_pictures_skills_and_mixes_get_the_local_engines_tokens(host, engine, local, server):
    jobs = jobs_of_all_kinds(host)
    for job in jobs:
        stream, same = engine.generate(job), local.generate(job)
        pieces = list(stream)
        assert stream.ids == ids(same) != []
        assert stream.text == same.text == "".join(piece.text for piece in pieces)
        assert [i for piece in pieces for i in piece.ids] == stream.ids
        assert (stream.finished, stream.engine, stream.notices) == (same.finished, "vllm", [])
        assert (stream.usage.prompt, stream.usage.new, stream.usage.reused) == (len(job.prompt), len(stream.ids), 3)
        assert 0 < stream.usage.first_token_ms <= stream.usage.total_ms
    # The first request of all was the engine's own, to see which host is served there.
    assert [asked.prompt_embeds is not None for asked in server.asked[1:]] == [False, True] * 3


def test_many_at_once_get_their_own_answers_and_what_must_not_meet_does_not(host, engine, local, server):
    jobs = [replace(job, seed=n) for n, job in enumerate(jobs_of_all_kinds(host) * 4)]
    alone = [ids(local.generate(job)) for job in jobs]
    for _ in range(5):  # on a busy machine each may be answered before the next is asked
        streams = [engine.generate(job) for job in jobs]
        assert [ids(stream) for stream in streams] == alone
        if server.most_at_once > 1:
            break
    assert server.most_at_once > 1 and not server.has_mixed


def test_sampling_is_said_in_full_so_that_nothing_is_the_servers_own(host, engine, server):
    sampling = Sampling(temperature=0.7, top_p=0.8, top_k=5, max_tokens=9, min_tokens=4)
    ids(engine.generate(a_job(host, sampling=sampling, seed=2**40)))
    asked = server.asked[-1]
    assert (asked.temperature, asked.top_p, asked.top_k, asked.max_tokens, asked.min_tokens) == (0.7, 0.8, 5, 9, 4)
    assert (asked.seed, asked.min_p, asked.repetition_penalty) == (2**40, 0, 1)
    assert asked.stop_token_ids == sorted(host.stop_ids)


def test_log_probabilities_are_the_servers(host, engine, local):
    job = a_job(host, sampling=Sampling(max_tokens=6, logprobs=3))
    told, own = ([score for piece in e.generate(job) for score in piece.scores] for e in (engine, local))
    assert [(s.id, s.likeliest[0][0], len(s.likeliest)) for s in told] == [(s.id, s.likeliest[0][0], 3) for s in own]
    assert [s.logprob for s in told] == pytest.approx([s.logprob for s in own])
    job = a_job(host, sampling=Sampling(max_tokens=6, logprobs=0))
    assert [s.likeliest for piece in engine.generate(job) for s in piece.scores] == [()] * len(own)


def test_a_stop_string_ends_the_answer_and_the_request(host, engine, local, server):
    server.pause_s = 0.05
    whole = local.generate(a_job(host, sampling=Sampling(max_tokens=200, min_tokens=200)))
    ids(whole)
    word = whole.text[8:11]
    job = a_job(host, sampling=Sampling(max_tokens=200, min_tokens=200, stop=(word,)))
    stream, same = engine.generate(job), local.generate(job)
    assert ids(stream) == ids(same)
    assert (stream.finished, stream.text) == (same.finished, same.text) and same.finished == "stop-string"
    until(lambda: server.dropped == 1)


def test_an_answer_in_a_form_is_asked_for_as_one(host, engine, server):
    schema = {"type": "object", "properties": {"n": {"enum": [1]}}, "required": ["n"], "additionalProperties": False}
    stream = engine.generate(a_job(host, sampling=Sampling(max_tokens=60, json_schema=json.dumps(schema))))
    ids(stream)
    assert json.loads(stream.text) == {"n": 1}
    assert server.asked[-1].structured_outputs.schema_ == schema


@pytest.mark.parametrize("leaves", ["stops", "reads no more"])
def test_whoever_stops_or_leaves_ends_the_request(host, engine, server, leaves):
    server.pause_s = 0.05
    stream = engine.generate(a_job(host, sampling=Sampling(max_tokens=500, min_tokens=500)))
    for n, _ in enumerate(stream):
        if n == 2 and leaves == "stops":
            stream.stop()
        elif n == 2:
            break
    until(lambda: server.dropped == 1)


def test_an_answer_that_is_stopped_before_it_began_is_not_asked_for(host, engine):
    stream = engine.generate(a_job(host))
    stream.stop()
    assert ids(stream) == [] and stream.finished == "stopped"


# Adapters


def test_an_adapter_is_the_exact_weighted_sum_and_is_loaded_once(host, engine, server, tmp_path):
    one, other = skill(host, 1), skill(host, 2, rank=3, layers=slice(2, 9))
    mix = (replace(one, weight=0.8), replace(other, weight=0.3))
    for _ in range(3):
        ids(engine.generate(a_job(host, *mix)))
    (name,) = server.loads
    assert name.startswith("mix@") and len(name) == len("mix@") + 12
    written, deltas = read_lora(tmp_path / "adapters" / name), compose(host, mix).deltas
    assert set(written.factors) == set(deltas)
    for layer, (a, b) in written.factors.items():
        expected = deltas[layer][1] @ deltas[layer][0]
        torch.testing.assert_close(written.scales[layer] * b @ a, expected, rtol=0, atol=0)
    ids(engine.generate(a_job(host, one)))
    ids(engine.generate(a_job(host, replace(one, weight=0.5))))
    assert server.loads[1].startswith("skill1@") and server.loads[2].startswith("mix@") and len(server.loads) == 3


def test_an_adapters_name_is_its_contents(host):
    one = skill(host, 1)
    assert adapter_name(host, [one]) == adapter_name(host, [replace(one, name="skill1")])
    assert adapter_name(host, [one]) != adapter_name(host, [replace(one, digest="other")])


def test_the_adapter_used_longest_ago_is_evicted_but_none_in_use(host, start, server):
    engine = start(server, most=2)
    server.pause_s = 0.02
    long = engine.generate(a_job(host, skill(host, 1), sampling=Sampling(max_tokens=200, min_tokens=200)))
    pieces = iter(long)
    next(pieces)
    for seed in (2, 3, 4):
        ids(engine.generate(a_job(host, skill(host, seed))))
    assert [name.split("@")[0] for name in server.unloads] == ["skill2", "skill3"]
    assert [name.split("@")[0] for name in server.adapters] == ["skill1", "skill4"]
    assert len(list(pieces)) == 199


def test_an_adapter_that_the_server_forgot_is_loaded_again(host, engine, local, server):
    job = a_job(host, skill(host, 1))
    ids(engine.generate(job))
    server.adapters.clear()  # it was started again
    assert ids(engine.generate(job)) == ids(local.generate(job))
    assert len(server.loads) == 2


def test_adapters_of_before_are_taken_over_and_unloaded_in_the_end(host, start, server, tmp_path):
    job = a_job(host, skill(host, 1))
    name = adapter_name(host, job.injections)
    folder = tmp_path / "adapters" / name
    write_adapter(folder, host, job.injections)
    server.adapters = {name: (str(folder), read_lora(folder)), "anothers": ("/elsewhere", skill(host, 5))}
    engine = start(server)
    ids(engine.generate(job))
    assert server.loads == []
    engine.close()
    assert list(server.adapters) == ["anothers"]


# What vLLM cannot do


def what_it_cannot(host: Host) -> list[tuple[str, Job]]:
    layers, heads, width = host.key_shape
    keys = torch.randn(heads, 3, width, generator=torch.Generator().manual_seed(3))
    hidden, intermediate = host.linear_shapes[host.gated_layers[0]]
    return [
        ("tin: vLLM has no keys and values in front", a_job(host, Prefix("tin", "d", ((keys, keys),) * layers))),
        ("calm: vLLM has no factors on neurons", a_job(host, Gate("calm", "d", {0: torch.full((intermediate,), 0.5)}))),
        (
            "facts: vLLM has no facts",
            a_job(host, Keyed("facts", "d", 0, torch.ones(1, intermediate), torch.ones(1, hidden), torch.zeros(1))),
        ),
        ("skill1: vLLM has no LoRA that acts from", a_job(host, replace(skill(host, 1), invocation_tokens=(1,)))),
        ("repetition penalty", a_job(host, sampling=Sampling(max_tokens=12, repetition_penalty=1.3))),
        ("how likely an answer is", replace(a_job(host), forced=(5, 6, 7))),
        ("begun elsewhere", replace(a_job(host), said=(5, 6, 7))),
    ]


def test_what_it_cannot_is_done_by_the_local_engine_and_told(host, engine, local, server):
    for why, job in what_it_cannot(host):
        before, stream, same = len(server.asked), engine.generate(job), local.generate(job)
        assert ids(stream) == ids(same)
        assert (stream.text, stream.finished, stream.engine) == (same.text, same.finished, "local")
        assert stream.log_probabilities == same.log_probabilities and stream.usage.new == same.usage.new
        (notice,) = stream.notices
        assert notice.code == "engine" and why in notice.text and len(server.asked) == before


def test_without_a_local_engine_it_is_refused_by_name(host, start, server):
    engine = start(server, local=None)
    assert engine.info.supports == {"sequence", "low-rank"}
    for why, job in what_it_cannot(host):
        with pytest.raises(MattoniError, match=why):
            ids(engine.generate(job))


def test_facts_of_which_there_are_none_are_nothing(host, engine):
    hidden, intermediate = host.linear_shapes[host.gated_layers[0]]
    none = Keyed("facts", "d", 0, torch.zeros(0, intermediate), torch.zeros(0, hidden), torch.zeros(0))
    stream = engine.generate(a_job(host, none))
    assert ids(stream) and stream.engine == "vllm"


def test_what_the_server_was_not_started_for_is_done_here(host, start, local):
    server = VllmServer(host)
    server.takes_embeds = server.takes_adapters = False
    server.context = 200
    seen = Job(prompt_of(host, picture(host), Text("\nWhat is this?")), (), GREEDY, 1)
    long = a_job(host, text="What is in the picture? " * 60)
    with running(server):
        engine = start(server)
        for job, why in (
            (seen, "without --enable-prompt-embeds"),
            (a_job(host, skill(host, 1)), "without VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
            (long, "started for 200 positions"),
        ):
            stream = engine.generate(job)
            assert ids(stream) == ids(local.generate(job))
            assert why in stream.notices[0].text


def test_an_adapter_that_is_too_large_is_told_with_its_ranks(host, start, server):
    server.max_lora_rank = 3
    mix = (skill(host, 1), skill(host, 2))
    stream = start(server).generate(a_job(host, *mix))
    assert ids(stream) and stream.engine == "local"
    assert (
        "skill1, skill2" in stream.notices[0].text
        and "rank 4 is greater than max_lora_rank 3" in stream.notices[0].text
    )
    with pytest.raises(MattoniError, match="rank 4 is greater than max_lora_rank 3.*--no-fallback"):
        ids(start(server, local=None).generate(a_job(host, *mix)))


def test_stopping_also_stops_the_local_engine(host, engine):
    why, job = what_it_cannot(host)[1]
    stream = engine.generate(replace(job, sampling=Sampling(max_tokens=1500, min_tokens=1500)))
    for n, _ in enumerate(stream):
        if n == 2:
            stream.stop()
    assert stream.finished == "stopped" and len(stream.ids) < 1500


def test_a_prompt_with_no_room_for_an_answer_is_not_asked(host, engine, server):
    stream = engine.generate(Job(Prompt(((5,) * host.context,)), (), GREEDY, 1))
    assert ids(stream) == [] and stream.finished == "length" and len(server.asked) == 1


# Whose keys and values


def test_a_conversation_shares_prefixes_with_itself_alone_until_it_is_forgotten(host, engine, server):
    def salt(conversation: str) -> str | None:
        ids(engine.generate(replace(a_job(host), conversation=conversation)))
        return server.asked[-1].cache_salt

    mine, yours = salt("a"), salt("b")
    assert mine and yours and mine != yours and salt("a") == mine and salt("") is None
    engine.forget("a")
    anew = salt("a")
    assert anew != mine and salt("b") == yours
    engine.clear()
    assert salt("a") != anew and salt("b") != yours


# What goes wrong


def test_a_server_that_is_not_there_is_one_sentence(host):
    with pytest.raises(MattoniError, match=r"vLLM at http://127.0.0.1:9 is not there: start it"):
        VllmEngine(host, "http://127.0.0.1:9")
    with pytest.raises(MattoniError, match="--url nonsense: this is no address"):
        VllmEngine(host, "nonsense")


def test_a_server_that_goes_away_is_one_sentence_and_the_next_one_serves(host, start):
    server = VllmServer(host)
    with running(server):
        engine = start(server)
    with pytest.raises(MattoniError, match="is not there: start it"):
        ids(engine.generate(a_job(host, skill(host, 1))))


@pytest.mark.parametrize(
    "failure, sentence",
    [
        ((500, "CUDA out of memory. Tried to allocate 2 GiB"), "ran out of memory with this answer: shorten"),
        ((500, "EngineCore encountered an issue"), r"failed \(EngineCore encountered an issue\): look at its log"),
        ((503, ""), r"failed \(503\)"),
        ((400, "`seed` is wrong."), r"refuses this turn \(`seed` is wrong\)"),
        ((401, "Unauthorized"), "VLLM_API_KEY"),
    ],
)
def test_what_the_server_says_becomes_one_sentence(host, engine, server, failure, sentence):
    server.fails = failure
    with pytest.raises(MattoniError, match=sentence) as problem:
        ids(engine.generate(a_job(host)))
    assert "\n" not in str(problem.value)
    server.fails = None
    assert ids(engine.generate(a_job(host)))


def test_an_answer_that_breaks_off_is_an_error_and_no_short_answer(host, engine, server):
    server.breaks_after = 3
    with pytest.raises(MattoniError, match="broke off in the middle of this answer; ask again"):
        ids(engine.generate(a_job(host)))
    server.breaks_after, server.says_error_after = None, (2, "EngineCore died")
    with pytest.raises(MattoniError, match=r"failed \(EngineCore died\)"):
        ids(engine.generate(a_job(host)))


def test_a_key_is_sent_and_a_wrong_one_is_told(host, start, server):
    server.key = "secret"
    assert ids(start(server, key="secret").generate(a_job(host)))
    with pytest.raises(MattoniError, match="wants another key: set VLLM_API_KEY"):
        start(server)


def test_another_model_is_refused_before_any_turn(make_host, host, start, tmp_path):
    other = load_host(str(make_host(tmp_path / "other", seed=3)), device="cpu", dtype="float32")
    with running(VllmServer(other)) as server, pytest.raises(MattoniError, match="serves another model than the host"):
        start(server)


def test_a_server_that_is_none_is_told(host, start, server):
    server.url += "/v1/models"
    with pytest.raises(MattoniError):
        start(server)


def test_closing_ends_what_is_written(host, start, server):
    engine = start(server)
    server.pause_s = 0.05
    stream = engine.generate(a_job(host, sampling=Sampling(max_tokens=500, min_tokens=500)))
    pieces = iter(stream)
    next(pieces)
    engine.close()
    assert len(list(pieces)) < 500 and stream.finished == "stopped"
    with pytest.raises(MattoniError, match="shutting down"):
        engine.generate(a_job(host))


# In the assistant


def test_router_bricks_and_trace_stand_before_it(assistant, server, tiny_host, monkeypatch):
    choice = EngineChoice("vllm", server.url)
    with closing(Assistant.open(str(tiny_host), device="cpu", dtype="float32", engine=choice)) as over:
        asked = ("What is this?", [png()], Choices(vision="eyes"), Sampling(max_tokens=8))
        there, here = done(over.ask(*asked)), done(assistant.ask(*asked))
        assert there.text == here.text and there.error is None
        assert there.trace.engine == "vllm" and here.trace.engine == "local"
        assert [used.name for used in there.trace.bricks] == [used.name for used in here.trace.bricks] == ["eyes"]
        assert server.asked[-1].prompt_embeds is not None
        server.fails = (500, "EngineCore died")
        failed = done(over.ask(*asked))
        assert failed.error and failed.error.startswith("vLLM at http://")


def test_more_turns_run_at_once_than_on_this_machine(server, tiny_host):
    server.pause_s = 0.1
    choice = EngineChoice("vllm", server.url)
    with closing(Assistant.open(str(tiny_host), device="cpu", dtype="float32", engine=choice)) as over:
        sampling = Sampling(max_tokens=8, min_tokens=8)
        tickets = [over.ask(f"{n}?", choices=Choices(no_bricks=True), sampling=sampling) for n in range(14)]
        assert all(done(ticket).error is None for ticket in tickets)
    assert server.most_at_once > 8


def test_a_choice_travels_to_the_pages_script_and_back():
    choice = HostChoice("builtin", engine=EngineChoice("vllm", "http://127.0.0.1:8000", fallback=False))
    assert HostChoice.from_arguments(choice.to_arguments()) == choice


def test_the_page_says_who_decoded():
    assert "host on cpu, decoded by vllm" in _figures({"host": "host", "device": "cpu", "engine": "vllm"})[1]
    assert "host on cpu · seed" in _figures({"host": "host", "device": "cpu", "engine": "local"})[1]


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--engine", "vlm"], "--engine vlm: there is no such engine; choose one of local, vllm."),
        (["--engine", "vllm"], "--engine vllm needs --url"),
        (["--url", "http://127.0.0.1:9"], "--url http://127.0.0.1:9 is where another engine runs"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "ui"])
def test_options_that_do_not_go_together_are_told_before_a_host_is_loaded(mattoni, command, options, sentence):
    status, out, err = mattoni(command, *options)
    assert status == 1 and err.startswith(sentence)


def test_serve_says_that_no_server_is_there(mattoni, tiny_host: Path):
    status, out, err = mattoni(
        "serve", "--host", tiny_host, "--port", 8999, "--engine", "vllm", "--url", "http://127.0.0.1:9"
    )
    assert status == 1 and "vLLM at http://127.0.0.1:9 is not there" in err

"""A running vLLM, the builtin host and shipped skills: what the stand-in of `vllm_server.py` cannot prove.

`MATTONI_VLLM_URL=http://127.0.0.1:8000 python -m pytest -m slow tests/assistant/test_vllm_real.py` on the server of docs/serving.md.
"""

import json
import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from assistant.host.host import Host, load_host
from assistant.host.job import Job
from assistant.host.local import LocalEngine
from assistant.host.prompt import Prompt
from assistant.host.sampling import Sampling
from assistant.host.vllm import VllmEngine, adapters_folder
from mattoni.errors import MattoniError
from mattoni.injections import Gate, LowRank, Soft
from mattoni.paths import shipped_models
from task_bricks.lora import read_lora
from tests.assistant.test_vllm import a_job, ids, skill, until

URL = os.environ.get("MATTONI_VLLM_URL", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not URL, reason="needs a running vLLM that serves the builtin host: set MATTONI_VLLM_URL"),
]
ASKED = "Translate to German.\n\nThe cat sits on the table."
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def host(real_home) -> Host:
    return load_host("builtin")


@pytest.fixture
def engine(host, real_cache) -> Iterator[VllmEngine]:
    # The server reads this folder: one of the test's own may be nothing to it, as the cache's link is.
    folder = adapters_folder().resolve()
    with closing(
        VllmEngine(host, URL, lambda: LocalEngine(host), os.environ.get("VLLM_API_KEY", ""), folder, most=2)
    ) as made:
        yield made


@pytest.fixture(scope="module")
def german() -> LowRank:
    return read_lora(shipped_models() / "bricks" / "english-german")


def told(path: str) -> str:
    headers = {"Authorization": f"Bearer {os.environ.get('VLLM_API_KEY', '')}"}
    with urllib.request.urlopen(urllib.request.Request(URL + path, headers=headers), timeout=30) as answer:
        return answer.read().decode()


def adapters() -> list[str]:
    return [model["id"].split("@")[0] for model in json.loads(told("/v1/models"))["data"] if model["parent"]]


def running() -> float:
    return sum(map(float, re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", told("/metrics"), re.MULTILINE)))


def test_a_skill_is_composed_there_from_text_and_from_embeddings_alike(host, engine, german):
    # The answer has twelve tokens, so that there must be room for the end behind them.
    bare, skilled = (a_job(host, *loras, text=ASKED, sampling=Sampling(max_tokens=24)) for loras in ((), (german,)))
    (words,) = skilled.prompt.inputs(host).values()
    as_soft = replace(skilled, prompt=Prompt((Soft("words", host.embed(words)[0].detach()),)))
    answers = [engine.generate(job) for job in (bare, skilled, as_soft)]
    spoken = [ids(stream) for stream in answers]
    assert spoken[1] == spoken[2] != spoken[0]
    assert answers[1].text.startswith("Die Katze sitzt") and [a.engine for a in answers] == ["vllm"] * 3
    assert [a.finished for a in answers[1:]] == ["end", "end"]


def test_a_skill_does_not_reach_an_answer_that_is_written_beside_it(host, engine, german):
    """On CPUs vLLM itself adds the LoRA in its last place to whatever has none, once all places were taken."""
    # One adapter after the other takes its place, up to the last.
    for weight in (1.0, 0.9, 0.8, 0.7):
        ids(engine.generate(a_job(host, replace(german, weight=weight), text=ASKED, sampling=Sampling(max_tokens=1))))
    bare, skilled = a_job(host, text=ASKED), a_job(host, german, text=ASKED)
    alone = ids(engine.generate(bare))
    together = [engine.generate(job) for job in (skilled, bare, skilled)]
    assert [ids(stream) for stream in together][1] == alone


def test_strengths_are_exact(host, engine, german):
    opposite = replace(german, weight=-1.0)
    bare, nought = (engine.generate(a_job(host, *loras, text=ASKED)) for loras in ((), (german, opposite)))
    # ΔW - ΔW is nothing, up to the rounding of two products in bf16: the first words are the bare host's.
    assert ids(nought)[:3] == ids(bare)[:3]


def test_the_adapter_used_longest_ago_is_evicted_there(host, engine, german):
    for weight in (1.0, 0.9, 0.8, 1.0):
        stream = engine.generate(a_job(host, replace(german, weight=weight), text=ASKED))
        assert ids(stream) and stream.engine == "vllm"
    assert sorted(adapters()) == ["english-german", "mix"]
    engine.close()
    assert adapters() == []


def test_an_adapter_that_the_server_does_not_take_is_told_and_harms_nobody(host, engine, german):
    stream = engine.generate(a_job(host, skill(host, 1, rank=1024), text=ASKED))
    assert ids(stream) and stream.engine == "local" and "rank" in stream.notices[0].text
    assert ids(engine.generate(a_job(host, german, text=ASKED)))


def test_what_is_no_lora_is_told_and_done_here(host, engine):
    stream = engine.generate(a_job(host, Gate("calm", "d", {}), text=ASKED))
    assert ids(stream) and stream.engine == "local" and "calm" in stream.notices[0].text


def test_leaving_ends_the_request_there(host, engine):
    stream = engine.generate(a_job(host, text=ASKED, sampling=Sampling(max_tokens=1500, min_tokens=1500)))
    for n, _ in enumerate(stream):
        if n == 3:
            assert running() == 1
            break
    until(lambda: running() == 0)


def test_seeds_draw_the_same_and_log_probabilities_come(host, engine):
    sampling = Sampling(temperature=1.0, max_tokens=8, logprobs=3)
    drawn = [list(engine.generate(a_job(host, text=ASKED, sampling=sampling, seed=seed))) for seed in (1, 1, 2)]
    spoken = [[piece.ids for piece in pieces] for pieces in drawn]
    assert spoken[0] == spoken[1] != spoken[2]
    scores = [score for piece in drawn[0] for score in piece.scores]
    assert len(scores) == sum(map(len, spoken[0])) and all(len(s.likeliest) == 3 for s in scores)
    assert all(s.logprob <= s.likeliest[0][1] <= 0 for s in scores)


def test_an_answer_has_the_form_that_was_asked_for(host, engine):
    sampling = Sampling(max_tokens=120, json_schema=json.dumps(SCHEMA))
    stream = engine.generate(a_job(host, text="Tell me of a person, as JSON.", sampling=sampling))
    ids(stream)
    assert stream.engine == "vllm" and set(json.loads(stream.text)) == {"name", "age"}


def test_a_prompt_that_fills_the_context_is_answered_somewhere(host, engine):
    full = Job(Prompt(((5,) * (host.context - 4),)), (), Sampling(max_tokens=50), 1)
    stream = engine.generate(full)
    assert len(ids(stream)) <= 4 and stream.finished in ("length", "end", "repeats")


def test_another_host_is_refused(tiny_host):
    with pytest.raises(MattoniError, match="serves another model than the host"):
        VllmEngine(load_host(str(tiny_host), device="cpu"), URL)


def test_a_layer_of_logits_is_adapted_there_or_here(host, engine):
    rows, columns = host.adaptable_shapes["lm_head"]
    generator = torch.Generator().manual_seed(0)
    pair = (torch.randn(2, columns, generator=generator) * 0.1, torch.randn(rows, 2, generator=generator) * 0.1)
    head = LowRank("head", "d", {"lm_head": pair}, {"lm_head": 1.0})
    job = a_job(host, head, text=ASKED)
    with closing(LocalEngine(host, weights="bf16")) as local:
        same = local.generate(job)
        expected = ids(same)
    stream = engine.generate(job)
    assert ids(stream)[:2] == expected[:2]

"""The engine of several processes: what it says is what the local engine says, whoever is killed meanwhile."""

import json
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec

import psutil
import pytest

from assistant.host import engine_choice, replicas
from assistant.host.engine_choice import EngineChoice
from assistant.host.host import Host, load_host
from assistant.host.job import Job
from assistant.host.local import LocalEngine
from assistant.host.prompt import Turn, build_prompt
from assistant.host.replicas import ReplicatedEngine, _key, _Shelf, check_room
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from mattoni.errors import MattoniError
from mattoni.injections import Gate, Ids, Text
from tests.assistant.conftest import done, write_adapter
from tests.assistant.test_local_engine import GREEDY, ids, jobs_of, skill

# Ray's own code is deprecated in places; ours is told by every other test.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SAMPLED = Sampling(temperature=1.2, top_p=0.95, max_tokens=12)
LONG = Sampling(temperature=1.0, top_p=1.0, max_tokens=120, min_tokens=120)
KILLS = int(os.environ.get("MATTONI_KILLS", "50"))


@pytest.fixture(scope="module")
def host(tiny_host) -> Host:
    return load_host(str(tiny_host), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def local(host) -> Iterator[LocalEngine]:
    with closing(LocalEngine(host)) as engine:
        yield engine


@pytest.fixture(scope="module")
def engine(host) -> Iterator[ReplicatedEngine]:
    """Two replicas of the tiny host. Ray takes half a minute to start, so there is one for all."""
    # Not imported here: it reads its environment when it is.
    if find_spec("ray") is None:
        pytest.skip('needs Ray Serve: pip install "mattoni[ray]"')
    with closing(ReplicatedEngine(host, 2, 2)) as made:
        yield made
    assert not processes()


def processes() -> list[psutil.Process]:
    """Those that Ray started for this one."""
    return [one for one in psutil.Process().children(recursive=True) if "ray" in name_of(one)]


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def replicas_of() -> list[psutil.Process]:
    """The processes that decode."""
    return [one for one in processes() if name_of(one).startswith("ray::ServeReplica")]


def until(told, timeout_s: float = 600.0) -> None:
    ends = time.monotonic() + timeout_s
    while not told():
        assert time.monotonic() < ends, "it does not come to that"
        time.sleep(0.1)


def answering(engine: ReplicatedEngine) -> int:
    """How many replicas answer; 0 where one has just been killed."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        return len(engine._handle.broadcast("forget", "").results(timeout_s=60))
    except (RayError, RayServeException, TimeoutError):
        return 0


def both_answer(engine: ReplicatedEngine) -> bool:
    return len(replicas_of()) == answering(engine) == 2


# Without Ray


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"replicas": "0"}, "--replicas 0: say how many processes decode, as 2, or how few and how many, as 1-4."),
        ({"replicas": "4-1"}, "--replicas 4-1: say how many"),
        ({"replicas": "two"}, "--replicas two: say how many"),
        ({"replicas": "2", "name": "vllm", "url": "http://127.0.0.1:1"}, "--replicas are of the local engine"),
    ],
)
def test_a_number_of_replicas_that_cannot_be_is_refused_in_one_sentence(told, sentence):
    with pytest.raises(MattoniError) as problem:
        EngineChoice(**told)
    assert str(problem.value).startswith(sentence) and "\n" not in str(problem.value)


def test_without_ray_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(engine_choice, "find_spec", lambda name: None)
    with pytest.raises(
        MattoniError, match=r'^--replicas needs Ray Serve, which is not installed: pip install "mattoni\[ray\]"\.$'
    ):
        EngineChoice(replicas="2")


def test_how_few_and_how_many_are_read():
    assert [EngineChoice.least_and_most.fget(_said(text)) for text in ("2", "1-4", " 2 - 3 ")] == [
        (2, 2),
        (1, 4),
        (2, 3),
    ]


def _said(text: str) -> EngineChoice:
    choice = object.__new__(EngineChoice)  # where Ray is not installed it cannot be made
    object.__setattr__(choice, "replicas", text)
    return choice


def test_more_replicas_than_memory_are_refused_before_one_is_started(host, monkeypatch):
    monkeypatch.setattr(replicas, "free_memory", lambda: 3_500_000_000)
    check_room(host, 3)
    with pytest.raises(
        MattoniError,
        match=r"^9 replicas of .* need about 8.5 GB of memory and 3.5 GB are free: .* --replicas 3 would fit\.$",
    ):
        check_room(host, 9)
    monkeypatch.setattr(replicas, "free_memory", lambda: 1_000_000_000)
    with pytest.raises(MattoniError, match=r"leave out --replicas\.$"):
        check_room(host, 1)


def test_an_injection_is_put_once_where_all_reach_it_and_found_by_its_digest(host):
    put: list[bytes] = []

    def remember(data: bytes) -> int:
        put.append(data)
        return len(put)

    shelf = _Shelf(remember, budget_bytes=10_000_000)
    one, two = skill(host, 1), skill(host, 2)
    assert shelf.places([one, two]) == [(_key(one), [1]), (_key(two), [2])]
    assert shelf.places([two]) == [(_key(two), [2])]
    assert shelf.places([replace(two, weight=0.5)])[0][1] == [3]
    assert shelf.places([replace(two, digest="changed")])[0][1] == [4]
    (back,) = Job.from_bytes(put[0]).injections
    assert (back.digest, sorted(back.factors)) == (one.digest, sorted(one.factors))
    shelf = _Shelf(remember, budget_bytes=len(put[0]) + 10)
    assert [shelf.places([each])[0][1] for each in (one, two, one)] == [[5], [6], [7]]


# With it


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, Sampling(max_tokens=12, json_schema='{"type": "array"}')])
def test_every_job_says_what_the_local_engine_says(host, engine, local, sampling):
    jobs = [replace(job, conversation=f"c{n % 3}") for n, job in enumerate(jobs_of(host, 12, sampling))]
    expected = [local.generate(replace(job, conversation="")) for job in jobs]
    for stream, same in zip([engine.generate(job) for job in jobs], expected, strict=True):
        assert ids(stream) == ids(same)
        assert (stream.text, stream.finished, stream.usage.new) == (same.text, same.finished, same.usage.new)
        assert stream.usage.prompt == same.usage.prompt and stream.engine == "replicas"


@pytest.mark.slow
def test_scores_and_forced_tokens_come_back(host, engine, local):
    job = replace(jobs_of(host, 2)[1], sampling=replace_(GREEDY, logprobs=2))
    scores = [score for piece in engine.generate(job) for score in piece.scores]
    assert scores == [score for piece in local.generate(job) for score in piece.scores]
    forced = replace(job, forced=(5, 6, 7, 8), sampling=GREEDY)
    stream, same = engine.generate(forced), local.generate(forced)
    assert ids(stream) == ids(same) and stream.log_probabilities == same.log_probabilities


def replace_(sampling: Sampling, **changes: object) -> Sampling:
    return sampling.model_copy(update=changes)


@pytest.mark.slow
def test_a_conversation_goes_where_its_keys_and_values_are(host, engine):
    """Twenty conversations of four turns by two replicas: each turn reads what is new alone, until it is forgotten."""
    for number in range(20):
        turns, before = [Turn("user", (Text(f"Hello {number}"),))], 0
        for turn in range(4):
            job = Job(build_prompt(host.tokenizer, turns), (), GREEDY, seed=0, conversation=f"talk {number}")
            stream = engine.generate(job)
            said = tuple(ids(stream))
            assert stream.usage.reused > before if turn else stream.usage.reused == 0
            before = len(job.prompt)
            turns += [Turn("assistant", (Ids(said),)), Turn("user", (Text("And?"),))]
    engine.forget("talk 19")
    stream = engine.generate(job)
    ids(stream)
    assert stream.usage.reused == 0
    engine.clear()
    stream = engine.generate(replace(job, conversation="talk 18"))
    ids(stream)
    assert stream.usage.reused == 0


@pytest.mark.slow
def test_a_skill_that_changes_in_the_bricks_folder_has_changed_in_all_replicas(
    assistant, engine, tmp_path, monkeypatch
):
    """Twelve questions go to both; nobody is started again, and what runs meanwhile keeps what it began with."""
    own, said = assistant._engine, []
    before = {process.pid for process in replicas_of()}
    for seed in (1, 2):
        folder = write_adapter(tmp_path / f"seed-{seed}", assistant.host, seed)
        choices = Choices(bricks={assistant.add_skill(folder, "changing", replace=seed == 2).name: Choice("on")})
        for used in (own, engine):
            monkeypatch.setattr(assistant, "_engine", used)
            asked = [assistant.ask(f"What is {n}?", choices=choices, sampling=GREEDY) for n in range(12)]
            said.append([done(ticket).text for ticket in asked])
        assert {asked[0].trace.engine, *(b.name for b in asked[0].trace.bricks)} == {"replicas", "changing"}
    monkeypatch.setattr(assistant, "_engine", own)
    assert said[0] == said[1] != said[2] == said[3]
    assert before == {process.pid for process in replicas_of()}


@pytest.mark.slow
def test_a_stop_ends_an_answer_and_keeps_what_was_said(host, engine):
    stream = engine.generate(replace(jobs_of(host, 1)[0], sampling=replace_(LONG, max_tokens=1000, min_tokens=1000)))
    pieces = iter(stream)
    said = [next(pieces) for _ in range(3)]
    threading.Timer(0.1, stream.stop).start()
    said += list(pieces)
    assert stream.finished == "stopped" and 3 <= stream.usage.new < 1000
    assert stream.ids == [i for piece in said for i in piece.ids]
    # It is stopped there too.
    until(lambda: all(p.cpu_percent(0.5) < 50 for p in replicas_of()))


@pytest.mark.slow
def test_what_fails_says_so_in_one_sentence(host, engine):
    wrong = Gate("other", "g", {99: next(iter(skill(host, 1).factors.values()))[0][0]})
    with pytest.raises(MattoniError, match="^other gates layer 99 with"):
        ids(engine.generate(replace(jobs_of(host, 1)[0], injections=(wrong,))))
    with pytest.raises(MattoniError, match="JSON"):
        ids(engine.generate(replace(jobs_of(host, 1)[0], sampling=Sampling(json_schema='{"type": "nonsense"}'))))


@pytest.mark.slow
def test_an_answer_whose_replica_is_killed_goes_on_where_it_was(host, engine, local):
    until(lambda: both_answer(engine))
    prompt = build_prompt(host.tokenizer, [Turn("user", (Text("What is a brick?"),))])
    job = Job(prompt, (skill(host, 1),), replace_(LONG, max_tokens=500, min_tokens=500), 7, "k")
    expected = ids(local.generate(replace(job, conversation="")))
    stream = engine.generate(job)
    pieces = iter(stream)
    said = [next(pieces) for _ in range(3)]
    before = replicas_of()
    # The one that writes is the one that computes.
    writes = max(before, key=lambda process: process.cpu_percent(0.3))
    writes.send_signal(signal.SIGKILL)
    said += list(pieces)
    assert stream.ids == expected and [i for piece in said for i in piece.ids] == expected
    assert "".join(piece.text for piece in said) == stream.text
    assert [notice.code for notice in stream.notices] == ["replica"]
    until(lambda: both_answer(engine))
    assert writes.pid not in {process.pid for process in replicas_of()}


@pytest.mark.slow
@pytest.mark.parametrize("kills", [KILLS])
def test_kills_at_random_moments_of_a_load_lose_nothing(host, engine, local, kills, capsys):
    """Conversations of several turns by eight clients, while one replica after the other is killed."""
    chance = random.Random(0)
    until(lambda: both_answer(engine))
    over = threading.Event()
    told = {"turns": 0, "wrong": 0, "lost": 0, "went on": 0, "tokens": 0}
    lock = threading.Lock()

    def client(number: int) -> None:
        own = random.Random(number)
        talk = 0
        while not over.is_set():
            talk += 1
            turns: list[Turn] = []
            for turn in range(3):
                turns.append(Turn("user", (Text(f"{number} asks {talk}, {turn}"),)))
                sampling = replace_(LONG, temperature=own.choice([0.0, 1.0]), max_tokens=own.randrange(40, 160))
                injections = (skill(host, own.randrange(4)),) if own.random() < 0.5 else ()
                job = Job(
                    build_prompt(host.tokenizer, turns), injections, sampling, own.randrange(999), f"{number}.{talk}"
                )
                stream = engine.generate(job)
                try:
                    said = [i for piece in stream for i in piece.ids]
                except MattoniError as problem:
                    logging.getLogger(__name__).error("lost: %s", problem)
                    said = []
                same = local.generate(replace(job, conversation=""))
                expected = [i for piece in same for i in piece.ids]
                is_same = (said, stream.ids, stream.text) == (expected, same.ids, same.text)
                if said and not is_same:
                    logging.getLogger(__name__).error("wrong: %s, %s, not %s", job.sampling, said, expected)
                with lock:
                    told["turns"] += 1
                    told["tokens"] += len(said)
                    told["lost"] += not said
                    told["wrong"] += bool(said) and not is_same
                    told["went on"] += any(notice.code == "replica" for notice in stream.notices)
                turns.append(Turn("assistant", (Ids(tuple(said)),)))

    begun, done = time.monotonic(), 0
    serving: set[psutil.Process] = set()
    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        try:
            while done < kills:
                time.sleep(chance.uniform(0.2, 4.0))
                alive = replicas_of()
                # Those that are still starting write nothing that could be lost.
                if len(alive) == answering(engine):
                    serving.update(alive)
                if those := sorted(serving.intersection(alive), key=lambda process: process.pid):
                    chance.choice(those).send_signal(signal.SIGKILL)
                    done += 1
                    with capsys.disabled():
                        print(json.dumps({"kills": done, **told, "seconds": round(time.monotonic() - begun)}))
        finally:
            over.set()
        for one in clients:
            one.result(600)
    with capsys.disabled():
        print(json.dumps({"kills": done, **told, "seconds": round(time.monotonic() - begun)}))
    assert (told["lost"], told["wrong"]) == (0, 0) and told["turns"] > 8
    assert kills < 10 or told["went on"] > 0


@pytest.mark.slow
def test_while_answers_wait_there_are_more_replicas(host, engine):
    until(lambda: both_answer(engine))
    with closing(ReplicatedEngine(host, 1, 2)) as growing:
        before = len(replicas_of())
        jobs = [replace(job, sampling=replace_(LONG, max_tokens=400, min_tokens=400)) for job in jobs_of(host, 16) * 4]
        with ThreadPoolExecutor(16) as pool:
            told = [pool.submit(ids, growing.generate(job)) for job in jobs]
            until(lambda: len(replicas_of()) == before + 1)
            assert all(len(one.result(300)) == 400 for one in told)
    until(lambda: len(replicas_of()) == 2)


@pytest.mark.slow
def test_what_is_closed_begins_nothing(host, engine):
    with closing(ReplicatedEngine(host, 1, 1)) as other:
        stream = other.generate(replace(jobs_of(host, 1)[0], sampling=replace_(LONG, max_tokens=1000, min_tokens=1000)))
        next(iter(stream))
    with pytest.raises(MattoniError, match="shutting down"):
        other.generate(jobs_of(host, 1)[0])

"""A turn and the same turn without each of its bricks, with a tiny host, a LoRA of noise, documents, a graph and a fact."""

import json
from dataclasses import replace

import torch

from assistant.bricks.graph import add_graph
from assistant.host.composition import compose, composed
from assistant.host.job import Job
from assistant.host.local import LocalEngine
from assistant.host.prompt import Turn, build_prompt
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from mattoni.injections import Text
from mattoni.inputs import Attachment
from mattoni.paths import data_folder
from tests.assistant.conftest import done, png, write_adapter
from tests.assistant.test_facts import teach
from tests.assistant.test_local_engine import skill

SHORT = Sampling(temperature=0, max_tokens=6)
ASKED = "What is the capital of Italy, in the picture?"
ON = Choices(vision="eyes", bricks={"noise": Choice("on")})


def test_a_forced_answer_is_as_likely_as_a_forward_pass_of_its_own_says(host):
    prompt = build_prompt(host.tokenizer, [Turn("user", (Text("What is in the picture?"),))])
    job = Job(prompt, (skill(host, 1),), SHORT, 0, forced=(5, 9, 7, 5, 5, 5, 8))
    engine = LocalEngine(host)
    stream = engine.generate(replace(job, sampling=Sampling(max_tokens=64)))
    pieces = [i for piece in stream for i in piece.ids]
    engine.close()
    assert pieces == list(job.forced)
    ids = torch.tensor([[*prompt.keys, *job.forced]])
    with torch.inference_mode(), composed(host, compose(host, job.injections)):
        logits = host.model(input_ids=ids).logits[0].log_softmax(dim=-1)
    expected = logits[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]
    torch.testing.assert_close(torch.tensor(stream.log_probabilities), expected, rtol=1e-4, atol=1e-4)
    assert Job.from_bytes(job.to_bytes()).forced == job.forced


def add_bricks(assistant, tmp_path):
    """A skill, documents and a graph, beside the image brick `eyes` that is there."""
    assistant.add_skill(write_adapter(tmp_path / "noise", assistant.host, seed=0), "noise")
    assistant.add_knowledge("notes", [Attachment("italy.md", ASKED.encode())])
    file = tmp_path / "graph.tsv"
    file.write_text("Italy\tcapital\tRome\n")
    add_graph("graph", file, data_folder() / "bricks")


def test_every_brick_of_a_turn_is_left_out_once_and_none_takes_its_place(assistant, tmp_path):
    add_bricks(assistant, tmp_path)
    teach(assistant.host, "The capital of Italy is Turin.")
    told = []
    found = assistant.minus_one(ASKED, [png()], ON, SHORT, told.append)
    plain = done(assistant.ask(ASKED, [png()], ON, SHORT))
    assert found.answer == plain.text and found.log_probability < 0
    names = {brick.name for brick in found.trace.bricks}
    assert names == {"eyes", "noise", "facts"} | {c.brick for c in found.trace.citations}
    assert told == ["", *(one.brick for one in found.without)] and set(told[1:]) == names
    for one in found.without:
        assert set(one.bricks) <= names - {one.brick}
        assert one.is_changed == (one.answer != found.answer)
        assert one.moved == one.log_probability - found.log_probability
    skill_part = next(one for one in found.without if one.brick == "noise")
    assert skill_part.moved < 0, "what noise says is unlikely without it"


def test_the_command_prints_the_answer_and_a_row_for_each_brick(assistant, mattoni, tmp_path, tiny_host):
    add_bricks(assistant, tmp_path)
    picture = tmp_path / "orange.png"
    picture.write_bytes(png().content)
    given = ("--image", picture, "--vision", "eyes", "--skill", "noise", "--host", tiny_host, "--dtype", "float32")
    asked = ("ask", ASKED, *given, "--max-tokens", 4, "--minus-one")
    status, out, err = mattoni(*asked, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert {"answer", "trace", "log_probability", "minus_one"} == set(found)
    assert {"eyes", "noise"} <= {row["brick"] for row in found["minus_one"]}
    status, out, err = mattoni(*asked, "--explain", "map.png")
    assert (status, err) == (1, "--minus-one asks several times and --explain shows one answer: give one of the two.\n")


def test_a_turn_of_a_conversation_is_looked_into_and_stays_as_it_was(assistant, tmp_path):
    add_bricks(assistant, tmp_path)
    talk = assistant.store.new()
    done(assistant.ask(ASKED, [png()], None, SHORT, talk))
    before = [(m.role, m.text) for m in assistant.store.messages(talk)]
    found = assistant.minus_one_of_last(talk)
    assert found.answer and [(m.role, m.text) for m in assistant.store.messages(talk)] == before

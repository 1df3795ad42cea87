"""A new kind of brick is one module, one card and its tests: nothing else in the tree knows of it."""

import importlib
import subprocess
from pathlib import Path

import pytest

from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from mattoni.methods import methods
from mattoni.runtime import Finished
from mattoni.trace import Notice
from tests.assistant.conftest import add_bare_brick, done

TOY = Path(__file__).parent / "toy"
SHORT = Sampling(temperature=0, max_tokens=6)
ON = Choices(bricks={"dim": Choice("on")})


@pytest.fixture
def toy(monkeypatch):
    """The toy package where Python finds packages."""
    monkeypatch.syspath_prepend(TOY)
    methods.cache_clear()
    yield
    methods.cache_clear()


def dim(assistant, factor=-4.0):
    neurons = assistant.host.model.config.intermediate_size
    parts = {"method": "dimmer", "neurons": neurons, "factor": factor}
    return add_bare_brick("dim", kind="emergent", injects=["gate"], parts=parts)


def test_a_brick_of_a_new_kind_takes_part_when_it_is_switched_on_and_not_otherwise(toy, assistant):
    dim(assistant)
    plain, dimmed = (
        done(assistant.ask("Hello there", sampling=SHORT)),
        done(assistant.ask("Hello there", (), ON, SHORT)),
    )
    assert plain.trace.bricks == [] and dimmed.error is None
    assert [(b.name, b.kind, b.reason) for b in dimmed.trace.bricks] == [("dim", "emergent", "switched on by hand")]
    assert dimmed.trace.injections == ["gate: every other neuron of layer 0 by dim"]
    assert dimmed.text != plain.text
    assert done(assistant.ask("Hello there", sampling=SHORT)).text == plain.text, "nothing of it is left"


def test_without_its_module_it_is_refused_by_name_and_the_rest_works(assistant):
    dim(assistant)
    (refused,) = [r for r in assistant.bricks().refused if r.name == "dim"]
    assert "parts.method is 'dimmer'; a method is one of " in refused.sentence
    assert done(assistant.ask("Hello there", sampling=SHORT)).status == "done"


def test_nothing_outside_the_toy_and_this_test_knows_it():
    found = subprocess.run(
        ["git", "grep", "--files-with-matches", "-i", "dimmer"], cwd=TOY.parents[2], capture_output=True, text=True
    )
    if found.returncode > 1:
        pytest.skip("this is no git checkout, so it cannot be searched")
    assert {path for path in found.stdout.split() if not path.startswith("tests/")} == set()


def test_what_a_brick_adds_stands_behind_the_answer_and_in_the_next_prompt(toy, assistant, monkeypatch):
    runtime = importlib.import_module("toy_bricks.methods.dimmer").DimmerRuntime
    added = Finished(" = 72", ("computed: 70 + 2 = 72",), (Notice("not-computed", "Not all was computed."),))
    monkeypatch.setattr(runtime, "finish", lambda self, answer: added)
    dim(assistant)
    conversation = assistant.store.new()
    said = done(assistant.ask("Hello there", (), ON, SHORT, conversation))
    assert said.text.endswith(" = 72") and said.trace.finished == ["computed: 70 + 2 = 72"]
    assert "Not all was computed." in [notice.text for notice in said.trace.notices]
    kept = assistant.store.messages(conversation)[-1]
    assert kept.text == said.text and len(kept.token_ids) > said.trace.tokens["new"]

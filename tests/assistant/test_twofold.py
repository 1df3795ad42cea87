"""A message that asks for two things: what a skill goes on from is the answer to the rest, and no list of phrases says so."""

import json
from dataclasses import replace

import pytest
import torch

from assistant.bricks import gate
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices, Chosen, KeyedBrick, Keyring, Plan, Question
from assistant.turn.spaces import Spaces
from assistant.turn.twofold import is_answered, is_form, second_request, splits
from mattoni.card import Routes, describe_files, read_card, write_card
from mattoni.keys import save_keys
from mattoni.paths import data_folder
from tests.assistant.conftest import done, write_adapter

SHORT = Sampling(temperature=0, max_tokens=6)
E = torch.eye(4)
GERMAN = KeyedBrick("german", "task", "text", E[:1], 0.5, accepts=frozenset({"text"}), on_answer="Translate to German.")


def embed(texts: list[str]) -> torch.Tensor:
    """ "in German" lies at the key, words around it dilute it; the picture is elsewhere."""
    vectors = []
    for text in texts:
        words = text.lower().strip(".?,").split()
        other = sum(word not in ("in", "german", "german?") for word in words)
        vectors.append(
            torch.nn.functional.normalize(E[0] * ("german" in text.lower()) * 2 + E[1] * other + E[2] * 1e-3, dim=0)
        )
    return torch.stack(vectors)


def asks(rest: str) -> float:
    """What is cut off in the middle asks for nothing."""
    return float(rest.rstrip("?").endswith(("picture", "it")))


@pytest.mark.parametrize(
    ("message", "rest"),
    [
        ("Describe the picture in German.", "Describe the picture"),
        ("In German, what is on it?", "what is on it?"),
        ("What is on it? In German", "What is on it?"),
        ("Say in German what is on it", "Say what is on it"),
    ],
)
def test_the_part_that_is_near_a_skill_is_the_skills_and_the_rest_is_answered_first(message, rest):
    found = second_request(message, embed([message]), embed, asks, Keyring((GERMAN,)), Choices())
    assert (found.rest, found.instruction, found.chosen.name) == (rest, "Translate to German.", "german")
    assert "goes on from the answer, as '" in found.chosen.reason


def test_a_message_for_one_thing_stays_one():
    ring = Keyring((GERMAN,))
    for message in (
        "Describe the picture to me.",
        "in German",
    ):
        assert second_request(message, embed([message]), embed, asks, ring, Choices()) is None
    far = lambda texts: pytest.fail("parts of a message that is far from the skill are not embedded")  # noqa: E731
    message = "Tell me of bricks, and of walls"
    assert second_request(message, embed([message]), far, asks, ring, Choices()) is None
    off = Choices(bricks={"german": Choice("off")})
    assert (
        second_request(
            "Describe the picture in German.", embed(["Describe the picture in German."]), embed, asks, ring, off
        )
        is None
    )
    cannot = Keyring((replace(GERMAN, on_answer=""),))
    assert (
        second_request(
            "Describe the picture in German.",
            embed(["Describe the picture in German."]),
            embed,
            asks,
            cannot,
            Choices(),
        )
        is None
    )


def test_the_longest_part_comes_first_and_long_messages_are_not_cut():
    assert splits("a b c d") == [("a b", "c d"), ("a b c", "d"), ("a d", "b c")]
    assert splits("x, a b c") == [("x, a", "b c"), ("x, a b", "c"), ("a b c", "x"), ("x, c", "a b")]
    assert splits("a b\nc d") == splits("word " * 40) == splits("a b") == []


def test_the_rest_must_be_a_request_itself():
    found = second_request(
        "Describe the picture in German.",
        embed(["Describe the picture in German."]),
        embed,
        asks,
        Keyring((GERMAN,)),
        Choices(),
    )
    about_it = Question(asks_about_picture=True)
    assert not is_answered(found, about_it, Plan()), "no picture is there"
    assert is_answered(found, replace(about_it, earlier_pictures=("photo",)), Plan())
    assert not is_answered(found, Question(earlier_pictures=("photo",)), Plan())
    statement = replace(found, rest="Two girls walk down the street.", asks=0.03)
    assert not is_answered(statement, replace(about_it, earlier_pictures=("photo",)), Plan())
    chosen = Plan(skills=(Chosen("sentiment", 1.0, 0.7, 0.4, ""),))
    assert is_answered(statement, Question(), chosen)


@pytest.mark.parametrize("message", ["In German: the picture on it", 'Say "the picture" in German', "it\nin German it"])
def test_a_message_with_a_text_of_its_own_is_for_one_skill(message):
    assert second_request(message, embed([message]), embed, asks, Keyring((GERMAN,)), Choices()) is None


def test_json_is_no_text_to_go_on_from():
    assert is_form('{"total": 9}') and not is_form("9") and not is_form("A dog.")


# A turn, with skills of noise


@pytest.fixture
def two_skills(assistant, tmp_path, monkeypatch):
    monkeypatch.setattr(gate, "_groups", lambda *given: [])
    for name, text, parts in (("first", "zz qq zz", {}), ("second", "kiln burns", {"on_answer": "Say it so:"})):
        assistant.add_skill(write_adapter(tmp_path / name, assistant.host, seed=len(name)), name)
        folder = data_folder() / "bricks" / name
        save_keys(Spaces.embedder.embed([text]), folder / "keys.safetensors")
        routes = Routes(space="text", keys="keys.safetensors", threshold=0.7 if name == "first" else 0.5)
        card = read_card(folder)
        told = {"routes": routes, "files": describe_files(folder), "parts": card.parts.model_copy(update=parts)}
        write_card(card.model_copy(update=told), folder)
        assistant.pass_gate(name)
    return assistant


def test_a_turn_answers_the_rest_and_the_second_skill_goes_on_from_that_alone(two_skills, prompts):
    alone = done(two_skills.ask("zz qq zz", (), Choices(), SHORT))
    assert [used.name for used in alone.trace.bricks] == ["first"]
    ticket = done(two_skills.ask("zz qq zz kiln burns kiln burns", (), Choices(), SHORT))
    assert ticket.error is None and [used.name for used in ticket.trace.bricks] == ["first", "second"]
    assert ticket.trace.finished == [f"second went on from: {alone.text}"]
    assert "zz qq zz" in prompts[-2] and "kiln" not in prompts[-2]
    assert "Say it so:\n\n" in prompts[-1] and "zz qq zz" not in prompts[-1]
    assert ticket.text != alone.text and ticket.trace.tokens["new"] == 12
    off = done(two_skills.ask("zz qq zz kiln burns kiln burns", (), Choices(bricks={"second": Choice("off")}), SHORT))
    assert "second" not in [used.name for used in off.trace.bricks] and off.trace.finished == []


def test_a_form_that_was_asked_for_is_not_gone_on_from(two_skills):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    sampling = Sampling(temperature=0, max_tokens=40, json_schema=json.dumps(schema))
    ticket = done(two_skills.ask("zz qq zz kiln burns kiln burns", (), Choices(), sampling))
    assert set(json.loads(ticket.text)) == {"a"} and ticket.trace.finished == []

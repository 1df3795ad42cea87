"""A message that asks for two things: what a skill goes on from is the answer to the rest, and no list of phrases says so."""

import json
from dataclasses import replace

import pytest
import torch

from assistant.bricks import gate
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices, Chosen, KeyedBrick, Keyring, Plan, Question
from assistant.turn.spaces import Spaces
from assistant.turn.twofold import Form, form_of, is_answered, quoted, second_request, splits
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


def test_of_a_form_the_texts_are_gone_on_from_and_names_and_numbers_stay():
    said = '{"menu": [{"nm": "fried \\"rice\\"", "cnt": "2", "price": 9.5}, {"nm": "Tea with: ice", "sub": ["ICE", ""]}], "total": "27,000"}'
    form = form_of(said)
    assert form.texts == ('fried "rice"', "Tea with: ice")
    back = "".join(a + b for a, b in zip(form.around, (*map(quoted, form.texts), ""), strict=True))
    assert back == said
    names = {
        "company": "AEON CO. (M) BHD",
        "place": "Kuala Lumpur",
        "paid": "cash",
        "date": "06/03/2018",
        "of": ["Café Élan"],
    }
    assert form_of(json.dumps(names)).texts == ()
    assert form_of('["über den Fluss", "An élan"]').texts == ("über den Fluss", "An élan")
    assert form_of("9") is None and form_of('"a word"') is None and form_of("A dog.") is None


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


def test_the_second_skill_goes_on_from_each_text_of_a_form(two_skills, prompts, monkeypatch):
    form = Form(("a kiln", "clay"), ('{"name": "', '", "n": 12, "of": ["', '"]}'))
    monkeypatch.setattr("assistant.turn.prepare.form_of", lambda answer: form)
    ticket = done(two_skills.ask("zz qq zz kiln burns kiln burns", (), Choices(), SHORT))
    assert ticket.error is None and [used.name for used in ticket.trace.bricks] == ["first", "second"]
    said = json.loads(ticket.text)
    assert said["n"] == 12 and list(said) == ["name", "n", "of"]
    asked = [prompt for prompt in prompts if "Say it so:" in prompt]
    assert len(asked) == 2 and "a kiln" in asked[0] and "clay" in asked[1]
    # Each is what the skill says of that text alone.
    monkeypatch.setattr("assistant.turn.prepare.form_of", lambda answer: Form(("clay",), ("[", "]")))
    alone = done(two_skills.ask("zz qq zz kiln burns kiln burns", (), Choices(), SHORT))
    assert json.dumps(said["of"][0], ensure_ascii=False)[1:-1] == alone.text[1:-1]
    monkeypatch.setattr("assistant.turn.prepare.form_of", lambda answer: Form((), (answer,)))
    ticket = done(two_skills.ask("zz qq zz kiln burns kiln burns", (), Choices(), SHORT))
    assert [used.name for used in ticket.trace.bricks] == ["first"] and ticket.text
    assert "JSON of names and numbers, which 'second' leaves" in ticket.trace.notices[-1].text


def test_a_form_that_is_stopped_keeps_what_was_said(two_skills, monkeypatch):
    monkeypatch.setattr("assistant.turn.prepare.form_of", lambda answer: Form(("kiln",) * 9, ("{",) * 9 + ("}",)))
    ticket = two_skills.ask("zz qq zz kiln burns kiln burns", (), Choices(), Sampling(temperature=0, max_tokens=200))
    next(iter(ticket.changes()))
    ticket.stop()
    assert ticket.wait(60) and ticket.status == "stopped" and ticket.text.startswith("{") and "}" not in ticket.text

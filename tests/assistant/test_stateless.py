"""A history that whoever asks keeps: answered as a conversation is, and nothing of it is stored."""

import re

import pytest

from assistant.host.sampling import Sampling
from assistant.turn.request import Message
from assistant.turn.route import Choices
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from tests.assistant.conftest import done, png


def test_a_history_that_somebody_else_keeps_is_answered_as_a_conversation_is_and_nothing_is_stored(assistant, prompts):
    sampling, eyes = Sampling(temperature=0, max_tokens=6), Choices(vision="eyes")
    talk = assistant.store.new()
    note = Attachment("note.txt", b"The kiln burns at 900 degrees.")
    for text, files in (("What is it?", [png()]), ("Read this.", [note]), ("And how hot?", ())):
        done(assistant.ask(text, files, eyes, sampling, talk))
    answers = [message.text for message in assistant.store.messages(talk) if message.role == "assistant"]
    history = [
        Message("user", "What is it?", (png(),)),
        Message("assistant", answers[0]),
        Message("user", "Read this.", (note,)),
        Message("assistant", answers[1]),
        Message("user", "And how hot?"),
    ]
    stored = len(assistant.store.conversations())
    ticket = done(assistant.complete(history, eyes, sampling))
    assert ticket.error is None and ticket.trace.finish in ("length", "end") and ticket.trace.tokens["new"] > 0

    def said_by_users(prompt: str) -> list[str]:
        return re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", prompt, re.DOTALL)

    assert said_by_users(prompts[-1]) == said_by_users(prompts[2])
    assert len(assistant.store.conversations()) == stored


def test_a_history_may_bring_a_system_message_and_stop_strings(assistant, prompts):
    everything = tuple(chr(letter) for letter in range(32, 127))
    asked = [Message("user", "One."), Message("user", "Two."), Message("assistant", "Yes."), Message("user", "Three.")]
    ticket = done(assistant.complete(asked, system="Speak like a mason.", sampling=Sampling(stop=everything)))
    assert prompts[0].startswith("<|im_start|>system\nSpeak like a mason.<|im_end|>")
    assert "One.\n\nTwo.<|im_end|>" in prompts[0] and ticket.trace.finish in ("stop-string", "end", "length")


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([], "The message is empty: write something, or attach a picture or a document."),
        ([Message("assistant", "Yes.")], "The last message is the assistant's: end with one of the user's."),
    ],
)
def test_a_history_without_a_question_is_refused(assistant, messages, sentence):
    with pytest.raises(MattoniError) as problem:
        assistant.complete(messages)
    assert str(problem.value) == sentence

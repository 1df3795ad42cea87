"""Whole turns on tiny models: what the host is given, turn after turn, and what the trace says of it."""

import re

from assistant.generation import Sampling
from assistant.look import Attachment
from assistant.route import Choices
from tests.assistant.conftest import QUERIES, done, png

SHORT = Sampling(temperature=0, max_tokens=6)
EYES = Choices(vision="eyes")


def test_a_picture_becomes_its_soft_tokens_and_the_trace_says_by_which_brick(assistant, prompts):
    ticket = done(assistant.ask("What is it?", [png()], EYES, SHORT))
    assert ticket.status == "done", ticket.error
    assert prompts[0].count("■") == QUERIES
    assert [(b.name, b.kind) for b in ticket.trace.bricks] == [("eyes", "modality")]
    assert ticket.trace.injections == [f"sequence: {QUERIES} soft tokens of orange.png by eyes"]


def test_a_conversation_too_long_for_the_host_drops_its_oldest_turns_whole_and_the_trace_says_so(assistant, prompts):
    talk = assistant.store.new()
    notices = []
    for turn in range(12):
        picture = [png(("red", "green", "blue")[turn % 3])]
        ticket = done(assistant.ask(f"Question {turn}: " + "brick " * 60, picture, EYES, SHORT, talk))
        assert ticket.status == "done", ticket.error
        notices.append([n.text for n in ticket.trace.notices if n.code == "truncated"])
    assert notices[0] == [] and re.fullmatch(
        r"The conversation is longer than the host can read: its first \d+ exchange\(s\) were left out\.",
        notices[-1][0],
    )
    for prompt in prompts:
        questions = re.findall(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", prompt, re.DOTALL)
        # Each question that is left is whole: all the soft tokens of its picture in front, all its words behind.
        assert all(re.fullmatch(rf"■{{{QUERIES}}}\nQuestion \d+: (brick )+", question) for question in questions)
        numbers = [int(re.search(r"Question (\d+)", question)[1]) for question in questions]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert prompt.count("<|im_start|>assistant") == len(questions)
    assert len(assistant.store.messages(talk)) == 24, "what the host no longer reads is still kept"


def test_a_document_is_there_in_every_later_turn(assistant, prompts):
    """open-webui #3674: documents were used on the first message only."""
    talk = assistant.store.new()
    note = Attachment("note.txt", b"The kiln burns at 900 degrees.")
    for question in ("How hot?", "Are you sure?", "And in words?"):
        assert done(assistant.ask(question, [note] if question == "How hot?" else (), None, SHORT, talk)).error is None
    assert all("The kiln burns at 900 degrees." in prompt for prompt in prompts)

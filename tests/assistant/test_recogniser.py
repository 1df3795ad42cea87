"""The shipped recognisers, with the builtin embedder; `python -m assistant.evaluation.measure_router` measures them."""

import pytest

from assistant.evaluation.bench import SECOND_QUESTION
from assistant.host.catalogue import BUILTIN_EMBEDDER, fetch
from assistant.host.embedder import Embedder
from assistant.turn.question import goes_on, message_pieces
from assistant.turn.recogniser import FOLLOW_UPS, PICTURE_QUESTIONS, Recogniser
from mattoni.errors import MattoniError

PASSAGE = "The kiln was built in 1820. It burns at 900 degrees, and bricks stay in it for two days. " * 5


def test_a_damaged_recogniser_is_named(tmp_path):
    (tmp_path / "follow-ups.safetensors").write_bytes(b"no tensors")
    with pytest.raises(MattoniError, match=r"follow-ups\.safetensors is missing or damaged: restore it\."):
        Recogniser.load(FOLLOW_UPS, tmp_path)


@pytest.fixture(scope="module")
def going_on(real_home):
    embedder = Embedder(fetch(BUILTIN_EMBEDDER))
    follow_ups, picture_questions = Recogniser.load(FOLLOW_UPS), Recogniser.load(PICTURE_QUESTIONS)
    return lambda text: goes_on([embedder.depths(p) for p in message_pieces(text)], follow_ups, picture_questions)


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [
        SECOND_QUESTION,
        "Are you sure?",
        "And what is it used for?",
        "Why?",
        "Translate that into German.",
        "Tell me more.",
        "What did I ask first?",
        "Where do they live?",
        "shorter, please",
        "Is anyone smiling?",
        f"{PASSAGE}\n\nDoes the picture show such a kiln?",
    ],
)
def test_a_message_that_goes_on_with_what_was_said_or_shown_is_recognised(going_on, message):
    assert going_on(message)


@pytest.mark.slow
@pytest.mark.parametrize(
    "message",
    [
        "What is a hammer used for?",
        "Where do penguins live?",
        "Translate 'the dog sleeps' into German.",
        "Write a poem about autumn.",
        # Not for what was said, or the host goes on with it: in French, after a translation.
        "thanks",
        "Thanks a million!",
        "who are you?",
        "hi, what's your name",
        f"{PASSAGE}\n\nAnswer in a few words: When was it built?",
    ],
)
def test_a_message_that_stands_alone_is_not(going_on, message):
    assert not going_on(message)

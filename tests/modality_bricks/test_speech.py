"""Listening: windows where somebody speaks, two models of which the surer is right, times, and nothing made up."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modality_bricks.speech import (
    Guess,
    Said,
    clock,
    find_voices,
    is_silent,
    listen,
    passages,
    understand,
    windows,
    with_times,
)
from tests.sounds import RATE, FakeWhisper, blocks_of, joined, loud_parts, silence, tone


def heard(*parts):
    """What is heard of these samples one after the other, by fakes."""
    small = FakeWhisper(Path("tiny.en"))
    return listen(
        blocks_of(joined(*parts)),
        lambda window, language: understand(window.samples, small, None, language),
        loud_parts,
    )


def test_each_stretch_of_speech_has_the_time_at_which_it_begins():
    found = heard(silence(3), tone(2, 300), silence(4), tone(2, 600), silence(1))
    assert [(round(s.start), round(s.end)) for s in found.said] == [(3, 5), (9, 11)]
    assert found.text == "What is the capital of Italy? Please bring two litres of milk."
    assert found.languages == ("en",) and round(found.spoke_s) == 4


def test_a_long_recording_is_heard_in_windows_that_lie_between_pauses():
    parts = [part for _ in range(40) for part in (tone(4, 600), silence(1))]
    found = list(windows(blocks_of(joined(*parts)), loud_parts))
    assert all(len(window.samples) <= 28 * RATE for window in found)
    together = sum(np.abs(window.samples).sum() for window in found)
    assert together == pytest.approx(np.abs(joined(*parts)).sum(), rel=1e-4), "nothing is left out or heard twice"
    starts = [window.start_s for window in found]
    assert starts == sorted(starts) and all(start % 5 == pytest.approx(0, abs=0.11) for start in starts)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), max_size=5))
def test_every_utterance_is_heard_once_wherever_it_lies(lengths):
    parts = [part for spoken, pause in lengths for part in (tone(spoken), silence(pause))]
    samples = joined(*parts, silence(0.1))
    heard_seconds = sum(np.count_nonzero(window.samples) for window in windows(blocks_of(samples, 160_000), loud_parts))
    assert heard_seconds == pytest.approx(np.count_nonzero(samples), rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_speaks_in_noise_music_and_silence(seed):
    """The real detector, which is in faster-whisper's wheel."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(0, 0.1, 5 * RATE).astype(np.float32)
    chord = sum(tone(5, hertz) for hertz in (220, 277, 330))
    brown = (np.cumsum(noise) / 300).astype(np.float32)
    assert [find_voices(samples) for samples in (noise, chord / 3, brown, silence(5))] == [[], [], [], []]


def test_of_two_models_the_surer_is_right():
    english, others = FakeWhisper(Path("tiny.en")), FakeWhisper(Path("base"))
    foreign = tone(2, 2500)
    guess = understand(foreign, english, others)
    assert (guess.language, guess.said[0].text) == ("de", "Guten Tag.")
    assert understand(foreign, english, None) is None, "what the English model is unsure of is not English"
    assert understand(tone(2, 300), english, others).said[0].text == "What is the capital of Italy?"
    assert understand(tone(2, 300), None, others, "de").said


def test_only_what_the_small_model_is_unsure_of_is_heard_by_the_large_one(monkeypatch):
    class Never(FakeWhisper):
        def hear(self, window, language=None):
            raise AssertionError("the large model was asked")

    assert understand(tone(1, 300), FakeWhisper(Path("tiny.en")), Never(Path("base"))).language == "en"


def test_a_language_once_found_is_that_of_the_recording():
    asked = []

    def hear(window, language):
        asked.append(language)
        return Guess("fr", (Said(0.0, 1.0, "Oui."),), -0.2)

    listen(blocks_of(joined(tone(2), silence(4), tone(2))), hear, loud_parts)
    assert asked == [None, "fr"]


def test_what_no_model_knows_is_told_and_not_made_up():
    found = heard(tone(2, 2500))
    assert found.said == () and found.unknown and found.spoke_s > 1
    assert is_silent(heard(silence(2)).loudest) and not is_silent(found.loudest)


def test_times_are_written_as_a_player_shows_them():
    assert [clock(s) for s in (0, 7.9, 75, 3599, 3600, 36_125)] == [
        "0:00",
        "0:07",
        "1:15",
        "59:59",
        "1:00:00",
        "10:02:05",
    ]
    said = [Said(0, 2, "One."), Said(62, 64, "Two.")]
    assert with_times(said) == "[0:00] One.\n[1:02] Two."


def test_short_stretches_are_put_together_for_a_citation():
    said = [Said(n, n + 1, "a word or two") for n in range(30)]
    found = passages(said)
    assert [len(p.text.split()) for p in found] == [40, 40, 40]
    assert (found[1].start, found[1].end) == (10, 20)

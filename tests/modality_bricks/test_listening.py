"""A brick that hears sounds: recordings as pictures of their sound, and the whole training on them, as for pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import modality_bricks.training.train as entry
from assistant.host.host import load_host
from assistant.registry import Brick, check_brick
from mattoni.errors import MattoniError
from mattoni.inputs import Sound
from mattoni.paths import data_folder
from mattoni.runtime import Asked, GivenSound
from modality_bricks.methods.listening import METHODS
from modality_bricks.spectrogram import SECONDS, sound_picture
from modality_bricks.training.readers import SOUND_QUESTIONS, read_folder, read_rows
from tests.modality_bricks.conftest import BRICK
from tests.sounds import RATE, silence, tone, wav


def noise(seconds: float, seed: int) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).uniform(-1, 1, int(seconds * RATE))).astype(np.float32)


def bright(samples: np.ndarray) -> tuple[float, float]:
    """Where a sound's picture is brightest, as shares of its height from below and of its width."""
    shades = np.asarray(sound_picture([samples]).convert("L"), np.float64)
    row, column = np.unravel_index(shades.argmax(), shades.shape)
    return 1 - row / shades.shape[0], column / shades.shape[1]


def test_a_higher_tone_stands_higher_and_a_later_one_further_to_the_right():
    low, high = bright(tone(4, 300)), bright(tone(4, 3000))
    assert high[0] > low[0] + 0.2
    late = np.concatenate([silence(6), tone(1, 300)])
    assert 0.55 < bright(late)[1] < 0.72 and bright(tone(1, 300))[1] < 0.12


def test_loudness_changes_little_and_silence_is_dark():
    loud, soft = (np.asarray(sound_picture([level * tone(3, 600)]), np.int64) for level in (1.0, 0.05))
    assert np.abs(loud - soft).mean() < 12
    assert np.asarray(sound_picture([silence(3)])).max() == 0
    assert np.asarray(sound_picture([])).max() == 0


def test_what_comes_in_blocks_is_one_sound_and_the_rest_of_a_long_one_is_left_out():
    samples = np.concatenate([tone(3, 300), tone(3, 2000)])
    whole = np.asarray(sound_picture([samples]))
    assert (np.asarray(sound_picture(np.array_split(samples, 7))) == whole).all()
    long = np.concatenate([tone(SECONDS, 300), tone(5, 2000)])
    assert (np.asarray(sound_picture([long])) == np.asarray(sound_picture([tone(SECONDS, 300)]))).all()


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Of each of three sounds, six to learn from and two to measure on."""
    for part, count in (("train", 6), ("dev", 2)):
        for number in range(count):
            seed = number + 10 * (part == "dev")
            for name, samples in {
                "low hum": tone(2 + seed % 3, 120 + 10 * seed),
                "whistle": tone(2 + seed % 3, 2600 + 40 * seed),
                "noise": noise(2 + seed % 3, seed),
            }.items():
                file = tmp_path / "sounds" / part / name / f"{number}.wav"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(wav(samples))
    return tmp_path / "sounds"


def test_recordings_are_asked_about_as_sounds(recordings):
    samples = read_folder(recordings / "dev")
    assert len(samples) == 6 and {sample.name for sample in samples} == {"low hum", "whistle", "noise"}
    assert {question for sample in samples for question, _ in sample.turns} == set(SOUND_QUESTIONS)
    assert samples[0].open().size == (256, 256)
    row = {"audio": "noise/0.wav", "caption": "a long hiss"}
    (captioned,) = read_rows([("line 1", row)], recordings / "dev")
    assert {answer for _, answer in captioned.turns} == {"A long hiss."} and captioned.turns[0][0] in SOUND_QUESTIONS


def sounding(make_configs, **brick: object) -> list[Path]:
    """The configs of a brick that hears, with the tiny encoder, stitch and host that hear pictures in the other tests."""
    data = {
        "data": [{"format": "folder", "files": ["sounds/train"]}],
        "dev": [{"format": "folder", "files": ["sounds/dev"]}],
    }
    folders = {"folder": "sounds/train", "dev_folder": "sounds/dev"}
    told = {**BRICK, "folder": "sounds", "listens": True, "parents": ["runs/encoder", "runs/words"], **brick}
    return make_configs(
        encoder={"data": folders, "phases": [{"size": 32, "epochs": 30}], "batch": 6},
        words={**data, "steps": 120, "steps_per_evaluation": 60, "batch": 6},
        generate={**data, "brick": told},
    )


def test_the_same_three_stages_make_a_brick_that_hears_sounds(make_configs, recordings, tiny_host, tmp_path):
    configs = sounding(make_configs)
    entry.main([str(path) for path in configs])
    found = check_brick(data_folder() / "bricks" / "sounds")
    assert isinstance(found, Brick)
    assert found.card.takes == {"sound"} and found.card.parts.method == "listening"
    assert "shuffled recordings" in found.card.metrics[0].beside and found.card.metrics[0].n == 6
    words = json.loads((tmp_path / "runs" / "words" / "result.json").read_text())["best"]
    assert words["named"] > 0.5, "each of three sounds is named by words, by chance a third"
    host = load_host(str(tiny_host), "cpu", "float32")
    runtime = METHODS[0].load(found, host)
    sounds = [Sound(str(hz), f"{hz}.wav", 2.0, blocks=lambda hz=hz: iter([tone(2, hz)])) for hz in (150, 2700)]
    hum, whistle = (runtime.inject(Asked("What do you hear?", GivenSound(sound))) for sound in sounds)
    assert hum.record.source == "sound" and hum.record.digest == "150"
    assert not torch.equal(hum.segments[0].vectors, whistle.segments[0].vectors)


def test_pictures_and_recordings_are_not_mixed_and_a_brick_says_which_it_is_given(make_configs, recordings, drawn):
    configs = sounding(make_configs, listens=False)
    entry.main([str(path) for path in configs[:2]])
    with pytest.raises(MattoniError, match=r"brick.listens is false, and the data are recordings: correct one of them"):
        entry.main([str(configs[2])])
    (recordings / "train" / "noise" / "a.png").write_bytes(next((drawn / "dev").rglob("*.png")).read_bytes())
    with pytest.raises(MattoniError, match="there are pictures and recordings: train a brick for each"):
        entry.main([str(configs[1])])

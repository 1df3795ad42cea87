"""What is opened of recordings: by content, as one channel at 16 kHz, inside the limits; the rest is one sentence each."""

import numpy as np
import pytest

from assistant.turn.look import Limits, look
from mattoni.inputs import Attachment, Document, Sound
from tests.sounds import RATE, encoded, silence, tone, wav


def heard(content: bytes, name: str = "memo") -> tuple[Sound, np.ndarray]:
    looked = look([Attachment(name, content)])
    (item,) = looked.items
    assert isinstance(item, Sound) and [n for n in looked.notices if n.code != "film"] == []
    return item, np.concatenate(list(item.blocks()))


def refusal(content: bytes, name: str = "memo") -> str:
    looked = look([Attachment(name, content)])
    assert looked.items == ()
    (notice,) = looked.notices
    assert notice.code == "refused"
    return notice.text


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("ipod", "aac"),
        ("adts", "aac"), ("webm", "libopus"), ("aiff", "pcm_s16be"), ("asf", "wmav2"), ("caf", "pcm_s16le"),
    ],
)  # fmt: skip
def test_a_recording_of_any_usual_kind_is_opened_by_its_content(container, codec):
    sound, samples = heard(encoded(tone(1.0, rate=48_000), container, codec, rate=48_000), "memo.dat")
    assert not sound.is_film and abs(sound.seconds - 1.0) < 0.15
    assert samples.dtype == np.float32 and abs(len(samples) / RATE - 1.0) < 0.15
    middle = samples[4000:12_000]
    crossings = int(np.sum(np.diff(np.signbit(middle))) / 2)
    assert abs(crossings - 150) <= 3, "it is the tone of 300 Hz"


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "libopus"), ("avi", "libmp3lame")])
def test_of_a_film_the_sound_is_heard_and_a_sentence_says_that_its_pictures_are_not_seen(container, codec):
    content = encoded(tone(1.0, rate=48_000), container, codec, rate=48_000, with_picture=True)
    sound, samples = heard(content)
    assert sound.is_film and abs(len(samples) / RATE - 1.0) < 0.15
    (notice,) = look([Attachment("holiday.mp4", content)]).notices
    assert notice.text == "holiday.mp4 is a film: it was listened to, and its pictures were not looked at."


def test_192_kilohertz_on_eight_channels_is_one_channel_of_16(tmp_path):
    sound, samples = heard(wav(tone(0.5, rate=192_000), 192_000, channels=8))
    assert sound.seconds == 0.5 and len(samples) == RATE // 2


def test_a_recording_that_was_cut_off_is_heard_as_far_as_it_goes():
    _, samples = heard(wav(tone(2.0))[:40_000])
    assert 1.0 < len(samples) / RATE < 1.3


def test_of_a_longer_recording_than_the_limit_the_beginning_is_heard():
    (sound,), (notice,) = (
        (looked := look([Attachment("talk.wav", wav(tone(3.0)))], Limits(seconds=2.0))).items,
        looked.notices,
    )
    assert notice.code == "truncated"
    assert notice.text == (
        "talk.wav is 3 seconds long, and only its first 2 seconds are listened to: send the part that matters."
    )
    assert isinstance(sound, Sound) and sum(map(len, sound.blocks())) == 2 * RATE


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (wav(silence(0)), "holds no sound: record it again."),
        (b"RIFF\0\0\0\0WAVE" + b"garbage" * 40, "is damaged and cannot be opened: save it again or send another copy."),
        (b"fLaC" + bytes(200), "is damaged and cannot be opened: save it again or send another copy."),
        (b"OggS" + bytes(400), "is damaged and cannot be opened: save it again or send another copy."),
        (
            b"\0\0\0\x14ftypM4A \0\0\0\0M4A \0\0\0\x10moov\0\0\0\x08sinf",
            "is protected against copying (DRM), so nothing can be heard in it: send a recording without protection.",
        ),
        (b"", "is empty: send it again."),
    ],
)
def test_what_cannot_be_heard_is_one_sentence(content, sentence):
    assert refusal(content) == f"memo {sentence}"


def test_a_film_without_sound_is_refused():
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", "mp4") as file:
        film = file.add_stream("mpeg4", rate=1, width=32, height=32, pix_fmt="yuv420p")
        file.mux(film.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        file.mux(film.encode(None))
    assert refusal(buffer.getvalue()) == (
        "memo is a film without sound, and films are not looked at: send pictures of it."
    )


def test_a_wrong_ending_is_told_and_the_content_counts():
    looked = look([Attachment("memo.pdf", wav(tone(0.2)))])
    assert isinstance(looked.items[0], Sound)
    assert looked.notices[0].text == ("memo.pdf is a sound recording, whatever its name says, and was opened as one.")
    # A browser's recording is WebM, whose ending promises a film.
    assert look([Attachment("voice.webm", encoded(tone(0.2, rate=48_000), "webm", "libopus", 48_000))]).notices == ()


def test_a_playlist_is_text_and_what_it_names_is_not_opened(tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(tone(0.2)))
    looked = look([Attachment("list.mp3", f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n".encode())])
    assert isinstance(looked.items[0], Document)


def test_large_recordings_may_be_larger_than_other_files():
    limits = Limits(bytes=1000, sound_bytes=100_000)
    assert look([Attachment("memo.wav", wav(tone(0.5)))], limits).notices == ()
    (notice,) = look([Attachment("memo.wav", wav(tone(5.0)))], limits).notices
    assert notice.text == ("memo.wav is 0 MB large, and at most 0 MB are read: send a smaller version or a part of it.")

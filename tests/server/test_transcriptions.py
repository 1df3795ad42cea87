"""Recordings that are written down: OpenAI's SDK, the forms of an answer, and what is refused."""

import http.client
from functools import partial

import openai
import pytest

from assistant.turn.look import Limits
from mattoni.paths import model_folder
from mattoni.runtime import Said
from server.app import Settings
from server.keys import Keys
from server.transcribing import srt, vtt
from tests.assistant.conftest import png
from tests.assistant.test_sound_turn import MEMO, ears  # noqa: F401 - a fixture
from tests.sounds import silence, tone, wav

SAID = "Please bring two litres of milk. The train leaves at noon."


@pytest.fixture
def ask(serve):
    """Have a recording written down by a server that is open to everybody."""
    running = serve()
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:

        def asked(content=MEMO.content, name="memo.wav", model="whisper-1", **more):
            return client.audio.transcriptions.create(file=(name, content), model=model, **more)

        yield asked


def test_openais_sdk_has_a_recording_written_down_in_every_form(ears, ask):  # noqa: F811
    told = ask()
    assert told.text == SAID and told.mattoni == {"brick": "speech", "notices": []}
    assert ask(response_format="text", language="en") == f"{SAID}\n"
    whole = ask(response_format="verbose_json", timestamp_granularities=["segment"], model="speech")
    assert (whole.language, whole.duration) == ("en", 74.5)
    assert [segment.text for segment in whole.segments] == [SAID[:32], SAID[33:]]
    assert ask(response_format="srt").startswith("1\n00:00:00,500 --> 00:00:02,500\nPlease bring")
    assert ask(response_format="vtt").startswith("WEBVTT\n\n00:00:00.500 --> 00:00:02.500\nPlease bring")


def test_subtitles_count_their_cues_and_write_hours_minutes_seconds_and_thousandths():
    said = (Said(0.5, 2.0004, "Milk."), Said(3661.9996, 3662.25, "Bread."))
    assert srt(said) == ("1\n00:00:00,500 --> 00:00:02,000\nMilk.\n\n2\n01:01:02,000 --> 01:01:02,250\nBread.\n")
    assert vtt(said[:1]) == "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\nMilk.\n"
    assert (srt(()), vtt(())) == ("", "WEBVTT\n")


def test_silence_has_no_words_and_says_why(ears, ask):  # noqa: F811
    told = ask(wav(silence(3)))
    assert told.text == "" and "is silent" in told.mattoni["notices"][0]


REFUSED = [
    ({"content": b"x" * 100}, "memo.wav"),
    ({"content": b""}, "file is empty"),
    ({"content": png().content, "name": "../../a.png"}, "a.png is no recording"),
    ({"content": wav(tone(2, 2500))}, "does not sound like English"),
    ({"model": "gpt-4o-transcribe"}, r"There is no model 'gpt-4o-transcribe' \(there are: whisper-1, .*speech"),
    ({"language": "German"}, "such as 'en' or 'de'"),
    ({"response_format": "docx"}, "response_format: input should be 'json'"),
    ({"timestamp_granularities": ["word"]}, "timestamp_granularities is not supported"),
    ({"prompt": "Names: Anna"}, "prompt is not supported"),
    ({"stream": True}, "stream is not supported"),
]


def test_what_cannot_be_written_down_is_one_sentence(ears, ask):  # noqa: F811
    for sent, said in REFUSED:
        with pytest.raises(openai.APIStatusError, match=said) as raised:
            ask(**sent)
        assert raised.value.status_code == (404 if "model" in sent else 400)
        assert "\n" not in raised.value.body["message"] and ".." not in raised.value.body["message"]


def test_a_recording_too_long_is_refused_and_so_is_one_without_a_model(ask, ears, monkeypatch):  # noqa: F811
    monkeypatch.setattr("assistant.turn.prepare.Limits", partial(Limits, seconds=10))
    with pytest.raises(openai.BadRequestError, match="memo.wav is longer than 10 seconds"):
        ask()
    model_folder("whisper-tiny.en").rmdir()
    with pytest.raises(openai.BadRequestError, match="mattoni models pull whisper-tiny.en"):
        ask(wav(tone(1)))


def test_where_no_brick_listens_or_the_key_may_not_use_it_nothing_is_heard(ears, serve, assistant, tmp_path):  # noqa: F811
    file = tmp_path / "keys.yaml"
    file.write_text("a-key-of-anna-0001: {user: anna, bricks: [eyes]}\na-key-of-bert-0001: {user: bert}\n")
    running = serve(Settings(keys=Keys(file)))

    def asked(key):
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client:
            return client.audio.transcriptions.create(file=("memo.wav", MEMO.content), model="whisper-1")

    assert asked("a-key-of-bert-0001").text == SAID
    with pytest.raises(openai.PermissionDeniedError, match="may not use the brick 'speech'"):
        asked("a-key-of-anna-0001")


def test_a_page_of_another_site_may_not_send_a_form_and_json_is_no_form(serve):
    running = serve()

    def post(kind, body=b"", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
        connection.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": kind, **headers})
        response = connection.getresponse()
        told = response.status, response.read().decode()
        connection.close()
        return told

    form = "multipart/form-data; boundary=x"
    assert post(form, Origin="https://evil.example")[0] == 403
    assert post("application/json")[0] == 415
    for broken in (b"", b"--x", b"--x\r\n\r\n", b"--x--\r\n", b"\xff" * 50):
        status, told = post(form, broken, Origin=f"http://127.0.0.1:{running.port}")
        assert status == 400 and '"error"' in told, (broken, told)

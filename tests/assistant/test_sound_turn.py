"""A recording in a turn: it is the question where there is none, and a text with times where there is one."""

import json

import pytest
import yaml

from assistant.evaluation.asking import asking, read_rows, replies, report
from assistant.host.sampling import Sampling
from assistant.turn.route import Choice, Choices
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from mattoni.paths import data_folder, model_folder
from mattoni.records import Read, from_json, to_json
from mattoni.records import Seen as Heard
from modality_bricks.methods import whisper
from tests.assistant.conftest import QUERIES, add_bare_brick, done, png, write_eyes
from tests.sounds import FakeWhisper, encoded, joined, loud_parts, silence, tone, wav

SHORT = Sampling(temperature=0, max_tokens=4)
QUESTION = Attachment("voice.wav", wav(joined(silence(0.5), tone(2, 300))))
MEMO = Attachment("memo.wav", wav(joined(silence(0.5), tone(2, 600), silence(70), tone(2, 900))))
FOREIGN = Attachment("gruss.wav", wav(tone(2, 2500)))


@pytest.fixture
def ears(monkeypatch):
    """The small model is fetched, and both models and the detector are fakes that know tones."""
    monkeypatch.setattr(whisper, "Whisper", FakeWhisper)
    monkeypatch.setattr(whisper, "find_voices", loud_parts)
    monkeypatch.setattr(FakeWhisper, "heard", 0)
    model_folder("whisper-tiny.en").mkdir(parents=True)


def said(assistant, text, *attachments, choices=None, conversation=None):
    return done(assistant.ask(text, attachments, choices, SHORT, conversation))


def notices(ticket):
    return [notice.text for notice in ticket.trace.notices]


def test_without_a_question_the_recording_is_the_question(ears, assistant, prompts):
    ticket = said(assistant, "", QUESTION)
    typed = said(assistant, "What is the capital of Italy?")
    assert ticket.error is None and prompts[0] == prompts[1], "spoken or typed, the host is asked the same"
    assert ticket.text == typed.text
    (heard,) = ticket.trace.heard
    assert (heard.name, heard.brick, heard.language, heard.text) == (
        "voice.wav",
        "speech",
        "en",
        "What is the capital of Italy?",
    )
    assert [(b.name, b.reason) for b in ticket.trace.bricks] == [("speech", "voice.wav: 0:02, in 'en'")]
    assert ticket.trace.injections == ["sequence: speech of voice.wav by speech"]


def test_with_a_question_the_recording_is_read_and_cited_by_time(ears, assistant, prompts):
    ticket = said(assistant, "What does she want, two litres of milk?", MEMO)
    assert "[0:00] Please bring two litres of milk.\n[1:12] The train leaves at noon." in prompts[0]
    assert prompts[0].index("[1:12]") < prompts[0].index("What does she want")
    assert {(c.document, c.brick) for c in ticket.trace.citations} == {("memo.wav", "speech")}
    assert ticket.trace.citations[0].place in ("0:00–0:02", "0:00–1:14", "1:12–1:14")


def test_a_spoken_question_routes_and_goes_with_a_picture(ears, assistant, prompts):
    ticket = said(assistant, "", png(), QUESTION, choices=Choices(vision="eyes"))
    assert {b.name for b in ticket.trace.bricks} == {"eyes", "speech"}
    assert "■" in prompts[0] and "What is the capital of Italy?" in prompts[0] and "[0:" not in prompts[0]


def test_follow_up_turns_hold_what_was_said_and_nothing_is_heard_again(ears, assistant, prompts):
    talk = assistant.store.new()
    said(assistant, "", QUESTION, conversation=talk)
    said(assistant, "And of France?", conversation=talk)
    assert "What is the capital of Italy?" in prompts[1] and "And of France?" in prompts[1]
    assert prompts[1].startswith(prompts[0]), "so its keys and values are used again"
    assert FakeWhisper.heard == 1
    said(assistant, "When does the train leave?", MEMO, conversation=talk)
    said(assistant, "And what about milk?", conversation=talk)
    assert "[1:12] The train leaves at noon." in prompts[3] and FakeWhisper.heard == 3
    done(assistant.answer_again(talk, sampling=SHORT))
    assert FakeWhisper.heard == 3


def test_a_deleted_conversation_leaves_nothing_that_was_heard(ears, assistant):
    talk = assistant.store.new()
    said(assistant, "", QUESTION, conversation=talk)
    assistant.delete_conversation(talk)
    said(assistant, "", QUESTION)
    assert FakeWhisper.heard == 2


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (silence(3), "voice.wav is silent: see that the microphone is on, and record it again."),
        (tone(3) / 4, "Nobody speaks in voice.wav: there is only noise or music in it."),
        (
            tone(2, 2500),
            "voice.wav was not understood: it does not sound like English, the one language known here: fetch a model for "
            "others with `mattoni models pull whisper-base`.",
        ),
    ],
)
@pytest.mark.parametrize("question", ["", "What does she ask for?"])
def test_where_nothing_is_said_a_sentence_says_so_and_the_host_is_not_asked(
    ears, assistant, prompts, samples, sentence, question
):
    ticket = said(assistant, question, Attachment("voice.wav", wav(samples)))
    assert notices(ticket) == [sentence] and ticket.text == "" and prompts == [] and ticket.status == "done"


def test_with_the_large_model_other_languages_are_understood(ears, assistant, prompts):
    model_folder("whisper-base").mkdir(parents=True)
    ticket = said(assistant, "", FOREIGN)
    assert ticket.trace.heard[0].language == "de" and "Guten Tag." in prompts[0]


def test_without_a_model_the_command_is_told_and_after_it_the_message_is_answered(assistant, monkeypatch, prompts):
    monkeypatch.setattr(whisper, "Whisper", FakeWhisper)
    monkeypatch.setattr(whisper, "find_voices", loud_parts)
    talk = assistant.store.new()
    ticket = said(assistant, "", QUESTION, conversation=talk)
    assert notices(ticket) == [
        "voice.wav was not listened to: the model that recognises speech is not here yet; fetch it with "
        "`mattoni models pull whisper-tiny.en`."
    ]
    model_folder("whisper-tiny.en").mkdir(parents=True)
    again = done(assistant.answer_again(talk, sampling=SHORT))
    assert again.trace.heard[0].text == "What is the capital of Italy?" and again.text


def test_a_folder_that_is_no_model_is_one_sentence(assistant):
    model_folder("whisper-tiny.en").mkdir(parents=True)
    (sentence,) = notices(said(assistant, "", QUESTION))
    assert "holds no Whisper model for CTranslate2 that can be loaded: remove it and fetch it again." in sentence


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        (Choices(no_bricks=True), "bricks are off"),
        (Choices(bricks={"speech": Choice("off")}), "no brick that listens is installed and switched on"),
    ],
)
def test_switched_off_nobody_listens(ears, assistant, prompts, choices, why):
    ticket = said(assistant, "", QUESTION, choices=choices)
    assert notices(ticket) == [f"voice.wav was not listened to: {why}."] and prompts == []


def test_a_long_recording_or_a_film_without_a_question_is_read_and_not_obeyed(ears, assistant, prompts):
    long = Attachment("talk.wav", wav(joined(tone(2, 900), silence(130), tone(2, 600))))
    said(assistant, "", long)
    assert "What is this text about?" in prompts[0] and "] Please bring" in prompts[0]
    film = encoded(tone(1.5, 600, 48_000), "mp4", "aac", 48_000, with_picture=True)
    said(assistant, "", Attachment("clip.mp4", film))
    assert "What is this text about?" in prompts[1] and "[0:00] Please bring two litres of milk." in prompts[1]


def test_it_can_be_stopped_between_two_windows_and_goes_on_from_there(ears, assistant, monkeypatch):
    talk = assistant.store.new()
    first = FakeWhisper.hear

    def stop(self, window, language=None):
        guess = first(self, window, language)
        assistant.running(talk).stop()
        return guess

    monkeypatch.setattr(FakeWhisper, "hear", stop)
    ticket = said(assistant, "When does the train leave?", MEMO, conversation=talk)
    assert ticket.status == "stopped" and FakeWhisper.heard == 1
    monkeypatch.setattr(FakeWhisper, "hear", first)
    later = said(assistant, "Go on: when does the train leave?", conversation=talk)
    assert later.trace.heard[0].text.endswith("The train leaves at noon."), "the recording goes with the next message"
    assert FakeWhisper.heard == 2, "what was heard before the stop is kept"


def test_another_brick_that_listens_is_chosen_by_hand(ears, assistant):
    add_bare_brick("ears-two", parts={"method": "whisper", "english": "catalogue:whisper-tiny.en"})
    assert [b.name for b in said(assistant, "", QUESTION).trace.bricks] == ["ears-two"], "the user's own come first"
    ticket = said(assistant, "", QUESTION, choices=Choices(bricks={"speech": Choice("on")}))
    assert [(b.name) for b in ticket.trace.bricks] == ["speech"]


def test_a_spoken_record_comes_back_from_the_store_as_it_was():
    record = Read("voice.wav", "d", "speech", "Hello.", "sound", spoken=True)
    assert from_json(to_json(record)) == record and record.in_prompt == "" and not record.is_text


def test_a_voice_in_a_knowledge_brick_is_refused_by_name(assistant):
    with pytest.raises(MattoniError, match="memo.wav is a recording, and knowledge is made of documents"):
        assistant.add_knowledge("calls", [MEMO])


def test_rows_may_be_spoken_and_their_word_errors_are_those_of_what_was_heard(ears, assistant, tmp_path):
    (tmp_path / "capital.wav").write_bytes(QUESTION.content)
    row = {"id": "1", "audio": "capital.wav", "answers": ["what is the capitol of italy"], "metric": "wer"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    rows = read_rows(tmp_path / "rows.jsonl")
    asked = list(replies(rows, tmp_path, asking(assistant, Choices(), SHORT)))
    summary, (line,) = report(asked)
    assert summary["scores"]["wer"]["score"] == line["score"] == round(1 / 6, 4)
    assert line["answer"], "it was asked all the same"


def test_word_errors_without_a_recording_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "question": "a", "answers": ["b"], "metric": "wer"}')
    with pytest.raises(MattoniError, match="'wer' compares what was heard with the answers: give 'audio'"):
        read_rows(tmp_path / "rows.jsonl")


HISS = Attachment("hiss.wav", wav(tone(3) / 4))


@pytest.fixture
def hearing(assistant):
    """A brick that hears sounds, beside the one that recognises speech."""
    folder = data_folder() / "bricks" / "birds"
    write_eyes(folder, assistant.host)
    card = yaml.safe_load((folder / "brick.yaml").read_text())
    card["parts"] = {"method": "listening", "encoder": "local-dir:encoder", "queries": QUERIES}
    (folder / "brick.yaml").write_text(yaml.safe_dump(card))
    return "birds"


@pytest.mark.parametrize("question", ["", "What is this?"])
def test_a_recording_in_which_nobody_speaks_goes_to_a_brick_that_hears_sounds(
    ears, hearing, assistant, prompts, question
):
    ticket = said(assistant, question, HISS)
    assert ticket.error is None and prompts[0].count("■") == QUERIES
    assert (question or "What is to be heard?") in prompts[0]
    assert [b.name for b in ticket.trace.bricks] == ["speech", hearing]
    assert ticket.trace.bricks[1].reason == "hiss.wav as soft tokens"
    assert notices(ticket)[0] == "Nobody speaks in hiss.wav: there is only noise or music in it." and ticket.text


def test_what_is_said_stays_with_the_brick_that_recognises_speech(ears, hearing, assistant, prompts):
    ticket = said(assistant, "", QUESTION)
    assert [b.name for b in ticket.trace.bricks] == ["speech"] and "■" not in prompts[0]


def test_a_brick_that_hears_is_switched_on_by_hand_and_off(ears, hearing, assistant, prompts):
    ticket = said(assistant, "What is this?", QUESTION, choices=Choices(bricks={hearing: Choice("on")}))
    assert [b.name for b in ticket.trace.bricks] == [hearing] and prompts[0].count("■") == QUERIES
    ticket = said(assistant, "What is this?", HISS, choices=Choices(bricks={hearing: Choice("off")}))
    assert [b.name for b in ticket.trace.bricks] == ["speech"] and len(prompts) == 1


def test_a_sound_stands_in_later_prompts_and_is_no_picture(ears, hearing, assistant, prompts):
    talk = assistant.store.new()
    said(assistant, "What is this?", HISS, conversation=talk)
    said(assistant, "Is it loud?", conversation=talk)
    assert prompts[1].startswith(prompts[0]) and prompts[1].count("■") == QUERIES
    assistant._preparation.forget_everything()
    said(assistant, "Once more?", conversation=talk)
    assert prompts[2].startswith(prompts[1]), "made again from the same bytes"
    said(assistant, "And this?", png(), choices=Choices(vision="eyes"), conversation=talk)
    assert "picture:" not in prompts[3], "one picture is not the first of two"
    record = Heard("hiss.wav", "d", hearing, source="sound")
    assert from_json(to_json(record)) == record and to_json(record)["sound"] == "d"


def test_the_text_of_a_recording_is_not_asked_of_a_brick_that_hears_sounds(ears, hearing, assistant):
    assistant.switch_brick("speech", False)
    with pytest.raises(MattoniError, match="No brick that recognises speech is installed and switched on: add one"):
        assistant.transcribe(QUESTION)

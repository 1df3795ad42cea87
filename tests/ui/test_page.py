"""The chat page, driven as a user drives it: asks, switches, edits, reloads; on a tiny real assistant."""

import io
import sys

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from assistant.conversations.store import open_store
from assistant.host.host import load_host
from assistant.host.sampling import Sampling
from mattoni.errors import MattoniError
from mattoni.paths import data_folder, model_folder
from modality_bricks.methods import whisper
from task_bricks.importing import import_skill
from tests.assistant.conftest import write_adapter, write_eyes
from tests.assistant.test_examples import sent, stripes
from tests.emergent_bricks.test_gates import add_gates
from tests.sounds import FakeWhisper, loud_parts, tone, wav
from tests.ui.conftest import PAGE, page_backend
from ui.backend import HostChoice, backend
from ui.examples import OFFERS
from ui.inside import group_counts, heat_map
from ui.sidebar import OTHER_ANSWER, Asking
from ui.text import plain


def conversation_of(page: AppTest) -> str:
    value = page.query_params["c"]
    return value if isinstance(value, str) else value[0]  # a list until the page has set it itself


def questions(page: AppTest) -> list[str]:
    """The words of the questions on the page, in order."""
    return [element.value for element in page.get("text")]


def answers(page: AppTest) -> list:
    return [message for message in page.chat_message if message.name == "assistant"]


def ask(page: AppTest, text: str) -> AppTest:
    page.chat_input[0].set_value(text)
    return page.run()


def open_menu(page: AppTest, conversation: str) -> AppTest:
    """Open the menu beside the conversation's title."""
    page.session_state[f"more-{conversation}"] = True
    return page.run()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "orange").save(buffer, "PNG")
    return buffer.getvalue()


def no_errors(page: AppTest) -> bool:
    return not page.exception and not page.error


def test_an_empty_conversation_offers_examples_and_waits_for_the_host(open_page):
    page = open_page()
    assert no_errors(page)
    assert [b.label for b in page.button if b.key.startswith("try-")] != []
    assert not page.chat_input[0].disabled
    assert "c" not in page.query_params


def test_a_question_is_answered_and_kept(open_page):
    page = ask(open_page(), "What is <b>mortar</b>?")
    assert no_errors(page)
    assert questions(page) == ["What is <b>mortar</b>?"]
    question, answer = open_store().messages(conversation_of(page))
    assert (question.text, answer.status) == ("What is <b>mortar</b>?", "done")
    assert answer.trace["tokens"]["new"] > 0
    assert [e.label for e in page.expander if e.label == "How this answer came about"] != []


def test_a_reload_and_a_second_tab_show_the_same_conversation_and_another_session_does_not(open_page):
    page = ask(open_page(), "first words")
    assert questions(open_page(conversation_of(page))) == ["first words"]
    other = open_page()
    assert questions(other) == []
    ask(other, "other words")
    assert questions(page.run()) == ["first words"]
    assert conversation_of(other) != conversation_of(page)


def test_an_upload_is_kept_by_content_and_its_bytes_leave_the_session(open_page):
    page = open_page()
    page.chat_input[0].upload("<script>.png", png(), "image/png").set_value("look")
    page.run()
    assert not page.exception
    (attached,) = open_store().messages(conversation_of(page))[0].attachments
    assert open_store().content(attached.digest) == png()


def test_a_recording_is_played_back_above_what_was_said_and_asks_it(open_page, monkeypatch):
    monkeypatch.setattr(whisper, "Whisper", FakeWhisper)
    monkeypatch.setattr(whisper, "find_voices", loud_parts)
    model_folder("whisper-tiny.en").mkdir(parents=True)
    page = open_page()
    page.chat_input[0].upload("voice.wav", wav(tone(2, 300)), "audio/wav").set_value("")
    page.run()
    assert no_errors(page)
    assert questions(page) == ["What is the capital of Italy?"]
    assert len(page.get("audio")) == 1
    assert not [b for b in page.button if b.label in OFFERS["sound"]], "a question was asked: there is nothing to offer"
    (attached,) = open_store().messages(conversation_of(page))[0].attachments
    assert attached.kind == "sound"


def test_a_picture_can_be_sent_without_a_word_and_the_page_offers_what_to_ask(open_page):
    page = open_page()
    page.chat_input[0].upload("photo.png", png(), "image/png").set_value("")
    page.run()
    assert no_errors(page)
    talk = conversation_of(page)
    assert [(m.role, m.text, len(m.attachments)) for m in open_store().messages(talk)][0] == ("user", "", 1)
    offers = [button for button in page.button if button.key.startswith("offer-")]
    assert [button.label for button in offers] == list(OFFERS["picture"])
    assert no_errors(offers[1].click().run())
    assert [m.text for m in open_store().messages(talk) if m.role == "user"] == ["", OFFERS["picture"][1]]
    assert [button for button in page.button if button.key.startswith("offer-")] == []


def test_a_broken_picture_is_named_and_the_conversation_goes_on(open_page):
    page = open_page()
    page.chat_input[0].upload("broken.png", png()[:40], "image/png").set_value("look")
    page.run()
    assert not page.exception
    assert any("broken" in said.value for said in page.markdown), "as large as an answer: there is no other"
    assert no_errors(ask(page, "and now?"))
    assert questions(page) == ["look", "and now?"]


def test_under_an_answer_about_a_picture_stands_what_the_stitch_attended_to(open_page, tiny_host, home):
    write_eyes(home / "data" / "bricks" / "eyes", load_host(str(tiny_host), device="cpu", dtype="float32"))
    page = open_page()
    page.selectbox(key="vision").set_value("eyes")
    page.chat_input[0].upload("dog.png", png(), "image/png").set_value("What is it?")
    page.run()
    assert no_errors(page)
    answer = open_store().messages(conversation_of(page))[1]
    assert [len(found["grid"]) for found in answer.trace["attention"]] == [4]
    # Drawn only when it is opened.
    assert not any("attended to on dog" in caption.value for caption in page.caption)
    page.session_state[f"looked-{answer.id}"] = True
    assert no_errors(page.run())
    assert any(caption.value.startswith("What eyes's stitch attended to on dog") for caption in page.caption)


def test_what_the_answer_is_without_each_brick_is_told_when_it_is_asked_for(open_page, tiny_host, home):
    write_eyes(home / "data" / "bricks" / "eyes", load_host(str(tiny_host), device="cpu", dtype="float32"))
    page = open_page()
    page.selectbox(key="vision").set_value("eyes")
    page.chat_input[0].upload("dog.png", png(), "image/png").set_value("What is it?")
    page.run()
    answer = open_store().messages(conversation_of(page))[1]
    page.session_state[f"trace-{answer.id}"] = True
    page.run()
    page.button(key=f"each-{answer.id}").click()
    assert no_errors(page.run())
    (told,) = [caption.value for caption in page.caption if "without **eyes**" in caption.value]
    assert "in ln p of the answer" in told


def test_answer_again_replaces_the_answer_only(open_page):
    page = ask(open_page(), "one")
    before = open_store().messages(conversation_of(page))
    page.button(key=f"again-{before[-1].id}").click().run()
    after = open_store().messages(conversation_of(page))
    assert [m.text for m in after if m.role == "user"] == ["one"]
    assert len(after) == 2 and after[-1].id != before[-1].id and after[-1].status == "done"


def test_another_answer_is_not_the_likeliest_one_again():
    assert Asking(sampling=Sampling(temperature=0.0)).anew().sampling.temperature == OTHER_ANSWER
    asking = Asking(sampling=Sampling(temperature=1.0))
    assert asking.anew() == asking


def test_an_edited_question_drops_what_followed(open_page):
    page = ask(ask(open_page(), "one"), "two")
    talk = conversation_of(page)
    first = open_store().messages(talk)[0]
    page.button(key=f"edit-{first.id}").click().run()
    page.text_area(key=f"edited-{first.id}").set_value("one, but better")
    [button for button in page.button if button.label == "Ask again"][0].click().run()
    assert [m.text for m in open_store().messages(talk) if m.role == "user"] == ["one, but better"]
    assert [m.status for m in open_store().messages(talk)] == ["done", "done"]


def test_conversations_are_listed_renamed_searched_and_deleted(open_page):
    page = ask(open_page(), "about bricks")
    talk = conversation_of(page)
    open_menu(page, talk)
    page.text_input(key=f"title-{talk}").set_value("Kiln talk").run()
    assert open_store().conversation(talk).title == "Kiln talk"
    page.text_input(key="search").set_value("nothing like it").run()
    assert any("Nothing found" in caption.value for caption in page.caption)
    page.text_input(key="search").set_value("KILN").run()
    assert page.button(key=f"open-{talk}").label == "Kiln talk"
    open_menu(page, talk).button(key=f"delete-{talk}").click().run()
    assert open_store().conversations() == [] and "c" not in page.query_params
    assert no_errors(page)


def test_an_unknown_conversation_in_the_address_opens_an_empty_one(open_page):
    page = open_page("no-such-conversation")
    assert no_errors(page) and questions(page) == []


def test_a_click_elsewhere_does_not_end_a_running_answer(open_page):
    """streamlit #11746: a rerun aborts the script, and must not abort the turn."""
    page = open_page()
    talk = open_store().new()
    ticket = page_backend().assistant.ask("long story", conversation=talk)
    page.query_params["c"] = talk
    page.slider(key="top-p").set_value(0.5).run()
    assert ticket.wait(30) and ticket.status == "done"
    assert questions(page.run()) == ["long story"]
    assert open_store().messages(talk)[1].status == "done"


def test_a_question_that_is_refused_stands_in_the_box_again(open_page, monkeypatch):
    page = open_page()
    assistant = page_backend().assistant

    def refuse(*_, **__):
        raise MattoniError("The last question is still being answered: wait for it or stop it.")

    with monkeypatch.context() as patch:
        patch.setattr(assistant, "ask", refuse)
        ask(page, "And a wall?")
    assert "still being answered" in page.error[0].value and questions(page) == []
    assert page.chat_input[0].proto.set_value and page.chat_input[0].proto.value == "And a wall?"


def test_a_host_that_cannot_start_is_one_sentence_and_what_was_said_can_be_read(tiny_models, tmp_path, monkeypatch):
    store = open_store()
    talk = store.new()
    store.add_question(talk, "said before")
    backend.clear()
    monkeypatch.setattr(sys, "argv", [str(PAGE), *HostChoice(str(tmp_path / "no-such-host")).to_arguments()])
    page = AppTest.from_file(str(PAGE), default_timeout=30)
    page.query_params["c"] = talk
    page.run()
    assert page_backend().wait(30)
    page.run()
    backend.clear()
    assert not page.exception and "no-such-host" in page.error[0].value.replace("\\", "")
    assert questions(page) == ["said before"] and page.chat_input[0].disabled


def test_a_home_that_cannot_be_written_is_one_sentence_and_the_conversation_goes_on(open_page, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MATTONI_HOME", str(tmp_path / "file" / "home"))
    page = ask(open_page(), "still there?")
    assert any("goes on in memory" in warning.value.replace("\\", "") for warning in page.warning)
    assert questions(page) == ["still there?"]
    assert [m.status for m in page_backend().store.messages(conversation_of(page))] == ["done", "done"]


def test_a_skill_that_is_no_zip_is_one_sentence(open_page):
    page = open_page()
    page.text_input(key="skill-id").set_value("../nowhere")
    [button for button in page.button if button.label == "Add"][0].click().run()
    assert not page.exception and len(page.error) == 1


@pytest.mark.parametrize("name", ["orange.jpg", "receipt.png", "screenshot.png"])
def test_the_example_pictures_are_those_that_the_script_draws(name):
    from ui.examples import FOLDER, draw

    drawn = {"orange.jpg": draw.orange, "receipt.png": draw.receipt, "screenshot.png": draw.screenshot}[name]()
    with Image.open(FOLDER / name) as shipped:
        assert drawn.size == shipped.size and (FOLDER / name).stat().st_size < 100_000


def test_an_image_brick_of_the_users_is_shown_examples_and_the_page_says_what_was_measured(open_page, tiny_host, home):
    write_eyes(home / "data" / "bricks" / "eyes", load_host(str(tiny_host), device="cpu", dtype="float32"))
    page = open_page()
    assert [u.key for u in page.file_uploader if u.key.startswith("example")] == [
        "example-files-eyes"
    ]  # no shipped one

    def show(count: int) -> AppTest:
        files = [(f"{n}.png", sent(stripes(n)).content, "image/png") for n in range(count)]
        page.file_uploader(key="example-files-eyes").set_value(files)
        next(b for b in page.button if b.label == "Use them").click()
        return page.run()

    show(3)
    assert [e.value for e in page.error] == [plain("3 example pictures are too few: give 10 that differ, better 20.")]
    show(12)
    assert no_errors(page)
    assert page.toast[0].value.startswith(plain("'eyes' is chosen by its pictures now: 12 of 12 examples"))


def test_a_function_of_the_host_is_turned_by_a_dial_and_left_alone_where_it_rests(open_page, tiny_host, home):
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    add_gates(host)
    page = open_page()
    (dial,) = [slider for slider in page.slider if slider.key == "dial-rome"]
    assert (dial.min, dial.value, dial.max) == (0.0, 1.0, 2.0)
    assert no_errors(ask(page, "Hello"))
    dial = next(slider for slider in page.slider if slider.key == "dial-rome")
    dial.set_value(0.0)
    assert no_errors(ask(page.run(), "Hello again"))
    traces = [m.trace for m in open_store().messages(conversation_of(page)) if m.role == "assistant"]
    assert [[used["name"] for used in trace["bricks"]] for trace in traces] == [[], ["rome"]]


def test_two_skills_that_are_on_and_fight_are_told_of(open_page, tiny_host, home, tmp_path):
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    for seed, (name, spread) in enumerate({"quiet": 0.1, "soft": 0.1, "loud": 0.4}.items()):
        import_skill(write_adapter(tmp_path / name, host, seed, spread), home / "data" / "bricks", None, host)
    page = open_page()

    def warned(*names: str) -> bool:
        for name in ("quiet", "soft", "loud"):
            page.button_group(key=f"use-{name}").set_value("on" if name in names else "auto")
        page.run()
        return any("drowns it" in caption.value for caption in page.caption)

    assert not warned("quiet", "soft")
    assert warned("quiet", "loud")
    assert not warned("loud")


def test_the_page_inside_the_host_shows_a_map_and_an_answer_with_and_without(open_page, tiny_host, home):
    add_gates(load_host(str(tiny_host), device="cpu", dtype="float32"))
    page = open_page()
    next(button for button in page.button if button.key == "view-inside").click().run()
    assert no_errors(page) and [h.value for h in page.header] == ["Inside the host"]
    next(field for field in page.text_input if field.key == "inside-question").set_value("Hello there")
    next(button for button in page.button if button.label == "Answer with and without").click().run()
    assert no_errors(page)
    captions = [c.value for c in page.caption]
    assert "As it is" in captions and "At 0" in captions
    assert open_store().conversations("") == [], "a trial is no conversation"
    next(button for button in page.button if button.key == "leave").click().run()
    assert no_errors(page) and page.chat_input


def test_without_bricks_of_its_neurons_the_page_inside_the_host_says_how_to_make_one(open_page):
    page = open_page()
    page.query_params["view"] = "inside"
    page.run()
    assert no_errors(page) and "mattoni xray brick NAME" in page.info[0].value


def test_the_map_counts_a_bricks_neurons_in_groups():
    assert group_counts([True, False, True, True], 2) == [1, 2]
    assert 'title="layer 3, group 1: 2 neurons"' in heat_map({3: [1, 2]})


def test_the_page_that_teaches_a_skill_opens_and_leads_back(open_page):
    page = open_page()
    next(button for button in page.button if button.key == "view-teach").click().run()
    assert no_errors(page) and [h.value for h in page.header] == ["Teach a skill"]
    next(button for button in page.button if button.key == "leave").click().run()
    assert no_errors(page) and page.chat_input


def test_a_run_that_stopped_stands_on_the_page_and_is_forgotten_there(open_page, home):
    run = data_folder() / "training" / "order-slips"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: order-slips\n")
    (run / "state.json").write_text('{"state": "stopped", "step": 30, "steps": 64}')
    page = open_page()
    page.query_params["view"] = "teach"
    page.run()
    assert no_errors(page) and any("Stopped after step 30 of 64" in m.value for m in page.markdown)
    next(button for button in page.button if button.key == "teach-forget-order-slips").click().run()
    assert no_errors(page) and not run.exists()

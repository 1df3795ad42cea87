"""Whole turns on tiny models: what the host is given, turn after turn, and what the trace says of it."""

import io
import re
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import DynamicCache

from assistant.host.repetition import Repetition
from assistant.host.sampling import Sampling
from assistant.training.make_router import write_keys
from assistant.turn.earlier_documents import EarlierDocuments
from assistant.turn.recogniser import Recogniser
from assistant.turn.route import Choices
from assistant.turn.spaces import Spaces
from assistant.turn.ticket import Ticket
from knowledge_bricks.documents import Hit
from knowledge_bricks.passages import Passage
from mattoni.card import describe_files, read_card, write_card
from mattoni.inputs import Attachment
from mattoni.paths import data_folder, shipped_models
from mattoni.records import Read
from mattoni.runtime import Stopped
from modality_bricks.glance import Glance
from modality_bricks.methods.reader import ReaderRuntime
from modality_bricks.modality import ModalityBrick
from modality_bricks.stitch import with_classes
from modality_bricks.stitch_file import load_stitch, save_stitch
from tests.assistant.conftest import QUERIES, done, png, recogniser_of

SHORT = Sampling(temperature=0, max_tokens=6)
EYES = Choices(vision="eyes")


def test_a_picture_becomes_its_soft_tokens_and_the_trace_says_by_which_brick(assistant, prompts):
    ticket = done(assistant.ask("What is it?", [png()], EYES, SHORT))
    assert ticket.status == "done", ticket.error
    assert prompts[0].count("■") == QUERIES
    assert [(b.name, b.kind) for b in ticket.trace.bricks] == [("eyes", "modality")]
    assert ticket.trace.injections == [f"sequence: {QUERIES} soft tokens of orange.png by eyes"]


def test_the_trace_says_what_of_a_picture_the_stitch_attended_to(assistant):
    ticket = done(assistant.ask("Which is it?", [png(), png(name="again.png")], EYES, SHORT))
    first, second = ticket.trace.to_json()["attention"]
    assert (first["name"], second["name"], first["brick"]) == ("orange.png", "again.png", "eyes")
    assert first["picture"] == second["picture"] and first["grid"] == second["grid"]
    assert [len(row) for row in first["grid"]] == [4, 4, 4, 4]
    assert sum(map(sum, first["grid"])) + first["elsewhere"] == pytest.approx(1, abs=0.001)
    assert list(first["box"]) == [0, 0, 1, 1] and first["sentence"] == ""


def test_who_asks_for_a_name_is_told_what_the_encoder_guesses_and_a_description_is_not(assistant, monkeypatch):
    folder, host = data_folder() / "bricks" / "eyes", assistant.host
    stitch = load_stitch(folder, host.embedding.detach().float())
    pieces = [host.tokenizer.encode(f" {name}", add_special_tokens=False)[0] for name in ("lion", "cup", ".")]
    likely = torch.tensor([0.6, 0.4]).log()
    weight = torch.zeros(2, stitch.shape.feature_width)
    ids = torch.tensor(pieces).unsqueeze(1)
    save_stitch(with_classes(stitch, weight, likely, ids, sure=0.8, sure_of_name=0.5), folder)
    write_card(read_card(folder).model_copy(update={"files": describe_files(folder)}), folder)
    monkeypatch.setattr(Spaces, "naming_questions", recogniser_of("What is this?"))
    asked: list[bool] = []
    stitch = ModalityBrick.stitch
    monkeypatch.setattr(ModalityBrick, "stitch", lambda *given: asked.append(given[-1]) or stitch(*given))
    talk = assistant.store.new()
    named = done(assistant.ask("What is this?", [png()], EYES, SHORT, talk))
    assert asked == [True], "what stands in the prompt is what the trace tells"
    done(assistant.ask("And how is it?", [], EYES, SHORT, talk))
    assert asked == [True], "an earlier picture stays as it was read"
    described = done(assistant.ask("Describe it.", [png()], EYES, SHORT))
    assert asked == [True, False]
    assert named.error is None and described.error is None
    assert "names the thing" in named.trace.injections[0]
    assert described.trace.injections == [f"sequence: {QUERIES + 1} soft tokens of orange.png by eyes"]


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_picture_on_which_no_text_is_found_goes_to_the_next_brick_unless_the_user_chose(assistant, prompts, by_hand):
    glance = Glance.load().embed([Image.open(io.BytesIO(png().content))])
    for name, keys in {"document": glance, "eyes": -glance}.items():
        folder = data_folder() / "bricks" / name
        if name == "document":
            shutil.copytree(shipped_models() / "bricks" / name, folder)
        write_keys(folder, keys, threshold=-1.0)
    ticket = done(assistant.ask("What is it?", [png()], Choices(vision="document" if by_hand else None), SHORT))
    assert ticket.error is None
    said = [notice.text for notice in ticket.trace.notices if notice.code == "no-text"]
    if by_hand:
        assert said == ["No text was found on orange.png."]
        assert "■" not in prompts[0] and [b.name for b in ticket.trace.bricks] == ["document"]
    else:
        assert said == ["No text was found on orange.png, so 'eyes' looked at it."]
        assert prompts[0].count("■") == QUERIES and [b.name for b in ticket.trace.bricks] == ["document", "eyes"]
        assert [(a.brick, a.name) for a in ticket.trace.attention] == [("eyes", "orange.png")]
        assert ticket.trace.bricks[1].reason.startswith("next best; nearest key")


def test_a_conversation_too_long_for_the_host_drops_its_oldest_turns_whole_and_the_trace_says_so(
    assistant, prompts, monkeypatch
):
    monkeypatch.setattr(Spaces, "several_pictures", Spaces.follow_ups)  # every message is about all pictures
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


def test_a_question_about_a_picture_that_cannot_be_opened_is_left_to_the_notices(assistant, monkeypatch):
    monkeypatch.setattr(Recogniser, "recognises", lambda self, depths, expected=False: True)
    ticket = done(assistant.ask("What is in the picture?", [Attachment("cut.png", png().content[:40])], EYES, SHORT))
    assert (ticket.status, ticket.text) == ("done", "")
    assert [notice.text for notice in ticket.trace.notices] == [
        "cut.png is damaged and cannot be opened: save it again or send another copy.",
        "So there is no picture to look at, and the question was not answered.",
    ]


def test_a_question_with_a_picture_that_cannot_be_opened_is_not_answered_about_an_earlier_one(assistant, monkeypatch):
    monkeypatch.setattr(Recogniser, "recognises", lambda self, depths, expected=False: True)
    talk = assistant.store.new()
    assert done(assistant.ask("What is it?", [png()], EYES, SHORT, talk)).trace.tokens["new"] > 0
    cut = Attachment("cut.png", png().content[:40])
    ticket = done(assistant.ask("What is in the picture?", [cut], EYES, SHORT, talk))
    assert (ticket.status, ticket.text) == ("done", "")
    assert [n.code for n in ticket.trace.notices] == ["refused", "no-picture"]
    assert done(assistant.ask("What is in the picture?", (), EYES, SHORT, talk)).trace.tokens["new"] > 0


def test_passages_that_answer_a_message_outweigh_its_sounding_like_one_about_a_picture(assistant, monkeypatch):
    monkeypatch.setattr(Recogniser, "recognises", lambda self, depths, expected=False: True)
    assistant.add_knowledge("masonry", [Attachment("mortar.md", b"Mortar is made of sand, lime and water.")])
    ticket = done(assistant.ask("What is mortar made of?", sampling=SHORT))
    assert ticket.trace.tokens["new"] > 0 and "no-picture" not in [notice.code for notice in ticket.trace.notices]
    assert [citation.document for citation in ticket.trace.citations] == ["mortar.md"]


def test_a_document_is_there_in_every_later_turn(assistant, prompts):
    """open-webui #3674: documents were used on the first message only."""
    talk = assistant.store.new()
    note = Attachment("note.txt", b"The kiln burns at 900 degrees.")
    for question in ("How hot?", "Are you sure?", "And in words?"):
        assert done(assistant.ask(question, [note] if question == "How hot?" else (), None, SHORT, talk)).error is None
    assert all("The kiln burns at 900 degrees." in prompt for prompt in prompts)


def long_document() -> Attachment:
    """Many times 8,192 of the tiny host's tokens; only one paragraph each knows of the kiln and of mortar."""
    filler = [f"Paragraph {n} tells of the garden, where nothing at all has happened for years." for n in range(600)]
    filler.insert(20, "The kiln burns bricks at a thousand degrees.")
    filler.insert(520, "Mortar is water, sand and lime.")
    return Attachment("long.txt", "\n\n".join(filler).encode())


def last_question(prompt: str) -> str:
    return prompt.rsplit("<|im_start|>user\n", 1)[1]


def test_of_a_long_document_each_later_question_gets_its_own_passages(assistant, prompts):
    """open-webui #3674, for documents that do not fit: the first question's passages do not answer the second."""
    assistant.host.model.config.max_position_embeddings = 8192  # as the builtin host's
    talk = assistant.store.new()
    first = done(assistant.ask("At what degrees does the kiln burn bricks?", [long_document()], None, SHORT, talk))
    assert [n.text for n in first.trace.notices if n.code == "truncated"] == [
        "long.txt is longer than the host can read: only what was asked for is used."
    ]
    assert "a thousand degrees" in prompts[0] and "Mortar is" not in prompts[0]
    second = done(assistant.ask("Is mortar water, sand and lime?", (), None, SHORT, talk))
    assert second.error is None and "Mortar is water, sand and lime." in last_question(prompts[1])
    assert "sequence: what was asked for of long.txt, sent earlier" in second.trace.injections
    # The first exchange stands in the second prompt word for word, so its keys and values are used again.
    assert prompts[1].startswith(prompts[0]) and second.trace.tokens["reused"] >= first.trace.tokens["prompt"]


def test_a_document_of_a_turn_that_was_left_out_is_still_asked(assistant, prompts):
    talk = assistant.store.new()
    note = Attachment("note.txt", b"Mortar is water, sand and lime.")
    done(assistant.ask("Read this.", [note], None, SHORT, talk))
    for question in ["brick " * 400] * 4 + ["Is mortar water, sand and lime?"]:
        last = done(assistant.ask(question, (), None, SHORT, talk))
    assert any("were left out" in notice.text for notice in last.trace.notices)
    assert "Read this." not in prompts[-1] and "Mortar is water, sand and lime." in last_question(prompts[-1])
    assert "Mortar" not in last_question(prompts[-2]), "a message that asks nothing of it gets nothing of it"


def test_an_exchange_about_a_picture_stays_out_of_a_question_that_stands_alone_and_comes_back(
    assistant, prompts, monkeypatch
):
    monkeypatch.setattr(Spaces, "follow_ups", recogniser_of("Are you sure?"))
    monkeypatch.setattr(Spaces, "picture_questions", recogniser_of("What colour is it?"))
    talk = assistant.store.new()
    turns = [("What is it?", [png()]), ("What is mortar made of?", ()), ("Are you sure?", ())]
    turns += [("Who built Rome?", ()), ("What colour is it?", ())]
    tickets = [done(assistant.ask(text, files, EYES, SHORT, talk)) for text, files in turns]
    assert [ticket.error for ticket in tickets] == [None] * 5
    assert [prompt.count("■") for prompt in prompts] == [QUERIES, 0, QUERIES, 0, QUERIES]
    assert ["What is it?" in prompt for prompt in prompts] == [True, False, True, False, True]
    assert all("What is mortar made of?" in prompt for prompt in prompts[1:]), "what brought no picture stays"
    said = ["1 earlier exchange about a picture, not asked about"]
    assert [ticket.trace.left_out for ticket in tickets] == [[], said, [], said, []]
    assert {notice.code for notice in tickets[1].trace.notices} <= {"length"}, "nothing that the user should know"


def test_without_the_exchange_about_a_picture_the_prompt_is_that_of_the_question_alone(assistant, prompts, monkeypatch):
    monkeypatch.setattr(Spaces, "follow_ups", recogniser_of("Are you sure?"))
    talk = assistant.store.new()
    for text, files, conversation in [("What is it?", [png()], talk), ("Who built Rome?", (), talk)]:
        done(assistant.ask(text, files, EYES, SHORT, conversation))
    done(assistant.ask("Who built Rome?", (), EYES, SHORT, assistant.store.new()))
    assert prompts[1] == prompts[2]


def test_texts_and_pictures_beside_a_new_picture_stay_with_a_question_that_stands_alone(
    assistant, prompts, monkeypatch
):
    monkeypatch.setattr(Spaces, "follow_ups", recogniser_of("Are you sure?"))
    monkeypatch.setattr(Spaces, "several_pictures", recogniser_of("Which is larger?"))
    note = Attachment("note.txt", b"The kiln burns at 900 degrees.")
    talk = assistant.store.new()
    turns = [("Read this.", [note]), ("And both.", [note, png()]), ("What is it?", [png()])]
    turns += [("Who built Rome?", ()), ("Which is larger?", [png("red")])]
    tickets = [done(assistant.ask(text, files, EYES, SHORT, talk)) for text, files in turns]
    assert prompts[3].count("■") == QUERIES and prompts[3].count("900 degrees.") == 2, (
        "only what is about pictures alone"
    )
    assert prompts[4].count("■") == 3 * QUERIES, "two pictures may be compared"
    assert [bool(ticket.trace.left_out) for ticket in tickets] == [False, False, False, True, False]


def test_a_host_with_words_of_its_own_for_it_is_asked_of_a_document_and_of_a_pasted_text_with_them(
    assistant, prompts, monkeypatch
):
    monkeypatch.setattr(assistant._preparation, "host", replace(assistant.host, ask_text="In one word:\n\n"))
    found = {"hits": True}
    monkeypatch.setattr(
        assistant._preparation.earlier,
        "search_text",
        lambda *of: [Hit(Passage("", 1, "", 0, 1, ""), 1.0)] if found["hits"] else [],
    )
    text = "The kiln is cleaned on Friday. " * 12
    for message in (
        f"{text}\n\nWhen is it cleaned?",
        f"{text}\n\nMake it shorter.",
        "Is it clean?\n\nWhen is it cleaned?",
    ):
        done(assistant.ask(message, sampling=SHORT))
    assert [prompt.count("In one word:\n\nWhen") for prompt in prompts] == [1, 0, 0] and text in prompts[0]
    done(assistant.ask(f"{text}\n\nWhen is it cleaned?", (), Choices(no_bricks=True), SHORT))
    assert "In one word" not in prompts.pop(), "the host alone is asked as people write"
    found["hits"] = False  # a question that the text does not answer
    done(assistant.ask(f"{text}\n\nWhat do you think of it?", sampling=SHORT))
    done(assistant.ask("When is it cleaned?", [Attachment("kiln.txt", text.encode())], sampling=SHORT))
    assert [prompt.count("In one word:\n\n") for prompt in prompts[3:]] == [0, 1]


@pytest.fixture
def focusing(assistant, monkeypatch):
    """The assistant on a host that is shown what a question is about, and nothing else."""
    monkeypatch.setattr(assistant._preparation, "host", replace(assistant.host, focuses=True))
    return assistant


def test_of_two_pictures_in_a_message_the_one_that_is_named_by_its_place_stands_in_the_prompt_alone(
    focusing, prompts, monkeypatch
):
    monkeypatch.setattr(Recogniser, "recognises", lambda self, depths, expected=False: True)  # as of several, say
    talk, both = focusing.store.new(), [png("red"), png("blue")]
    asked = [("Is the second picture an orange or a lion?", both), ("And the first picture?", ())]
    asked += [("Is it larger than in the first picture?", ()), ("Which one shows a lion?", ())]
    tickets = [done(focusing.ask(text, files, EYES, SHORT, talk)) for text, files in asked]
    assert [ticket.error for ticket in tickets] == [None] * 4
    assert [prompt.count("■") for prompt in prompts] == [QUERIES, QUERIES, 2 * QUERIES, 2 * QUERIES]
    seen = [[line for line in ticket.trace.injections if line.startswith("sequence")] for ticket in tickets]
    assert seen[:2] == [
        [f"sequence: {QUERIES} soft tokens of blue.png by eyes"],
        ["sequence: soft tokens of red.png, sent earlier, by eyes"],
    ]
    assert [ticket.trace.left_out for ticket in tickets[:2]] == [
        ["red.png, as the message is about blue.png alone"],
        ["1 earlier exchange, as the message is about red.png, which stands beside it"],
    ]
    assert [[b.name for b in ticket.trace.bricks] for ticket in tickets[:2]] == [["eyes"], ["eyes"]]
    assert [a.name for a in tickets[0].trace.attention] == ["blue.png"]
    kept = focusing.store.messages(talk)[0].segments
    assert [record["name"] for record in kept] == ["red.png", "blue.png"], "both are there for later messages"


def test_an_earlier_picture_that_is_named_by_its_place_stands_alone_beside_a_new_one(focusing, prompts):
    talk = focusing.store.new()
    for text, files in [("What is it?", [png("red")]), ("What does the first picture show?", [png("blue")])]:
        last = done(focusing.ask(text, files, EYES, SHORT, talk))
    assert last.error is None and prompts[1].count("■") == QUERIES
    assert "sequence: soft tokens of red.png, sent earlier, by eyes" in last.trace.injections
    assert "blue.png, as the message is about red.png alone" in last.trace.left_out


def test_beside_a_long_text_one_line_may_ask_about_the_picture_and_is_no_follow_up(assistant, prompts, monkeypatch):
    monkeypatch.setattr(Spaces, "follow_ups", recogniser_of("What does it mean?"))
    monkeypatch.setattr(Spaces, "picture_questions", recogniser_of("Is it that?"))
    talk = assistant.store.new()
    done(assistant.ask("What is it?", [png()], EYES, SHORT, talk))
    for line in ("What does it mean?", "Is it that?"):
        done(assistant.ask(f"The kiln burns at 900 degrees.\n\n{line}", (), EYES, SHORT, talk))
    assert [prompt.count("■") for prompt in prompts] == [QUERIES, 0, QUERIES]


def test_a_picture_sent_with_a_stopped_question_goes_with_the_next_one(assistant, prompts):
    """chat-ui #459: a stop loses nothing, also not what nobody had looked at yet."""
    talk, go = assistant.store.new(), threading.Event()
    holding = assistant._queue.submit(talk, lambda ticket: (go.wait(10), "done")[1])
    stopped = assistant.ask("What is this?", [png()], EYES, SHORT, talk)
    stopped.stop()
    go.set()
    assert done(holding) and done(stopped).status == "stopped" and prompts == []
    ticket = done(assistant.ask("In one word, please.", (), EYES, SHORT, talk))
    assert prompts[0].count("■") == QUERIES and [b.name for b in ticket.trace.bricks] == ["eyes"]
    done(assistant.ask("And now?", (), EYES, SHORT, talk))
    assert prompts[1].count("■") == QUERIES, "it is looked at once and stays where it was looked at"


def test_a_stop_is_heard_between_the_pages_of_a_scan(assistant, monkeypatch):
    talk = assistant.store.new()
    read: list[str] = []
    tickets: list[Ticket] = []

    asked = threading.Event()

    def slow(self, picture):
        assert asked.wait(10)
        read.append(tickets[0].stage)
        if len(read) == 2:
            tickets[0].stop()
        return []

    monkeypatch.setattr(ReaderRuntime, "lines", slow)
    scan = io.BytesIO()
    page = Image.new("RGB", (100, 100), "white")
    page.save(scan, "PDF", save_all=True, append_images=[page] * 7)
    tickets.append(assistant.ask("What does it say?", [Attachment("scan.pdf", scan.getvalue())], None, SHORT, talk))
    asked.set()
    assert done(tickets[0]).status == "stopped"
    assert read == ["reading scan.pdf", "reading scan.pdf, page 2 of 8"]


def test_a_stop_is_heard_while_a_long_document_is_searched(assistant):
    archive, looks = EarlierDocuments(lambda: Spaces.embedder), []
    part = Read("long.txt", "digest", "document", long_document().content.decode())
    with pytest.raises(Stopped):
        archive.search(part, "Is mortar lime?", lambda: bool(looks.append(1) or len(looks) > 2))
    assert len(looks) == 3
    assert "Mortar is" in archive.search(part, "Is mortar lime?", lambda: False)[0].passage.text


def test_a_picture_whose_brick_is_gone_is_left_out_with_a_notice_and_the_talk_goes_on(assistant, prompts):
    talk = assistant.store.new()
    done(assistant.ask("What is it?", [png()], EYES, SHORT, talk))
    shutil.rmtree(data_folder() / "bricks" / "eyes")
    ticket = done(assistant.ask("And now?", (), None, SHORT, talk))
    assert ticket.error is None and "■" not in prompts[1] and "(picture orange.png)\nWhat is it?" in prompts[1]
    (notice,) = [notice for notice in ticket.trace.notices if notice.code == "gone"]
    assert notice.text.startswith("orange.png from earlier was left out: There is no brick called 'eyes' (installed: ")


def test_a_question_about_a_document_comes_with_an_instruction_and_an_order_or_a_chat_does_not(assistant, prompts):
    note = Attachment("note.txt", b"The kiln burns at 900 degrees.")
    talk = assistant.store.new()
    for text, files in [("How hot?", [note]), ("Sing!", ()), ("And why?", ()), ("Sum this up.", [note])]:
        assert done(assistant.ask(text, files, None, SHORT, talk)).error is None
    asked = "900 degrees.\n\nAnswer this question from the text above, in a few words:\n\nHow hot?"
    assert all(asked in prompt for prompt in prompts), "every later turn finds it the same, and with it its cache"
    assert prompts[-1].count("Answer this question") == 1
    assert "degrees.\n\nSum this up.<|im_end|>" in prompts[-1]


def test_beside_a_picture_that_is_seen_no_instruction_points_to_the_text(assistant, prompts):
    note = Attachment("note.txt", b"The kiln burns at 900 degrees.")
    assert done(assistant.ask("What is in the picture?", [png(), note], EYES, SHORT)).error is None
    assert "900 degrees" in prompts[0] and "Answer this question" not in prompts[0]


def test_with_no_brick_every_logit_of_a_turn_is_the_bare_hosts_bit_for_bit(assistant):
    host, ours = assistant.host, []
    # Whatever was composed before must have left nothing behind.
    assert done(assistant.ask("What is it?", [png()], EYES, SHORT)).error is None
    with_hook = host.model.lm_head.register_forward_hook(lambda module, inputs, logits: ours.append(logits.clone()))
    talk = assistant.store.new()
    ticket = done(assistant.ask("What is mortar?", (), Choices(no_bricks=True), SHORT, talk))
    with_hook.remove()
    assert ticket.trace.bricks == [] and ticket.trace.injections == []
    messages = [{"role": "user", "content": "What is mortar?"}]
    text = host.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    read = torch.tensor([host.tokenizer.encode(text, add_special_tokens=False)])
    bare, cache = [], DynamicCache()
    with torch.inference_mode():
        for token in [*assistant.store.messages(talk)[-1].token_ids, None]:
            bare.append(host.model(input_ids=read, past_key_values=cache, use_cache=True, logits_to_keep=1).logits)
            read = torch.tensor([[token]]) if token is not None else read
    assert len(ours) > SHORT.max_tokens // 2
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, bare[: len(ours)], strict=True))


def test_of_an_answer_that_went_round_in_circles_what_it_said_once_is_kept(assistant, monkeypatch):
    said: list[str] = []

    def push(self, text: str) -> int | None:
        said.append(text)
        return len(said[0]) if len(said) == 4 else None

    monkeypatch.setattr(Repetition, "push", push)
    talk = assistant.store.new()
    ticket = done(assistant.ask("Sing.", (), None, Sampling(max_tokens=20, min_tokens=3), talk))
    assert ticket.trace.finish == "repeats" and len(said) == 4
    assert ticket.text == said[0] == assistant.store.messages(talk)[-1].text

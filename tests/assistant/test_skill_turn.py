"""What the turn of a skill sees of a conversation, and what its card's evaluator adds, with a tiny host and a LoRA of noise."""

import json

import yaml

from assistant.host.prompt import ASK_TEXT
from assistant.host.sampling import Sampling
from assistant.turn.admission import Verdict, keep
from assistant.turn.route import Choice, Choices
from assistant.turn.spaces import Spaces
from mattoni.card import Routes, describe_files, read_card, write_card
from mattoni.inputs import Attachment
from mattoni.keys import save_keys
from mattoni.paths import cache_folder, data_folder
from mattoni.tensors import stored_tensors
from tests.assistant.conftest import done, png, write_adapter

SHORT = Sampling(temperature=0, max_tokens=6)
MORTAR = "Mortar is made of sand, lime and water, and it hardens slowly in the open air. "
ON = Choices(bricks={"skill": Choice("on")})


def add_skill(assistant, tmp_path, **parts):
    """A LoRA whose card says further `parts`."""
    assistant.add_skill(write_adapter(tmp_path / "skill", assistant.host, seed=0), "skill")
    path = data_folder() / "bricks" / "skill" / "brick.yaml"
    card = yaml.safe_load(path.read_text())
    card["parts"] |= parts
    path.write_text(yaml.safe_dump(card))


def test_a_skill_that_reads_what_was_sent_last_is_shown_it_beside_the_message_and_no_talk(assistant, prompts, tmp_path):
    add_skill(assistant, tmp_path, reads="last")
    talk = assistant.store.new()
    done(assistant.ask("What is it?", [Attachment("slip.txt", b"sum 9.00")], None, SHORT, talk))
    done(assistant.ask("Tell me a joke.", (), None, SHORT, talk))
    said = done(assistant.ask("As JSON", (), ON, SHORT, talk))
    assert prompts[-1].count("sum 9.00") == 1 and prompts[-1].count("As JSON") == 1 and "joke" not in prompts[-1]
    assert prompts[-1].index("sum 9.00") < prompts[-1].index("As JSON")
    assert said.trace.left_out == ["2 earlier exchanges, as skill reads the message and slip.txt, sent earlier, alone"]
    done(assistant.ask("As JSON", [Attachment("other.txt", b"sum 7.00")], ON, SHORT, talk))
    assert "sum 7.00" in prompts[-1] and "sum 9.00" not in prompts[-1]


def test_where_a_skill_reads_what_was_sent_last_a_library_is_not_asked_too(assistant, prompts, tmp_path):
    add_skill(assistant, tmp_path, reads="last")
    assistant.add_knowledge("masonry", [Attachment("mortar.md", MORTAR.encode())])
    talk = assistant.store.new()
    done(assistant.ask("What is it?", [Attachment("slip.txt", b"sum 9.00")], None, SHORT, talk))
    asked = done(assistant.ask("What is mortar made of?", (), ON, SHORT, talk)).trace
    assert [used.name for used in asked.bricks] == ["skill"] and not asked.citations and "sum 9.00" in prompts[-1]
    alone = done(assistant.ask("What is mortar made of?", (), ON, SHORT)).trace
    assert {used.name for used in alone.bricks} == {"masonry", "skill"}, "nothing was sent that it could read"


def test_what_is_asked_of_a_file_that_cannot_be_opened_is_not_answered_from_an_earlier_one(
    assistant, prompts, tmp_path
):
    add_skill(assistant, tmp_path, reads="last", needs_text=True)
    folder = data_folder() / "bricks" / "skill"
    save_keys(Spaces.embedder.embed(["What is the sum?"]), folder / "keys.safetensors")
    routes = Routes(space="text", keys="keys.safetensors", threshold=0.9)
    write_card(read_card(folder).model_copy(update={"routes": routes, "files": describe_files(folder)}), folder)
    keep(assistant.bricks().get("skill"), Verdict("skill", True, 0.0))
    talk = assistant.store.new()
    slip, broken = Attachment("slip.txt", b"sum 9.00"), Attachment("slip.docx", b"PK\x03\x04 broken")
    done(assistant.ask("What is it?", [png()], Choices(vision="document"), SHORT, talk))
    said = done(assistant.ask("What is the sum?", [slip], None, SHORT, talk))
    assert "skill" in {used.name for used in said.trace.bricks}
    count = len(prompts)
    refused = done(assistant.ask("What is the sum?", [broken], None, SHORT, talk))
    assert refused.text == "" and len(prompts) == count
    assert [notice.code for notice in refused.trace.notices] == ["refused", "no-document"]
    assert "skill" in {
        used.name for used in done(assistant.ask("What is the sum?", (), None, SHORT, talk)).trace.bricks
    }


def test_an_evaluator_of_the_card_finishes_the_answer_and_what_it_cannot_compute_is_one_notice(assistant, tmp_path):
    add_skill(assistant, tmp_path, evaluator="arithmetic")
    ticket = done(assistant.ask("How many?", (), ON, SHORT))
    assert ticket.error is None and ticket.trace.finished == []
    assert [notice.code for notice in ticket.trace.notices if notice.code == "not-computed"] == ["not-computed"]


def test_the_trace_says_how_many_of_all_parameters_took_part(assistant, tmp_path):
    add_skill(assistant, tmp_path)
    bare = done(assistant.ask("Hello", (), Choices(no_bricks=True), SHORT)).trace.parameters
    used = done(assistant.ask("Hello", (), ON, SHORT)).trace.parameters
    assert bare["host"] == used["host"] == sum(p.numel() for p in assistant.host.model.parameters())
    (brick,) = [brick for brick in assistant.bricks().usable if brick.name == "skill"]
    stored = stored_tensors([brick.folder / "adapter_model.safetensors"])
    assert bare["bricks"] == 0 and used["bricks"] == sum(tensor.elements for tensor in stored.values())
    assert used["installed"] >= used["bricks"] and bare["installed"] == used["installed"]


def test_a_skill_whose_tokens_the_prompt_lacks_says_that_it_did_nothing(assistant, tmp_path):
    folder = write_adapter(tmp_path / "skill", assistant.host, seed=0)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "alora_invocation_tokens": [300, 301]}))
    assistant.add_skill(folder, "skill")
    ticket = done(assistant.ask("Hello", (), ON, SHORT))
    (notice,) = [notice for notice in ticket.trace.notices if notice.code == "not-invoked"]
    assert notice.text.startswith("'skill' acts only from its invocation tokens on, which do not stand in this prompt")
    assert "strength 1, from its invocation tokens on" in ticket.trace.injections[0]
    bare = done(assistant.ask("Hello", (), Choices(no_bricks=True), SHORT))
    assert ticket.text == bare.text


def test_a_skill_for_passages_answers_where_some_were_found_and_no_other_skill_does(assistant, tmp_path):
    add_skill(assistant, tmp_path, for_passages=True)
    assistant.add_knowledge("masonry", [Attachment("mortar.md", MORTAR.encode())])
    ask = lambda text, **said: done(assistant.ask(text, (), Choices(**said), SHORT)).trace  # noqa: E731
    found = ask("What is mortar made of?")
    assert found.citations and [used.name for used in found.bricks] == ["masonry", "skill"]
    assert found.bricks[1].reason == "passages were found for it"
    without = {"masonry": Choice("off")}
    assert not ask("What is mortar made of?", bricks=without).bricks, "nothing was found for it"
    assert "skill" not in {used.name for used in ask("What is mortar made of?", bricks={"skill": Choice("off")}).bricks}
    assert [used.name for used in ask("Hello", bricks={**without, "skill": Choice("on")}).bricks] == ["skill"]
    assert not ask("What is mortar made of?", no_bricks=True).bricks
    assistant.add_skill(write_adapter(tmp_path / "other", assistant.host, seed=1), "other")
    asked = ask("What is mortar made of?", bricks={"other": Choice("on")})
    assert {used.name for used in asked.bricks} == {"masonry", "other"}, "who is asked for reads the passages"


def test_what_was_read_of_a_passage_is_used_in_another_conversation_and_gone_with_its_brick(assistant):
    assistant.add_knowledge("masonry", [Attachment("mortar.md", (MORTAR * 4).encode())])
    asked = lambda: done(assistant.ask("What is mortar made of?", sampling=SHORT))  # noqa: E731
    first, second = asked(), asked()
    assert first.trace.citations and first.text == second.text
    assert first.trace.tokens["reused"] == 0 < second.trace.tokens["reused"]
    folder = cache_folder() / "passages"
    assert len(list(folder.iterdir())) == len(first.trace.citations)
    new = [Attachment("mortar.md", ("Mortar is made of cement. " * 20).encode())]
    assistant.add_knowledge("masonry", new, update=True)
    assert not list(folder.iterdir()), "what was replaced is in no file"
    asked()
    assert list(folder.iterdir())
    assistant.remove_brick("masonry")
    assert not list(folder.iterdir())


def test_a_skill_for_passages_answers_what_is_asked_of_a_text_that_came_with_the_message(assistant, prompts, tmp_path):
    slip = [Attachment("slip.txt", b"sum 9.00")]
    bare = done(assistant.ask("What is the sum?", slip, sampling=SHORT)).trace
    expected = prompts[-1]
    add_skill(assistant, tmp_path, for_passages=True)
    (used,) = [
        u for u in done(assistant.ask("What is the sum?", slip, sampling=SHORT)).trace.bricks if u.name == "skill"
    ]
    assert used.reason == "the message asks of slip.txt"
    assert prompts[-1] == expected and ASK_TEXT.strip() in expected, "the instruction that it was trained with stays"
    assert "skill" not in {
        u.name for u in [*bare.bricks, *done(assistant.ask("Make it shorter.", slip, sampling=SHORT)).trace.bricks]
    }


def test_a_skill_for_passages_answers_what_is_asked_of_a_text_that_was_pasted_into_the_message(
    assistant, prompts, tmp_path
):
    pasted = f"{MORTAR * 5}\n\nWhat is mortar made of?"
    done(assistant.ask(pasted, sampling=SHORT))
    assert ASK_TEXT.strip() not in prompts[-1], "nothing reads, and the message stands as it was written"
    add_skill(assistant, tmp_path, for_passages=True)

    def reasons(text):
        used = done(assistant.ask(text, (), sampling=SHORT)).trace.bricks
        return [brick.reason for brick in used if brick.name == "skill"]

    assert reasons(pasted) == ["the message asks of a text that it holds"]
    assert ASK_TEXT.strip() in prompts[-1]
    assert not reasons(pasted.replace("?", ".")), "an order is none"

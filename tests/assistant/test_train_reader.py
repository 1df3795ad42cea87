"""What a lesson of the reader of passages looks like, and that what it learns is what the command reads."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from assistant.host.host import Host
from assistant.host.prompt import invocation_tokens
from assistant.training.cloze import Passage, cloze_questions, passages_of, plain_text
from assistant.training.train_reader import ReaderStage, answer_loss, draw, lesson, train_reader
from mattoni.injections import last_place
from task_bricks.lora import read_lora

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def test_a_question_sees_all_passages_and_no_other_question() -> None:
    one = lesson([1], [[2, 3], [4]], [([5, 6], [7, 0]), ([8], [9, 0])])
    assert one.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert one.positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 4, 5]
    assert one.labels.tolist() == [-100, -100, -100, -100, -100, 7, 0, 9, 0]
    sees = one.sees(apart=True).long().tolist()
    assert sees[3] == [1, 0, 0, 1, 0, 0, 0, 0, 0]
    assert sees[6] == [1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert sees[7] == [1, 1, 1, 1, 0, 0, 0, 1, 0]
    assert one.sees(apart=False)[3].long().tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]


@torch.inference_mode()
def test_a_lesson_of_one_question_is_the_plain_host(host: Host) -> None:
    one = lesson([1, 5], [[7, 8], [12]], [([20], [21, 22])])
    logits = host.model(input_ids=one.ids[None]).logits[0].log_softmax(dim=-1)
    wanted = -(logits[5, 21] + logits[6, 22]) / 2
    torch.testing.assert_close(answer_loss(host.model, one, apart=False), wanted)


def articles(*titles: str) -> list[Passage]:
    text = "The tin was brought by Anna Berg to the town. It was sold in 1853 by the old smith."
    return [Passage(title, text, tuple(cloze_questions(text))) for title in titles for _ in range(3)]


def test_what_is_trained_is_an_activated_lora_that_a_skill_is_read_from(host: Host, tmp_path: Path) -> None:
    train_reader(host, articles("Tin", "Lead"), tmp_path / "reader", tmp_path / "work", steps=2, rank=2)
    lora = read_lora(tmp_path / "reader")
    assert {len(a) for a, _ in lora.factors.values()} == {2}
    assert lora.invocation_tokens == invocation_tokens(host.tokenizer)


def test_the_host_before_the_invocation_tokens_stays_as_it_is(host: Host) -> None:
    """What the LoRA learns must come from behind them: a lesson whose questions see nothing else teaches it nothing."""
    stage = ReaderStage(host, articles("Tin", "Lead"), steps=2, rank=2, apart=True, activated=True)
    one = draw(host, {"Tin": articles("Tin")}, random.Random(1))
    begin = last_place(one.ids[one.block == 0].tolist(), invocation_tokens(host.tokenizer))
    assert begin is not None
    for name, parameter in stage.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    base: Any = stage.model
    with torch.no_grad():
        acting = base(input_ids=one.ids[None], alora_offsets=[len(one.ids) - begin]).logits[0]
        with base.disable_adapter():
            bare = base(input_ids=one.ids[None]).logits[0]
    torch.testing.assert_close(acting[:begin], bare[:begin])
    assert not torch.allclose(acting[begin:], bare[begin:])


def test_markup_becomes_passages_with_questions() -> None:
    markup = (
        "{{Box|{{a}}}}\n== Head ==\n'''Tin''' was found in 1853 near [[Bad Elster|the spa]].<ref>x</ref> "
        + "It is grey. " * 20
    )
    (passage,) = passages_of(plain_text(markup))
    assert passage.startswith("Tin was found in 1853 near the spa. It is grey.")
    assert list(cloze_questions(passage)) == [("Tin was found in which year near the spa?", "1853")]


def test_things_in_lower_case_are_asked_for_too() -> None:
    assert list(cloze_questions("He was cured of leprosy.")) == [("He was cured of what?", "leprosy")]
    assert list(cloze_questions("It was used for example, and well.")) == []


def test_what_is_listed_is_asked_for_as_a_whole() -> None:
    (asked,) = cloze_questions("Major faculties of medicine are found in Tunis, Sfax, Sousse and Monastir.")
    assert asked == ("Major faculties of medicine are found in what?", "Tunis, Sfax, Sousse and Monastir")
    (asked,) = cloze_questions("Mortar is a mix of sand, lime and clean water.")
    assert asked == ("Mortar is a mix of what?", "sand, lime and clean water")

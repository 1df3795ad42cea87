"""What a lesson of the reader of passages looks like, and that what it learns is what the command reads."""

from pathlib import Path

import pytest
import torch

from assistant.evaluation.cloze import Passage, cloze_questions, passages_of, plain_text
from assistant.evaluation.train_prefilled import answer_loss, lesson, train
from assistant.host.host import Host
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


def test_what_is_trained_is_a_lora_that_a_skill_is_read_from(host: Host, tmp_path: Path) -> None:
    text = "The tin was brought by Anna Berg to the town."
    train(
        host, [Passage("Tin", text, tuple(cloze_questions(text)))] * 3, tmp_path / "reader", steps=2, rank=2, apart=True
    )
    assert {len(a) for a, _ in read_lora(tmp_path / "reader").factors.values()} == {2}


def test_markup_becomes_passages_with_questions() -> None:
    markup = (
        "{{Box|{{a}}}}\n== Head ==\n'''Tin''' was found in 1853 near [[Bad Elster|the spa]].<ref>x</ref> "
        + "It is grey. " * 20
    )
    (passage,) = passages_of(plain_text(markup))
    assert passage.startswith("Tin was found in 1853 near the spa. It is grey.")
    assert list(cloze_questions(passage)) == [("Tin was found in which year near the spa?", "1853")]

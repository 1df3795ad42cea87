"""Passages that are read apart and put side by side: on a tiny random Llama, in fp32."""

import pytest
import torch

from assistant.evaluation.prefilled import (
    KeyValues,
    beside,
    compute,
    decode,
    first_of_each,
    in_place,
    most_changed,
    path_likelihoods,
    read,
    read_behind,
)
from assistant.host.host import Host
from assistant.host.rotary import frequencies_of, turn
from mattoni.errors import MattoniError

BEGINNING, PASSAGES, TAIL = [1, 5, 9], [[7, 8, 30, 11], [12, 13, 14], [40, 41, 42, 43, 44]], [20, 21, 22]
# Two ways through the same sums in fp32.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def parts(host: Host) -> tuple[KeyValues, list[KeyValues]]:
    beginning, _ = read(host.model, BEGINNING)
    return beginning, [read_behind(host.model, beginning, passage) for passage in PASSAGES]


@torch.inference_mode()
def test_one_leading_passage_is_a_fresh_reading(host: Host) -> None:
    beginning, apart = parts(host)
    held = in_place(beginning, apart[:1], frequencies_of(host.model)).grown(len(TAIL))
    logits = compute(host.model, held, torch.tensor([TAIL]), torch.arange(7, 10))
    fresh, wanted = read(host.model, BEGINNING + PASSAGES[0] + TAIL)
    torch.testing.assert_close(logits, wanted, **CLOSE)
    torch.testing.assert_close(held.keys, fresh.keys, **CLOSE)


@torch.inference_mode()
def test_turned_keys_are_those_of_a_later_position(host: Host) -> None:
    held = read(host.model, [7, 8])[0].grown(0)
    later = held.grown(0)
    compute(host.model, later, torch.tensor([[7, 8]]), torch.arange(2), positions=torch.tensor([[100, 101]]))
    torch.testing.assert_close(turn(held.keys, 100, frequencies_of(host.model)), later.keys, **CLOSE)


@torch.inference_mode()
def test_passages_do_not_see_each_other_until_they_are_computed_again(host: Host) -> None:
    beginning, apart = parts(host)
    ids = BEGINNING + [i for passage in PASSAGES for i in passage]
    held = in_place(beginning, apart, frequencies_of(host.model))
    fresh, _ = read(host.model, ids)
    assert not torch.allclose(held.values[1], fresh.values[1], **CLOSE)
    columns = torch.arange(3, len(ids))
    compute(host.model, held, torch.tensor([ids[3:]]), columns)
    torch.testing.assert_close(held.values, fresh.values, **CLOSE)


@torch.inference_mode()
def test_the_first_passage_is_never_among_the_most_changed(host: Host) -> None:
    beginning, apart = parts(host)
    ids = BEGINNING + [i for passage in PASSAGES for i in passage]
    held = in_place(beginning, apart, frequencies_of(host.model))
    chosen = most_changed(host.model, held, ids, 3, share=0.5).tolist()
    assert chosen == sorted(chosen) and len(chosen) == 6 and min(chosen) >= 7
    assert first_of_each(3, [4, 3, 5], 2).tolist() == [3, 4, 7, 8, 10, 11]


@torch.inference_mode()
def test_a_path_is_as_likely_as_behind_its_passage_alone(host: Host) -> None:
    beginning, apart = parts(host)
    found = path_likelihoods(host.model, beginning, apart, TAIL, question=2)
    for passage, likelihood in zip(PASSAGES, found, strict=True):
        logits = host.model(input_ids=torch.tensor([BEGINNING + passage + TAIL])).logits[0]
        logs = logits.log_softmax(dim=-1)
        torch.testing.assert_close(likelihood, logs[-3, TAIL[1]] + logs[-2, TAIL[2]], **CLOSE)


@torch.inference_mode()
def test_answers_of_prompts_of_different_lengths_are_those_of_each_alone(host: Host) -> None:
    prompts = [BEGINNING + PASSAGES[0] + TAIL, BEGINNING + TAIL]
    held = [read(host.model, prompt) for prompt in prompts]
    logits = torch.cat([logits[:, -1] for _, logits in held])
    answers = decode(host.model, [kv for kv, _ in held], [len(p) for p in prompts], logits, frozenset(), 5)
    for prompt, answer in zip(prompts, answers, strict=True):
        alone = list(prompt)
        for _ in range(5):
            alone.append(int(host.model(input_ids=torch.tensor([alone])).logits[0, -1].argmax()))
        assert answer == alone[len(prompt) :]


@torch.inference_mode()
def test_parts_stand_side_by_side(host: Host) -> None:
    beginning, apart = parts(host)
    assert beside((beginning, *apart)).columns == 15


def test_a_host_whose_keys_cannot_be_turned_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(host.model.config.rope_parameters, "rope_type", "dynamic")
    with pytest.raises(MattoniError, match=r"cannot be turned \(rope: dynamic\): choose one with plain rotary"):
        frequencies_of(host.model)

"""A stitch that is given the names of its encoder's classes, in the words of a host."""

import torch

from assistant.host.host import load_host
from modality_bricks.encoder import Classes
from modality_bricks.training.prepare import naming_stitch
from tests.modality_bricks.test_stitch import tiny_stitch


def test_names_are_the_hosts_tokens_ended_by_full_stops_and_the_last_row_says_nothing(tiny_host):
    tokenizer = load_host(str(tiny_host), device="cpu").tokenizer
    stitch, _ = tiny_stitch()
    classes = Classes(("dog", "a very long name of a thing indeed"), torch.zeros(2, 12), torch.zeros(2))
    named = naming_stitch(stitch, classes, tokenizer, 0.8, 0.3)
    stop = tokenizer.encode(".", add_special_tokens=False)[-1]
    own = tokenizer.encode(" dog", add_special_tokens=False)
    assert named.class_ids[0].tolist() == (own + [stop] * 6)[:6]
    assert named.class_ids[2].tolist() == [stop] * 6 and stop not in named.class_ids[1].tolist()
    assert (named.shape.classes, named.shape.pieces, named.shape.sure, named.shape.sure_of_name) == (2, 6, 0.8, 0.3)

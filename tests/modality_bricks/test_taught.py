"""What the encoder's classifier teaches about captioned pictures: the host is asked for the thing, as of pictures with a name."""

import numpy as np

from modality_bricks.training.draws import Draw
from modality_bricks.training.generate_stage import Taught
from modality_bricks.training.readers import NAME_QUESTIONS

DRAW = Draw(0, 3, 1, "Describe the picture.", "A cat runs.")


def answers(taught: Taught, named: int, count: int = 400) -> list[Draw]:
    return [taught.answer(DRAW, named, named, np.random.default_rng((0, n))) for n in range(count)]


def test_a_share_of_the_pictures_that_it_is_sure_of_is_asked_for_their_thing():
    found = answers(Taught(("tench", "Egyptian cat"), 0.4), 1)
    asked = [draw for draw in found if draw is not DRAW]
    assert 0.33 < len(asked) / len(found) < 0.47
    assert {draw.answer for draw in asked} == {"An Egyptian cat."}
    assert {draw.question for draw in asked} <= set(NAME_QUESTIONS) and len({d.question for d in asked}) > 5
    assert all((draw.source, draw.sample, draw.view) == (0, 3, 1) for draw in asked)


def test_of_what_it_is_not_sure_nothing_is_taught_and_the_same_number_gives_the_same():
    assert all(draw is DRAW for draw in answers(Taught(("tench",), 1.0), -1))
    assert all(draw is DRAW for draw in answers(Taught(("tench",), 0.0), 0))
    assert answers(Taught(("tench",), 0.5), 0) == answers(Taught(("tench",), 0.5), 0)


def test_who_asks_for_a_name_learns_the_guess_that_is_told_and_no_caption():
    taught, chance = Taught(("tench", "Egyptian cat"), 0.0), np.random.default_rng(0)
    asked = Draw(0, 3, 1, "What is in the picture?", "A cat runs.")
    assert taught.answer(asked, -1, 1, chance).answer == "An Egyptian cat."
    assert taught.answer(asked, -1, -1, chance) is asked
    assert taught.answer(DRAW, -1, 1, chance) is DRAW

"""Where a thing stands on a canvas, and how a grid's shares are counted by quarters."""

import numpy as np
import pytest

from assistant.evaluation.measure_attention import BACKGROUNDS, at_random, canvases, found_in, quarters
from assistant.host.host import load_host
from assistant.registry import Registry
from modality_bricks.modality import load_modality
from tests.assistant.conftest import write_eyes


def test_a_place_between_two_quarters_counts_half_for_each():
    assert quarters([[1, 2], [3, 4]]) == pytest.approx(np.array([0.1, 0.2, 0.3, 0.4]))
    assert quarters([[1] * 3] * 3) == pytest.approx(np.full(4, 0.25))
    middle = np.zeros((3, 3))
    middle[1, 1] = 1
    assert quarters(middle) == pytest.approx(np.full(4, 0.25))
    middle[1, 1], middle[0, 1] = 0, 1
    assert quarters(middle) == pytest.approx(np.array([0.5, 0.5, 0, 0]))


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_each_tile_stands_in_the_next_quarter(background):
    tiles = np.zeros((5, 64, 64, 3), np.uint8)
    tiles[:, :, :, 0] = 255  # pure red, which no background is
    for number, canvas in enumerate(canvases(tiles, background)):
        down, across = divmod(number % 4, 2)
        assert canvas.getpixel((40 + 80 * across, 40 + 80 * down)) == (255, 0, 0)
        if background != "blurred":
            assert canvas.getpixel((120 - 80 * across, 120 - 80 * down)) != (255, 0, 0)


def test_a_stitch_is_compared_with_one_of_random_weights_on_the_same_canvases(tiny_host, home):
    host = load_host(str(tiny_host), device="cpu", dtype="float32")
    write_eyes(home / "data" / "bricks" / "eyes", host)
    brick = Registry([home / "data" / "bricks"]).scan(host).get("eyes")
    pictures = canvases(np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8), "grey")
    trained = found_in(load_modality(brick.folder, brick.parts, host.embedding), pictures)
    random = found_in(at_random(brick, host), pictures)
    assert 0 <= trained["low"] <= trained["share"] <= trained["high"] <= 1
    assert random["share"] != trained["share"]

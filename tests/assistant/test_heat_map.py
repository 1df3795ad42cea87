"""The map of a stitch's attention: where colours lie, what stays grey, what its words say."""

import io

import numpy as np
import pytest
from PIL import Image

from assistant.turn.heat_map import heat_map, in_words, save_heat_maps, scale_stops
from assistant.turn.look import look
from mattoni.errors import MattoniError
from mattoni.inputs import Attachment
from mattoni.trace import Attention, Trace

CORNER = ((0.60, 0.10), (0.10, 0.10))  # the top left; a tenth went to the picture as a whole


def attention(grid=CORNER, box=(0.0, 0.0, 1.0, 1.0), digest="d"):
    return Attention(digest, "dog.jpg", "photo", grid, box, elsewhere=0.1)


def colour_at(picture, across, down):
    """Yellowness (positive) or blueness (negative) of a place, in shares of width and height."""
    red, _, blue = picture.getpixel((int(across * (picture.width - 1)), int(down * (picture.height - 1))))
    return red - blue


def test_the_corner_that_got_most_is_yellow_and_the_others_blue():
    drawn = heat_map(Image.new("RGB", (300, 200), "grey"), attention())
    assert drawn.size == (640, 427)
    assert colour_at(drawn, 0.1, 0.1) > 40
    assert all(colour_at(drawn, *place) < -20 for place in ((0.9, 0.1), (0.1, 0.9), (0.9, 0.9)))


def test_an_even_share_everywhere_is_no_colour_at_all():
    drawn = np.asarray(heat_map(Image.new("RGB", (64, 64), "grey"), attention(((0.25, 0.25), (0.25, 0.25)))), dtype=int)
    assert np.ptp(drawn, axis=(0, 1)).max() == 0 and np.ptp(drawn[0, 0]) < 12


def test_what_the_encoder_was_not_shown_stays_grey():
    """A wide picture of which the preprocessing cuts the middle square."""
    drawn = heat_map(Image.new("RGB", (400, 200), "grey"), attention(box=(0.25, 0.0, 0.75, 1.0)))
    assert colour_at(drawn, 0.1, 0.1) == colour_at(drawn, 0.9, 0.9) == 0
    assert colour_at(drawn, 0.3, 0.1) > 40


def test_a_map_on_a_padded_picture_reaches_past_its_edges():
    drawn = heat_map(Image.new("RGB", (400, 200), "grey"), attention(box=(0.0, -0.5, 1.0, 1.5)))
    assert colour_at(drawn, 0.02, 0.02) > 20 > -20 > colour_at(drawn, 0.98, 0.02)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 2)])
def test_a_picture_of_any_shape_can_be_drawn(size):
    assert max(heat_map(Image.new("RGB", size), attention()).size) == 640


def test_a_picture_turned_by_its_camera_is_overlaid_upright(tmp_path):
    """The bytes lie on their side (EXIF 6); the map belongs to the picture as the encoder and the user see it."""
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    lying = Image.new("RGB", (300, 200), "black")
    lying.paste("white", (0, 100, 150, 200))  # upright: the top left
    lying.save(buffer, "JPEG", exif=exif)
    sent = Attachment("dog.jpg", buffer.getvalue())
    (picture,) = look([sent]).items
    assert picture.image.size == (200, 300)
    save_heat_maps(Trace(attention=[attention(digest=picture.digest)]), [sent], tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as page:
        drawn = page.crop((16 + 106, 16, 16 + 106 + 427, 16 + 640))
    assert sum(drawn.getpixel((60, 60))) > 400 > 300 > sum(drawn.getpixel((60, 580)))
    assert colour_at(drawn, 0.1, 0.1) > 40 and colour_at(drawn, 0.1, 0.9) < 0


def test_the_words_say_what_the_map_shows():
    grid = ((0.05, 0.05, 0.05), (0.1, 0.1, 0.4), (0.05, 0.05, 0.05))
    assert in_words(attention(grid)) == (
        "What photo's stitch attended to on dog.jpg: most of all on the right (4.0 times an even share); "
        "10% went to the picture as a whole."
    )


def test_where_nothing_is_known_no_file_is_written_and_one_sentence_says_why(tmp_path):
    sentence = "llava's stitch has no cross-attention, so it cannot be told where it looked."
    silent = Attention("d", "dog.jpg", "llava", sentence=sentence)
    assert in_words(silent) == sentence
    with pytest.raises(MattoniError, match=f"map.png was not written: {sentence}"):
        save_heat_maps(Trace(attention=[silent]), [], tmp_path / "map.png")
    with pytest.raises(MattoniError, match="map.png was not written: no stitch looked at a picture."):
        save_heat_maps(Trace(), [], tmp_path / "map.png")
    assert list(tmp_path.iterdir()) == []


def test_the_scale_goes_from_dark_blue_to_light_yellow_so_it_can_be_read_without_colours():
    light = [sum(int(stop[i : i + 2], 16) for i in (1, 3, 5)) for stop in scale_stops()]
    assert light == sorted(light) and light[-1] > 3 * light[0]

"""How long an image file will take to decode, by its header."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.inference.decoding_cost import LARGE
from app.inference.reading import picture_cost
from tests.app.api.request_bodies import encode, small
from tests.conftest import sample

FORMATS = ["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF"]


def flat(width: int, height: int, name: str, **options: Any) -> bytes:
    return encode(Image.new("L", (width, height)), name, **options)


def test_what_is_read_on_the_event_loop_costs_nothing() -> None:
    assert picture_cost(small("7.png")) == 0
    assert picture_cost(np.zeros((28, 28), dtype=np.uint8)) == 0
    assert picture_cost(b"text") == 0


@pytest.mark.parametrize("name", FORMATS)
def test_more_pixels_cost_more_though_the_file_is_small(name: str) -> None:
    costs = [picture_cost(flat(side, side // 2, name)) for side in (400, 2000, 4000)]

    assert 0 < costs[0] <= LARGE
    assert costs[1] >= LARGE * 0.9
    assert costs[2] > 1.4 * costs[1] or name == "TIFF"


def test_a_few_bytes_of_very_many_pixels_are_large() -> None:
    assert picture_cost(flat(1, 60_000_000, "PNG")) > 5 * LARGE


@pytest.mark.parametrize("name", FORMATS)
def test_a_header_that_is_cut_off_costs_something_or_is_refused_on_the_loop(name: str) -> None:
    whole = flat(3000, 3000, name)
    for length in range(64):
        assert picture_cost(whole[:length]) >= 0


def test_scans_of_a_jpeg_cost_time() -> None:
    for progressive in (False, True):
        file = encode(Image.effect_noise((140, 140), 40), "JPEG", progressive=progressive)
        assert (picture_cost(file) > 0) == progressive


@pytest.mark.parametrize("side", [28, 140, 3000])
@pytest.mark.parametrize("name", FORMATS)
def test_the_beginning_of_a_file_costs_at_most_what_the_file_does(name: str, side: int) -> None:
    options = {"exif": b"Exif\x00\x00" + bytes(60_000)} if name in ("JPEG", "PNG", "WebP") else {}
    for whole in (flat(side, side, name), flat(side, side, name, **options)):
        starts = [*range(256), *np.geomspace(256, max(256, len(whole)), 200).astype(int)]
        costs = [picture_cost(whole[:length], len(whole)) for length in starts]

        assert max(costs) == picture_cost(whole)
        assert costs[0] == 0
        assert max(costs) > 0 or picture_cost(whole) == 0


def test_what_says_nothing_of_its_size_is_large() -> None:
    empty_segments = b"\xff\xd8" + b"\xff\xe1\x00\x02" * 100_000
    assert picture_cost(empty_segments) >= LARGE
    assert picture_cost(flat(10, 10, "TIFF")) >= LARGE


def test_a_phones_photo_is_large_and_a_drawing_is_not() -> None:
    photo = encode(Image.effect_noise((4000, 3000), 40), "JPEG", quality=85)
    assert picture_cost(photo) > 3 * LARGE
    drawing = Image.open(BytesIO(sample("7.png"))).resize((400, 400))
    assert 0 < picture_cost(encode(drawing, "PNG")) < LARGE

"""How much structure the JSON of a request may have, counted before it is parsed.

Ten megabytes of `[],[],...` become millions of objects: a second of parsing, with the interpreter
locked, and hundreds of megabytes. No valid request has them: an image has at most 28 x 28 numbers,
and another network's input as many as its shape says.
"""

import math
from itertools import accumulate
from operator import mul

import numpy as np

from app.errors import ErrorCode
from model.literals import SIDE

# What is parsed on the event loop: a few milliseconds at most.
INLINE_JSON_BYTES = 256 * 2**10
# For parameters and outputs, and for pixels of another size, whose own error says more.
_SPARE = 4096
# A line break or a slash in base64 may be escaped.
_MOST_ESCAPES = 1_000_000


def check_structure(text: bytes, images: int, shape: tuple[int, ...] = (SIDE, SIDE)) -> None:
    """Refuses JSON with more structure than any valid request for at most `images`.

    What is in strings counts, too. Base64 has none of it.

    Raises:
        ApiError: too_many_images, more values than `images` of 28x28 pixels have;
            invalid_json, more than one image has where one is expected, or more lists, objects,
            strings or escaped characters.
    """
    if len(text) <= _SPARE:
        return
    size = "x".join(map(str, shape))
    characters = np.frombuffer(text, np.uint8)
    commas, lists, objects, quotes, escapes = (
        np.count_nonzero(characters == code) for code in b',[{"\\'
    )
    # Separators between an image's numbers, row by row, and after it.
    has_many_values = commas > images * math.prod(shape) + _SPARE
    if has_many_values and images > 1:
        raise ErrorCode.TOO_MANY_IMAGES(
            f"the JSON has more values than {images} images of {size} pixels, the most in one "
            "request; send several smaller ones"
        )
    # Brackets of its rows, the lists of them and the object; quotes are fewer.
    most = images * (2 + sum(accumulate(shape[:-1], mul))) + _SPARE
    if has_many_values or max(lists + objects, quotes) > most or escapes > _MOST_ESCAPES:
        raise ErrorCode.INVALID_JSON(
            "the JSON has more values, lists, strings or escaped characters than a request can "
            f"have; send images in base64, or as {size} numbers, at most {images}"
        )

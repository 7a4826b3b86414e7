"""How much structure the JSON of a request may have, counted before it is parsed.

Ten megabytes of `[],[],...` become millions of objects: a second of parsing, with the interpreter
locked, and hundreds of megabytes. No valid request has them: an image has at most 28 x 28 numbers.
"""

import numpy as np

from app.errors import ErrorCode
from model.literals import SIDE

# Separators between an image's pixels, row by row, and after it.
_COMMAS_OF_AN_IMAGE = SIDE * SIDE
# Brackets of its rows, the list of them and the object; quotes are fewer.
_BRACKETS_OF_AN_IMAGE = SIDE + 2
# For parameters and outputs, and for pixels of another size, whose own error says more.
_SPARE = 4096
# A line break or a slash in base64 may be escaped.
_MOST_ESCAPES = 1_000_000


def check_structure(text: bytes, images: int) -> None:
    """Refuses JSON with more structure than any valid request for at most `images`.

    What is in strings counts, too. Base64 has none of it.

    Raises:
        ApiError: too_many_images, more values than `images` of 28x28 pixels have;
            invalid_json, more than one image has where one is expected, or more lists, objects,
            strings or escaped characters.
    """
    if len(text) <= _SPARE:
        return
    characters = np.frombuffer(text, np.uint8)
    commas, lists, objects, quotes, escapes = (
        np.count_nonzero(characters == code) for code in b',[{"\\'
    )
    has_many_values = commas > images * _COMMAS_OF_AN_IMAGE + _SPARE
    if has_many_values and images > 1:
        raise ErrorCode.TOO_MANY_IMAGES(
            f"the JSON has more values than {images} images of {SIDE}x{SIDE} pixels, the most in "
            "one request; send several smaller ones"
        )
    most = images * _BRACKETS_OF_AN_IMAGE + _SPARE
    if has_many_values or max(lists + objects, quotes) > most or escapes > _MOST_ESCAPES:
        raise ErrorCode.INVALID_JSON(
            "the JSON has more values, lists, strings or escaped characters than a request can "
            f"have; send images in base64, or as {SIDE} rows of {SIDE} integers, at most {images}"
        )

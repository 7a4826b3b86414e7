"""Ink and paper of two colours that are equally bright, which look empty in grey."""

import numpy as np
import PIL.Image
import PIL.ImageChops

# Colour counts where brightness spans less than the first, of 255, and where the variance of colour
# is at least the second, and four times that of brightness.
_LITTLE_CONTRAST, _LEAST_SPREAD = 80, 16
# Shares of red in mixtures of the two channels of colour, and whether they are opposed.
_MIXES = [(share, opposed) for share in (0, 0.25, 0.5, 0.75, 1) for opposed in (False, True)]
_SMALL_SIDE = 64
# The largest picture that is looked at in colour: several copies are made of it.
MOST_PIXELS = 4_000_000


def has_little_contrast(grey: PIL.Image.Image) -> bool:
    """Whether a picture in mode L is nearly of one brightness."""
    darkest, lightest = grey.getextrema()
    assert isinstance(darkest, int)
    assert isinstance(lightest, int)
    return lightest - darkest < _LITTLE_CONTRAST


def along_colours(picture: PIL.Image.Image) -> PIL.Image.Image | None:
    """Brings the colours that differ most as far apart as black and white are in a drawing.

    Args:
        picture: in mode YCbCr.

    Returns:
        A picture in mode L; None if brightness shows as much as colour does.
    """
    small = picture.reduce(-(-max(picture.size) // _SMALL_SIDE))
    mix = max(_MIXES, key=lambda mix: _spread(_mixed(small, *mix)))
    if _spread(_mixed(small, *mix)) < max(_LEAST_SPREAD, 4 * _spread(small.getchannel(0))):
        return None
    return _mixed(picture, *mix)


def _mixed(picture: PIL.Image.Image, share: float, opposed: bool) -> PIL.Image.Image:
    """Mixes the two channels of colour."""
    _, blue, red = picture.split()
    return PIL.Image.blend(blue, PIL.ImageChops.invert(red) if opposed else red, share)


def _spread(picture: PIL.Image.Image) -> float:
    """The variance of the values."""
    values = np.asarray(picture, dtype=np.int64)
    return float((values * values).sum() / values.size - (values.sum() / values.size) ** 2)

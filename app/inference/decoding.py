"""Uploaded bytes -> greyscale pixels, within limits on format and size; only ApiErrors come out.

The bytes are hostile until decoded: the signature decides the format, the size is checked before
any pixel is allocated, and whatever a decoder raises becomes one of two answers.
"""

import base64
import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from app.errors import ApiError, ErrorCode
from app.inference.image_formats import (
    Format,
    gif_screen,
    identify,
    identify_unsupported,
    is_cut_off,
    jpeg_has_too_many_scans,
    jpeg_keeps_all_coefficients,
    tiff_is_cut_off,
    webp_canvas,
    without_png_text,
)
from app.inference.plain_png import decode_plain_png
from model.arrays import Pixels

Grey = NDArray[np.uint8]
# An image file's bytes, or its pixels.
Image = bytes | Pixels

# What is decoded at once, on the event loop: about 0.1 ms. More is worth a thread.
INLINE_PIXELS = 64 * 64
# The largest uncompressed image of that size with its header. A small picture in a larger file is
# mostly metadata, which takes time as well.
INLINE_BYTES = 4 * INLINE_PIXELS + 1024

# A JPEG is scaled down while it is decoded, by 2, 4 or 8, as far as its shorter side stays at least
# this long: a digit a tenth as high is then still larger than MNIST's.
_DRAFT_SIDE = 320

# A picture of more pixels than this is scaled down before it is converted, in strips of this many
# rows: of 50 million in four channels, each further copy would take 200 MB.
_MOST_WHOLE_PIXELS = 16_000_000
_STRIP_ROWS = 64

# Pillow reads every WebP as an animation, with four copies of the picture at a time: for the memory
# of other formats it may have half as many pixels.
_WEBP_SHARE = 2

# Not Image.open: it tries decoders in turn, warns of large images before their size can be
# checked, and gives JPEGs of several pictures to a decoder that cannot scale.
_DECODERS: dict[Format, Callable[[BytesIO], ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}

_CURES = {
    "HEIC": "send it as JPEG; iPhones do so under Settings, Camera, Formats, Most Compatible",
    "AVIF": "save it as PNG or JPEG",
    "SVG": "it has no pixels; export it as PNG",
}

# EXIF orientation -> what brings the picture upright.
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG = 0x0112


def decode(data: bytes, *, max_pixels: int) -> tuple[Grey, int]:
    """Decodes an image file, upright, transparency on paper that shows the ink.

    Args:
        data: a PNG, JPEG, WebP, BMP, GIF or TIFF file; of several frames the first counts.
        max_pixels: the most that is decoded, of a WebP half as many. A JPEG counts as it is scaled
            down while decoding.

    Returns:
        Brightness 0 to 255, (H, W), writable: an 8-bit greyscale image keeps its values exactly.
        And the factor by which the file's picture was scaled down while decoding.

    Raises:
        ApiError: empty_body, there are no bytes;
            unsupported_media_type, an image of a format that is not read here;
            not_an_image, anything else that cannot be decoded;
            truncated_image, the end is missing;
            too_many_pixels, it is larger than `max_pixels`, or than memory.
    """
    opened = _open(data, max_pixels)
    grey = _to_grey(opened)
    # Turned or not, the longer side stays the longer side.
    return grey, round(max(opened.size) / max(grey.shape))


def decode_inline(data: bytes, *, max_pixels: int) -> Grey | None:
    """As `decode`, for the event loop; None: it takes long enough to be worth a thread."""
    plain = decode_plain_png(data)
    if plain is not None:
        return plain
    # A few bytes of GIF or TIFF can make Pillow work for 0.1 s before it knows the size.
    if len(data) > INLINE_BYTES or identify(data) in ("GIF", "TIFF"):
        return None
    opened = _open(data, max_pixels)
    width, height = opened.image.size
    return _to_grey(opened) if width * height <= INLINE_PIXELS else None


_SPACES = b" \t\n\r\v\f"  # in base64, as lines or indented
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,")


def decode_base64(value: object) -> bytes:
    """The bytes of an image in base64, or in a data: URL of it.

    Raises:
        ApiError: invalid_parameter, it is neither.
    """
    if not isinstance(value, str):
        raise ErrorCode.INVALID_PARAMETER(
            "image must be a string: the image file in base64", param="image"
        )
    prefix = _DATA_URL.match(value)
    text = value[prefix.end() :] if prefix else value
    try:
        # Not split at the spaces: "A A A ..." would become millions of strings.
        return base64.b64decode(text.encode("ascii").translate(None, _SPACES), validate=True)
    except ValueError as error:
        raise ErrorCode.INVALID_PARAMETER(
            "image is not valid base64; encode the image file's bytes", param="image"
        ) from error


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file whose header was read and found within the limits; no pixel is decoded yet."""

    data: bytes
    format: Format
    image: ImageFile
    size: tuple[int, int]  # width and height before any scaling


def _open(data: bytes, max_pixels: int) -> _Opened:
    if not data:
        raise ErrorCode.EMPTY_BODY()
    image_format = identify(data)
    if image_format is None:
        name = identify_unsupported(data)
        if name is None:
            raise ErrorCode.NOT_AN_IMAGE()
        raise ErrorCode.UNSUPPORTED_MEDIA_TYPE(f"{name} images are not supported; {_CURES[name]}")
    if image_format == "PNG":
        data = without_png_text(data)
    elif image_format == "GIF":
        _check_pixels(gif_screen(data), max_pixels)
    elif image_format == "WebP":
        _check_pixels(webp_canvas(data), max_pixels // _WEBP_SHARE, kind=" of a WebP")
    elif image_format == "JPEG" and jpeg_has_too_many_scans(data):
        raise ErrorCode.NOT_AN_IMAGE(
            "this JPEG has more scans than is sane; save it again and send that"
        )
    _ignore_pillow_warnings()
    try:
        image = _DECODERS[image_format](BytesIO(data))
    except Exception as error:
        raise _refuse(data, image_format, error) from error
    if isinstance(image, TiffImageFile) and tiff_is_cut_off(image.tag_v2, len(data)):
        raise ErrorCode.TRUNCATED_IMAGE()
    width, height = size = image.size
    if isinstance(image, JpegImageFile):
        image.draft("L", (_DRAFT_SIDE, _DRAFT_SIDE))
        if width * height <= max_pixels or not jpeg_keeps_all_coefficients(data):
            width, height = image.size
    _check_pixels(width * height, max_pixels)
    return _Opened(data, image_format, image, size)


def _check_pixels(pixels: int, max_pixels: int, kind: str = "") -> None:
    if pixels > max_pixels:
        cure = "scale it down, or send it as JPEG" if kind else "scale it down"
        raise ErrorCode.TOO_MANY_PIXELS(
            f"the image has {pixels} pixels and this server decodes {max_pixels}{kind}; {cure}"
        )


def _to_grey(opened: _Opened) -> Grey:
    try:
        opened.image.load()
        return np.array(_turn_upright(_luminance(_shrink(opened.image)), opened.image))
    except Exception as error:
        raise _refuse(opened.data, opened.format, error) from error


def _refuse(data: bytes, image_format: Format, error: Exception) -> ApiError:
    """The answer to whatever a decoder raised: on hostile bytes that can be any exception."""
    if isinstance(error, MemoryError | PIL.Image.DecompressionBombError):
        return ErrorCode.TOO_MANY_PIXELS()
    if image_format == "TIFF":
        # Its metadata may lie behind the pixels, so damage cannot be distinguished from a lost end.
        return ErrorCode.TRUNCATED_IMAGE(
            "this TIFF file is cut off or damaged; save it again and send the whole file"
        )
    if is_cut_off(data, image_format):
        return ErrorCode.TRUNCATED_IMAGE()
    return ErrorCode.NOT_AN_IMAGE(
        f"this {image_format} file is damaged; save it again and send that"
    )


def _shrink(image: PIL.Image.Image) -> PIL.Image.Image:
    """Scales a very large picture down, strip by strip: whole, every conversion would copy it."""
    factor = math.ceil(math.sqrt(image.width * image.height / _MOST_WHOLE_PIXELS))
    if factor == 1:
        return image
    shrunk: PIL.Image.Image | None = None
    for top in range(0, image.height, factor * _STRIP_ROWS):
        bottom = min(image.height, top + factor * _STRIP_ROWS)
        strip = _averageable(image.crop((0, top, image.width, bottom))).reduce(factor)
        if shrunk is None:
            shrunk = PIL.Image.new(strip.mode, (strip.width, -(-image.height // factor)))
        shrunk.paste(strip, (0, top // factor))
    assert shrunk is not None
    return shrunk


def _averageable(image: PIL.Image.Image) -> PIL.Image.Image:
    """The same picture in a mode whose values can be averaged."""
    if image.mode.startswith("I;16"):
        return _high_byte(image)
    if image.mode == "I":
        return image.convert("F")
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("RGB") if image.mode in ("P", "1") else image


def _high_byte(image: PIL.Image.Image) -> PIL.Image.Image:
    """16 bits to 8: 65535 is white, and 257 times an 8-bit value is that value again."""
    return PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _luminance(image: PIL.Image.Image) -> PIL.Image.Image:
    """Any mode of Pillow's -> "L"."""
    mode = image.mode
    if mode == "L" and "transparency" not in image.info:
        return image
    if mode.startswith("I;16"):
        return _high_byte(image)
    if mode in ("I", "F"):
        return PIL.Image.fromarray(_stretch(np.array(image, dtype=np.float32)))
    if image.has_transparency_data:
        return _lay_on_paper(image)
    if mode == "LAB":
        return image.getchannel("L")
    return image.convert("L")


def _stretch(values: NDArray[np.float32]) -> Grey:
    """Values whose white is not agreed on -> 0 to 255; changes `values`.

    White is 1, 255 or 65535, the first that nothing exceeds. With values below 0 or above those,
    the darkest is black and the lightest white.
    """
    np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    np.clip(values, -1e30, 1e30, out=values)  # so that no difference overflows
    darkest, lightest = float(values.min()), float(values.max())
    black, white = darkest, lightest
    if darkest >= 0 and lightest <= 65535:
        black, white = 0.0, next(white for white in (1.0, 255.0, 65535.0) if lightest <= white)
    if white == black:
        return np.zeros(values.shape, dtype=np.uint8)
    values -= black
    values /= white - black
    values *= 255
    return np.rint(values, out=values).astype(np.uint8)


def _lay_on_paper(image: PIL.Image.Image) -> PIL.Image.Image:
    """Composites a transparent image over the brightness that makes its ink visible."""
    if image.mode not in ("LA", "RGBA"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    alpha = image.getchannel("A")
    grey = image.convert("L")
    if alpha.getextrema() == (255, 255):
        return grey
    paper = PIL.Image.new("L", grey.size, _choose_paper(grey, alpha))
    paper.paste(grey, mask=alpha)
    return paper


def _choose_paper(grey: PIL.Image.Image, alpha: PIL.Image.Image) -> int:
    """The brightness to see through the transparent parts.

    Ink alone, drawn on nothing, gets white or black, whichever is further from it. Where most of
    the picture is opaque and has contrast, its own paper is there, and cut-out corners get its
    colour.
    """
    opaque = alpha.point([0] * 128 + [255] * 128)
    counts = np.array(grey.histogram(opaque))
    if not counts.any():  # nothing but veils
        counts = np.array(grey.histogram(alpha))
    if not counts.any():
        return 255
    present = counts.nonzero()[0]
    covers_most = counts.sum() > grey.width * grey.height / 2
    if covers_most and present[-1] - present[0] >= 64:
        return int((counts.cumsum() >= counts.sum() / 2).argmax())  # the median
    mean = float(counts @ np.arange(256)) / float(counts.sum())
    return 255 if mean < 128 else 0


def _turn_upright(grey: PIL.Image.Image, source: PIL.Image.Image) -> PIL.Image.Image:
    """Applies the EXIF orientation; Pillow has done so for TIFF."""
    if "exif" not in source.info:
        return grey
    try:
        transpose = _UPRIGHT.get(source.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata, of a picture that could be decoded
        return grey
    return grey if transpose is None else grey.transpose(transpose)


_PILLOW_WARNINGS = "PIL\\."


def _ignore_pillow_warnings() -> None:
    """Keeps what Pillow thinks of a client's file out of the log.

    `warnings.catch_warnings` would do it for a block, but for all threads at once, in any order.
    So the filter is installed for good, on first use and again when something removed it.
    """
    for action, _, _, module, _ in warnings.filters:
        if action == "ignore" and getattr(module, "pattern", None) == _PILLOW_WARNINGS:
            return
    warnings.filterwarnings("ignore", module=_PILLOW_WARNINGS)

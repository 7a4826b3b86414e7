"""Uploaded bytes -> greyscale pixels, within limits on format and size; only ApiErrors come out.

The bytes are hostile until decoded: the signature decides the format, the size is checked before
any pixel is allocated, and whatever a decoder raises becomes one of two answers.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import PIL.Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from app.errors import ApiError, ErrorCode
from app.inference.colour import MOST_PIXELS, along_colours, has_little_contrast
from app.inference.grey import (
    Grey,
    as_shown,
    luminance,
    shrink,
    shrink_factor,
    use_all_of_range,
)
from app.inference.image_formats import (
    Format,
    find_mistake,
    identify,
    identify_unsupported,
    is_cut_off,
    jpeg_has_too_many_scans,
    jpeg_keeps_all_coefficients,
    tiff_has_too_many_values,
    tiff_is_cut_off,
    webp_canvas,
    without_png_text,
)
from app.inference.memory import WEBP_BYTES, decoding_memory
from app.inference.plain_png import (
    INLINE_PIXELS,
    LONGEST_SIDE,
    PLAIN_BYTES,
    PLAIN_PIXELS,
    decode_plain_png,
)
from model.arrays import Floats, Pixels

# An image file's bytes, its pixels, or another network's input.
Image = bytes | Pixels | Floats

# A JPEG is scaled down while it is decoded, by 2, 4 or 8, as far as its shorter side stays at least
# this long: a digit a tenth as high is then still larger than MNIST's.
_DRAFT_SIDE = 320

# Reads of a file by Python code. More are millions of empty chunks, blocks or runs, each of which
# costs Pillow a microsecond or more.
_MOST_READS = 400_000

# Pillow decodes run lengths of BMP pixel by pixel in Python.
_MOST_RUN_LENGTH_PIXELS = 4_000_000

# Pillow reads every WebP as an animation, with three copies of the picture at a time: it may have
# half as many pixels as other formats.
_WEBP_SHARE = 2


# Not Image.open: it tries decoders in turn, warns of large images before their size can be
# checked, and gives JPEGs of several pictures to a decoder that cannot scale.
class _Gif(GifImageFile):
    """Only the first frame counts: what follows it on the screen is not prepared, in its size."""

    disposal_method = property(lambda _: 0, lambda _, value: None)


class _WebP(WebPImageFile):
    """Frees the decoder's canvases before the picture is made of what it decoded."""

    def _get_next(self) -> tuple[bytes, int, int]:
        found = super()._get_next()
        self._decoder = None
        return found


class _Source(BytesIO):
    """A file of which a limited number of reads is allowed."""

    _reads = _MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads -= 1
        if self._reads < 0:
            raise ValueError("the file is in too many pieces")
        return super().read(size)


_DECODERS: dict[Format, Callable[[BytesIO], ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "WebP": _WebP,
    "GIF": _Gif,
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
_COLOURS = ("LA", "RGB", "RGBA")


def decode(data: bytes, *, max_pixels: int, max_memory: float = math.inf) -> tuple[Grey, int]:
    """Decodes an image file, upright, transparency on paper that shows the ink.

    Args:
        data: a PNG, JPEG, WebP, BMP, GIF or TIFF file; of several frames the first counts.
        max_pixels: the most that is decoded, of a WebP half as many. A JPEG counts as it is scaled
            down while decoding.
        max_memory: the most bytes that decoding may take.

    Returns:
        Brightness 0 to 255, (H, W), writable: an 8-bit greyscale image keeps its values exactly.
        And the factor by which the file's picture was scaled down while decoding.

    Raises:
        ApiError: empty_body, there are no bytes;
            unsupported_media_type, an image of a format that is not read here;
            not_an_image, anything else that cannot be decoded;
            truncated_image, the end is missing;
            invalid_pixels, it is black because its values use less of their range than 16 bits;
            too_many_pixels, it is larger than `max_pixels`, or than memory.
    """
    plain = decode_plain_png(data, int(min(max_pixels, PLAIN_PIXELS, max_memory / PLAIN_BYTES)))
    if plain is not None:
        return plain, 1
    try:
        opened = _open(data, max_pixels, max_memory)
        grey = _to_grey(opened)
    except ApiError as error:
        raise _explain(error, data) from error
    # Turned or not, the longer side stays the longer side.
    return grey, round(max(opened.size) / max(grey.shape))


def decode_as_shown(
    data: bytes, *, max_pixels: int, max_memory: float, mode: Literal["L", "RGB"], side: int
) -> Pixels:
    """Decodes a picture of anything, upright, without what makes a digit's ink visible.

    Args:
        data: see `decode`, also for the limits and what is raised.
        max_pixels: see there.
        max_memory: see there.
        mode: brightness, or colours.
        side: the longest that is needed: a large JPEG is scaled down while it is decoded.

    Returns:
        0 to 255, (H, W) or (H, W, 3).
    """
    try:
        opened = _open(data, max_pixels, max_memory, (mode, max(side, _DRAFT_SIDE)))
        try:
            opened.image.load()
            picture = as_shown(shrink(opened.image), mode)
            return np.array(_turn_upright(picture, opened.image))
        except Exception as error:
            raise _refuse(opened.data, opened.format, error) from error
    except ApiError as error:
        raise _explain(error, data) from error


def memory_needed(data: bytes) -> int:
    """Bytes that decoding an image file takes at most; see `decode` for what is raised."""
    return _open(data, max_pixels=LONGEST_SIDE**2, max_memory=math.inf).memory


def decode_inline(data: bytes, *, max_pixels: int) -> Grey | None:
    """As `decode`, for a file whose header promises a small picture; None: it is none."""
    plain = decode_plain_png(data, min(max_pixels, INLINE_PIXELS))
    if plain is not None:
        return plain
    try:
        opened = _open(data, max_pixels, math.inf)
        # The header may say less than there is.
        return _to_grey(opened) if math.prod(opened.image.size) <= INLINE_PIXELS else None
    except ApiError as error:
        raise _explain(error, data) from error


def _explain(error: ApiError, data: bytes) -> ApiError:
    """The same error, or what was done wrong to the file if that is known."""
    if error.kind in (ErrorCode.EMPTY_BODY, ErrorCode.UNSUPPORTED_MEDIA_TYPE):
        return error
    mistake = find_mistake(data)
    return error if mistake is None else ErrorCode.NOT_AN_IMAGE(mistake)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A file whose header was read and found within the limits; no pixel is decoded yet."""

    data: bytes
    format: Format
    image: ImageFile
    size: tuple[int, int]  # width and height before any scaling
    memory: int  # bytes that decoding takes at most


def _open(
    data: bytes,
    max_pixels: int,
    max_memory: float,
    draft: tuple[str, int] = ("L", _DRAFT_SIDE),
) -> _Opened:
    if not data:
        raise ErrorCode.EMPTY_BODY()
    image_format = identify(data)
    if image_format is None:
        name = identify_unsupported(data)
        if name is None:
            raise ErrorCode.NOT_AN_IMAGE()
        raise ErrorCode.UNSUPPORTED_MEDIA_TYPE(f"{name} images are not supported; {_CURES[name]}")
    # Without checksums, a file that was sent as text can still be read, with other pixels.
    if image_format in ("BMP", "GIF", "TIFF") and (mistake := find_mistake(data)):
        raise ErrorCode.NOT_AN_IMAGE(mistake)
    if image_format == "PNG":
        data = without_png_text(data)
    elif image_format == "WebP":
        pixels = math.prod(webp_canvas(data))
        _check_pixels(pixels, max_pixels // _WEBP_SHARE, kind=" of a WebP")
        _check_memory(pixels * WEBP_BYTES, max_memory)
    elif image_format == "TIFF" and tiff_has_too_many_values(data):
        raise ErrorCode.NOT_AN_IMAGE(
            "this TIFF has more strips or tiles than is sane; save it again and send that"
        )
    elif image_format == "JPEG" and jpeg_has_too_many_scans(data):
        raise ErrorCode.NOT_AN_IMAGE(
            "this JPEG has more scans than is sane; save it again and send that"
        )
    _ignore_pillow_warnings()
    try:
        image = _DECODERS[image_format](_Source(data))
    except Exception as error:
        raise _refuse(data, image_format, error) from error
    if isinstance(image, TiffImageFile) and tiff_is_cut_off(image.tag_v2, len(data)):
        raise ErrorCode.TRUNCATED_IMAGE()
    width, height = size = image.size
    kept = None
    if max(size) > LONGEST_SIDE:
        raise ErrorCode.TOO_MANY_PIXELS(
            f"the image has {width}x{height} pixels, and a side may have {LONGEST_SIDE}; "
            "cut it, or scale it down"
        )
    if isinstance(image, BmpImageFile) and image.tile[0].codec_name == "bmp_rle":
        most = min(max_pixels, _MOST_RUN_LENGTH_PIXELS)
        _check_pixels(width * height, most, kind=" of a BMP with run lengths")
    if isinstance(image, JpegImageFile):
        mode, side = draft
        image.draft(mode, (side, side))
        kept = size if jpeg_keeps_all_coefficients(data) else None
        if width * height <= max_pixels or kept is None:
            width, height = image.size
    _check_pixels(width * height, max_pixels)
    try:
        needed = decoding_memory(data, image, kept, shrink_factor(image))
    except Exception as error:  # damaged metadata
        raise _refuse(data, image_format, error) from error
    _check_memory(needed, max_memory)
    return _Opened(data, image_format, image, size, needed)


def _check_pixels(pixels: int, max_pixels: int, kind: str = "") -> None:
    if pixels > max_pixels:
        cure = "scale it down, or send it as JPEG" if kind else "scale it down"
        raise ErrorCode.TOO_MANY_PIXELS(
            f"the image has {pixels} pixels and this server decodes {max_pixels}{kind}; {cure}"
        )


def _check_memory(needed: int, max_memory: float) -> None:
    if needed > max_memory:
        raise ErrorCode.TOO_MANY_PIXELS(
            f"decoding the image could take {needed / 1e6:.0f} MB, and this server allows "
            f"{max_memory / 1e6:.0f} MB (DROPSERVE_MAX_IMAGE_MEMORY); scale it down, or send it as "
            "JPEG that is not progressive"
        )


def _to_grey(opened: _Opened) -> Grey:
    # Of 16-bit colours, Pillow keeps the high bytes.
    had_16_bits = opened.format in ("PNG", "TIFF") and opened.image.mode in _COLOURS
    had_16_bits = had_16_bits and ";16" in str(opened.image.tile)
    try:
        opened.image.load()
        picture = shrink(opened.image)
        grey_picture = luminance(picture)
        if has_little_contrast(grey_picture):
            grey_picture = _in_colour(opened, picture) or grey_picture
        grey = np.array(_turn_upright(grey_picture, opened.image))
    except Exception as error:
        raise _refuse(opened.data, opened.format, error) from error
    if had_16_bits and not grey.any():
        raise ErrorCode.INVALID_PIXELS(
            f"this {opened.format} has 16 bits for each value, and none is above 255, which is "
            "black; save it with 8 bits, or with values from 0 to 65535"
        )
    return use_all_of_range(grey, had_16_bits=had_16_bits)


def _in_colour(opened: _Opened, picture: PIL.Image.Image) -> PIL.Image.Image | None:
    """The picture along its colours, where it has any that say more than brightness."""
    if isinstance(opened.image, JpegImageFile) and picture.mode == "L" and opened.image.layers == 3:
        picture = JpegImageFile(BytesIO(opened.data))
        picture.draft("YCbCr", (_DRAFT_SIDE, _DRAFT_SIDE))
    is_colour = picture.mode in ("RGB", "YCbCr", "CMYK", "P") and not picture.has_transparency_data
    if not is_colour or picture.width * picture.height > MOST_PIXELS:
        return None
    if picture.mode != "YCbCr":
        picture = picture.convert("RGB").convert("YCbCr")
    return along_colours(picture)


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

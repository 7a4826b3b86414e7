"""Images of any kind -> the bytes of an image file, which are sent."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypeAlias

from .. import literals
from .errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    _File: TypeAlias = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO
    Image: TypeAlias = _File | PIL.Image.Image | NDArray[np.integer[Any]] | Mapping[str, Any]
    Images: TypeAlias = Iterable[Image]

# What PNG cannot hold goes as TIFF, which holds every mode of Pillow's but HSV.
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def encode_image(image: "Image") -> bytes:
    """The bytes of an image file.

    Args:
        image: one of
            a path (str or PathLike): the file is sent as it is;
            bytes: the content of an image file (PNG, JPEG, WebP, BMP, GIF, TIFF), sent as it is;
            an open binary file: it is read from where it stands to its end;
            a PIL image: sent without loss, turned upright first if it carries an EXIF orientation;
            an array, or an object that NumPy converts to one (such as a torch tensor on the CPU):
            brightness, integers 0 (black) to 255 (white) of any integer dtype, of shape (H, W),
            (H, W, 1), (1, H, W) or, for 28x28, (784,); in colour (H, W, 3), RGB, or (H, W, 4) with
            opacity. As with a picture, `preprocess="auto"` finds out whether the ink is dark or
            light; with "none" a 28x28 array is what the network sees: 0 paper, 255 ink. Floats and
            booleans are refused, since 1 could mean white or almost black.

    Raises:
        ImageError: the file or the PIL image cannot be read, or the array is none of these.
        TypeError: the image is of another type.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        with _reading("the memoryview", "send it before it is released"):
            return bytes(image)
    if isinstance(image, str | PathLike):
        with _reading("the file", "is this the path of an image?"):
            return Path(image).read_bytes()
    # A caller who has a PIL image has imported PIL.
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(image, pil.Image):
        return _encode_pil(image)
    if hasattr(image, "__array__"):
        return _encode_array(image)
    if hasattr(image, "read"):
        return _read(image)
    raise TypeError(
        "an image is a path, bytes, a binary file, a PIL image or an array, "
        f"and this is {type(image).__name__}"
    )


@contextmanager
def _reading(what: str, cure: str, code: str = "unreadable_file") -> Iterator[None]:
    """Raises an ImageError for any failure: what objects of other libraries raise is not known."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(code, f"{what} cannot be read ({reason}); {cure}") from error


def _read(file: Any) -> bytes:
    with _reading("the file", "open it again: open(path, 'rb')"):
        try:
            data = file.read()
        except UnicodeDecodeError:
            data = ""
    if not isinstance(data, bytes):
        raise TypeError("the file must be opened in binary mode: open(path, 'rb')")
    if not data:
        raise ImageError(
            "unreadable_file",
            "nothing is left to read: if the file was read before, go back with file.seek(0)",
        )
    return data


def _encode_pil(image: "PIL.Image.Image") -> bytes:
    from PIL import ImageOps

    with _reading("the PIL image", "send it while it and its file are open"):
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "HSV":
            upright = upright.convert("RGB")
        encoded = BytesIO()
        upright.save(encoded, "PNG" if upright.mode in _PNG_MODES else "TIFF", compress_level=1)
        return encoded.getvalue()


def _encode_array(values: Any) -> bytes:
    import numpy as np
    import PIL.Image

    cure = "of a torch tensor in which 1 is white, send (tensor * 255).round().byte().cpu()"
    with _reading(f"the {type(values).__name__}", cure, "invalid_array"):
        array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        _refuse(
            f"an image array has integers 0 to 255, and this one has {array.dtype}; "
            "if 1 is white: (array * 255).round().astype('uint8')"
        )
    if array.shape == (literals.SIDE**2,):
        array = array.reshape(literals.SIDE, literals.SIDE)
    elif array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):
        array = array.squeeze(axis=2 if array.shape[2] == 1 else 0)
    is_picture = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_picture or array.size == 0:
        _refuse(
            "an image array has the shape (H, W), (784,), (H, W, 3) or (H, W, 4), and this one "
            f"has {array.shape}; predict_batch and predict_mc_batch take several images"
        )
    if array.min() < 0 or array.max() > 255:
        _refuse("an image array has integers 0 to 255, and this one exceeds them; scale it")
    if array.max() <= 1:
        _refuse(
            "no value of the array is above 1: it looks scaled to [0, 1], which would be a black "
            "image; if 1 is white: (array * 255).astype('uint8')"
        )
    return _encode_pil(PIL.Image.fromarray(np.ascontiguousarray(array, dtype=np.uint8)))


def _refuse(message: str) -> NoReturn:
    raise ImageError("invalid_array", message)

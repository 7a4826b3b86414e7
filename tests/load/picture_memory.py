"""The memory that decoding takes, against what is reckoned from a picture's header.

`python -m tests.load.picture_memory` prints a table. Every picture is decoded in a process of its
own, after a small one has been.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from app.cli.machine import describe_machine
from app.inference.decoding import decode, memory_needed
from app.inference.memory import return_memory
from tests.load.decoding import peak_memory

# Format, mode and options of each picture.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "PNG, grey": ("PNG", "L", {}),
    "PNG, 1 bit": ("PNG", "1", {}),
    "PNG, palette": ("PNG", "P", {}),
    "PNG, palette, transparent": ("PNG", "P", {"transparency": 0}),
    "PNG, grey and transparent": ("PNG", "LA", {}),
    "PNG, RGB": ("PNG", "RGB", {}),
    "PNG, RGB, interlaced": ("PNG", "RGB", {"interlace": 1}),
    "PNG, RGB, turned by EXIF": ("PNG", "RGB", {"exif": True}),
    "PNG, RGBA": ("PNG", "RGBA", {}),
    "PNG, 16 bits": ("PNG", "I;16", {}),
    "JPEG": ("JPEG", "RGB", {}),
    "JPEG, grey": ("JPEG", "L", {}),
    "JPEG, CMYK": ("JPEG", "CMYK", {}),
    "JPEG, progressive": ("JPEG", "RGB", {"progressive": True}),
    "JPEG, progressive, 4:4:4": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "WebP": ("WebP", "RGB", {"method": 0}),
    "WebP, transparent": ("WebP", "RGBA", {"method": 0}),
    "WebP, lossless": ("WebP", "RGB", {"lossless": True, "method": 0, "quality": 0}),
    "WebP, lossless, transparent": ("WebP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
    "GIF": ("GIF", "P", {}),
    "GIF, transparent": ("GIF", "P", {"transparency": 0}),
    "GIF, animated": ("GIF", "P", {"animated": True}),
    "BMP, grey": ("BMP", "L", {}),
    "BMP, RGB": ("BMP", "RGB", {}),
    "TIFF, grey": ("TIFF", "L", {}),
    "TIFF, RGB": ("TIFF", "RGB", {}),
    "TIFF, RGB, LZW": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "TIFF, RGB, one strip": ("TIFF", "RGB", {"compression": "tiff_lzw", "strip_size": 2**30}),
    "TIFF, RGB, turned": ("TIFF", "RGB", {"compression": "tiff_lzw", "tiffinfo": {274: 6}}),
    "TIFF, RGBA, LZW": ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    "TIFF, JPEG": ("TIFF", "RGB", {"compression": "jpeg"}),
    "TIFF, JPEG, one strip": ("TIFF", "RGB", {"compression": "jpeg", "strip_size": 2**30}),
    "TIFF, 16 bits": ("TIFF", "I;16", {}),
    "TIFF, 32 bits": ("TIFF", "I", {"compression": "tiff_adobe_deflate"}),
    "TIFF, floats": ("TIFF", "F", {"compression": "tiff_adobe_deflate"}),
    "TIFF, floats, one strip": (
        "TIFF",
        "F",
        {"compression": "tiff_adobe_deflate", "strip_size": 2**30},
    ),
}
# Above and below the pixels from which a picture is scaled down before it is converted.
SIZES = ((4000, 3000), (7000, 5000))


def make_picture(name: str, size: tuple[int, int]) -> bytes:
    """A smooth picture of that kind."""
    image_format, mode, options = KINDS[name]
    options = dict(options)
    grey = Image.linear_gradient("L").resize(size)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode in ("RGBA", "LA"):
        picture = grey.convert(mode)
        picture.putalpha(grey.rotate(180))
    else:
        picture = grey.convert(mode)
    if options.pop("exif", False):
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif.tobytes()
    if options.pop("animated", False):
        options |= {"save_all": True, "append_images": [picture.point(lambda v: 255 - v)]}
        options |= {"disposal": 2, "transparency": 0}
    strip_size, TiffImagePlugin.STRIP_SIZE = (
        TiffImagePlugin.STRIP_SIZE,
        options.pop("strip_size", TiffImagePlugin.STRIP_SIZE),
    )
    file = BytesIO()
    if image_format == "PNG":
        options["compress_level"] = 1
    picture.save(file, image_format, **options)
    TiffImagePlugin.STRIP_SIZE = strip_size
    return file.getvalue()


def measure(path: Path) -> dict[str, float]:
    """Decodes a file; bytes above idle, those that were reckoned, and seconds."""
    small = BytesIO()
    Image.new("RGBA", (99, 99)).save(small, "PNG")
    decode(small.getvalue(), max_pixels=10**6)
    return_memory()
    data = path.read_bytes()
    needed = memory_needed(data)
    before = peak_memory()
    started = time.perf_counter()
    decode(data, max_pixels=10**9)
    seconds = time.perf_counter() - started
    measured = (peak_memory() - before) * 2**20
    return {"measured": measured, "reckoned": needed, "seconds": seconds}


def measure_apart(data: bytes) -> dict[str, float]:
    """As `measure`, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([measure.__module__])
    with NamedTemporaryFile() as file, ProcessPoolExecutor(1, mp_context=context) as pool:
        file.write(data)
        file.flush()
        return pool.submit(measure, Path(file.name)).result()


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    argparse.ArgumentParser(prog="python -m tests.load.picture_memory").parse_args(arguments)
    print(f"{describe_machine()}; bytes per pixel and seconds of decoding\n")
    head = "   ".join(f"{width}x{height:5}: reckoned" for width, height in SIZES)
    print(f"{'picture':30} {head}")
    for name in KINDS:
        row = f"{name:30}"
        for size in SIZES:
            found = measure_apart(make_picture(name, size))
            pixels = size[0] * size[1]
            measured, reckoned = found["measured"] / pixels, found["reckoned"] / pixels
            row += f" {measured:8.2f} {reckoned:8.2f} {found['seconds']:6.2f}"
        print(row, flush=True)


if __name__ == "__main__":
    main()

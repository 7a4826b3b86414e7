"""The time and memory of preparing an image, on one thread.

`python -m tests.load.decoding` prints a table. Each picture is a photo of a digit on lit paper, and
each row runs in its own process. Memory is counted from when everything is imported and one small
image has been prepared.
"""

import argparse
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from statistics import median, quantiles

import numpy as np
from PIL import Image

from app.cli.machine import describe_machine
from app.inference.decoding import decode
from model.compiling import compile_all
from model.digits.preprocessing import find_digits
from tests.samples.draw import draw_digit, preprocess_image

MAX_PIXELS = 50_000_000
# Width, height, format and mode of each picture. 12 and 48 megapixels are what phones make.
PICTURES: dict[str, tuple[int, int, str, str]] = {
    "28x28 PNG, MNIST's": (28, 28, "PNG", "L"),
    "28x28 PNG, inverted": (28, 28, "PNG", "inverted"),
    "28x28 PNG, drawn": (28, 28, "PNG", "drawn"),
    "140x140 PNG": (140, 140, "PNG", "L"),
    "400x400 PNG": (400, 400, "PNG", "L"),
    "1000x1000 PNG": (1000, 1000, "PNG", "L"),
    "12 MP JPEG 88": (4000, 3000, "JPEG", "RGB"),
    "12 MP PNG": (4000, 3000, "PNG", "RGB"),
    "48 MP JPEG 88": (8000, 6000, "JPEG", "RGB"),
    "48 MP PNG": (8000, 6000, "PNG", "RGB"),
    "48 MP PNG, transparent": (8000, 6000, "PNG", "RGBA"),
    "48 MP PNG, 16 bits": (8000, 6000, "PNG", "I;16"),
    "48 MP TIFF, floats": (8000, 6000, "TIFF", "F"),
    "24 MP WebP": (6000, 4000, "WebP", "RGB"),
}
_SECONDS = 2.0
_MOST_ROUNDS = 2000


def make_picture(name: str) -> bytes:
    """The file of that name in `PICTURES`."""
    width, height, image_format, mode = PICTURES[name]
    digit = draw_digit(4, size=500, height=0.5)
    if mode == "drawn":
        picture = draw_digit(4, size=width)
    elif (width, height) == (28, 28):
        pixels = preprocess_image(np.array(digit))
        picture = Image.fromarray(255 - pixels if mode == "inverted" else pixels)
    else:
        picture = digit.resize((width, height), Image.Resampling.BICUBIC)
        light = (
            Image.linear_gradient("L")
            .resize((width, height))
            .point([128 + v // 2 for v in range(256)])
        )
        picture = Image.composite(picture, Image.new("L", picture.size), light)
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
        else:
            picture = picture.convert(mode)
    file = BytesIO()
    options = {"quality": 88} if image_format == "JPEG" else {}
    picture.save(file, image_format, compress_level=1, **options)
    return file.getvalue()


def prepare(data: bytes) -> None:
    """Prepares an image as the server does."""
    grey, factor = decode(data, max_pixels=MAX_PIXELS)
    find_digits(grey, scale=factor)


def measure(data: bytes) -> tuple[list[float], float]:
    """Seconds of each round, and the most memory above idle, MiB."""
    compile_all()
    prepare(make_picture("28x28 PNG, drawn"))
    before = peak_memory()
    rounds: list[float] = []
    while len(rounds) < 3 or (sum(rounds) < _SECONDS and len(rounds) < _MOST_ROUNDS):
        start = time.perf_counter()
        prepare(data)
        rounds.append(time.perf_counter() - start)
    return rounds, peak_memory() - before


def peak_memory() -> float:
    """Most resident memory of this process so far, MiB; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def print_row(name: str, data: bytes) -> None:
    """Measures and prints one picture."""
    rounds, memory = measure(data)
    low, _, high = quantiles(rounds, n=4)
    print(
        f"{name:24} {len(data) / 1e6:8.3f} {median(rounds) * 1e3:9.3f} "
        f"({low * 1e3:.3f}-{high * 1e3:.3f}) {memory:12.0f}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Prints the table, or with a picture's name its row, reading the file from standard input."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.decoding")
    parser.add_argument("--row", choices=PICTURES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.row:
        print_row(options.row, sys.stdin.buffer.read())
        return
    print(f"{describe_machine()}, one thread\n")
    print(f"{'picture':24} {'MB':>8} {'ms':>9} (quartiles) {'MiB above idle':>16}", flush=True)
    for name in PICTURES:
        # The picture is made here, so that making it does not count.
        subprocess.run(
            [sys.executable, "-m", __spec__.name, "--row", name],
            input=make_picture(name),
            check=True,
        )


if __name__ == "__main__":
    main()

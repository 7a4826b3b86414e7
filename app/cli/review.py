"""`dropserve review`: shows what a server kept for review, and takes labels."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from app.cli.options import Commands
from app.errors import EXIT_OK, ApiError, UsageError

_SHADES = " .:-=+*#%@"


def add_review_command(commands: Commands) -> None:
    """Adds `review`."""
    parser = commands.add_parser(
        "review",
        help="label the pictures that a server kept",
        description="Show the pictures in a folder of DROPSERVE_REVIEW_DIR one after the other, "
        "take their labels, and write those to a file that dropserve-train calibrate reads. "
        "Pictures that have a label there are not shown again.",
    )
    parser.set_defaults(command=_review)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("review.npz"), metavar="FILE.npz", help="the file"
    )


def _review(options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        raise UsageError(f"{options.folder} is not a folder")
    labelled = review(options.folder, options.output, sys.stdin, sys.stdout.write)
    sys.stderr.write(f"{labelled} labels in {options.output}\n")
    return EXIT_OK


def review(folder: Path, output: Path, lines: Iterable[str], write: Callable[[str], object]) -> int:
    """Asks for the label of each picture.

    Args:
        folder: of a server.
        output: an .npz file with the arrays `inputs`, uint8, (N, 28, 28), `labels` and `names`; it
            is continued.
        lines: what the person types: a class index, nothing to pass on, q to end.
        write: shows a text to the person.

    Returns:
        The number of labels in the file.

    Raises:
        UsageError: the file cannot be continued.
    """
    from app.inference.review import review_files

    known = _load(output)
    typed = iter(lines)
    for file in review_files(folder):
        if file.name in known:
            continue
        shown = _show(file, write)
        if shown is None:
            continue
        pixels, classes = shown
        label = _ask(typed, classes, write)
        if label is None:
            break
        if label >= 0:
            known[file.name] = pixels, label
            _save(output, known)
    return len(known)


def _show(file: Path, write: Callable[[str], object]) -> tuple[Any, int] | None:
    """Shows a picture as the network sees it; returns that, and the number of classes."""
    from app.inference.reading import read_picture
    from app.inference.review import read_review_file

    try:
        image, preprocess, answer = read_review_file(file)
        pixels = read_picture(image, preprocess, max_pixels=50_000_000).pixels  # type: ignore[arg-type]
        decision = answer["decision"]
        verdict = decision["reason"] or decision["outcome"]
        words = f"{answer['label']} ({answer['confidence']:.3f}), {verdict}"
        classes = len(answer["probabilities"])
    except (OSError, ValueError, KeyError, TypeError, ApiError) as error:
        write(f"{file.name} cannot be shown: {error}\n")
        return None
    scale = 256 / len(_SHADES)
    for row in pixels[::2]:  # a character is twice as high as wide
        write("".join(_SHADES[int(value / scale)] for value in row).rstrip() + "\n")
    write(f"{file.name}: {words}\n")
    return pixels, classes


def _ask(typed: Any, classes: int, write: Callable[[str], object]) -> int | None:
    """The label; -1: none; None: the person ends."""
    while True:
        write(f"label, 0 to {classes - 1} (Enter: none, q: end)? ")
        line = next(typed, "q").strip()
        if line == "q":
            return None
        if not line:
            return -1
        if line.isdecimal() and int(line) < classes:
            return int(line)


def _load(path: Path) -> dict[str, tuple[Any, int]]:
    import numpy as np

    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as saved:
            columns = saved["names"].tolist(), saved["inputs"], saved["labels"].tolist()
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is not a file of dropserve review") from error
    return {name: (pixels, label) for name, pixels, label in zip(*columns, strict=True)}


def _save(path: Path, known: dict[str, tuple[Any, int]]) -> None:
    """Writes all labels, in one go: whatever happens, the file is whole."""
    import numpy as np

    part = path.with_suffix(".part.npz")
    np.savez_compressed(
        part,
        inputs=np.stack([pixels for pixels, _ in known.values()]),
        labels=np.array([label for _, label in known.values()], np.int64),
        names=np.array(list(known)),
    )
    part.replace(path)

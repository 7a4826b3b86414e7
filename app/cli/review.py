"""`dropserve review`: shows what a server kept for review, and takes labels."""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.cli.options import Commands
from app.errors import EXIT_OK, ApiError, UsageError
from model.errors import ModelError

if TYPE_CHECKING:
    from model.layered import InputSpec

_SHADES = " .:-=+*#%@"
_MOST_COLUMNS = 80


def add_review_command(commands: Commands) -> None:
    """Adds `review`."""
    parser = commands.add_parser(
        "review",
        help="label the pictures that a server kept",
        description="Show the pictures in a folder of DROPSERVE_REVIEW_DIR one after the other, "
        "take their labels, and write those to a file that dropserve-train calibrate reads. "
        "Pictures that have a label there are not shown again. A file is for one model.",
    )
    parser.set_defaults(command=_review)
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("review.npz"), metavar="FILE.npz", help="the file"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="whose pictures; without it the file's, or the oldest one's"
    )


def _review(options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        raise UsageError(f"{options.folder} is not a folder")
    labelled = review(
        options.folder, options.output, sys.stdin, sys.stdout.write, model=options.model
    )
    sys.stderr.write(f"{labelled} labels in {options.output}\n")
    return EXIT_OK


def review(
    folder: Path,
    output: Path,
    lines: Iterable[str],
    write: Callable[[str], object],
    *,
    model: str | None = None,
) -> int:
    """Asks for the label of each picture.

    Args:
        folder: of a server.
        output: an .npz file with the arrays `inputs`, (N, ...) as the model takes them, `labels`,
            `names` of the pictures' files, and the model's name as `model`; it is continued.
        lines: what the person types: a class index, nothing to pass on, q to end.
        write: shows a text to the person.
        model: whose pictures; None: the file's, or that of the oldest picture.

    Returns:
        The number of labels in the file.

    Raises:
        UsageError: the file cannot be continued.
    """
    from app.inference.review import review_files

    known, of_known = _load(output)
    if of_known is not None and model not in (None, of_known):
        raise UsageError(f"{output} has labels of the model {of_known}; name another file")
    model, typed, others = model or of_known, iter(lines), set()
    for file in review_files(folder):
        if file.name in known:
            continue
        kept = _read(file, write)
        if kept is None:
            continue
        name, inputs, classes, shown = kept
        model = model or name
        if name != model:
            others.add(name)
            continue
        write("".join(f"{line}\n" for line in shown))
        label = _ask(typed, classes, write)
        if label is None:
            break
        if label >= 0:
            known[file.name] = inputs, label
            _save(output, known, model)
    if others:
        write(f"there are pictures of other models: --model {', '.join(sorted(others))}\n")
    return len(known)


def _read(file: Path, write: Callable[[str], object]) -> tuple[str, Any, int, Iterable[str]] | None:
    """The model, its input, the number of classes, and the lines that show the input.

    None: the file cannot be read, which the person sees.
    """
    from app.inference.reading import read_picture
    from app.inference.review import read_review_file

    try:
        image, preprocess, answer, spec = read_review_file(file)
        inputs = read_picture(image, preprocess, spec, max_pixels=50_000_000).pixels
        decision = answer["decision"]
        verdict = decision["reason"] or decision["outcome"]
        words = f"{answer['label']} ({answer['confidence']:.3f}), {verdict}"
        shown = [*_draw(inputs, spec), f"{file.name}: {words}"]
        name, classes = str(answer["model"]["name"]), len(answer["probabilities"])
        return name, inputs.reshape(spec.shape), classes, shown
    except (OSError, ValueError, KeyError, TypeError, ApiError, ModelError) as error:
        write(f"{file.name} cannot be shown: {error}\n")
        return None


def _draw(inputs: Any, spec: "InputSpec") -> Iterator[str]:
    """Lines of characters for a picture as the network sees it, and numbers for what is none."""
    import numpy as np

    from app.inference.plain_inputs import picture_size

    if inputs.ndim == 3 and picture_size(spec) is not None:
        inputs = inputs.mean(axis=2 if spec.channels == "last" else 0)
    elif inputs.ndim != 2 or spec.dtype != "uint8":
        yield np.array2string(inputs, max_line_width=_MOST_COLUMNS)
        return
    scale, step = 256 / len(_SHADES), -(-inputs.shape[1] // _MOST_COLUMNS)
    for row in inputs[:: 2 * step, ::step]:  # a character is twice as high as wide
        yield "".join(_SHADES[int(value / scale)] for value in row).rstrip()


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


def _load(path: Path) -> tuple[dict[str, tuple[Any, int]], str | None]:
    """The inputs and labels of a file, and the name of their model."""
    import numpy as np

    if not path.exists():
        return {}, None
    try:
        with np.load(path, allow_pickle=False) as saved:
            columns = saved["names"].tolist(), saved["inputs"], saved["labels"].tolist()
            model = str(saved["model"])
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is not a file of dropserve review") from error
    return {name: (inputs, label) for name, inputs, label in zip(*columns, strict=True)}, model


def _save(path: Path, known: dict[str, tuple[Any, int]], model: str) -> None:
    """Writes all labels, in one go: whatever happens, the file is whole."""
    import numpy as np

    part = path.with_suffix(".part.npz")
    np.savez_compressed(
        part,
        inputs=np.stack([inputs for inputs, _ in known.values()]),
        labels=np.array([label for _, label in known.values()], np.int64),
        names=np.array(list(known)),
        model=np.array(model),
    )
    part.replace(path)

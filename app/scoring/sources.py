"""What stands on the command line -> pieces of files, in order -> blocks of them."""

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.scoring import readers
from app.scoring.readers import Failure, Piece, failure_of, file_system, survey_of
from model.files import is_image_name, walk_files

# Of a block at most: about a second of a core, which is lost at an interruption.
BLOCK_ROWS, BLOCK_PASSES, BLOCK_BYTES = 1024, 1024 * 50, 16 * 2**20
_DAMAGED = Failure(
    "corrupt_file", "it is damaged, or not what its name says; arrays are numbers in C order"
)
_NOTHING = Failure("unreadable_file", "there is no image, or no file has such a name")


@dataclass(frozen=True)
class Block:
    """Consecutive images of the input that are scored and written together."""

    first_row: int  # number of its first image in the whole input
    rows: int  # how many images
    pieces: tuple[Piece, ...]


def survey(arguments: Sequence[str], column: str | None = None) -> tuple[list[Piece], str]:
    """The images that arguments name, in their order.

    Args:
        arguments: files, folders, patterns; or URLs of these, as fsspec takes them.
        column: of Parquet files; None: the one that holds images.

    Returns:
        Pieces, about 300 bytes each; what cannot be read is one, too. And a digest of where they
        are and of the files' sizes and times, by which a run knows its input again.
    """
    pieces: list[Piece] = []
    digest = hashlib.sha256()
    for argument in arguments:
        before = len(pieces)
        try:
            for path in _find(argument):
                stamp, found = _survey_file(path, column)
                digest.update(repr((stamp, found)).encode())
                pieces += found
        except OSError as error:
            pieces.append(Piece(argument, failure=failure_of(error, _NOTHING)))
        if len(pieces) == before:
            pieces.append(Piece(argument, failure=_NOTHING))
    return pieces, digest.hexdigest()


def _survey_file(path: str, column: str | None) -> tuple[str, list[Piece]]:
    """What changes with a file's content, and its pieces."""
    stamp, failure = "", _NOTHING
    found: list[Piece] = []
    try:
        size, stamp = readers.look_at(path)
        whole, survey = Piece(path, size=size), survey_of(path)
        if survey is None:
            return stamp, [whole]
        with readers.open_file(path) as file:
            found += survey(file, whole, column)
        if any(piece.start < piece.stop for piece in found):
            return stamp, found
    except readers.DAMAGE as error:
        failure = failure_of(error, _DAMAGED)
    return stamp, [*found, Piece(path, failure=failure)]


def _find(argument: str) -> Iterator[str]:
    """The files that an argument names: one, those of a folder sorted by path, or of a pattern."""
    system, name = file_system(argument)
    if system is None:
        is_pattern = glob.has_magic(name) and not Path(name).exists()
        # Not of pathlib, which would change the user's form.
        for each in sorted(glob.glob(name, recursive=True)) if is_pattern else [name]:  # noqa: PTH207
            yield from walk_files(each, _is_wanted) if Path(each).is_dir() else [each]
        return
    for each in sorted(system.glob(name)) if glob.has_magic(name) else [name]:
        is_folder = system.isdir(each)
        found = filter(_is_wanted, sorted(system.find(each))) if is_folder else [each]
        yield from map(system.unstrip_protocol, found)


def _is_wanted(name: str) -> bool:
    return is_image_name(name) or survey_of(name) is not None


def cut(pieces: Iterable[Piece], passes: int) -> Iterator[Block]:
    """The blocks of pieces, cut where rows, passes or bytes are enough."""
    first_row = rows = size = 0
    most_rows = max(min(BLOCK_ROWS, BLOCK_PASSES // passes), 1)
    taken: list[Piece] = []
    for piece in pieces:
        image_bytes = max(piece.size, 1)
        step = max(min(most_rows, BLOCK_BYTES // image_bytes), 1)
        for start in range(piece.start, piece.stop, step):
            stop = min(start + step, piece.stop)
            more = (stop - start) * image_bytes
            if taken and (rows + stop - start > most_rows or size + more > BLOCK_BYTES):
                yield Block(first_row, rows, tuple(taken))
                first_row, rows, size, taken = first_row + rows, 0, 0, []
            taken.append(piece._replace(start=start, stop=stop))
            rows, size = rows + stop - start, size + more
    if taken:
        yield Block(first_row, rows, tuple(taken))

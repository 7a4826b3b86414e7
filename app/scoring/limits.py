"""What bounds the memory of scoring."""

from app.scoring.items import Failure

LARGEST_IMAGE_PIXELS = 50_000_000
# More than 50 million pixels in four channels need.
LARGEST_FILE_BYTES = 256 * 2**20
# A chunk is computed and written as a whole, and done anew if the run is killed before.
CHUNK_ROWS = 1024
CHUNK_BYTES = 16 * 2**20
# Rows of the finished table that are in memory together.
GROUP_ROWS = 65_536


def too_large() -> Failure:
    """What is said of an image file beyond the limit."""
    return Failure(
        "too_large", f"the file has more than {LARGEST_FILE_BYTES >> 20} MB; scale it down"
    )

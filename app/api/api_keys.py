"""API keys: a file of their SHA-256 digests, one a line, and whether a key is among them.

A key is made here, of 256 random bits, so a plain digest says nothing about it. The file can be
changed while the server runs; a file that cannot be read changes nothing, and the log says why.
"""

import hmac
import logging
import secrets
import string
import time
from hashlib import sha256
from pathlib import Path

from app.settings import SettingsError

# So that a key is recognised where it should not be, in a file or in a message.
KEY_PREFIX = "dropserve_"
_KEY_BYTES = 32
_DIGEST_LENGTH = 64  # hexadecimal
_LOOKING_SECONDS = 1.0

logger = logging.getLogger("dropserve")


def make_key() -> str:
    """A new key: 256 bits of the system's randomness."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def key_line(key: str, name: str) -> str:
    """The line of the file that lets a key in; whose it is stands behind the digest."""
    return f"{sha256(key.encode()).hexdigest()}  {name}".rstrip()


class ApiKeys:
    """The keys that a file lets in.

    Args:
        path: of the file: in each line a digest, and then whatever tells people whose key it is.
            Empty lines and those that begin with # say nothing.

    Raises:
        SettingsError: it cannot be read, has no keys, or has a line that begins with no digest.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._digests = self._read()
        self._looked_at = time.monotonic()

    def __len__(self) -> int:
        return len(self._digests)

    def admits(self, key: bytes) -> bool:
        """Whether the key is one of these; the time it takes does not tell how nearly."""
        if time.monotonic() >= self._looked_at + _LOOKING_SECONDS:
            self._refresh()
        digest = sha256(key).digest()
        is_known = False
        for known in self._digests:  # all of them: none is found sooner than another
            is_known |= hmac.compare_digest(digest, known)
        return is_known

    def _refresh(self) -> None:
        self._looked_at = time.monotonic()
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._digests = self._read()
        except SettingsError as error:
            logger.error("the API keys stay as they are: %s", error)
        else:
            logger.info("API keys: %s", len(self._digests))

    def _look(self) -> tuple[int, ...]:
        """What changes when the file does."""
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> list[bytes]:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text"
            raise SettingsError(f"cannot read the API keys in {self._path}: {reason}") from None
        digests = []
        for number, line in enumerate(lines, 1):
            digest = line.partition("#")[0].split()[:1]
            if not digest:
                continue
            if len(digest[0]) != _DIGEST_LENGTH or not set(digest[0]) <= set(string.hexdigits):
                # Not repeated: it may be a key.
                raise SettingsError(
                    f"line {number} of {self._path} does not begin with a SHA-256 digest; "
                    "dropserve new-key makes a key and its line"
                )
            digests.append(bytes.fromhex(digest[0]))
        if not digests:
            raise SettingsError(
                f"there are no API keys in {self._path}; dropserve new-key makes a key and its line"
            )
        return digests

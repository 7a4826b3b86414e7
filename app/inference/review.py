"""Pictures that a person should look at, kept with their answers in a folder of bounded size.

`dropserve review` shows them. Each is one file of JSON; the oldest give way to new ones.
"""

import base64
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from app.inference.encoding import encode_json
from app.schemas import Prediction, PredictParameters
from app.settings import Settings, SettingsError
from model.layered import InputSpec
from model.literals import SIDE, Preprocess

if TYPE_CHECKING:
    from app.inference.decoding import Image

SUFFIX = ".json"
DIGITS = InputSpec((SIDE, SIDE), "uint8", preparation="digit")
_LOCK = ".total"
# Of a flood of abstentions only some are kept: all of them would cost time, and soon be replaced.
_PER_SECOND = 10.0
_MOST_WAITING = 16
# A picture larger than this share of the folder is not kept.
_LARGEST_SHARE = 1 / 4
# Where the folder is full, this share of it stays.
_KEPT_SHARE = 7 / 8

logger = logging.getLogger("dropserve")


class ReviewFolder:
    """Takes pictures and answers, and writes them in a thread of its own.

    Several workers may share a folder.

    Args:
        path: of the folder; it is made, for this user only.
        max_bytes: that its files hold together.
        audit_share: of accepted answers, those that are kept, drawn at random.

    Raises:
        SettingsError: the folder cannot be made or written to.
    """

    def __init__(self, path: Path, max_bytes: int, audit_share: float) -> None:
        self._path, self._max_bytes, self._audit_share = path, max_bytes, audit_share
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked(-1):
                pass  # counted anew with the first file
        except OSError as error:
            raise SettingsError(f"DROPSERVE_REVIEW_DIR: {path}: {error.strerror}") from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._waiting = 0
        self._next = 0.0
        self._has_failed = False

    @classmethod
    def of(cls, settings: Settings) -> "ReviewFolder | None":
        """The one that the settings name; None: nothing is kept."""
        if settings.review_dir is None:
            return None
        return cls(settings.review_dir, settings.review_bytes, settings.audit_share)

    def offer(
        self,
        image: "Image",
        parameters: PredictParameters,
        answer: Prediction,
        spec: InputSpec = DIGITS,
    ) -> None:
        """Keeps an abstained picture, and an accepted one by chance; waits for nothing.

        Args:
            image: as it was sent, or a network's other input.
            parameters: of the request.
            answer: which names the model.
            spec: what the network takes.
        """
        decision = answer.decision
        if decision is None:
            return
        if not decision.abstains and random.random() >= self._audit_share:  # nosec B311: no secret
            return
        now = time.monotonic()
        if now < self._next or self._waiting >= _MOST_WAITING:
            return
        self._next = now + 1 / _PER_SECOND
        self._waiting += 1
        self._thread.submit(self._keep, image, parameters.preprocess, answer, spec)

    def close(self) -> None:
        """Writes what is waiting."""
        self._thread.shutdown()

    def _keep(self, image: "Image", preprocess: str, answer: Prediction, spec: InputSpec) -> None:
        try:
            content = _encode(image, preprocess, answer, spec)
            if len(content) <= self._max_bytes * _LARGEST_SHARE:
                self._write(content)
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                text = "nothing is kept for review in %s until it can be written again: %s"
                logger.warning(text, self._path, error.strerror)
            self._has_failed = True
        except Exception:
            logger.exception("a picture could not be kept for review")
        finally:
            self._waiting -= 1

    def _write(self, content: bytes) -> None:
        file = self._path / f"{time.time_ns():019d}-{os.getpid()}{SUFFIX}"
        part = file.with_suffix(".part")
        with self._locked(len(content)) as total:
            if total is None or total + len(content) > self._max_bytes:
                self._trim(len(content))
            try:
                with open(part, "xb", opener=_private) as stream:
                    stream.write(content)
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)

    def _trim(self, needed: int) -> None:
        """Removes the oldest files, until there is room, and what a killed worker left."""
        for part in self._path.glob("*.part"):
            part.unlink(missing_ok=True)
        files = [(path, path.stat().st_size) for path in review_files(self._path)]
        total = sum(size for _, size in files)
        room = self._max_bytes * _KEPT_SHARE - needed
        for path, size in files:
            if total <= room:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._total = total

    @contextmanager
    def _locked(self, added: int) -> Iterator[int | None]:
        """Nobody else writes meanwhile; the bytes of all files before, None if they are unknown.

        Args:
            added: bytes in the block; -1: what is known of the files is forgotten.
        """
        descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "r+b") as lock:
            with suppress(ImportError):  # Windows, where there is one worker
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            known = lock.read()
            total = self._total = int(known) if known.isdigit() else None
            yield total
            lock.seek(0)
            lock.truncate()
            if added >= 0 and self._total is not None:
                lock.write(b"%d" % (self._total + added))

    _total: int | None = None


def review_files(path: Path) -> list[Path]:
    """The files of a folder, the oldest first."""
    return sorted(path.glob(f"*{SUFFIX}"))


def read_review_file(path: Path) -> tuple["Image", Preprocess, dict[str, Any], InputSpec]:
    """The picture, its `preprocess`, the answer, and what the network takes.

    Raises:
        OSError, ValueError, KeyError, TypeError, ShapeError: it cannot be read.
    """
    import numpy as np

    document = orjson.loads(path.read_bytes())
    picture, spec = document["picture"], _spec_from(document["input"])
    image: Image = (
        base64.b64decode(picture, validate=True)
        if isinstance(picture, str)
        else np.array(picture, spec.dtype)
    )
    return image, document["preprocess"], dict(document["answer"]), spec


def _spec_from(document: Mapping[str, Any]) -> InputSpec:
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
    }
    return InputSpec(**given)


def _encode(image: "Image", preprocess: str, answer: Prediction, spec: InputSpec) -> bytes:
    picture = base64.b64encode(image).decode() if isinstance(image, bytes) else image.tolist()
    kept = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "preprocess": preprocess,
        "input": spec,
        "picture": picture,
        "answer": orjson.Fragment(encode_json(answer)),
    }
    return orjson.dumps(kept)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

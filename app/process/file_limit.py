"""The limit of open files, beyond which the event loop drops new connections and says nothing."""

import logging
import sys
from contextlib import suppress

from app.settings import Settings

# Beyond the limit of connections, each for a second in which it may ask.
_LEAST_SPARE, _MOST_SPARE = 8, 4096
ACCEPTED_AT_A_TIME = 8  # each by a listener of its own
# Those, and a worker's own: about twenty, and some for reloading.
_OTHER_FILES = _LEAST_SPARE + ACCEPTED_AT_A_TIME + 32
# Connections that the event loop may accept before any is closed for them.
_MOST_PENDING = 2048

logger = logging.getLogger("dropserve")


def fit_to_file_limit(settings: Settings) -> Settings:
    """Raises the limit of this process and its children, or lowers that of connections to fit."""
    files = _raise_limit(settings.max_connections + _MOST_SPARE + _MOST_PENDING + _OTHER_FILES)
    left = files - _OTHER_FILES
    if settings.max_connections <= left * 7 // 8:
        return settings
    connections = max(1, left // 2)
    text = "at most %d open files: %d connections instead of %d; raise the limit, as with ulimit -n"
    logger.warning(text, files, connections, settings.max_connections)
    return settings.model_copy(update={"max_connections": connections})


def spare_connections(settings: Settings) -> int:
    """The number of connections beyond the limit, which wait for their turn."""
    return min(_LEAST_SPARE + _left(settings) // 2, _MOST_SPARE)


def pending_connections(settings: Settings) -> int:
    """The number of connections that the kernel may hold until they are accepted."""
    return max(1, min(_left(settings) // 2, _MOST_PENDING))


def _left(settings: Settings) -> int:
    """The files that connections within the limit leave."""
    return max(0, _raise_limit(0) - _OTHER_FILES - settings.max_connections)


def _raise_limit(wanted: int) -> int:
    """Raises the limit to what is wanted, or as far as it may be; returns it."""
    if sys.platform == "win32":  # it has none
        return sys.maxsize
    import resource

    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now == resource.RLIM_INFINITY:
        return sys.maxsize
    raised = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if raised > now:
        with suppress(OSError, ValueError):  # a system may allow less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, most))
            return raised
    return now

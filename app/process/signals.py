"""SIGHUP, which reloads: by default it ends a process, so it waits until the server handles it."""

import signal

SIGHUP: int | None = getattr(signal, "SIGHUP", None)  # None on Windows


def hold_reloads(is_held: bool) -> None:
    """Whether the kernel keeps a SIGHUP, also for process 1 of a container, or delivers it."""
    if SIGHUP is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK if is_held else signal.SIG_UNBLOCK, [SIGHUP])

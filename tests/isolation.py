"""A network of one's own, with nothing but the loopback in it: Ray listens on every interface."""

import functools
import subprocess

# Before a command line. Without root, in a user namespace of one's own.
ISOLATED = (
    *("unshare", "--map-root-user", "--net", "--"),
    *("bash", "-c", 'ip link set lo up && exec "$@"', "isolated"),
)
# The program is process 1, which gets no signal that it has no handler for.
AS_PROCESS_1 = ("unshare", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")


@functools.cache
def can_isolate() -> bool:
    """Whether this system lets us."""
    try:
        done = subprocess.run([*ISOLATED, "true"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0

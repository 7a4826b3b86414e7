"""Requests/s with everything that operating needs switched on, as a share of those without it.

`python -m tests.load.price_of_operating` starts two servers of one worker on the same core: one has
metrics, a JSON line in the log for each request, API keys and CORS, the other has none of these. It
loads them in turn with wrk from another core. The exit code is 1 where less than 85 % of the
requests/s are left.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from app.api.auth import key_line, make_key
from app.cli.machine import describe_machine
from tests.load.processes import assign_cores
from tests.load.rounds import Round, Target, describe, measure, ratios
from tests.load.servers import serving
from tests.load.wrk import PNG, require_wrk

ON = {
    "DROPSERVE_METRICS": "on",
    "DROPSERVE_ACCESS_LOG": "on",
    "DROPSERVE_LOG_FORMAT": "json",
    "DROPSERVE_CORS_ORIGINS": "https://example.org",
}
OFF = {
    "DROPSERVE_METRICS": "off",
    "DROPSERVE_ACCESS_LOG": "off",
}
LEAST_SHARE = 0.85
_KEYS = 10  # in the file; one of them is used
_COMPARED = (("predict on", "predict off"), ("mc on", "mc off"))


@contextmanager
def both_servers(core: int | None, passes: int) -> Iterator[Mapping[str, Target]]:
    """Starts both servers; the routes of each, by name and state, with a key."""
    keys = [make_key() for _ in range(_KEYS)]
    headers = {**PNG, "authorization": f"Bearer {keys[-1]}"}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "keys")
        file.write_text("\n".join(key_line(key, "price") for key in keys))
        on_settings = ON | {"DROPSERVE_API_KEYS_FILE": str(file)}
        with serving(core=core, environ=on_settings) as on, serving(core=core, environ=OFF) as off:
            paths = {"predict": "predict", "mc": f"predict/mc?passes={passes}"}
            yield {
                f"{name} {state}": Target(f"{server.address}/{path}", server.pid, headers=headers)
                for name, path in paths.items()
                for state, server in (("on", on), ("off", off))
            }


def report(rounds: Sequence[Round], connections: int) -> tuple[str, bool]:
    """Both tables, and whether enough requests/s are left."""
    points = [(name, connections) for pair in _COMPARED for name in pair]
    shares = [
        median(ratios(rounds, *((name, connections) for name in pair))[0]) for pair in _COMPARED
    ]
    return "\n".join(describe(rounds, points, _COMPARED)), min(shares) >= LEAST_SHARE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--passes", type=int, default=50)
    options = parser.parse_args()
    require_wrk()
    cores = assign_cores()
    with both_servers(cores[0], options.passes) as targets:
        points = [(name, options.connections) for name in targets]
        rounds = measure(targets, points, options.seconds, options.rounds, cores[1])
    print(f"{describe_machine()}; medians of {options.rounds} rounds of {options.seconds} s\n")
    text, is_enough = report(rounds, options.connections)
    print(text)
    sys.exit(0 if is_enough else 1)


if __name__ == "__main__":
    main()

"""What it costs to operate the server: everything on, against everything off.

`python -m tests.load.price_of_operating` starts two servers of one worker on the same core, one
with metrics, a line of JSON in the log for each request, API keys and CORS, and one with none of
these. It drives them in turns with wrk from another core, both with the same requests, in slices of
a second: what else the machine does in a round is shared by both. Ratios are medians of the rounds'
own ratios. wrk is Debian's package.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from app.api.api_keys import key_line, make_key
from app.api.examples import example_pngs
from app.bench_servers import start_bench_app
from app.cli.machine import describe_machine
from app.scoring.on_cores import usable_cores
from tests.load.price_of_doubt import Figures, run_wrk, say, write_script

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
_OTHER_KEYS = 9  # in the file, besides the one that is used
# Of the requests/s without all this, so many must be left.
LEAST_SHARE = 0.85
_SLICE_SECONDS = 1

Round = tuple[Figures, Figures]  # on, off


def measure(
    on: str, off: str, script: Path, arguments: argparse.Namespace, core: int | None
) -> Iterator[Round]:
    """The figures of both addresses, round after round."""

    def drive(url: str) -> Figures:
        return run_wrk(url, script, arguments.connections, _SLICE_SECONDS, core)

    drive(on), drive(off)  # uncounted: connections, caches, first times
    for _ in range(arguments.rounds):
        slices: dict[str, list[Figures]] = {on: [], off: []}
        for number in range(arguments.seconds):
            for url in (on, off) if number % 2 else (off, on):
                slices[url].append(drive(url))
        yield _together(slices[on]), _together(slices[off])


def _together(slices: Sequence[Figures]) -> Figures:
    return Figures(
        mean(one.requests_per_second for one in slices),
        median(one.p99_ms for one in slices),
        sum(one.refused for one in slices),
        sum(one.failed for one in slices),
    )


def describe(path: str, rounds: Sequence[Round]) -> tuple[list[str], float]:
    """A table of the rounds, and the median ratio."""
    lines = [path]
    for name, figures in zip(("on", "off"), zip(*rounds, strict=True), strict=True):
        rates = " ".join(f"{one.requests_per_second:>7.0f}" for one in figures)
        lines.append(
            f"  {name:<4}{rates}  median {median(one.requests_per_second for one in figures):>7.0f}"
            f"  p99 {median(one.p99_ms for one in figures):.2f} ms"
            f"  non-2xx {sum(one.refused for one in figures)}"
            f"  unanswered {sum(one.failed for one in figures)}"
        )
    ratios = [on.requests_per_second / off.requests_per_second for on, off in rounds]
    listed = " ".join(f"{ratio:.3f}" for ratio in ratios)
    lines.append(f"  on/off: {listed}, median {median(ratios):.3f}")
    return lines, median(ratios)


def write_keys(folder: Path, key: str) -> dict[str, str]:
    """The setting that asks for the key, or for one of some others."""
    file = folder / "keys"
    keys = [*(make_key() for _ in range(_OTHER_KEYS)), key]
    file.write_text("\n".join(key_line(each, "price") for each in keys))
    return {"DROPSERVE_API_KEYS_FILE": str(file)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=6, help="of each, in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--passes", type=int, default=50)
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (Debian: apt-get install wrk)")
    cores = usable_cores()
    server_core, wrk_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    say(f"{describe_machine()}; servers on core {server_core}, wrk on core {wrk_core}")
    say(
        f"{arguments.connections} connections, {arguments.rounds} rounds of {arguments.seconds} s, "
        "requests/s:"
    )
    shares, key = [], make_key()
    with (
        tempfile.TemporaryDirectory() as folder,
        start_bench_app(server_core, ON | write_keys(Path(folder), key)) as on,
        start_bench_app(server_core, OFF) as off,
    ):
        headers = {"content-type": "image/png", "authorization": f"Bearer {key}"}
        script = write_script(Path(folder), example_pngs(), headers)
        for path in ("/predict", f"/predict/mc?passes={arguments.passes}"):
            rounds = list(measure(on + path, off + path, script, arguments, wrk_core))
            lines, share = describe(path, rounds)
            shares.append(share)
            for line in lines:
                say(line)
    sys.exit(0 if min(shares) >= LEAST_SHARE else 1)


if __name__ == "__main__":
    main()

"""What a prediction costs beyond a constant answer, and what doubt costs beyond a prediction.

`python -m tests.load.price_of_doubt` starts one worker on one core, the product's app with a route
that answers a constant of the same size, and drives it with wrk from another core: each round
measures the constant, `/predict` and `/predict/mc` one after the other, over the same number of
connections. Ratios are medians of the rounds' own ratios. wrk is Debian's package.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from app.api.examples import example_pngs
from app.bench_report import describe_images
from app.bench_servers import set_constant, start_bench_app
from app.cli.machine import describe_machine
from app.scoring.on_cores import usable_cores

TARGETS = ("constant", "predict", "mc")
RATIOS = (("predict", "constant"), ("mc", "predict"))
# Before the first round, uncounted: connections, caches, first times.
_WARM_UP_SECONDS = 1

_SCRIPT = """
local requests, number = {}, 0
init = function()
   for i, name in ipairs(BODIES) do
      local file = io.open(name, "rb")
      requests[i] = wrk.format("POST", nil, nil, file:read("*a"))
      file:close()
   end
end
request = function()
   number = number % #requests + 1
   return requests[number]
end
done = function(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      '\\n{"requests":%d,"microseconds":%d,"p99":%d,"refused":%d,"failed":%d}\\n',
      summary.requests, summary.duration, latency:percentile(99), e.status,
      e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Figures:
    """One measurement of wrk's."""

    requests_per_second: float
    p99_ms: float
    refused: int  # answers that are not 2xx
    failed: int  # requests without an answer


def write_script(folder: Path, bodies: Sequence[bytes], headers: Mapping[str, str]) -> Path:
    """What wrk is to send, one body after the other, as a script in the folder."""
    files = [folder / f"{number}.png" for number in range(len(bodies))]
    for file, body in zip(files, bodies, strict=True):
        file.write_bytes(body)
    set_headers = [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    names = "{" + ", ".join(f'"{file}"' for file in files) + "}"
    script = folder / "post.lua"
    script.write_text("\n".join([*set_headers, _SCRIPT.replace("BODIES", names)]))
    return script


def run_wrk(url: str, script: Path, connections: int, seconds: int, core: int | None) -> Figures:
    """One closed loop of so many connections."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    if core is not None:
        command = ["taskset", "--cpu-list", str(core), *command]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout.strip().rpartition("\n")[2])
    return Figures(
        said["requests"] / said["microseconds"] * 1e6,
        said["p99"] / 1000,
        said["refused"],
        said["failed"],
    )


def measure(
    base: str,
    bodies: Sequence[bytes],
    *,
    passes: int,
    connections: int,
    seconds: int,
    rounds: int,
    core: int | None,
) -> Iterator[dict[str, Figures]]:
    """The figures of each target, round after round."""
    urls = {
        "constant": f"{base}/constant",
        "predict": f"{base}/predict",
        "mc": f"{base}/predict/mc?passes={passes}",
    }
    headers = {"content-type": "image/png"}
    answer = httpx.post(urls["predict"], content=bodies[0], headers=headers, trust_env=False)
    set_constant(base, answer.raise_for_status().content)
    with tempfile.TemporaryDirectory() as folder:
        script = write_script(Path(folder), bodies, headers)
        for name in TARGETS:
            run_wrk(urls[name], script, connections, _WARM_UP_SECONDS, core)
        for _ in range(rounds):
            yield {
                name: run_wrk(urls[name], script, connections, seconds, core) for name in TARGETS
            }


def describe(rounds: Sequence[dict[str, Figures]]) -> Iterator[str]:
    """A table of the rounds, and the ratios."""
    for name in TARGETS:
        figures = [one[name] for one in rounds]
        rates = " ".join(f"{one.requests_per_second:>7.0f}" for one in figures)
        yield (
            f"{name:<9}{rates}  median {median(one.requests_per_second for one in figures):>7.0f}"
            f"  p99 {median(one.p99_ms for one in figures):.2f} ms"
            f"  non-2xx {sum(one.refused for one in figures)}"
            f"  unanswered {sum(one.failed for one in figures)}"
        )
    for above, below in RATIOS:
        ratios = [one[above].requests_per_second / one[below].requests_per_second for one in rounds]
        listed = " ".join(f"{ratio:.3f}" for ratio in ratios)
        yield f"{above}/{below}: {listed}, median {median(ratios):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--image", type=Path, help="PNG; without it 32 digits, 28x28, in turn")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (Debian: apt-get install wrk)")
    bodies = [arguments.image.read_bytes()] if arguments.image else example_pngs()
    cores = usable_cores()
    server_core, wrk_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    say(f"{describe_machine()}; server on core {server_core}, wrk on core {wrk_core}")
    say(
        f"{arguments.connections} connections, {describe_images([*map(len, bodies)])}, "
        f"{arguments.passes} passes, {arguments.rounds} rounds of {arguments.seconds} s, "
        "requests/s:"
    )
    with start_bench_app(server_core) as base:
        rounds = list(
            measure(
                base,
                bodies,
                passes=arguments.passes,
                connections=arguments.connections,
                seconds=arguments.seconds,
                rounds=arguments.rounds,
                core=wrk_core,
            )
        )
    for line in describe(rounds):
        say(line)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

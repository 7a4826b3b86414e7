"""Whether 28x28 images as V2 tensors are answered as fast as PNG files on the native route.

`python -m tests.load.v2_rate` starts one worker on one core and loads it with wrk from another: the
same digit as a PNG to `/predict`, and as UINT8 pixels behind a JSON header, as tritonclient sends
it, to the V2 model. On a shared machine the server's processor time says more than the clock.
"""

import argparse
import sys
from base64 import b64decode
from collections.abc import Mapping

from app.api.examples import example_pixels, example_png_base64
from app.cli.machine import describe_machine
from tests.app.open_inference.inference_requests import binary_body
from tests.load.processes import assign_cores
from tests.load.rounds import Target, describe, failures, measure
from tests.load.servers import serving
from tests.load.wrk import require_wrk


def both_targets(address: str, pid: int) -> Mapping[str, Target]:
    """The same digit for both routes of a server."""
    png = b64decode(example_png_base64())
    # No Content-Type, as tritonclient sends none.
    tensor = binary_body(example_pixels()[None])
    infer = f"{address}/v2/models/mnist/infer"
    return {
        "native": Target(f"{address}/predict", pid, [png]),
        "V2": Target(infer, pid, [tensor.content], tensor.all_headers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    require_wrk()
    cores = assign_cores()
    with serving(core=cores[0]) as server:
        targets = both_targets(server.address, server.pid)
        points = [(name, options.connections) for name in targets]
        rounds = measure(targets, points, options.seconds, options.rounds, cores[1])
    print(f"{describe_machine()}; medians of {options.rounds} rounds of {options.seconds} s\n")
    print(*describe(rounds, points, [("V2", "native")]), sep="\n")
    sys.exit(1 if failures(rounds) else 0)


if __name__ == "__main__":
    main()

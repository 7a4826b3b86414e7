"""Requests/s and latencies of /predict and /predict/mc, and their ratios to a constant answer.

`python -m tests.load.throughput` starts one worker on one core and loads it with wrk from another.
`constant` is a FastAPI route of the same application that reads the body and returns a constant of
the same size.
"""

import argparse
import sys

import httpx

from app.cli.machine import describe_machine
from tests.load.processes import assign_cores
from tests.load.rounds import Target, describe, failures, measure
from tests.load.servers import WITH_CONSTANT, serving, set_constant
from tests.load.wrk import IMAGES, MNIST_FORM, PICTURE, PNG, require_wrk

_OF_PICTURES = f" {PICTURE}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=int, default=4, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=50)
    options = parser.parse_args()
    require_wrk()
    cores = assign_cores()
    with serving(core=cores[0], program=WITH_CONSTANT) as server:
        paths = {"constant": "constant", "predict": "predict"}
        paths["mc"] = f"predict/mc?passes={options.passes}"
        targets = {
            name + suffix: Target(f"{server.address}/{path}", server.pid, IMAGES[image])
            for suffix, image in (("", MNIST_FORM), (_OF_PICTURES, PICTURE))
            for name, path in paths.items()
            if name + suffix != "constant" + _OF_PICTURES
        }
        png = IMAGES[MNIST_FORM][0]
        answer = httpx.post(targets["predict"].url, content=png, headers=PNG, trust_env=False)
        set_constant(server.address, answer.content)
        points = [(name, count) for count in options.connections for name in targets]
        rounds = measure(targets, points, options.seconds, options.rounds, cores[1])
    print(f"{describe_machine()}; server on core {cores[0]}, wrk on core {cores[1]}")
    print(
        f"PNG files in MNIST's form, or pictures of 140x140 pixels, in turn; mc with "
        f"{options.passes} passes; medians of {options.rounds} rounds of {options.seconds} s\n"
    )
    compared = [("predict", "constant"), ("mc", "predict")]
    compared += [(name + _OF_PICTURES, name) for name in ("predict", "mc")]
    print(*describe(rounds, points, compared), sep="\n")
    sys.exit(1 if failures(rounds) else 0)


if __name__ == "__main__":
    main()

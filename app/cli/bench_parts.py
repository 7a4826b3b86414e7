"""The parts of the engine's time for one image, each timed alone on what the others computed."""

from collections.abc import Callable, Mapping
from statistics import median
from timeit import timeit

import numpy as np

from model.arrays import Pixels
from model.engines import kernels
from model.engines.relu_mlp import ReluMlpEngine
from model.sampling.masks import Passes, draw_independent, thresholds
from model.uncertainty.statistics import summarise

_REPEATS = 200


def time_parts(engine: ReluMlpEngine, pixels: Pixels, rounds: int) -> dict[str, float]:
    """Seconds of each part and of the whole, with as many passes as are computed at a time.

    A part is timed once per round, so that a slow moment affects all of them.
    """
    T = kernels.CHUNK
    passes = Passes(T, 0)
    prepared = engine.prepare(pixels, passes)
    limits, first = thresholds(engine.dropout_sites), engine.stochastic[0]
    scales = [kernels.scale_of(limits, layer) for layer in engine.stochastic]
    units, values = kernels.active_units(prepared.inputs, scales[0], first)
    keep = np.empty((T, len(limits)), np.uint8)
    widest = int(engine.stochastic[:, 1].max())
    layers = [np.empty((T, widest), np.float32) for _ in engine.stochastic]
    probs = engine.sample(prepared, 0, T)
    exponentials = np.empty(engine.stochastic[-1, 1])

    def later(site: int) -> Callable[[], None]:
        arguments = keep, engine.weights, engine.stochastic[site], layers[site]
        return lambda: kernels.later_layer(layers[site - 1], scales[site], *arguments)

    parts: dict[str, Callable[[], object]] = {
        "layer 1": lambda: engine.prepare(pixels, passes),
        "masks": lambda: draw_independent(0, 0, limits, keep),
        "layer 2": lambda: kernels.first_layer(
            units, values, keep, engine.weights, first, layers[0]
        ),
        **{f"layer {site + 2}": later(site) for site in range(1, len(layers))},
        "softmax": lambda: kernels.softmax_rows(layers[-1], exponentials, probs),
        "statistics": lambda: summarise(probs),
    }
    whole = {"whole": lambda: summarise(engine.sample(engine.prepare(pixels, passes), 0, T))}
    return _medians({**parts, **whole}, rounds)


def _medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    for call in calls.values():
        call()  # compiles what Python calls only here
    times = [
        {name: timeit(call, number=_REPEATS) / _REPEATS for name, call in calls.items()}
        for _ in range(rounds)
    ]
    return {name: median(each[name] for each in times) for name in calls}

"""An engine that fails on the way."""

from app.inference.pipeline import Predictor
from model.arrays import Floats
from model.engines.protocol import Prepared


class FailingSample:
    """In place of `engine.sample`: computes some steps and fails in the next."""

    def __init__(self, predictor: Predictor, steps: int) -> None:
        self._sample = predictor.engine.sample
        self._left = steps

    def __call__(self, prepared: Prepared, start: int, stop: int) -> Floats:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("SECRET of the engine")
        return self._sample(prepared, start, stop)

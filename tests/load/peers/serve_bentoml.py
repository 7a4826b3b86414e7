"""BentoML: a service whose methods take pixels or pictures, with or without adaptive batching."""

import base64
from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType

from tests.load.peers.digits import Digits, decode, task_from_environment

*_, BATCH, WAIT_SECONDS = task_from_environment()
# A type argument of the array would be taken for its dtype.
Pixels = Annotated[np.ndarray, DType("uint8")]


@bentoml.service(workers=1)
class Service:
    def __init__(self) -> None:
        self.digits = Digits()

    def answer(self, pictures: list[str]) -> list[dict[str, Any]]:
        files = map(base64.b64decode, pictures)
        return self.digits.answer(np.stack([decode(file) for file in files]))

    if BATCH > 1:
        batched = bentoml.api(
            batchable=True, max_batch_size=BATCH, max_latency_ms=round(WAIT_SECONDS * 1000)
        )

        @batched
        def predict(self, pixels: Pixels) -> list[dict[str, Any]]:
            return self.digits.answer(pixels)

        @batched
        def predict_pictures(self, pictures: list[str]) -> list[dict[str, Any]]:
            return self.answer(pictures)

    else:

        @bentoml.api
        async def predict(self, pixels: Pixels) -> list[dict[str, Any]]:
            return self.digits.answer(pixels)

        @bentoml.api
        async def predict_pictures(self, pictures: list[str]) -> list[dict[str, Any]]:
            return self.answer(pictures)

"""BentoML: a service whose method takes one image, or with adaptive batching a batch of them."""

from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType

from tests.load.peers.digits import Digits, task_from_environment

*_, BATCH, WAIT_SECONDS = task_from_environment()
# A type argument of the array would be taken for its dtype.
Pixels = Annotated[np.ndarray, DType("uint8")]


@bentoml.service(workers=1)
class Service:
    def __init__(self) -> None:
        self.digits = Digits()

    if BATCH > 1:

        @bentoml.api(
            batchable=True, max_batch_size=BATCH, max_latency_ms=round(WAIT_SECONDS * 1000)
        )
        def predict(self, pixels: Pixels) -> list[dict[str, Any]]:
            return self.digits.answer(pixels)

    else:

        @bentoml.api
        async def predict(self, pixels: Pixels) -> list[dict[str, Any]]:
            return self.digits.answer(pixels)

"""LitServe: hooks that decode, batch, compute, unbatch and encode."""

import base64
import os
from typing import Any

import litserve
import numpy as np

from tests.load.peers.digits import Digits, decode, task_from_environment


class DigitsApi(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.digits = Digits()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray[Any, Any]:
        if "images" in request:  # a batch of its client's
            files = map(base64.b64decode, request["images"])
            return np.stack([decode(file) for file in files])
        return decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        return np.stack(inputs)

    def predict(self, pixels: np.ndarray[Any, Any]) -> Any:
        if pixels.ndim == 1:  # one image without batching
            return self.digits.answer(pixels[None])[0]
        answers = self.digits.answer(pixels)
        return answers if self.digits.batch > 1 else {"predictions": answers}

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    *_, batch, wait_seconds = task_from_environment()
    api = DigitsApi(max_batch_size=batch, batch_timeout=wait_seconds)
    # The queue that its documentation advises from 100 requests/s on.
    server = litserve.LitServer(
        api, accelerator="cpu", devices=1, fast_queue=os.environ.get("PEER_FAST_QUEUE", "1") == "1"
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )

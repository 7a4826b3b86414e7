"""What KServe's InferenceRESTClient asks of a V2 server; runs where kserve is installed.

`python kserve_rest.py URL PIXELS` prints the answers as JSON; what else is wrong is an
AssertionError.
"""

import asyncio
import json
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from numpy.typing import NDArray


def in_hexadecimal(output: Any) -> str:
    """An output's bytes, since a float must not lose a bit on the way; strings one by one."""
    values = output.as_numpy()
    if output.datatype == "BYTES":
        return b" ".join(np.array(values, dtype=np.bytes_).ravel()).hex()
    return str(values.tobytes().hex())


async def main(url: str, pixels: NDArray[np.uint8]) -> None:
    answers = {}
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(url) is True
        assert await client.is_server_ready(url) is True
        for model in ("mnist", "mnist-mc"):
            assert await client.is_model_ready(url, model) is True
            for is_binary in (False, True):
                tensor = InferInput("pixels", [1, 784], "UINT8")
                tensor.set_data_from_numpy(pixels, binary_data=is_binary)
                seeded = {"seed": 5, "passes": 60} if model == "mnist-mc" else {}
                parameters = {**seeded, "binary_data_output": is_binary}
                asked = InferRequest(model, [tensor], request_id="id-1", parameters=parameters)
                answer = await client.infer(url, asked, model_name=model)
                assert (answer.id, answer.model_name) == ("id-1", model)
                answers[f"{model} {'binary' if is_binary else 'json'}"] = {
                    output.name: in_hexadecimal(output) for output in answer.outputs
                }
        assert await client.is_model_ready(url, "nobody") is False
        message = ""
        try:
            await client.infer(url, {"inputs": []}, model_name="mnist")
        except httpx.HTTPStatusError as error:
            message = str(error)
        assert "inputs must be a list of one input" in message, message
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], np.fromfile(sys.argv[2], np.uint8).reshape(1, 784)))

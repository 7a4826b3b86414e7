"""Everything that V2 promises, asked with tritonclient, synchronous and asynchronous.

`python triton.py HOST:PORT PIXELS IMAGE...` prints the answers as JSON; what else is wrong is an
AssertionError. A process of its own, since tritonclient brings gevent.
"""

import asyncio
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient import http
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException


async def settle(value: Any) -> Any:
    """What a call gives, of the synchronous client or of the other."""
    return await value if inspect.isawaitable(value) else value


async def check_documents(client: Any) -> None:
    assert await settle(client.is_server_live())
    assert await settle(client.is_server_ready())
    server = await settle(client.get_server_metadata())
    assert server["name"] == "dropserve"
    index = await settle(client.get_model_repository_index())
    assert [model["name"] for model in index][:2] == ["mnist", "mnist-mc"]
    for name in ("mnist", "mnist-mc"):
        for version in ("", "1"):
            assert await settle(client.is_model_ready(name, version))
            metadata = await settle(client.get_model_metadata(name, version))
            assert metadata["inputs"][0]["shape"] == [-1, 784]
            config = await settle(client.get_model_config(name, version))
            assert config["max_batch_size"] >= 8
    assert not await settle(client.is_model_ready("nobody"))


async def check_errors(client: Any, png: bytes) -> None:
    """The client finds the message and the status of what it did wrong."""
    for name, inputs, more, status, words in (
        ("nobody", image_input([png]), {}, "404", "no such model"),
        ("mnist", image_input([b"no image"]), {}, "415", "not an image"),
        ("mnist-mc", image_input([png]), {"parameters": {"passes": 0}}, "400", "passes must be"),
        ("mnist", image_input([png]), {"parameters": {"pases": 7}}, "400", "unknown"),
    ):
        failure = None
        try:
            await settle(client.infer(name, inputs, **more))
        except InferenceServerException as error:
            failure = error
        assert failure is not None, name
        assert failure.status() == status, failure
        assert words in failure.message(), failure


def image_input(files: list[bytes]) -> list[http.InferInput]:
    tensor = http.InferInput("image", [len(files)], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_))
    return [tensor]


def pixels_input(pixels: NDArray[Any], datatype: str, *, binary: bool) -> list[http.InferInput]:
    tensor = http.InferInput("pixels", list(pixels.shape), datatype)
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return [tensor]


async def ask(client: Any, pixels: NDArray[Any], files: list[bytes]) -> dict[str, Any]:
    """Answers by case, each the outputs as hexadecimal digits of their bytes."""
    unit = (pixels / 255).astype(np.float32)
    seeded = {"parameters": {"seed": 5, "passes": 60}, "request_id": "id-1"}
    batch = np.repeat(pixels, 40, axis=0)  # a response that is worth compressing
    mixed = [
        http.InferRequestedOutput("digit", binary_data=False),
        http.InferRequestedOutput("mean", binary_data=True),
        http.InferRequestedOutput("votes", binary_data=False),
    ]
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "binary": (pixels_input(pixels, "UINT8", binary=True), seeded),
        "json": (pixels_input(pixels, "UINT8", binary=False), seeded),
        "fp32": (pixels_input(unit, "FP32", binary=True), seeded),
        "fp32 json": (pixels_input(unit, "FP32", binary=False), seeded),
        "files": (image_input(files), seeded),
        "mixed outputs": (
            pixels_input(pixels, "UINT8", binary=True),
            {**seeded, "outputs": mixed},
        ),
        "deadline": (
            pixels_input(pixels, "UINT8", binary=True),
            {**seeded, "timeout": 10_000_000},
        ),
        "version": (pixels_input(pixels, "UINT8", binary=True), {**seeded, "model_version": "1"}),
        **{
            f"{way} {name}": (
                pixels_input(batch, "UINT8", binary=True),
                {**seeded, f"{way}_compression_algorithm": name},
            )
            for way in ("request", "response")
            for name in ("gzip", "deflate")
        },
    }
    answers = {}
    for case, (inputs, more) in cases.items():
        result = await settle(client.infer("mnist-mc", inputs, **more))
        response = result.get_response()
        assert response["id"] == "id-1", response
        assert response["model_name"] == "mnist-mc"
        answers[case] = in_hexadecimal(result, response)
    plain = await settle(client.infer("mnist", pixels_input(pixels, "UINT8", binary=True)))
    response = plain.get_response()
    assert "id" not in response
    answers["plain"] = in_hexadecimal(plain, response)
    return answers


def in_hexadecimal(result: Any, response: dict[str, Any]) -> dict[str, str]:
    """Each output's bytes, since a float must not lose a bit on the way; strings one by one."""
    answers = {}
    for output in response["outputs"]:
        values = result.as_numpy(output["name"])
        is_text = output["datatype"] == "BYTES"
        joined = b" ".join(np.array(values, dtype=np.bytes_).ravel()) if is_text else b""
        answers[output["name"]] = (joined if is_text else values.tobytes()).hex()
    return answers


async def converse(client: Any, pixels: NDArray[Any], files: list[bytes]) -> dict[str, Any]:
    await check_documents(client)
    await check_errors(client, files[0])
    return await ask(client, pixels, files)


async def main(address: str, pixels: NDArray[np.uint8], files: list[bytes]) -> None:
    answers = {}
    with http.InferenceServerClient(address) as client:
        answers["sync"] = await converse(client, pixels, files)
        waiting = client.async_infer("mnist", pixels_input(pixels, "UINT8", binary=True))
        assert waiting.get_result().as_numpy("digit").shape == (1,)
    async with aio.InferenceServerClient(address) as client:
        answers["aio"] = await converse(client, pixels, files)
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    pixels = np.fromfile(sys.argv[2], np.uint8).reshape(1, 784)
    asyncio.run(main(sys.argv[1], pixels, [Path(file).read_bytes() for file in sys.argv[3:]]))

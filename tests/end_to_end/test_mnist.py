"""All of MNIST's test images, as files over HTTP: the server changes no answer of the network."""

from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image

from model.arrays import Pixels
from model.checkpoint import Checkpoint
from model.network import normalise
from tests.model.engines.torch_reference import forward
from training.data import load_images

BATCH = 100
ALONE = 500  # of them are sent one by one, too


def png(pixels: Pixels) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
async def test_every_test_image_gets_the_digit_of_the_network_called_directly(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint, mnist_folder: Path
) -> None:
    pixels = load_images("test", mnist_folder).pixels  # (10000, 28, 28)
    network = default_checkpoint.network
    logits = forward(network, normalise(pixels, network.config))
    direct: list[int] = logits.argmax(dim=1).tolist()

    files = [png(image) for image in pixels]
    served = []
    for start in range(0, len(files), BATCH):
        parts = [("file", ("digit.png", file)) for file in files[start : start + BATCH]]
        response = await client.post("/predict/batch", files=parts)
        served += [one["digit"] for one in response.json()["predictions"]]
    for file, digit in zip(files[:ALONE], served, strict=False):
        assert (await client.post("/predict", content=file)).json()["digit"] == digit

    agreeing = sum(one == other for one, other in zip(served, direct, strict=True))
    assert (agreeing, len(served)) == (10_000, 10_000)

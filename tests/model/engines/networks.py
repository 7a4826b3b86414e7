"""Networks, images and requests for the tests of engines."""

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from model.arrays import Array, Floats, Pixels
from model.digits.preprocessing import preprocess_image
from model.engines.blocks import BLOCK_ROWS
from model.engines.protocol import Engine, PassRange
from model.literals import MAX_SEED, Estimator
from model.network import MLP, MLPConfig
from model.sampling.masks import Passes
from tests.samples.draw import DIGITS, draw_digit, draw_strokes

BOTH: tuple[Estimator, ...] = ("independent", "balanced")
RATES = (77 / 256, 26 / 256, 128 / 256, 51 / 256)
# Widths that fill no vector, one hidden layer only, and layers of a single unit.
LAYER_SIZES = [
    (784, 33, 17, 5, 3),
    (784, 40, 10),
    (784, 100, 67, 41, 19, 10),
    (784, 512, 1, 7, 2),
    (784, 1, 1, 2),
]


def make_network(layer_sizes: tuple[int, ...], *, rates: tuple[float, ...] = RATES) -> MLP:
    """A random network whose answers are neither certain nor all alike."""
    hidden = len(layer_sizes) - 2
    labels = tuple(f"class {number}" for number in range(layer_sizes[-1]))
    network = MLP(MLPConfig(layer_sizes, rates[:hidden], (28, 28), labels, mean=0.3, std=0.25))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 1.5 / math.sqrt(parameter.shape[-1])
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return network


CLEAR_AND_SCRAWLED = 40  # the first of the images below


@cache
def draw_images() -> tuple[Pixels, ...]:
    """100 images: clear, scrawled, ambiguous in two ways, rotated, noise, all black, all white."""
    generator = np.random.default_rng(0)
    clear = [
        preprocess_image(np.array(draw_digit(number % 10, jitter=0.015, seed=number)))
        for number in range(30)
    ]
    scrawled = [
        preprocess_image(np.array(draw_digit(digit, jitter=0.05, seed=digit)))
        for digit in range(10)
    ]
    pairs = [(3, 5), (4, 9), (0, 6), (1, 7), (5, 6), (2, 7), (3, 8), (0, 8), (7, 9), (2, 3)]
    overlaid = [
        preprocess_image(np.array(draw_strokes([*DIGITS[one], *DIGITS[other]])))
        for one, other in pairs
    ]
    blended = [clear[one] // 2 + clear[other] // 2 for one, other in pairs]
    rotated = [np.array(Image.fromarray(clear[n]).rotate(15 * (n + 1))) for n in range(20)]
    noise = [
        np.where(generator.random((28, 28)) < share, generator.integers(0, 256, (28, 28)), 0)
        for share in np.linspace(0.05, 1, 18)
    ]
    plain = [np.zeros((28, 28)), np.full((28, 28), 255)]
    images = [*clear, *scrawled, *overlaid, *blended, *rotated, *noise, *plain]
    return tuple(image.astype(np.uint8) for image in images)


def textbook_probs(network: MLP, pixels: Pixels, masks: Sequence[Tensor] | None = None) -> Array:
    """Softmax of W relu(...) + b in float64, inverted dropout, (T, C) or without masks (1, C)."""
    config = network.config
    parameters = [tensor.double().numpy() for tensor in network.state_dict().values()]
    *hidden, (W_out, b_out) = zip(parameters[::2], parameters[1::2], strict=True)
    h = (pixels.reshape(1, -1) / 255.0 - config.mean) / config.std
    for index, (W, b) in enumerate(hidden):
        h = np.maximum(h @ W.T + b, 0)
        if masks is not None:
            h = np.where(masks[index].numpy(), h / (1 - config.dropout_rates[index]), 0)
    logits = h @ W_out.T + b_out
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


class Request(NamedTuple):
    """What a caller sends: which of the images, and which passes."""

    pixels: Pixels
    passes: Passes
    is_digit: bool


def draw_requests(count: int) -> list[Request]:
    generator = np.random.default_rng(1)
    images = draw_images()
    return [
        Request(
            images[number],
            Passes(
                # Few, many, and what just fills a block of rows or just does not.
                int(generator.choice([1, 2, 3, 4, 7, 10, 31, 50, 64, 100, BLOCK_ROWS, 257])),
                int(generator.integers(MAX_SEED, endpoint=True)),
                BOTH[generator.integers(2)],
            ),
            number < CLEAR_AND_SCRAWLED,
        )
        for number in (int(generator.integers(len(images))) for _ in range(count))
    ]


def assert_all_digits_differ(requests: Sequence[Request], digests: Sequence[str]) -> None:
    """Asserts that each request for a digit got bytes of its own: equal bytes prove nothing.

    An image without a digit can leave the last hidden layer inactive, which makes all passes equal.
    """
    own = [each for request, each in zip(requests, digests, strict=True) if request.is_digit]
    assert len(own) > len(digests) / 4
    assert len(set(own)) == len(own)


def digest(probs: Floats) -> str:
    return hashlib.sha256(probs.tobytes()).hexdigest()


def digests_alone(engine: Engine, requests: Sequence[Request]) -> list[str]:
    return [digest(engine.sample_probs(request.pixels, request.passes)) for request in requests]


def digests_in_company(engine: Engine, requests: Sequence[Request], *, seed: int) -> list[str]:
    """In another order, in batches of 2 to 64, in pieces, between deterministic answers."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(requests)).tolist()
    digests = [""] * len(requests)
    while order:
        batch = [order.pop() for _ in range(min(len(order), int(generator.integers(2, 65))))]
        images = engine.prepare(
            [requests[number].pixels for number in batch],
            [requests[number].passes for number in batch],
        )
        engine.predict_probs(requests[batch[0]].pixels)
        cuts = [int(generator.integers(image.passes.count + 1)) for image in images]
        first = [PassRange(image, 0, cut) for image, cut in zip(images, cuts, strict=True)]
        last = [
            PassRange(image, cut, image.passes.count)
            for image, cut in zip(images, cuts, strict=True)
        ]
        last.reverse()
        heads, tails = engine.sample(first), engine.sample(last)[::-1]
        for number, head, tail in zip(batch, heads, tails, strict=True):
            digests[number] = digest(np.concatenate([head, tail]))
    return digests

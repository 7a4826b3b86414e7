"""Networks, images and requests for the tests of engines."""

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from model.arrays import Array, Floats, KeepMasks, Pixels
from model.engines.protocol import Engine, predict_probs, sample_probs
from model.literals import MAX_SEED, Estimator
from model.network import MLP, Linear, MLPConfig
from model.sampling.masks import DropoutSite, Passes, draw_masks, split_by_site
from tests.samples.draw import DIGITS, draw_digit, draw_strokes, preprocess_image

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
    config = MLPConfig(layer_sizes, rates[:hidden], (28, 28), labels, mean=0.3, std=0.25)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Floats:
        scale = 1.5 / math.sqrt(shape[-1])
        return (torch.randn(shape, generator=generator) * scale).numpy()

    return MLP(config, tuple(Linear(draw(*shape), draw(shape[0])) for shape in config.layer_shapes))


def draw_by_site(
    sites: Sequence[DropoutSite],
    seed: int,
    passes: int,
    *,
    first_pass: int = 0,
    estimator: Estimator = "independent",
) -> list[KeepMasks]:
    """Masks of consecutive passes, one per dropout site, (T, units)."""
    which = Passes(first_pass + passes, seed, estimator)
    return split_by_site(draw_masks(sites, which, first_pass), sites)


def mean(probs: Floats | Array) -> Array:
    """NumPy's mean over the passes, in float64."""
    return np.asarray(np.mean(probs, axis=0, dtype=np.float64))


def variance(probs: Floats | Array) -> Array:
    """NumPy's unbiased variance over the passes, in float64."""
    return np.asarray(np.var(probs, axis=0, ddof=1, dtype=np.float64))


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


def textbook_probs(network: MLP, pixels: Pixels, masks: Sequence[KeepMasks] | None = None) -> Array:
    """Softmax of W relu(...) + b in float64, inverted dropout, (T, C) or without masks (1, C)."""
    config = network.config
    *hidden, (W_out, b_out) = ((W.astype(float), b.astype(float)) for W, b in network.layers)
    h = (pixels.reshape(1, -1) / 255.0 - config.mean) / config.std
    for index, (W, b) in enumerate(hidden):
        z = h @ W.T + b
        h = np.maximum(z, 0) if config.activation == "relu" else z
        if masks is not None:
            h = np.where(masks[index], h / (1 - config.dropout_rates[index]), 0)
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
                int(generator.choice([1, 2, 3, 4, 7, 10, 31, 50, 64, 100, 256, 257])),
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
    return [digest(sample_probs(engine, request.pixels, request.passes)) for request in requests]


def digests_in_company(engine: Engine, requests: Sequence[Request], *, seed: int) -> list[str]:
    """In another order, several at a time, in pieces, between deterministic answers."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(requests)).tolist()
    digests = [""] * len(requests)
    while order:
        batch = [order.pop() for _ in range(min(len(order), int(generator.integers(2, 65))))]
        images = [engine.prepare(requests[each].pixels, requests[each].passes) for each in batch]
        predict_probs(engine, requests[batch[0]].pixels)
        counts = [requests[number].passes.count for number in batch]
        cuts = [int(generator.integers(count + 1)) for count in counts]
        heads = [engine.sample(image, 0, cut) for image, cut in zip(images, cuts, strict=True)]
        for number, image, head, count in reversed(
            list(zip(batch, images, heads, counts, strict=True))
        ):
            tail = engine.sample(image, len(head), count)
            digests[number] = digest(np.concatenate([head, tail]))
    return digests

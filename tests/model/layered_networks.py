"""Networks of every kind of layer, with random weights, for the tests."""

import numpy as np

from model.layered import InputSpec, LayeredConfig, LayeredNetwork
from model.layers import (
    AveragePool2dLayer,
    BatchNormLayer,
    Conv2dLayer,
    DropoutLayer,
    FlattenLayer,
    IdentityLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    ReluLayer,
    TanhLayer,
)

RATE = 77 / 256


def draw_network(spec: InputSpec, *layers: Layer, classes: int) -> LayeredNetwork:
    config = LayeredConfig(spec, tuple(f"class {c}" for c in range(classes)), layers)
    generator = np.random.default_rng(0)
    tensors = {
        name: (generator.normal(size=shape) * 1.5 / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in config.tensor_shapes.items()
    }
    return LayeredNetwork(config, tensors)


def convnet() -> LayeredNetwork:
    """Every kind of layer, on pixels with channels last."""
    return draw_network(
        InputSpec((9, 8, 3), "uint8", 1 / 255, (0.5, 0.4, 0.3), (0.3, 0.2, 0.1), "last"),
        Conv2dLayer(6, (3, 2), padding=(1, 1, 0, 1), dilation=(2, 1), groups=3),  # (6, 7, 8)
        BatchNormLayer(),
        TanhLayer(),
        MaxPool2dLayer((2, 2), (2, 2), padding=(0, 1, 0, 0)),  # (6, 4, 4)
        DropoutLayer(RATE, whole_channels=True),
        Conv2dLayer(8, (3, 3), (1, 1)),  # (8, 2, 2)
        IdentityLayer(),
        AveragePool2dLayer((2, 1), (1, 1)),  # (8, 1, 2)
        FlattenLayer(),
        DropoutLayer(0.25),
        LinearLayer(20),
        ReluLayer(),
        BatchNormLayer(),
        DropoutLayer(0.5),
        LinearLayer(4),
        classes=4,
    )


def tabular() -> LayeredNetwork:
    """An MLP on 12 measurements, each with its own mean and deviation."""
    mean, std = tuple(range(12)), tuple(range(1, 13))
    return draw_network(
        InputSpec((12,), mean=tuple(map(float, mean)), std=tuple(map(float, std))),
        LinearLayer(40),
        ReluLayer(),
        DropoutLayer(RATE),
        LinearLayer(30),
        ReluLayer(),
        LinearLayer(20),
        DropoutLayer(0.5),
        ReluLayer(),
        LinearLayer(3),
        classes=3,
    )

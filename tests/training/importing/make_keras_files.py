"""Writes the Keras files that the tests read, with Keras's own answers; needs Keras 3 and torch.

`python -m venv ENV && ENV/bin/pip install keras torch`, then
`KERAS_BACKEND=torch ENV/bin/python tests/training/importing/make_keras_files.py`.
"""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import torch
from keras import layers as L

FILES = Path(__file__).parent / "files"
INPUTS, IMAGES, PASSES = 100, 2, 2000


def mlp() -> Any:
    """The article's own kind of network."""
    return [
        *(keras.Input((8, 8)), L.Rescaling(1 / 255), L.Flatten()),
        *(L.Dense(32, activation="relu"), L.Dropout(0.25)),
        *(L.Dense(16), L.Activation("relu"), L.Dropout(0.5), L.Dense(10, activation="softmax")),
    ]


def linear_mlp() -> Any:
    return [keras.Input((8, 8)), L.Flatten(), L.Dense(16), L.Dropout(0.5), L.Dense(10), L.Softmax()]


def tabular() -> Any:
    normalisation = L.Normalization()
    normalisation.adapt(np.random.default_rng(1).normal(5, 30, (500, 12)).astype(np.float32))
    return [
        *(keras.Input((12,)), normalisation, L.Dense(20, activation="relu"), L.Dropout(0.25)),
        *(L.Dense(10, activation="relu"), L.Dropout(0.5), L.Dense(3, activation="softmax")),
    ]


def lenet() -> Any:
    return [
        *(keras.Input((16, 16, 1)), L.Conv2D(4, 5, activation="relu"), L.MaxPooling2D()),
        *(L.Conv2D(6, 3), L.ReLU(), L.MaxPooling2D(2, strides=1, padding="same"), L.Flatten()),
        *(L.Dropout(0.5), L.Dense(24, activation="relu"), L.Dropout(0.5), L.Dense(10)),
    ]


def convnet() -> Any:
    """Every other layer, on images of three channels with odd sides."""
    return [
        *(keras.Input((9, 8, 3)), L.Conv2D(8, 3, padding="same", strides=2, use_bias=False)),
        *(L.BatchNormalization(), L.Activation("tanh"), L.SpatialDropout2D(0.25)),
        *(L.Conv2D(6, (3, 2), dilation_rate=(2, 1), padding="same", groups=2), L.ReLU()),
        *(L.AveragePooling2D(2), L.Flatten(), L.Dropout(0.25), L.BatchNormalization()),
        *(L.Dense(12, activation="tanh"), L.BatchNormalization(scale=False), L.Dropout(0.5)),
        L.Dense(5, activation="softmax"),
    ]


def pooled() -> Any:
    return [
        *(keras.Input((8, 8, 2)), L.Conv2D(8, 3), L.SpatialDropout2D(0.25)),
        *(L.GlobalAveragePooling2D(), L.Dense(3)),
    ]


def build(layers: list[Any], *, is_functional: bool) -> Any:
    if not is_functional:
        return keras.Sequential(layers)
    first, *others = layers
    tensor = first
    for layer in others:
        tensor = layer(tensor)
    return keras.Model(first, tensor)


def randomise(model: Any, generator: np.random.Generator) -> None:
    """Weights with which the passes disagree, and statistics of other than 0 and 1."""
    for layer in model.layers:
        arrays = layer.get_weights()
        if isinstance(layer, L.BatchNormalization):
            arrays = [generator.uniform(0.5, 1.5, array.shape) for array in arrays]
        elif isinstance(layer, L.Dense | L.Conv2D):
            arrays = [array * 2 if array.ndim > 1 else array + 0.1 for array in arrays]
        layer.set_weights(arrays)


def sample(model: Any, values: torch.Tensor) -> Any:
    """Class probabilities with dropout on, as MC dropout is done with Keras, (N, C)."""
    for layer in model.layers:
        if isinstance(layer, L.Dropout | L.SpatialDropout2D):
            values = layer(values, training=True)
        elif not isinstance(layer, L.InputLayer):
            values = layer(values)
    is_logits = model.layers[-1].name.startswith("dense") and not getattr(
        model.layers[-1].activation, "__name__", ""
    ).startswith("softmax")
    return (values.softmax(dim=1) if is_logits else values).double().cpu().numpy()


def main() -> None:
    FILES.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for make in (mlp, linear_mlp, tabular, lenet, convnet, pooled):
        keras.utils.set_random_seed(2)
        model = build(make(), is_functional=make in (convnet, pooled))
        randomise(model, generator)
        path = FILES / make.__name__
        model.save(path.with_suffix(".keras"))
        if make in (mlp, tabular, convnet):
            model.save(path.with_suffix(".h5"))
        largest = 255 if make is mlp else 3
        inputs = generator.integers(0, largest + 1, (INPUTS, *model.input_shape[1:]), np.uint8)
        values = torch.from_numpy(inputs.astype(np.float32))
        with torch.no_grad():
            outputs = model(values, training=False).cpu().numpy()
            images = [value.expand(PASSES, *value.shape) for value in values[:IMAGES]]
            passes = np.stack([sample(model, image) for image in images])
        centred = passes - passes.mean(axis=1, keepdims=True)
        moments = {f"moment_{k}": (centred**k).mean(axis=1) for k in (2, 4)}
        np.savez_compressed(
            path.with_suffix(".npz"),
            **{"inputs": inputs, "outputs": outputs, "mean": passes.mean(axis=1), **moments},
        )


if __name__ == "__main__":
    main()

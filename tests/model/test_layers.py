"""The shapes that layers make, against torch's own layers, and descriptions that are refused."""

from typing import Any

import pytest
import torch
from torch import nn

from model.errors import ShapeError
from model.layers import (
    KINDS,
    BatchNormLayer,
    Conv2dLayer,
    DropoutLayer,
    LinearLayer,
    MaxPool2dLayer,
    describe_layer,
    layer_from,
)
from tests.model.layered_networks import convnet


def test_a_layer_of_each_kind_comes_back_from_its_description() -> None:
    layers = convnet().config.layers
    assert {layer.kind for layer in layers} == KINDS.keys()
    for layer in layers:
        document = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in describe_layer(layer).items()
        }
        assert layer_from(document) == layer


@pytest.mark.parametrize("size", [7, 8, 12])
@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_shape_of_a_convolution_is_torchs(
    size: int, kernel: int, stride: int, dilation: int
) -> None:
    layer = Conv2dLayer(4, (kernel, 2), (stride, 1), (1, 1, 2, 2), (dilation, 1), 2)
    theirs = nn.Conv2d(2, 4, (kernel, 2), (stride, 1), (1, 2), (dilation, 1), 2)
    expected = theirs(torch.zeros(1, 2, size, 9)).shape[1:]
    assert layer.output_shape((2, size, 9)) == tuple(expected)
    assert layer.tensor_shapes((2, size, 9)) == {
        name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("document", "wrong"),
    [
        (None, "must be of one of the kinds"),
        ({}, "must be of one of the kinds"),
        ({"kind": "lambda"}, "must be of one of the kinds"),
        ({"kind": "linear"}, "needs outputs"),
        ({"kind": "linear", "outputs": 2, "code": ""}, "needs outputs"),
        ({"kind": "linear", "outputs": "2"}, "type int"),
        ({"kind": "linear", "outputs": True}, "type int"),
        ({"kind": "linear", "outputs": 2.0}, "type int"),
        ({"kind": "linear", "outputs": 0}, "from 1 to"),
        ({"kind": "linear", "outputs": 10**30}, "from 1 to"),
        ({"kind": "average_pool2d", "kernel": [2], "stride": [1, 1]}, "2 integers"),
        ({"kind": "average_pool2d", "kernel": [2, -1], "stride": [1, 1]}, "from 1 to"),
        ({"kind": "average_pool2d", "kernel": 2, "stride": [1, 1]}, "2 integers"),
        ({"kind": "dropout", "rate": 1.0, "whole_channels": False}, "multiple of 1/256"),
        ({"kind": "dropout", "rate": 0.2, "whole_channels": False}, "multiple of 1/256"),
        ({"kind": "dropout", "rate": float("nan"), "whole_channels": False}, "multiple of 1/256"),
        ({"kind": "dropout", "rate": 0.5, "whole_channels": 1}, "type bool"),
    ],
)
def test_a_damaged_description_is_refused(document: Any, wrong: str) -> None:
    with pytest.raises((TypeError, ValueError, ShapeError), match=wrong):
        layer_from(document)


def test_inputs_that_do_not_fit_are_refused() -> None:
    for layer, shape in (
        (LinearLayer(3), (2, 2)),
        (Conv2dLayer(3, (2, 2)), (4, 4)),
        (Conv2dLayer(3, (5, 1)), (1, 4, 4)),
        (Conv2dLayer(4, (1, 1), groups=2), (3, 4, 4)),
        (Conv2dLayer(3, (1, 1), groups=2), (4, 4, 4)),
        (MaxPool2dLayer((5, 5), (1, 1)), (1, 4, 4)),
        (BatchNormLayer(), (4, 4)),
        (DropoutLayer(0.5, whole_channels=True), (4,)),
    ):
        with pytest.raises(ShapeError):
            layer.output_shape(shape)
    with pytest.raises(ShapeError, match="nothing in them"):
        MaxPool2dLayer((2, 2), (2, 2), padding=(2, 0, 0, 0))

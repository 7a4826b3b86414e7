"""The engine for every device of torch, and for networks of other layers than those of an MLP."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.arrays import Floats, KeepMasks, Pixels
from model.errors import CheckpointError, DeviceError
from model.layered import InputSpec, LayeredNetwork
from model.layers import (
    AveragePool2dLayer,
    BatchNormLayer,
    Conv2dLayer,
    DropoutLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    ReluLayer,
    Shape,
    Sides,
    TanhLayer,
)
from model.literals import SIDE, Precision
from model.network import MLP
from model.sampling.masks import DropoutSite, Passes, draw_masks, rates, round_rate

# Products of torch may give a row other bits among other numbers of rows. All have this number, and
# a pass is always in the same row.
_BLOCK_ROWS = 64

_DROPOUT = nn.Dropout, nn.Dropout2d
_PRODUCTS = nn.Linear, nn.Conv2d
_NORMALISATIONS = nn.BatchNorm1d, nn.BatchNorm2d
_OTHER_LAYERS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Hardswish),
    *(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.Identity),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.ConstantPad2d),
)


class Normalise(nn.Module):
    """The first layer: (pixels / 255 - mean) / std of ink 0 to 255."""

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels / 255 - self.mean) / self.std


class Affine(nn.Module):
    """Multiplies each channel by a factor of its own and adds a summand."""

    factor: Tensor
    summand: Tensor

    def __init__(self, factor: Tensor, summand: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)
        self.register_buffer("summand", summand)

    def forward(self, h: Tensor) -> Tensor:
        return h * self.factor + self.summand


class ChannelsFirst(nn.Module):
    """Brings channels from the last axis to the first: (B, H, W, C) to (B, C, H, W)."""

    def forward(self, h: Tensor) -> Tensor:
        return h.permute(0, 3, 1, 2)


def as_sequential(network: MLP | LayeredNetwork) -> nn.Sequential:
    """Builds the network from torch's layers: from a batch of inputs to logits, (B, C).

    The inputs of an MLP are pixels, (B, 1, 28, 28).
    """
    if isinstance(network, LayeredNetwork):
        return _layered_as_sequential(network)
    config = network.config
    layers: list[nn.Module] = [Normalise(config.mean, config.std), nn.Flatten()]
    for index, (weight, bias) in enumerate(network.layers):
        if index > 0:
            layers += [nn.ReLU()] if config.activation == "relu" else []
            layers.append(nn.Dropout(config.dropout_rates[index - 1]))
        elif config.input_dropout_rate > 0:
            layers.append(nn.Dropout(config.input_dropout_rate))
        # Without storage of its own: it would draw weights from torch's global generator.
        linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        layers.append(_with_tensors(linear, weight=weight, bias=bias))
    return nn.Sequential(*layers)


def _with_tensors(layer: nn.Module, **arrays: Floats) -> nn.Module:
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    layer.load_state_dict(tensors, assign=True)
    return layer


def _layered_as_sequential(network: LayeredNetwork) -> nn.Sequential:
    config = network.config
    layers = list(_preparation(config.input))
    for index, (layer, shape) in enumerate(zip(config.layers, config.shapes, strict=False)):
        arrays = {
            name: network.tensors[f"layers.{index}.{name}"] for name in layer.tensor_shapes(shape)
        }
        layers += _modules_of(layer, shape, arrays)
    return nn.Sequential(*layers)


def _preparation(spec: InputSpec) -> Iterator[nn.Module]:
    if spec.channels == "last":
        yield ChannelsFirst()
    if (spec.scale, spec.mean, spec.std) != (1.0, (0.0,), (1.0,)):
        yield Affine(*(torch.tensor(each, dtype=torch.float32) for each in spec.factors()))


def _modules_of(layer: Layer, shape: Shape, arrays: dict[str, Floats]) -> Iterator[nn.Module]:
    """What computes a layer whose input has that shape."""
    match layer:
        case LinearLayer():
            yield _with_tensors(nn.Linear(shape[0], layer.outputs, device="meta"), **arrays)
        case Conv2dLayer():
            yield from _padding(layer.padding, 0.0)
            convolution = nn.Conv2d(
                shape[0],
                layer.outputs,
                layer.kernel,
                layer.stride,
                dilation=layer.dilation,
                groups=layer.groups,
                device="meta",
            )
            yield _with_tensors(convolution, **arrays)
        case BatchNormLayer():
            per_channel = (-1, *[1] * (len(shape) - 1))
            scale, shift = (torch.tensor(arrays[name]) for name in ("scale", "shift"))
            yield Affine(scale.reshape(per_channel), shift.reshape(per_channel))
        case MaxPool2dLayer():
            yield from _padding(layer.padding, -math.inf)
            yield nn.MaxPool2d(layer.kernel, layer.stride)
        case AveragePool2dLayer():
            yield nn.AvgPool2d(layer.kernel, layer.stride)
        case DropoutLayer():
            yield nn.Dropout2d(layer.rate) if layer.whole_channels else nn.Dropout(layer.rate)
        case FlattenLayer():
            yield nn.Flatten()
        case ReluLayer():
            yield nn.ReLU()
        case TanhLayer():
            yield nn.Tanh()


def _padding(sides: Sides, value: float) -> Iterator[nn.Module]:
    above, below, left, right = sides
    if any(sides):
        yield nn.ConstantPad2d((left, right, above, below), value)


_OURS = Normalise, Affine, ChannelsFirst


class PreparedActivations(NamedTuple):
    """What all passes of an image share.

    Attributes:
        passes: the passes that it is prepared for.
        activations: the input of the first dropout, (1, ...).
        balanced: balanced masks, (T, units); None for independent masks.
    """

    passes: Passes
    activations: Tensor
    balanced: KeepMasks | None


class _Stage(NamedTuple):
    """The layers from one dropout up to the next, or to the end.

    Attributes:
        mask_shape: the shape of one image's mask, which fits the dropout's input.
        layers: the layers after the dropout.
    """

    mask_shape: tuple[int, ...]
    layers: nn.Sequential


class SequentialEngine:
    """Computes answers on any device; see `Engine`.

    The layers before the first dropout are computed once per image, those after it once per pass.
    `nn.Dropout` drops single elements of its input, `nn.Dropout2d` whole channels.

    Args:
        network: maps inputs, float32, to logits, (B, C). The engine copies it, and computes batch
            normalisation from its running statistics.
        device: as torch names it: cpu, cuda, cuda:1.
        precision: of the products after the first dropout, except the last; bfloat16 carries 8
            significant bits.
        input_shape: of one input, without the batch.

    Raises:
        DeviceError: there is no such device.
        CheckpointError: the network has a layer that is not supported, or no dropout, or it does
            not fit the images.
    """

    def __init__(
        self,
        network: nn.Sequential,
        device: str,
        precision: Precision = "float32",
        *,
        input_shape: tuple[int, ...] = (1, SIDE, SIDE),
    ) -> None:
        self._device = _find_device(device)
        self._input_shape = input_shape
        # One process computes on one core; a second thread would wait for each product.
        torch.set_num_threads(1)
        # Convolutions on CUDA: by default their inputs are rounded to 10 significant bits, and the
        # algorithm may differ from call to call.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        layers = copy.deepcopy(network).to(self._device).requires_grad_(False).eval()
        self._network = nn.Sequential(*_flatten(layers))
        self.block_passes = _BLOCK_ROWS
        self.passes_computed = 0
        before, *after = _split_at_dropout(self._network)
        if not after:
            raise CheckpointError("the network has no dropout, so that its passes cannot differ")
        self._before = nn.Sequential(*before)
        products = [layer for part in after for layer in part if isinstance(layer, _PRODUCTS)]
        narrow = products[:-1] if precision == "bfloat16" else []
        sites, self._stages = [], []
        with torch.inference_mode():
            pixels = np.zeros(input_shape, np.uint8)
            h = _try(self._before, self._to_device(pixels))
            for dropout, *following in after:
                site, shape = _site_of(dropout, h)
                kept = nn.Sequential(
                    *(_InBfloat16(layer) if layer in narrow else layer for layer in following)
                )
                h = _try(kept, h)
                sites.append(site)
                self._stages.append(_Stage(shape, kept))
        if h.dim() != 2:
            raise CheckpointError(
                f"the network's output for one image has shape {tuple(h.shape)}, not (1, classes)"
            )
        if not any(isinstance(layer, _PRODUCTS) for layer in before):
            sites[0] = sites[0]._replace(is_input=True)
        self.dropout_sites = tuple(sites)

    def predict_logits(self, pixels: Pixels) -> Floats:
        with torch.inference_mode():
            logits: Floats = self._network(self._to_device(pixels))[0].cpu().numpy()
            return logits

    def prepare(self, pixels: Pixels, passes: Passes) -> PreparedActivations:
        with torch.inference_mode():
            h = self._before(self._to_device(pixels))
        balanced = None
        if passes.estimator == "balanced":
            balanced = draw_masks(self.dropout_sites, passes)
        return PreparedActivations(passes, h, balanced)

    def sample(self, prepared: PreparedActivations, start: int, stop: int) -> Floats:
        first = start - start % _BLOCK_ROWS
        with torch.inference_mode():
            blocks = [
                self._block_probs(prepared, row)
                for row in range(first, max(stop, first + 1), _BLOCK_ROWS)
            ]
            probs: Floats = torch.cat(blocks)[start - first : stop - first].cpu().numpy()
        self.passes_computed += stop - start
        return probs

    def sample_images(self, pixels: Pixels, seeds: Sequence[int], passes: Passes) -> Floats:
        asked = [replace(passes, seed=seed) for seed in seeds]
        prepared = map(self.prepare, pixels, asked)
        return np.stack([self.sample(each, 0, passes.count) for each in prepared])

    def _block_probs(self, prepared: PreparedActivations, first: int) -> Tensor:
        """Computes the passes from `first` on; some of the last may be no passes of the answer."""
        passes, h = prepared.passes, prepared.activations
        if prepared.balanced is None:
            keep = draw_masks(self.dropout_sites, passes, first, first + _BLOCK_ROWS)
        else:
            keep = prepared.balanced[first : first + _BLOCK_ROWS]
            keep = np.resize(keep, (_BLOCK_ROWS, keep.shape[1]))
        units = [site.units for site in self.dropout_sites]
        masks = torch.split(torch.from_numpy(keep).to(self._device), units, dim=1)
        dropped = rates(self.dropout_sites, passes.dropout)
        for stage, mask, rate in zip(self._stages, masks, dropped, strict=True):
            h = stage.layers(h * mask.reshape(-1, *stage.mask_shape) / (1 - rate))
        return h.softmax(dim=1)

    def _to_device(self, pixels: Pixels) -> Tensor:
        values = torch.from_numpy(np.array(pixels, np.float32))  # a copy
        return values.reshape(1, *self._input_shape).to(self._device)


class _InBfloat16(nn.Module):
    """A layer in bfloat16, between layers in float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer).bfloat16()

    def forward(self, h: Tensor) -> Tensor:
        wide: Tensor = self.layer(h.bfloat16()).float()
        return wide


def _find_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            "there is no such device here; cuda needs a GPU and a CUDA build of torch"
        ) from error
    return device


def _flatten(network: nn.Sequential) -> Iterator[nn.Module]:
    """The supported layers of a network and of the sequences in it, in order."""
    for layer in network:
        if type(layer) is nn.Sequential:
            yield from _flatten(layer)
            continue
        # Not `isinstance`: a subclass can compute anything.
        if type(layer) not in (*_OURS, *_DROPOUT, *_PRODUCTS, *_NORMALISATIONS, *_OTHER_LAYERS):
            raise CheckpointError(f"layers of the kind {type(layer).__name__} are not supported")
        if isinstance(layer, _NORMALISATIONS) and layer.running_mean is None:
            raise CheckpointError(
                f"{type(layer).__name__} without running statistics is not supported: it would mix "
                "the passes"
            )
        yield layer


def _split_at_dropout(network: nn.Sequential) -> list[list[nn.Module]]:
    """The layers before the first dropout, then each dropout with the layers that follow it."""
    parts: list[list[nn.Module]] = [[]]
    for layer in network:
        if isinstance(layer, _DROPOUT):
            parts.append([])
        parts[-1].append(layer)
    return parts


def _site_of(dropout: nn.Module, h: Tensor) -> tuple[DropoutSite, tuple[int, ...]]:
    """The site of a dropout whose input for one image is `h`, and the shape of its mask."""
    assert isinstance(dropout, _DROPOUT)
    rate = round_rate(dropout.p)
    if rate == 1:
        raise CheckpointError(f"a dropout rate of {dropout.p} leaves nothing; it must be below 1")
    shape = tuple(h.shape[1:])
    if isinstance(dropout, nn.Dropout2d):
        if len(shape) != 3:
            raise CheckpointError(f"Dropout2d needs channels, and its input has shape {shape}")
        shape = (shape[0], 1, 1)
    return DropoutSite(math.prod(shape), rate), shape


def _try(layers: nn.Sequential, h: Tensor) -> Tensor:
    """Computes a part of the network for one image, to learn the shapes."""
    try:
        tried: Tensor = layers(h)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        message = " ".join(str(error).split())
        raise CheckpointError(f"the network cannot compute an image: {message}") from error
    return tried

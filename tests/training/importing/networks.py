"""Networks of torch that the tests export, save and compare with."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LeNet(nn.Module):
    """As Gal and Ghahramani 2016 use it, but smaller; `forward` is written as people do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 8, 5)
        self.drop = nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(128, 30), nn.Linear(30, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = self.drop(x.view(x.size(0), -1))
        x = F.dropout(F.relu(self.fc1(x)), 0.25, self.training)
        return F.log_softmax(self.fc2(x), dim=1)


# The same network, as `--layers` has it.
LENET_LAYERS = (
    *("conv1", "relu", "max_pool2d:2", "conv2", "relu", "max_pool2d:2", "flatten"),
    *("dropout:0.5", "fc1", "relu", "dropout:0.25", "fc2"),
)


def other_layers() -> nn.Sequential:
    """Every other kind of layer."""
    return nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), dilation=(1, 2), groups=2, bias=False),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Dropout2d(0.25),
        nn.AvgPool2d(2, stride=1),
        nn.Conv2d(6, 8, 3, padding="same"),
        nn.MaxPool2d(2, padding=1),
        nn.Identity(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(8, 12, bias=False),
        nn.BatchNorm1d(12, affine=False),
        nn.ReLU(),
        nn.Linear(12, 3),
        nn.Softmax(dim=-1),
    )


def make(kind: Any) -> nn.Module:
    """A network with weights with which the passes disagree, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = kind()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                for name, buffer in layer.state_dict().items():
                    if buffer.is_floating_point():
                        layer.state_dict()[name].uniform_(0.5, 1.5)
            elif isinstance(layer, nn.Linear | nn.Conv2d):
                layer.weight.data *= 3
    return module.eval()


def with_dropout(module: nn.Module) -> nn.Module:
    """In evaluation mode but for its dropout."""
    for layer in module.modules():
        if isinstance(layer, LeNet | nn.Dropout | nn.Dropout2d):
            layer.training = True
    return module

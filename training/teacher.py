"""The teacher: networks whose common opinion of distorted digits the digit network learns.

A student that is shown an image together with a teacher's probabilities learns more from it than
from the bare label (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"); both must
see the same distortion (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and
consistent").
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoint import VERSION_DIGITS, load_checkpoint
from model.errors import CheckpointError
from model.network import MLP
from training.convnet import load_convnet
from training.errors import TrainingError


@dataclass(frozen=True)
class Teacher:
    """Trained networks that are asked together.

    Attributes:
        members: logits, float32, (N, C), of ink 0 to 255, (N, 28, 28).
        cards: per member its version, kind, recipe and validation error.
        folder: where its views of the training images are kept.
    """

    members: Sequence[Callable[[Tensor], Tensor]]
    cards: Sequence[dict[str, Any]]
    folder: Path

    @property
    def version(self) -> str:
        """Names all members."""
        versions = " ".join(card["version"] for card in self.cards)
        return hashlib.sha256(versions.encode()).hexdigest()[:VERSION_DIGITS]

    def opinion(self, pixels: Tensor) -> Tensor:
        """Mean of the members' log-probabilities, float32, (N, C), of ink 0 to 255, (N, 28, 28)."""
        with torch.inference_mode():
            logs = [member(pixels).log_softmax(dim=1) for member in self.members]
            return torch.stack(logs).mean(dim=0)


def load_teacher(paths: Sequence[Path], device: torch.device) -> Teacher:
    """A teacher from files of `dropserve-train teacher`, or checkpoints of digit networks.

    Raises:
        TrainingError: a file is neither.
    """
    members: list[Callable[[Tensor], Tensor]] = []
    cards: list[dict[str, Any]] = []
    for path in paths:
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError:
            convnet = load_convnet(path, device)
            members.append(convnet.answer)
            cards.append({"kind": "convnet", **convnet.card})
            continue
        members.append(_mlp_member(checkpoint.network.to(device)))
        error = checkpoint.metrics.get("validation", {}).get("error")
        cards.append(
            {
                "kind": "mlp",
                "version": checkpoint.version,
                "recipe": checkpoint.training["recipe"] | {"seed": checkpoint.training["seed"]},
                "validation_error": error,
            }
        )
    if not members:
        raise TrainingError("a teacher needs at least one file")
    return Teacher(members, cards, paths[0].with_name("views"))


def _mlp_member(network: MLP) -> Callable[[Tensor], Tensor]:
    mean, std = network.config.mean, network.config.std

    def answer(pixels: Tensor) -> Tensor:
        logits: Tensor = network((pixels.flatten(1).float() / 255 - mean) / std)
        return logits

    return answer

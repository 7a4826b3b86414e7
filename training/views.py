"""Views: distorted copies of the training images with a teacher's opinion of each.

Asking the teacher about an image takes longer than training on its answer. So the epochs of a run
go round a number of views, which are kept on disk; runs with other seeds use the same ones.
"""

import hashlib
from dataclasses import asdict

import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor

from model.files import write_atomically
from training.augmentation import distort
from training.config import TrainConfig
from training.data import Images
from training.epochs import (
    DISTORTION_CHUNK,
    EPOCH,
    VIEW,
    Epoch,
    augmentation_strength,
    full_distortion,
    make_outliers,
    stream_seed,
)
from training.teacher import Teacher

_STEPS = 20  # strengths that the augmentation has while it fades


class Views:
    """Takes each epoch's images from a view, which is made when it is first needed.

    At full strength the epochs go round `config.views` views. While the augmentation fades, its
    strength is rounded to a twentieth, and the epochs go round a twentieth of the views at each.
    """

    def __init__(self, config: TrainConfig, training: Images, teacher: Teacher) -> None:
        self._config = config
        self._teacher = teacher
        self._pixels = torch.from_numpy(training.pixels)
        self._labels = torch.from_numpy(training.labels)
        self._dataset = training.dataset
        digest = hashlib.sha256(training.pixels.tobytes())
        digest.update(repr(asdict(full_distortion(config))).encode())
        digest.update(teacher.version.encode())
        self._folder = teacher.folder / digest.hexdigest()[:12]

    def prepare(self, epoch: int, device: torch.device) -> Epoch:
        """Shuffles one epoch's view, on the device."""
        pixels, logits = self._view(epoch, device)
        generator = torch.Generator().manual_seed(stream_seed(self._config.seed, EPOCH, epoch))
        order = torch.randperm(len(self._labels), generator=generator)
        pixels, labels = pixels[order].to(device), self._labels[order].to(device)
        return Epoch(
            pixels,
            labels,
            logits[order].to(device, torch.float32),
            make_outliers(self._config, epoch, pixels, labels, self._dataset),
        )

    def _view(self, epoch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        strength = round(augmentation_strength(self._config, epoch) * _STEPS) / _STEPS
        views = self._config.views if strength == 1 else max(1, self._config.views // _STEPS)
        number = epoch % views
        path = self._folder / f"{strength:.2f}-{number:04d}.safetensors"
        if not path.exists():
            view = dict(
                zip(("pixels", "logits"), self._make(strength, number, device), strict=True)
            )
            write_atomically(path, save_tensors(view))
        view = load_file(path)
        return view["pixels"], view["logits"]

    def _make(self, strength: float, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Distorted images, uint8, (N, 28, 28), and the teacher's logits, float16, (N, C)."""
        seed = stream_seed(number, VIEW, round(strength * 1_000_000))
        generator = torch.Generator().manual_seed(seed)
        distortion = full_distortion(self._config).scaled(strength)
        pixels, logits = [], []
        for chunk in torch.split(self._pixels, DISTORTION_CHUNK):
            distorted = distort(chunk.to(device, torch.float32), distortion, generator)
            rounded = distorted.round().clamp(0, 255).to(torch.uint8)
            pixels.append(rounded.cpu())
            logits.append(self._teacher.opinion(rounded).cpu().half())
        return torch.cat(pixels), torch.cat(logits)

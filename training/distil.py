"""Distillation: teachers, whose answers to distorted digits the digit network learns.

A student that is shown an image with a teacher's probabilities learns more from it than from the
bare label (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network"); both must see the
same distortion (Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and
consistent").
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from model.checkpoint import VERSION_DIGITS, load_checkpoint
from model.errors import CheckpointError
from model.files import write_atomically
from training.augmentation import (
    DISTORTION_CHUNK,
    DROPOUT,
    EPOCH,
    VIEW,
    WEIGHTS,
    Epoch,
    FreshImages,
    augmentation_strength,
    distort,
    finish,
    full_distortion,
    make_epochs,
    stream_seed,
)
from training.config import TeacherConfig, TrainConfig
from training.data import Images
from training.errors import TrainingError
from training.network import TrainableMLP
from training.runs import RunFiles

METADATA_KEY = "teacher"
_CHANNELS = (32, 48, 64, 128)
_DROPOUT = 0.4
_CHUNK = 1000  # images that are scored at a time
_CERTAIN = 20.0  # logit of the label of an image that the teacher is not asked about
_STRENGTHS = 20  # of the augmentation of views while it fades


def distillation_loss(
    loss: Tensor, logits: Tensor, teacher_logits: Tensor, *, weight: float, temperature: float
) -> Tensor:
    """The loss of the labels and, in part, that of the teacher's softened probabilities.

    With w the weight and t the temperature it is (1 - w) loss +
    w t^2 CE(softmax(teacher_logits / t), softmax(logits / t)), Hinton et al. 2015, section 2: t^2
    keeps the size of the gradient.
    """
    targets = (teacher_logits / temperature).softmax(dim=1)
    soft = nn.functional.cross_entropy(logits / temperature, targets)
    return (1 - weight) * loss + weight * temperature**2 * soft


@dataclass(frozen=True)
class Teacher:
    """Trained networks that answer together.

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
        """A digest of the members' versions."""
        versions = " ".join(card["version"] for card in self.cards)
        return hashlib.sha256(versions.encode()).hexdigest()[:VERSION_DIGITS]

    def logits(self, pixels: Tensor) -> Tensor:
        """Mean of the members' log-probabilities, float32, (N, C), of ink 0 to 255, (N, 28, 28)."""
        with torch.inference_mode():
            logs = [member(pixels).log_softmax(dim=1) for member in self.members]
            return torch.stack(logs).mean(dim=0)

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Mean of the members' probabilities, float32, (N, C), of ink 0 to 255, (N, 28, 28)."""
        with torch.inference_mode():
            chunks = torch.split(pixels, _CHUNK)
            each = [torch.cat([member(chunk) for chunk in chunks]) for member in self.members]
            return torch.stack(each).softmax(dim=2).mean(dim=0)


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
        members.append(TrainableMLP.from_network(checkpoint.network).to(device).answer)
        recipe = checkpoint.training.get("recipe", {}) | {"seed": checkpoint.training.get("seed")}
        error = checkpoint.metrics.get("validation", {}).get("error")
        card = {"version": checkpoint.version, "recipe": recipe, "validation_error": error}
        cards.append({"kind": "mlp", **card})
    if not members:
        raise TrainingError("a teacher needs at least one file")
    return Teacher(members, cards, paths[0].with_name("views"))


class Views:
    """Epochs from views: distorted copies of the training images with the teacher's logits.

    To ask the teacher about an image takes longer than to train on its answer. So the epochs go
    round `config.views` views, whose logits are kept on disk, 20 bytes an image; the images are
    distorted again. Runs with other seeds use the same views. While the augmentation fades, its
    strength is rounded to a twentieth, and the epochs go round a twentieth of the views at each
    strength.

    Only the first `taught` images are the teacher's; of the others it knows less than their labels.
    """

    def __init__(
        self,
        config: TrainConfig,
        training: Images,
        teacher: Teacher,
        pool: NDArray[np.uint8] | None = None,
        *,
        taught: int | None = None,
    ) -> None:
        self._config, self._teacher = config, teacher
        self._taught = len(training) if taught is None else taught
        self._dataset, self._pool = training.dataset, pool
        self._pixels = torch.from_numpy(training.pixels)
        self._labels = torch.from_numpy(training.labels)
        digest = hashlib.sha256(training.pixels[: self._taught].tobytes())
        digest.update(repr(asdict(full_distortion(config))).encode())
        digest.update(teacher.version.encode())
        self._folder = teacher.folder / digest.hexdigest()[:12]

    def prepare(self, epoch: int, device: torch.device) -> Epoch:
        pixels, logits = self._view(epoch, device)
        generator = torch.Generator().manual_seed(stream_seed(self._config.seed, EPOCH, epoch))
        order = torch.randperm(len(self._labels), generator=generator)
        pixels, labels = pixels[order].to(device), self._labels[order].to(device)
        made = Epoch(pixels, labels, logits[order].to(device, torch.float32))
        return finish(made, self._config, epoch, self._dataset, self._pool)

    def _view(self, epoch: int, device: torch.device) -> tuple[Tensor, Tensor]:
        strength = round(augmentation_strength(self._config, epoch) * _STRENGTHS) / _STRENGTHS
        views = self._config.views if strength == 1 else max(1, self._config.views // _STRENGTHS)
        number = epoch % views
        path = self._folder / f"{strength:.2f}-{number:04d}.safetensors"
        chunks = self._distort(strength, number, device)
        if not path.exists():
            asked = torch.split(torch.cat(chunks)[: self._taught], DISTORTION_CHUNK)
            logits = torch.cat([self._teacher.logits(chunk).cpu().half() for chunk in asked])
            write_atomically(path, save_tensors({"logits": logits}))
        logits = load_file(path)["logits"]
        known = nn.functional.one_hot(self._labels[self._taught :], logits.shape[1])
        return torch.cat(chunks).cpu(), torch.cat([logits, _CERTAIN * known.half()])

    def _distort(self, strength: float, number: int, device: torch.device) -> list[Tensor]:
        """The images of a view, uint8, (N, 28, 28), in chunks."""
        seed = stream_seed(number, VIEW, round(strength * 1_000_000))
        generator = torch.Generator().manual_seed(seed)
        distortion = full_distortion(self._config).scaled(strength)
        return [
            distort(chunk.to(device, torch.float32), distortion, generator)
            .round()
            .clamp(0, 255)
            .to(torch.uint8)
            for chunk in torch.split(self._pixels, DISTORTION_CHUNK)
        ]


class ConvNet(nn.Sequential):
    """Four convolutions, two of them with stride 2, and one linear layer; used in training only.

    It is wrong about other digits than an MLP is, so that the two together are a better teacher
    than either. Strides in place of pooling keep the activations small, which a CPU is slow at.
    """

    def __init__(self) -> None:
        a, b, c, d = _CHANNELS
        super().__init__(
            *_convolution(1, a, kernel=4, stride=2, padding=1),  # (B, a, 14, 14)
            *_convolution(a, b, kernel=3, stride=1, padding=1),
            *_convolution(b, c, kernel=3, stride=2, padding=1),  # (B, c, 7, 7)
            *_convolution(c, d, kernel=3, stride=1, padding=0),  # (B, d, 5, 5)
            nn.Flatten(),
            nn.Dropout(_DROPOUT),
            nn.Linear(d * 25, 10),
        )
        self.card: dict[str, Any] = {}  # version, recipe and validation error, once trained

    def answer(self, pixels: Tensor) -> Tensor:
        """Logits, float32, (N, C), of ink 0 to 255, (N, 28, 28)."""
        scaled = (pixels.to(torch.float32) / 255).unsqueeze(1)
        with _half_precision(pixels.device):
            logits: Tensor = self(scaled.contiguous(memory_format=torch.channels_last))
        return logits.float()


def _convolution(
    inputs: int, outputs: int, *, kernel: int, stride: int, padding: int
) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def train_convnet(
    config: TeacherConfig,
    images: Images,
    output: Path,
    *,
    device: torch.device,
    resume: bool = False,
) -> ConvNet:
    """Trains the network and saves it; the arguments are those of `training.train.train`."""
    recipe, files = asdict(config), RunFiles(output)
    if resume and files.is_finished:
        trained = load_convnet(output, device)
        files.require_recipe(recipe, trained.card["recipe"])
        return trained
    held_out = len(images) - config.validation_images
    training, validation = images[:held_out], images[held_out:]
    # Weights and dropout come from torch's global generator here: the layers leave no choice.
    torch.manual_seed(stream_seed(config.seed, WEIGHTS))
    network = _placed(ConvNet(), device)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    steps = held_out // config.batch_size
    schedule = OneCycleLR(optimizer, config.learning_rate, total_steps=config.epochs * steps)
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    finished: int = files.load_state(recipe, parts).get("epoch", 0) if resume else 0

    source = FreshImages(config.for_images(), training)
    with tqdm(total=config.epochs, initial=finished, unit="epoch", desc="teacher") as bar:
        for pixels, labels, *_ in make_epochs(source, finished, config.epochs, device):
            torch.manual_seed(stream_seed(config.seed, DROPOUT, finished))
            network.train()
            for step in range(steps):
                rows = slice(step * config.batch_size, (step + 1) * config.batch_size)
                logits = network.answer(pixels[rows])
                loss = nn.functional.cross_entropy(logits, labels[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            finished += 1
            error = _error(network.eval(), validation, device)
            bar.write(f"epoch {finished:3d}  validation error {error:.2%}", file=sys.stderr)
            bar.update()
            files.save_state(recipe, parts, epoch=finished)
    card = {"recipe": recipe, "validation_error": _error(network, validation, device)}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {METADATA_KEY: json.dumps(card, sort_keys=True)}
    write_atomically(output, save_tensors(tensors, metadata=metadata))
    files.state.unlink(missing_ok=True)
    return load_convnet(output, device)


def load_convnet(path: Path, device: torch.device) -> ConvNet:
    """Reads a teacher's file.

    Raises:
        TrainingError: it is missing or no teacher's.
    """
    try:
        content = path.read_bytes()
        tensors = load_tensors(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        card = json.loads(header["__metadata__"][METADATA_KEY])
        network = ConvNet()
        network.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise TrainingError(
            f"{path} holds no teacher: make one with dropserve-train teacher"
        ) from error
    network.card = {"version": hashlib.sha256(content).hexdigest()[:VERSION_DIGITS], **card}
    return _placed(network, device).eval().requires_grad_(False)


def _placed(network: ConvNet, device: torch.device) -> ConvNet:
    """The network on the device, in the layout that convolutions there are fastest in."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _error(network: ConvNet, images: Images, device: torch.device) -> float:
    pixels = torch.from_numpy(images.pixels).to(device)
    with torch.inference_mode():
        answers = [network.answer(chunk).argmax(dim=1) for chunk in torch.split(pixels, _CHUNK)]
    wrong = torch.cat(answers).cpu() != torch.from_numpy(images.labels)
    return float(wrong.double().mean())


def _half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 products where the processor has them: about a third less time."""
    has_them = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=has_them)

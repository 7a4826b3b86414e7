"""A convolutional network that the digit network learns from; used in training only.

It is wrong about other digits than an MLP is, so that the two together are a better teacher than
either. It never sees the validation images.
"""

import hashlib
import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm

from model.checkpoint import VERSION_DIGITS
from model.files import write_atomically
from training.config import TeacherConfig
from training.data import Images
from training.epochs import DROPOUT, WEIGHTS, FreshImages, make_epochs, stream_seed
from training.errors import TrainingError

_CHANNELS = (32, 48, 64, 128)
_DROPOUT = 0.4
_CHUNK = 1000  # images that are scored at a time
METADATA_KEY = "teacher"


class ConvNet(nn.Sequential):
    """Four convolutions, two of them in steps of two pixels, and one linear layer.

    The steps in place of pooling keep the activations small, which is what a CPU is slow at.
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
        self.card: dict[str, Any] = {}  # version, recipe and validation error of a trained one

    def answer(self, pixels: Tensor) -> Tensor:
        """Logits, float32, (N, C), of ink 0 to 255, (N, 28, 28)."""
        with _half_precision(pixels.device):
            logits: Tensor = self(_input(pixels))
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
    """Trains the network and saves it.

    Args:
        config: the recipe.
        images: the training set; the last `config.validation_images` are held out.
        output: where it goes.
        device: what computes.
        resume: continue the interrupted run at `output`, or begin where there is none.
    """
    state_path = output.with_name(f"{output.name}.state")
    if resume and not state_path.exists() and output.exists():
        trained = load_convnet(output, device)
        _require_same_recipe(config, trained.card["recipe"], output)
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
    finished = 0
    if resume and state_path.exists():
        state = torch.load(state_path, weights_only=True, map_location="cpu")
        _require_same_recipe(config, state["recipe"], output)
        finished = state["epoch"]
        for name, part in parts.items():
            part.load_state_dict(state[name])

    source = FreshImages(config.images(), training)
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
            _save_state(state_path, config, finished, parts)
    card = {"recipe": asdict(config), "validation_error": _error(network, validation, device)}
    write_atomically(
        output,
        save_tensors(
            {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()},
            metadata={METADATA_KEY: json.dumps(card, sort_keys=True)},
        ),
    )
    state_path.unlink(missing_ok=True)
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


def _require_same_recipe(config: TeacherConfig, found: dict[str, Any], output: Path) -> None:
    if found != asdict(config):
        raise TrainingError(
            f"the run at {output} has other settings: repeat them, or choose another --output"
        )


def _placed(network: ConvNet, device: torch.device) -> ConvNet:
    """The network on the device, in the layout that convolutions there are fastest in."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _save_state(path: Path, config: TeacherConfig, epoch: int, parts: dict[str, Any]) -> None:
    state = {name: part.state_dict() for name, part in parts.items()}
    buffer = io.BytesIO()
    torch.save({"recipe": asdict(config), "epoch": epoch, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def _error(network: ConvNet, images: Images, device: torch.device) -> float:
    pixels = torch.from_numpy(images.pixels).to(device)
    with torch.inference_mode():
        answers = [network.answer(chunk).argmax(dim=1) for chunk in torch.split(pixels, _CHUNK)]
    wrong = torch.cat(answers).cpu() != torch.from_numpy(images.labels)
    return float(wrong.double().mean())


def _input(pixels: Tensor) -> Tensor:
    scaled = (pixels.to(torch.float32) / 255).unsqueeze(1)
    return scaled.contiguous(memory_format=torch.channels_last)


def _half_precision(device: torch.device) -> torch.autocast:
    """Products in bfloat16 where the processor has them: about a third less time."""
    has_them = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=has_them)

"""Teachers on made-up patterns: they learn, answer together, and the student learns from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.arrays import Floats
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.network import MLPConfig
from tests.training.patterns import CPU, IMAGES
from tests.training.patterns import TINY as PLAIN
from training.augmentation import Epoch, make_epochs
from training.config import TeacherConfig, TrainConfig
from training.data import Images
from training.distil import ConvNet, Teacher, Views, load_convnet, load_teacher, train_convnet
from training.errors import TrainingError
from training.network import TrainableMLP
from training.runs import RunFiles
from training.train import TEACHER_SETTINGS, _loss, train

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


TINY = replace(PLAIN, views=2)


TEACHER = TeacherConfig(epochs=2, batch_size=25, validation_images=100)


TRAINING = IMAGES[:500]


@pytest.fixture(scope="module")
def convnet_file(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    output = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    train_convnet(TEACHER, IMAGES, output, device=CPU)
    return output


class Oracle:
    """Is sure of the class that the brightest of ten columns names, and counts its images."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.asked += len(pixels)
        columns: Tensor = pixels.float().sum(dim=1)[:, :10]
        return columns / 100


def teacher_of(folder: Path, *members: Oracle) -> Teacher:
    return Teacher(members, [{"version": str(n)} for n in range(len(members))], folder)


def test_a_convnet_learns_and_is_read_as_it_was_written(convnet_file: Path) -> None:
    network = load_convnet(convnet_file, CPU)
    with torch.inference_mode():
        answers = network.answer(torch.from_numpy(IMAGES.pixels[500:])).argmax(dim=1)
    right = (answers == torch.from_numpy(IMAGES.labels[500:])).double().mean()
    assert right > 0.9
    assert network.card["validation_error"] == pytest.approx(1 - float(right))


def test_an_interrupted_convnet_ends_with_the_bytes_of_an_undisturbed_one(
    convnet_file: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_after_saving(*arguments: Any, **values: Any) -> None:
        save(*arguments, **values)
        raise KeyboardInterrupt

    save = RunFiles.save_state
    with monkeypatch.context() as patched:
        patched.setattr(RunFiles, "save_state", stop_after_saving)
        with pytest.raises(KeyboardInterrupt):
            train_convnet(TEACHER, IMAGES, output, device=CPU)
    assert not output.exists()
    with pytest.raises(TrainingError, match="other settings"):
        train_convnet(replace(TEACHER, seed=1), IMAGES, output, device=CPU, resume=True)
    train_convnet(TEACHER, IMAGES, output, device=CPU, resume=True)
    assert output.read_bytes() == convnet_file.read_bytes()
    assert train_convnet(TEACHER, IMAGES, output, device=CPU, resume=True).card["version"]


def test_a_teacher_is_the_mean_of_its_members_log_probabilities(
    convnet_file: Path, tmp_path: Path
) -> None:
    checkpoint_file = tmp_path / "mlp.safetensors"
    mlp = TrainableMLP(MLPConfig())
    save_checkpoint(
        checkpoint_file, Checkpoint(mlp.to_network(), training={"recipe": {}, "seed": 3})
    )
    teacher = load_teacher([convnet_file, checkpoint_file], CPU)
    assert [card["kind"] for card in teacher.cards] == ["convnet", "mlp"]
    pixels = torch.from_numpy(IMAGES.pixels[:7])
    with torch.inference_mode():
        first = load_convnet(convnet_file, CPU).answer(pixels).log_softmax(dim=1)
        x = (pixels.flatten(1) / 255 - mlp.config.mean) / mlp.config.std
        second = mlp(x).log_softmax(dim=1)
    torch.testing.assert_close(teacher.logits(pixels), (first + second) / 2)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "]
)
def test_what_is_no_teacher_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match="make one with dropserve-train teacher"):
        load_teacher([path], CPU)


def test_epochs_go_round_the_views_and_ask_the_teacher_once_about_each(tmp_path: Path) -> None:
    oracle = Oracle()
    config = replace(TINY, epochs=10, relax=0.2)
    made = list(make_epochs(Views(config, TRAINING, teacher_of(tmp_path, oracle)), 0, 10, CPU))
    # Two views at full strength, from epoch 0 to 8, and one for the epoch that fades.
    assert oracle.asked == 3 * len(TRAINING)
    assert as_set(made[0]) == as_set(made[2]) == as_set(made[8])
    assert as_set(made[0]) != as_set(made[1])
    assert as_set(made[9]) not in (as_set(made[0]), as_set(made[1]))
    assert not torch.equal(made[0].labels, made[2].labels)
    again = Views(replace(config, seed=1), TRAINING, teacher_of(tmp_path, oracle))
    assert as_set(again.prepare(0, CPU)) == as_set(made[0])
    assert oracle.asked == 3 * len(TRAINING)


def as_set(epoch: Epoch) -> set[bytes]:
    return {image.numpy().tobytes() for image in epoch.pixels}


def test_labels_and_teacher_logits_stay_with_their_images(tmp_path: Path) -> None:
    views = Views(TINY, TRAINING, teacher_of(tmp_path, Oracle()))
    epoch = views.prepare(0, CPU)
    assert epoch.teacher_logits is not None
    expected = Oracle()(epoch.pixels).log_softmax(dim=1)
    torch.testing.assert_close(epoch.teacher_logits, expected, rtol=1e-2, atol=1e-2)
    assert sorted(epoch.labels.tolist()) == sorted(TRAINING.labels.tolist())


def test_the_teacher_is_not_asked_about_what_it_was_not_taught(tmp_path: Path) -> None:
    oracle, taught = Oracle(), len(TRAINING) - 7
    views = Views(TINY, TRAINING, teacher_of(tmp_path, oracle), taught=taught)
    epoch = views.prepare(0, CPU)
    assert oracle.asked == taught
    assert epoch.teacher_logits is not None
    largest, likeliest = epoch.teacher_logits.max(dim=1)
    is_taught = largest <= 0  # a teacher's are logarithms of probabilities
    assert torch.equal(likeliest[~is_taught], epoch.labels[~is_taught])
    assert sorted(epoch.labels[~is_taught].tolist()) == sorted(TRAINING.labels[taught:].tolist())


def test_another_teacher_or_augmentation_has_views_of_its_own(tmp_path: Path) -> None:
    one, two = Oracle(), Oracle()
    Views(TINY, TRAINING, teacher_of(tmp_path, one)).prepare(0, CPU)
    Views(TINY, TRAINING, teacher_of(tmp_path, one, two)).prepare(0, CPU)
    assert two.asked == len(TRAINING)
    Views(replace(TINY, elastic=0.0), TRAINING, teacher_of(tmp_path, one)).prepare(0, CPU)
    assert one.asked == 3 * len(TRAINING)


def test_the_loss_is_hintons() -> None:
    """Two images worked by hand in float64, at temperature 2 and weight 0.9."""
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    answers = torch.tensor([[1.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    labels = torch.tensor([0, 2])
    config = replace(TINY, distillation_weight=0.9, distillation_temperature=2.0)
    z, g = logits.double().numpy(), answers.double().numpy()

    def log_softmax(a: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = a - np.log(np.exp(a).sum(axis=1, keepdims=True))
        return result

    hard = -log_softmax(z)[[0, 1], [0, 2]].mean()
    soft = -(np.exp(log_softmax(g / 2)) * log_softmax(z / 2)).sum(axis=1).mean()
    expected = 0.1 * hard + 0.9 * 4 * soft
    assert float(_loss(logits, labels, answers, config)) == pytest.approx(expected, rel=1e-6)
    assert float(_loss(logits, labels, None, config)) == pytest.approx(hard, rel=1e-6)


@pytest.mark.slow
def test_a_student_learns_what_only_its_teacher_knows(tmp_path: Path) -> None:
    """Shuffled labels teach nothing; a teacher that was trained on the right ones does."""
    wrong = Images(IMAGES.pixels, np.roll(IMAGES.labels, 1))
    right = TeacherConfig(epochs=3, batch_size=25, validation_images=100)
    path = tmp_path / "teacher.safetensors"
    train_convnet(right, IMAGES, path, device=CPU)
    config = replace(TINY, epochs=8, distillation_weight=1.0)
    output = tmp_path / "net.safetensors"
    train(config, wrong, output, device=CPU, teacher=load_teacher([path], CPU))
    checkpoint = load_checkpoint(output)
    with torch.inference_mode():
        network = TrainableMLP.from_network(checkpoint.network)
        answers = network.answer(torch.from_numpy(IMAGES.pixels)).argmax(dim=1)
    assert float((answers == torch.from_numpy(IMAGES.labels)).double().mean()) > 0.9
    recipe = checkpoint.training["recipe"]
    assert recipe["teacher"][0]["kind"] == "convnet"
    assert recipe["views"] == 2


SHORT = replace(TINY, epochs=2, relax=0.0)


CHANGES = {"views": 1, "distillation_weight": 0.5, "distillation_temperature": 4.0}


def test_the_changes_below_are_all_that_concern_the_teacher() -> None:
    assert CHANGES.keys() == TEACHER_SETTINGS


@pytest.mark.parametrize("setting", CHANGES)
def test_every_setting_of_the_teaching_changes_the_weights(setting: str, tmp_path: Path) -> None:
    def weights(config: TrainConfig, name: str) -> Floats:
        teacher = teacher_of(tmp_path, Oracle())
        train(config, IMAGES, tmp_path / name, device=CPU, teacher=teacher)
        return load_checkpoint(tmp_path / name).network.layers[3].weight

    changed = replace(SHORT, **{setting: CHANGES[setting]})  # type: ignore[arg-type]
    assert not np.array_equal(weights(SHORT, "plain"), weights(changed, "changed"))


def test_the_convnet_is_small_enough_to_ask_about_millions_of_images() -> None:
    assert sum(p.numel() for p in ConvNet().parameters()) < 200_000

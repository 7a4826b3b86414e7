"""The review folder: what is kept, how much, and what happens when it cannot be written."""

import errno
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import app.inference.review
from app.api.application import create_app
from app.inference.review import ReviewFolder, read_review_file, review_files
from app.schemas import Decision, ModelIdentity, Prediction, PredictParameters
from app.settings import Settings, SettingsError
from model.checkpoint import Checkpoint
from tests.conftest import connect, sample

PARAMETERS = PredictParameters()


def answer(reason: Any = "unfamiliar") -> Prediction:
    outcome: Any = "accept" if reason is None else "abstain"
    return Prediction(
        digit=7,
        label="7",
        confidence=0.5,
        probabilities=[0.1] * 10,
        predictive_entropy=1.5,
        decision=Decision(outcome=outcome, reason=reason, score=1.5, threshold=0.4),
        model=ModelIdentity(name="mnist", version="0"),
    )


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out because it comes too fast."""
    monkeypatch.setattr(app.inference.review, "_PER_SECOND", float("inf"))
    monkeypatch.setattr(app.inference.review, "_MOST_WAITING", 10_000)


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in review_files(folder))


async def test_abstained_pictures_are_kept_as_they_were_sent(
    default_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    application = create_app(Settings(review_dir=tmp_path / "new"), default_checkpoint)
    sent = sample("not_a_digit.png")
    lifespan = application.router.lifespan_context(application)
    async with lifespan, connect(application) as client:
        single = await client.post("/predict/mc?seed=1", content=sent)
        await client.post("/predict", content=sample("7.png"))
        files = [("file", sample("7.png")), ("file", b"no image"), ("file", sent)]
        batch = await client.post("/predict/batch", files=files)
        stream = await client.post("/predict/mc/stream?seed=2&preprocess=auto", content=sent)
        study = await client.post("/predict/mc?dropout=0.5", content=sent)
    kept = [read_review_file(path) for path in review_files(tmp_path / "new")]

    assert [image for image, *_ in kept] == [sent] * 3
    assert kept[0][1:3] == ("auto", single.json())
    assert kept[1][2] == batch.json()["predictions"][2]
    assert kept[2][2] == json.loads(stream.text.rpartition("data: ")[2])
    assert study.json()["decision"] is None
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "new").iterdir())


@pytest.mark.parametrize(("share", "least", "most"), [(0, 0, 0), (0.5, 60, 140), (1, 200, 200)])
def test_a_share_of_the_accepted_is_kept(
    tmp_path: Path, share: float, least: int, most: int
) -> None:
    folder = ReviewFolder(tmp_path, 2**20, share)
    for _ in range(200):
        folder.offer(b"picture", PARAMETERS, answer(None))
    folder.close()
    assert least <= len(review_files(tmp_path)) <= most


def test_a_flood_stays_within_the_bytes_and_the_newest_stay(tmp_path: Path) -> None:
    most = 100_000
    workers = [ReviewFolder(tmp_path, most, 0) for _ in range(2)]
    for number in range(200):
        picture = b"%04d" % number * 500
        for worker in workers:
            worker.offer(picture, PARAMETERS, answer())
    for worker in workers:
        worker.close()

    assert 0.8 * most < size_of(tmp_path) <= most
    newest = {read_review_file(path)[0] for path in review_files(tmp_path)[-4:]}
    assert b"0199" * 500 in newest
    assert not list(tmp_path.glob("*.part"))


def test_a_picture_that_would_fill_the_folder_is_left_out(tmp_path: Path) -> None:
    folder = ReviewFolder(tmp_path, 100_000, 0)
    folder.offer(np.zeros((28, 28), np.uint8), PARAMETERS, answer())
    folder.offer(bytes(30_000), PARAMETERS, answer())
    folder.close()
    ((image, *_),) = map(read_review_file, review_files(tmp_path))
    assert np.array_equal(image, np.zeros((28, 28)))


def test_a_flood_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.inference.review, "_PER_SECOND", 1e-3)
    folder = ReviewFolder(tmp_path, 2**20, 0)
    for _ in range(1000):
        folder.offer(b"picture", PARAMETERS, answer())
    folder.close()
    assert len(review_files(tmp_path)) == 1


def test_files_that_a_person_removes_make_room(tmp_path: Path) -> None:
    folder = ReviewFolder(tmp_path, 10_000, 0)
    for _ in range(3):
        folder.offer(bytes(1500), PARAMETERS, answer())
    folder.close()
    for file in review_files(tmp_path):
        file.unlink()
    again = ReviewFolder(tmp_path, 10_000, 0)
    for _ in range(3):
        again.offer(bytes(1500), PARAMETERS, answer())
    again.close()
    assert len(review_files(tmp_path)) == 3


def test_a_full_disk_is_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = ReviewFolder(tmp_path, 2**20, 0)
    with caplog.at_level(logging.WARNING, "dropserve"), monkeypatch.context() as patched:
        patched.setattr(app.inference.review, "_private", full)
        for _ in range(20):
            folder.offer(b"picture", PARAMETERS, answer())
        folder.close()
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert not review_files(tmp_path)
    again = ReviewFolder(tmp_path, 2**20, 0)
    again.offer(b"picture", PARAMETERS, answer())
    again.close()
    assert len(review_files(tmp_path)) == 1


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="DROPSERVE_REVIEW_DIR"):
        create_app(Settings(review_dir=tmp_path / "file"))

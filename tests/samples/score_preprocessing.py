"""How often `preprocess=auto` brings the network to the right digit, by kind of picture.

`python -m tests.samples.score_preprocessing` prints the tables for MNIST's test images and for the
scans of optdigits; with `--split validation` for images to choose and tune by. MNIST, and next to
it the folder `optdigits`, are found through DROPSERVE_DATA_DIR or in ../shared/data.
"""

import argparse
import gzip
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from app.errors import ApiError
from app.inference.answers import AnswerBuilder
from app.inference.decoding import decode
from app.inference.jobs import Job
from app.schemas import McParameters
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.digits.preprocessing import find_digits
from model.engines import build_engine
from model.engines.protocol import predict_probs, sample_probs
from model.errors import NoInkError
from tests.conftest import ROOT
from tests.samples import no_digits
from tests.samples.renderings import KINDS, as_it_is, encode, several_digits
from training.data import Images, find_folder, load_images, parse_idx

VALIDATION_IMAGES = 5000
NO_DIGIT_PICTURES = 300
SEVERAL_DIGITS_PICTURES = 200
_MAX_PIXELS = 50_000_000
_PASSES = 50


class Reader:
    """Reads image files as the server does."""

    def __init__(self, checkpoint: Path) -> None:
        loaded = load_checkpoint(checkpoint)
        self.name = f"{loaded.name} {loaded.version}"
        self._engine = build_engine(loaded.network, "cpu", "float32")
        self._answers = AnswerBuilder(loaded)

    def read(self, file: bytes) -> int | str:
        """The digit of the deterministic answer, or why there is none."""
        try:
            found = find_digits(decode(file, max_pixels=_MAX_PIXELS)[0])
        except (NoInkError, ApiError):
            return "no ink"
        if found.boxes:
            return "several"
        return int(predict_probs(self._engine, found.pixels).argmax())

    def judge(self, file: bytes) -> tuple[str, float]:
        """What becomes of a picture with dropout, and the predictive entropy: nan without one."""
        try:
            found = find_digits(decode(file, max_pixels=_MAX_PIXELS)[0])
        except (NoInkError, ApiError):
            return "422", float("nan")
        job = Job(found, McParameters(passes=_PASSES, seed=0))
        job.advance(sample_probs(self._engine, job.pixels, job.passes))
        answer = self._answers.sampled(job)
        entropy = float(answer.predictive_entropy)
        if found.boxes:
            return "several", entropy
        decision = answer.decision
        return "undecided" if decision is None else decision.outcome, entropy


def score(reader: Reader, name: str, pictures: Iterable[tuple[bytes, int]]) -> tuple[int, int]:
    """Prints a row of the table; returns how many were right, and how many there were."""
    outcomes: Counter[str] = Counter()
    for file, label in tqdm(pictures, desc=name, leave=False):
        read = reader.read(file)
        outcomes[read if isinstance(read, str) else "right" if read == label else "wrong"] += 1
    right, total = outcomes["right"], outcomes.total()
    refused = f"{outcomes['no ink']:9d} {outcomes['several']:9d}"
    print(f"{name:20} {right / total:8.2%} {outcomes['wrong']:7d} {refused}", flush=True)
    return right, total


def renderings(images: Images, kind: str, count: int) -> Iterator[tuple[bytes, int]]:
    """Files of a kind, each of another image, the same every time."""
    generator = np.random.default_rng([len(images), *kind.encode()])
    for index in generator.choice(len(images), count, replace=False):
        yield KINDS[kind](images.pixels[index], generator), int(images.labels[index])


def scans(folder: Path) -> Iterator[tuple[bytes, int]]:
    """The scanned digits of a folder with two gzipped IDX files, as PNGs."""
    names = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
    pixels, labels = (parse_idx(gzip.decompress((folder / name).read_bytes())) for name in names)
    for scan, label in zip(pixels, labels, strict=True):
        yield encode(scan.astype(float)), int(label)


def numbers(images: Images, count: int) -> Iterator[bytes]:
    """Files that show two to four digits."""
    generator = np.random.default_rng([len(images), 1])
    for _ in range(count):
        chosen = generator.integers(0, len(images), int(generator.integers(2, 5)))
        yield several_digits([images.pixels[index] for index in chosen], generator)


def score_no_digits(reader: Reader, split: str, count: int) -> None:
    """Prints what becomes of pictures without a digit, by kind; each split has its own."""
    print(
        f"\n{'no digit':20} {'422':>5} {'several':>8} {'abstain':>8} {'accept':>7}  entropy, nats"
    )
    accepted = undecided = 0
    for number, (name, draw) in enumerate(no_digits.KINDS.items()):
        generator = np.random.default_rng(number if split == "test" else [number, 1])
        share = range(number, count, len(no_digits.KINDS))
        judged = [reader.judge(draw(generator)) for _ in share]
        outcomes = Counter(outcome for outcome, _ in judged)
        entropies = sorted(entropy for outcome, entropy in judged if outcome != "422")
        entropy = f"{median(entropies):.2f} ({entropies[0]:.2f} at least)" if entropies else "-"
        accepted += outcomes["accept"]
        undecided += outcomes["undecided"]
        taken = outcomes["accept"] + outcomes["undecided"]
        print(
            f"{name:20} {outcomes['422']:5d} {outcomes['several']:8d} {outcomes['abstain']:8d} "
            f"{taken:7d}  {entropy}",
            flush=True,
        )
    print(f"accepted: {accepted} of {count}", end="")
    print(f"; {undecided} more without a threshold to decide by" if undecided else "")


def main(arguments: list[str] | None = None) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.samples.score_preprocessing")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--images", type=int, default=500, help="of each kind")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args(arguments)
    folder = find_folder(options.data_dir)
    if options.split == "test":
        images = load_images("test", folder)
    else:
        images = load_images("train", folder)[slice(-VALIDATION_IMAGES, None)]
    reader = Reader(options.checkpoint)
    print(f"{reader.name}, {options.split} images, {options.images} of each kind\n")
    print(f"{'kind':20} {'right':>8} {'wrong':>7} {'no ink':>9} {'several':>9}")
    right = total = 0
    for kind in KINDS:
        counts = score(reader, kind, renderings(images, kind, options.images))
        right, total = right + counts[0], total + counts[1]
    print(f"{'overall':20} {right / total:8.2%}\n", flush=True)
    if options.split == "test":
        generator = np.random.default_rng(0)
        same = sum(
            find_digits(decode(as_it_is(image, generator), max_pixels=784)[0]).pixels.tobytes()
            == image.tobytes()
            for image in tqdm(images.pixels, desc="as they are", leave=False)
        )
        print(f"as they are: {same} of {len(images)} images reach the network unchanged")
        score(reader, "optdigits", scans(options.data_dir / "optdigits"))
    found = sum(reader.read(file) == "several" for file in numbers(images, SEVERAL_DIGITS_PICTURES))
    print(f"numbers of 2 to 4 digits: {found} of {SEVERAL_DIGITS_PICTURES} seen as several")
    score_no_digits(reader, options.split, NO_DIGIT_PICTURES)


if __name__ == "__main__":
    main()

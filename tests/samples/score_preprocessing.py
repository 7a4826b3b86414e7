"""How often `preprocess=auto` brings the network to the right digit, by kind of picture.

`python -m tests.samples.score_preprocessing` prints the tables for MNIST's test images and for the
scans of optdigits; with `--half tuning` for images and parameters to choose and tune by. MNIST, and
next to it the folder `optdigits`, are found through DROPSERVE_DATA_DIR or in ../shared/data.
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
from app.inference.reading import read_picture
from app.schemas import McParameters, PredictParameters
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.digits.preprocessing import find_digits
from model.engines import build_engine
from model.engines.protocol import predict_probs, sample_probs
from tests.conftest import ROOT
from tests.samples import kinds, no_digits
from tests.samples.renderings import KINDS, as_it_is, encode, several_digits
from tests.samples.scenes import Half
from training.data import Images, find_folder, load_images, parse_idx

VALIDATION_IMAGES = 5000
NO_DIGIT_PICTURES = 300
SEVERAL_DIGITS_PICTURES = 200
EMPTY_PICTURES = 30  # of each kind
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
        return self.decide(file)[0]

    def decide(self, file: bytes) -> tuple[int | str, bool]:
        """The digit of the deterministic answer, or why there is none; whether it is accepted."""
        try:
            found = read_picture(file, "auto", max_pixels=_MAX_PIXELS)
        except ApiError:
            return "no ink", False
        probs = predict_probs(self._engine, found.pixels)
        answer = self._answers.deterministic(found, PredictParameters(), probs)
        accepted = answer.decision is not None and answer.decision.outcome == "accept"
        return "several" if found.boxes else answer.index, accepted

    def judge(self, file: bytes) -> tuple[str, float]:
        """What becomes of a picture with dropout, and the predictive entropy: nan without one."""
        try:
            found = read_picture(file, "auto", max_pixels=_MAX_PIXELS)
        except ApiError:
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


def score_kinds(
    reader: Reader,
    images: Images,
    half: Half,
    count: int,
    names: Iterable[str],
    misread: Path | None,
) -> None:
    """Prints what becomes of the kinds that people send, and keeps what is not read right.

    Wrong and accepted is the worst, and marked above ten of a thousand; so is less than 92 % right.
    """
    print(f"\n{'kind':20} {'right':>8} {'accepted':>9} {'accepted wrong':>15} {'422':>5} several")
    for name in names:
        kind = kinds.KINDS[name]
        outcomes: Counter[str] = Counter()
        pictures = tqdm(kinds.pictures(images, name, count, half), desc=name, leave=False)
        for number, (file, digit) in enumerate(pictures):
            read, accepted = reader.decide(file)
            is_right = read == digit or (kind.may_abstain and not accepted)
            outcomes["right"] += is_right
            outcomes["accepted"] += accepted
            outcomes["accepted wrong"] += accepted and read != digit
            outcomes[str(read)] += 1
            if misread is not None and not is_right:
                (misread / f"{name} {number} {digit} read as {read}").write_bytes(file)
        fails = outcomes["right"] < 0.92 * count or outcomes["accepted wrong"] > 0.01 * count
        print(
            f"{name:20} {outcomes['right'] / count:8.1%} {outcomes['accepted'] / count:9.1%} "
            f"{outcomes['accepted wrong']:15d} {outcomes['no ink']:5d} {outcomes['several']:7d}"
            f"{'  <' if fails else ''}",
            flush=True,
        )


def score_empty(reader: Reader, half: Half, count: int, names: Iterable[str]) -> None:
    """Prints what becomes of the kinds without a digit."""
    print(f"\n{'without its digit':20} {'422':>5} {'several':>8} {'abstain':>8} {'accept':>7}")
    for name in names:
        if not kinds.KINDS[name].can_be_empty:
            continue
        outcomes: Counter[str] = Counter()
        for seed in range(count):
            read, accepted = reader.decide(kinds.KINDS[name].empty_file(seed, half))
            if isinstance(read, int):
                read = "accept" if accepted else "abstain"
            outcomes[read] += 1
        print(
            f"{name:20} {outcomes['no ink']:5d} {outcomes['several']:8d} "
            f"{outcomes['abstain']:8d} {outcomes['accept']:7d}",
            flush=True,
        )


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


def score_no_digits(reader: Reader, half: Half, count: int) -> None:
    """Prints what becomes of pictures without a digit, by kind; each half has its own."""
    print(
        f"\n{'no digit':20} {'422':>5} {'several':>8} {'abstain':>8} {'accept':>7}  entropy, nats"
    )
    accepted = undecided = 0
    for number, (name, draw) in enumerate(no_digits.KINDS.items()):
        generator = np.random.default_rng(number if half == "reporting" else [number, 1])
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
    parser.add_argument("--half", choices=("tuning", "reporting"), default="reporting")
    parser.add_argument("--images", type=int, default=500, help="of each kind")
    parser.add_argument(
        "--kinds", nargs="*", choices=kinds.KINDS, metavar="KIND", help="these, and nothing else"
    )
    parser.add_argument("--misread", type=Path, help="a folder for pictures not read right")
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT)
    parser.add_argument("--data-dir", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args(arguments)
    folder = find_folder(options.data_dir)
    if options.half == "reporting":
        images = load_images("test", folder)
    else:
        images = load_images("train", folder)[slice(-VALIDATION_IMAGES, None)]
    reader = Reader(options.checkpoint)
    print(f"{reader.name}, {options.half} half, {options.images} images of each kind")
    if options.misread is not None:
        options.misread.mkdir(parents=True, exist_ok=True)
    names = kinds.KINDS if options.kinds is None else options.kinds
    score_kinds(reader, images, options.half, options.images, names, options.misread)
    score_empty(reader, options.half, EMPTY_PICTURES, names)
    if options.kinds is not None:
        return
    print(f"\n{'kind':20} {'right':>8} {'wrong':>7} {'no ink':>9} {'several':>9}")
    right = total = 0
    for kind in KINDS:
        counts = score(reader, kind, renderings(images, kind, options.images))
        right, total = right + counts[0], total + counts[1]
    print(f"{'overall':20} {right / total:8.2%}\n", flush=True)
    if options.half == "reporting":
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
    score_no_digits(reader, options.half, NO_DIGIT_PICTURES)


if __name__ == "__main__":
    main()

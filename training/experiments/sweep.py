"""How much dropout: error against p, against the training images, and per layer: `sweep`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from training.config import Experiment, TrainConfig
from training.experiments import PLAIN
from training.experiments.grid import load_mnist, run_grid
from training.experiments.plots import COLOURS, draw_spread, figure
from training.metrics import Spread
from training.train import evaluate_network

RATES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
# Epochs per number of training images. Few images have more, in smaller batches, so that there are
# steps enough to fit them.
SIZES = {500: 60, 2000: 40, 10_000: 20}
_SMALL_BATCH = 50
# Where p is swept: a sixth of the images, which are easier to overfit, in a sixth of the time.
SWEPT_SIZE = 10_000
SIZE_RATES = (0.0, 0.2, 0.5)
# Equal on average, for layers of 512, 256 and 128 units.
PER_LAYER = ((0.5, 0.3, 0.1), (0.3, 0.3, 0.3), (0.1, 0.3, 0.5))

# Training and test error of each run.
Errors = Mapping[TrainConfig, tuple[float, float]]

_LESSON = """\
Training error below test error is overfitting: raise p. Both high and close together is
underfitting: lower p. The fewer the images, the more there is to gain from dropout. Whether larger
layers bear a larger p, the last table shows."""


def sweep(experiment: Experiment) -> None:
    """Trains every setting with each seed, prints training and test errors, and draws them."""
    images, test = load_mnist(experiment)
    everything = len(images) - PLAIN.validation_images
    by_rate = {rate: experiment.seeded(with_size(SWEPT_SIZE, (rate,) * 3)) for rate in RATES}
    by_size = {
        (size, rate): experiment.seeded(with_size(size, (rate,) * 3))
        for size in (*SIZES, everything)
        for rate in SIZE_RATES
    }
    by_layer = {rates: experiment.seeded(with_size(SWEPT_SIZE, rates)) for rates in PER_LAYER}
    wanted = chain.from_iterable(
        group for groups in (by_rate, by_size, by_layer) for group in groups.values()
    )
    errors = {}
    for config, outcome in run_grid(wanted, images, experiment).items():
        test_error = evaluate_network(outcome.network, test).error
        errors[config] = (1 - outcome.kept["plain_train_accuracy"], test_error)
    rates = {f"{rate:g}": group for rate, group in by_rate.items()}
    sizes = {f"{size:,} images, p = {rate:g}": group for (size, rate), group in by_size.items()}
    layers = {", ".join(f"{rate:g}" for rate in rates): by_layer[rates] for rates in PER_LAYER}
    print(f"seeds: {experiment.seeds}, mean (lowest-highest); training error with dropout off\n")
    print(tabulate(f"p, of {SWEPT_SIZE:,} images", rates, errors))
    print(tabulate("\ntraining images", sizes, errors))
    print(tabulate("\np of 512, 256, 128 units", layers, errors))
    print(f"\n{_LESSON}")
    draw(by_rate, by_size, errors, experiment.figures)


def with_size(size: int, rates: tuple[float, ...]) -> TrainConfig:
    """The plain settings on that many images; the learning rate is proportional to the batch.

    References:
        Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 2.1.
    """
    if size not in SIZES:  # all there are
        return replace(PLAIN, dropout=rates)
    batch = PLAIN.batch_size if size >= SWEPT_SIZE else _SMALL_BATCH
    return replace(
        PLAIN,
        dropout=rates,
        training_images=size,
        epochs=SIZES[size],
        batch_size=batch,
        learning_rate=PLAIN.learning_rate * batch / PLAIN.batch_size,
    )


def tabulate(title: str, groups: Mapping[str, Sequence[TrainConfig]], errors: Errors) -> str:
    """A row per group: training error, test error, and the gap between their means in points."""
    lines = [f"{title:26}{'training error':24}{'test error':24}gap"]
    for name, group in groups.items():
        training, test = (
            Spread.of([errors[config][which] for config in group]) for which in (0, 1)
        )
        gap = 100 * (test.mean - training.mean)
        lines.append(f"{name:26}{f'{training:.2%}':24}{f'{test:.2%}':24}{gap:.2f}")
    return "\n".join(lines)


def draw(
    by_rate: Mapping[float, Sequence[TrainConfig]],
    by_size: Mapping[tuple[int, float], Sequence[TrainConfig]],
    errors: Errors,
    folder: Path,
) -> None:
    """Error against p, and against the number of training images."""
    both = ((1, "test", "-"), (0, "training", "--"))

    def per_seed(groups: Sequence[Sequence[TrainConfig]], which: int) -> list[list[float]]:
        return [
            [100 * errors[config][which] for config in run] for run in zip(*groups, strict=True)
        ]

    with figure(folder, "sweep", panels=2) as (rates, sizes):
        for which, label, style in both:
            runs = per_seed(list(by_rate.values()), which)
            shown = {"label": label, "colour": COLOURS[0], "style": style, "marker": "o"}
            draw_spread(rates, list(by_rate), runs, **shown)
        rates.set_xlabel("p, the probability of dropping a hidden unit")
        rates.legend()
        for colour, rate in zip(COLOURS, SIZE_RATES, strict=False):
            places = sorted(size for size, each in by_size if each == rate)
            for which, name, style in both:
                runs = per_seed([by_size[size, rate] for size in places], which)
                label = f"{name}, p = {rate:g}"
                shown = {"label": label, "colour": colour, "style": style, "marker": "o"}
                draw_spread(sizes, places, runs, **shown)
        sizes.set_xscale("log")
        sizes.set_xlabel("training images")
        sizes.legend()
        for axes in (rates, sizes):
            axes.set_ylabel("error, %")
            axes.set_ylim(bottom=0)

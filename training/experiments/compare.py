"""The same network with and without dropout, all else equal: `dropserve-train compare`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from model.network import MLPConfig
from training.config import CompareOptions, Experiment, TrainConfig
from training.data import Images
from training.experiments import ARTICLE, NO_DROPOUT, RELU_DROPOUT
from training.experiments.grid import Outcome, errors_on, load_mnist, run_groups
from training.experiments.plots import COLOURS, draw_spread, figure
from training.metrics import Spread

WITH, WITHOUT = "with dropout", "without dropout"
Groups = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Preset:
    """A comparison.

    Attributes:
        config: the settings of the network with dropout.
        validated_on: the images that are held out.
        published: numbers of the article, per group and quantity.
        loss_scale: of the figure's axis, as matplotlib names it.
        least_accuracy: where the figure's other axis begins.
        lesson: printed at the end.
    """

    config: TrainConfig
    validated_on: str
    published: Mapping[str, Mapping[str, float]]
    loss_scale: str
    least_accuracy: float
    lesson: str


PRESETS = {
    "article": Preset(
        ARTICLE,
        "MNIST's 10,000 test images, as in the article",
        {
            WITH: {"validation_accuracy": 0.9153, "train_loss": 0.4491},
            WITHOUT: {"validation_accuracy": 0.9212, "train_loss": 0.2780},
        },
        "linear",
        0.5,
        """\
Without activation functions the four layers are together one matrix: a linear classifier. It
underfits: it knows its training images hardly better than those it has never seen. There is no
overfitting for dropout to cure, so dropout can only hurt, and it does. Its training loss is high
for a second reason: it is measured with dropout on, of a network that lacks half of its units. With
dropout off the loss on the same images is far lower, and that is the figure to hold against the
other network's. With ReLU the picture turns: see `dropserve-train compare`.""",
    ),
    "relu": Preset(
        RELU_DROPOUT,
        "5,000 images held out of training",
        {},
        "log",
        0.94,
        """\
With ReLU the network can learn its training images by heart. Without dropout its training loss
falls towards 0, while that on images it has not seen stays where it was after a few epochs: this is
overfitting. With dropout the two stay closer together, and the loss on images it has not seen ends
lower, though that on the training images ends higher.""",
    ),
}


def compare(options: CompareOptions, experiment: Experiment) -> None:
    """Trains both networks with each seed, prints their last losses, and draws both figures."""
    preset = PRESETS[options.preset]
    images, test = load_mnist(experiment)
    is_validated_on_test = preset.config.validation_images == len(test)
    if is_validated_on_test:
        images = _join(images, test)  # the last ones are held out
    settings = {WITH: preset.config, WITHOUT: replace(preset.config, dropout=NO_DROPOUT)}
    groups = run_groups(settings, images, experiment)
    print(summarise_network(groups[WITH][0].network.config))
    print(
        f"\n{experiment.epochs or preset.config.epochs} epochs; seeds: {experiment.seeds}, "
        "mean (lowest-highest)\n"
        f"dropout rates {', '.join(f'{rate:g}' for rate in preset.config.dropout)}; "
        f"validated on {preset.validated_on}\n"
    )
    print(tabulate(groups, preset.published))
    if not is_validated_on_test:
        for group, members in groups.items():
            error = Spread.of(errors_on(members, test))
            print(f"{group:16}{'test error':32}{error:.2%}")
    print(f"\n{preset.lesson}")
    draw(groups, experiment.figures, options.preset)


def summarise_network(config: MLPConfig) -> str:
    """Each layer's shape and number of parameters, and their sum."""
    last, total = len(config.hidden_sizes), 0
    lines = [f"{'layer':10}{'inputs':>8}{'units':>8}{'parameters':>12}  activation"]
    for index, (units, inputs) in enumerate(config.layer_shapes):
        parameters = units * (inputs + 1)
        total += parameters
        name = "output" if index == last else f"hidden {index + 1}"
        activation = "softmax" if index == last else config.activation
        lines.append(f"{name:10}{inputs:8}{units:8}{parameters:12,}  {activation}")
    return "\n".join([*lines, f"{'together':26}{total:12,}"])


_QUANTITIES = {
    "validation_accuracy": "validation accuracy",
    "validation_loss": "validation loss",
    "train_loss": "training loss, as it trains",
    "plain_train_loss": "training loss, dropout off",
    "plain_train_accuracy": "training accuracy, dropout off",
}


def tabulate(groups: Groups, published: Mapping[str, Mapping[str, float]]) -> str:
    """The last row of each group's runs, with the published numbers."""
    heading = f"{'published':>9}" if published else ""
    lines = [f"{'':16}{'after the last epoch':32}{'':24}{heading}".rstrip()]
    for group, members in groups.items():
        for quantity, title in _QUANTITIES.items():
            spread = Spread.of([each.series(quantity)[-1] for each in members])
            known = published.get(group, {}).get(quantity)
            theirs = "" if known is None else f"{known:9.4f}"
            lines.append(f"{group:16}{title:32}{f'{spread:.4f}':24}{theirs}".rstrip())
    return "\n".join(lines)


def draw(groups: Groups, folder: Path, name: str) -> None:
    """Loss and accuracy against the epoch, of training and validation, mean with spread."""
    with figure(folder, f"compare-{name}", panels=2) as (losses, accuracies):
        for axes, kind in ((losses, "loss"), (accuracies, "accuracy")):
            for (group, members), colour in zip(groups.items(), COLOURS, strict=False):
                epochs = range(1, len(members[0].history) + 1)
                for quantity, title, style in (
                    ("validation", "validation", "-"),
                    ("plain_train", "training, dropout off", "--"),
                    ("train", "training, as it trains", ":"),
                ):
                    if group == WITHOUT and quantity == "train":
                        continue  # almost the same as with dropout off: there is none
                    runs = [each.series(f"{quantity}_{kind}") for each in members]
                    shown = {"label": f"{group}: {title}", "colour": colour, "style": style}
                    draw_spread(axes, epochs, runs, **shown)
            axes.set_xlabel("epoch")
            axes.set_ylabel(kind)
        losses.set_yscale(PRESETS[name].loss_scale)
        accuracies.set_ylim(bottom=PRESETS[name].least_accuracy)
        accuracies.legend()


def _join(first: Images, second: Images) -> Images:
    return Images(
        np.concatenate([first.pixels, second.pixels]), np.concatenate([first.labels, second.labels])
    )

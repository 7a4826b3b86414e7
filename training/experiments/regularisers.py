"""The regularisers the article and its papers name, one by one: `dropserve-train regularisers`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.config import Experiment, TrainConfig
from training.experiments import PLAIN, RELU_DROPOUT
from training.experiments.grid import Outcome, errors_on, load_mnist, run_groups
from training.experiments.plots import COLOURS, figure
from training.metrics import Spread
from training.options import flag_of


@dataclass(frozen=True)
class Method:
    """A way to regularise.

    Attributes:
        config: its settings.
        published: test error of Srivastava et al. 2014 in per cent, where they have one.
        source: which of their rows that is.
    """

    config: TrainConfig
    published: float | None
    source: str


# Their networks have 784-1024-1024-2048-10 units (table 9) or 3 x 1024 (table 2), and all that use
# dropout drop a fifth of the inputs, too.
METHODS = {
    "none": Method(PLAIN, 1.60, "table 2, standard network"),
    "L1": Method(replace(PLAIN, l1=1e-5), 1.60, "table 9, L2, and L1 towards the end"),
    "L2": Method(replace(PLAIN, l2=1e-4), 1.62, "table 9, L2"),
    "max-norm": Method(replace(PLAIN, max_norm=2.0), 1.35, "table 9, max-norm"),
    "early stopping": Method(replace(PLAIN, patience=3), None, ""),
    "dropout": Method(RELU_DROPOUT, 1.25, "table 2, dropout, ReLU"),
    "dropout + max-norm": Method(
        replace(RELU_DROPOUT, max_norm=2.0), 1.05, "table 9, dropout and max-norm"
    ),
    "dropout + input dropout": Method(
        replace(RELU_DROPOUT, input_dropout=0.1), 1.25, "table 2, dropout, ReLU"
    ),
}


def compare_regularisers(experiment: Experiment) -> None:
    """Trains every method with each seed, prints their errors, and draws them."""
    images, test = load_mnist(experiment)
    configs = {name: method.config for name, method in METHODS.items()}
    groups = run_groups(configs, images, experiment)
    errors = {name: errors_on(group, test) for name, group in groups.items()}
    epochs = experiment.epochs or PLAIN.epochs
    print(
        f"{epochs} epochs without augmentation; seeds: {experiment.seeds}, mean (lowest-highest)\n"
    )
    print(tabulate(groups, errors))
    print("\nOn top of no regulariser, as options of dropserve-train train:")
    for name, method in METHODS.items():
        print(f"{name:25}{describe(method.config)}".rstrip())
    draw(errors, experiment.figures)


def describe(config: TrainConfig) -> str:
    """What a method changes, as options of `dropserve-train train`."""
    changed = {
        name: value if isinstance(value, list) else [value]
        for name, value in config.recipe().items()
        if value != PLAIN.recipe().get(name)
    }
    return " ".join(
        " ".join([flag_of(name), *(f"{each:g}" for each in values)])
        for name, values in changed.items()
    )


def tabulate(groups: Mapping[str, Sequence[Outcome]], errors: Mapping[str, Sequence[float]]) -> str:
    """A row per method: errors, the difference to none in points, and the published error."""
    baseline = Spread.of(errors["none"]).mean
    lines = [
        f"{'':25}{'test error':22}{'to none':9}{'validation':22}{'training':10}{'epochs':8}"
        "published"
    ]
    for name, members in groups.items():
        method, error = METHODS[name], Spread.of(errors[name])
        validation = Spread.of([1 - each.kept["validation_accuracy"] for each in members])
        training = Spread.of([1 - each.kept["plain_train_accuracy"] for each in members])
        epochs = Spread.of([len(each.history) for each in members])
        published = "" if method.published is None else f"{method.published:.2f}%  {method.source}"
        lines.append(
            f"{name:25}{f'{error:.2%}':22}{f'{100 * (error.mean - baseline):+.2f}':9}"
            f"{f'{validation:.2%}':22}{f'{training.mean:.2%}':10}{f'{epochs.mean:.0f}':8}"
            f"{published}".rstrip()
        )
    return "\n".join(lines)


def draw(errors: Mapping[str, Sequence[float]], folder: Path) -> None:
    """Test errors: each run a dot, the mean a bar, and what is published a cross."""
    ours, theirs = COLOURS[:2]
    with figure(folder, "regularisers", panels=1, width=6.0) as (axes,):
        for place, (name, values) in enumerate(errors.items()):
            per_cent = [100 * value for value in values]
            published = METHODS[name].published
            axes.plot(per_cent, [place] * len(values), "o", color=ours, markersize=4, alpha=0.6)
            axes.plot([Spread.of(per_cent).mean], [place], "|", color=ours, markersize=16)
            if published is not None:
                axes.plot([published], [place], "x", color=theirs, markersize=6)
        axes.plot([], [], "o", color=ours, markersize=4, label="here: each seed, and their mean")
        axes.plot([], [], "x", color=theirs, label="Srivastava et al. 2014, larger networks")
        axes.set_yticks(range(len(errors)), list(errors))
        axes.invert_yaxis()
        axes.set_xlabel("test error, %")
        axes.legend()

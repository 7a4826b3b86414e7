"""The model card: what the network is for, what it was made from, what it can and cannot do."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from training.report.pages import abstaining_text, scores_table, sets_table, unfamiliar_table

_INTENDED_USE = """\
Reads one handwritten digit, 0 to 9, from a 28x28 image in MNIST's convention, to which the server
brings any picture of a digit, and says how sure it is. Meant for learning about uncertainty, for
demonstrations, and as a first reader whose doubtful cases go to a person. Not meant for decisions
about people without such a person, nor for cheques, medical records or votes."""

_LIMITS = """\
- It knows ten digits and nothing else. Most other pictures raise its doubt, and some do not: the
  table above says how many are accepted.
- MNIST was written by American census workers and students around 1990. Other hands, pens and
  cultures (a 1 with a long upstroke, a 7 with a bar) are read less well, and calibration,
  thresholds and prediction sets hold for images like MNIST's only.
- Of images that are no digits it was shown some kinds in training, made from digits (`outliers`
  in the recipe). Of those each pass finds no digit likely: the doubt is in the expected entropy,
  and mutual information, variance and votes say little about them.
- One digit at a time: of two digits in one picture it reads neither.
- Turned by more than about 30 degrees a digit is another sign, and often another digit, to it.
- MC dropout is an approximation of Bayesian inference. Its doubt is useful, not exact; it was
  calibrated for 50 passes with independent masks. Fewer passes understate it a little.
- An adversary can make it sure of anything."""


def model_card(report: Mapping[str, Any], figures: Sequence[str]) -> str:
    """The card as Markdown; its figures lie in the folder `figures` beside it."""
    subject = report["checkpoint"]
    training = subject["training"]
    parts = [
        f"# Model card: {subject['name']} {subject['version']}",
        "Written by `dropserve-train evaluate --card`; every number is measured.",
        "## Intended use",
        _INTENDED_USE,
        "## Network and data",
        f"A multi-layer perceptron of {subject['parameters']:,} parameters, "
        f"{'-'.join(map(str, subject['layer_sizes']))}, with ReLU and dropout after each hidden "
        f"layer: {_rates(subject['training_rates'])} in training, "
        f"{_rates(subject['serving_rates'])} in serving. Data set: `{subject['name']}`, "
        f"60,000 training images less {training['recipe'].get('validation_images', 0):,} for "
        "validation, and 10,000 test images, used only for this card.",
        f"Recipe: {_recipe(training['recipe'])}; seed {training['seed']}. Serving rates, "
        "temperatures, thresholds and prediction sets were chosen on the validation images and on "
        "images that are no digits made from them (`dropserve-train calibrate`).",
        "## How good it is",
        scores_table(report),
        *_seeds(report),
        "![reliability](figures/reliability.svg)" if "reliability" in figures else "",
        "## When it abstains",
        abstaining_text(report),
        sets_table(report),
    ]
    if "unfamiliar" in report:
        parts += [
            unfamiliar_table(report),
            "![what is no digit](figures/unfamiliar.svg)" if "unfamiliar" in figures else "",
        ]
    parts += ["## Limits", _LIMITS]
    return "\n\n".join(part for part in parts if part) + "\n"


def _recipe(recipe: Mapping[str, Any]) -> str:
    """Every setting and, of a teacher, who its members are; their own recipes lie beside them."""
    settings = {name: value for name, value in sorted(recipe.items()) if name != "teacher"}
    parts = [f"{name} {value}" for name, value in settings.items()]
    parts += [
        f"taught by the {member['kind']} {member['version']}, validation error "
        f"{member['validation_error']:.2%}"
        for member in recipe.get("teacher", [])
    ]
    return ", ".join(parts)


CARD_FIGURES = ("reliability", "unfamiliar")


def _seeds(report: Mapping[str, Any]) -> list[str]:
    """Errors of checkpoints from other seeds, and how far they spread."""
    seeds = report.get("seeds", [])
    if len(seeds) < 2:
        return []
    lines = [
        "| seed | version | validation error | test error, deterministic | test error, MC |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in seeds:
        lines.append(
            f"| {each['seed']} | {each['version']} | {each['validation_error']:.2%} | "
            f"{each['error']:.2%} | {each['mc_error']:.2%} |"
        )
    for name in ("error", "mc_error"):
        values = [each[name] for each in seeds]
        words = "deterministic" if name == "error" else "MC"
        lines.append(
            f"\nTest error of {len(seeds)} seeds, {words}: mean {statistics.mean(values):.3%}, "
            f"standard deviation {statistics.stdev(values):.3%}."
        )
    return ["\n".join(lines)]


def _rates(rates: Sequence[float]) -> str:
    return "/".join(f"{rate:.3f}" for rate in rates)

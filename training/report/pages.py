"""The report and the model card as Markdown, with the tables that they share."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from training.answers import ABSTAINING_SCORE
from training.report.tables import (
    Report,
    corrupted_section,
    passes_table,
    prepared_section,
    share,
    split_section,
    table,
)

# What dropout at test time is worth, without it and by both measures.
_STORY = {
    "entropy, deterministic": "entropy without dropout",
    "predictive entropy, MC": "predictive entropy",
    "mutual information, MC": "mutual information",
}
CARD_FIGURES = ("reliability", "unfamiliar")
_INTENDED_USE = """\
Reads one handwritten digit, 0 to 9, from a 28x28 image in MNIST's convention, to which the server
brings any picture of a digit, and says how sure it is. Meant for learning about uncertainty, for
demonstrations, and as a first reader whose uncertain cases go to a person. Not meant for decisions
about people without such a person, nor for cheques, medical records or votes."""

_LIMITS = """\
- It knows ten digits and nothing else. Most other pictures raise its uncertainty, and some do not:
  the table above says how many are accepted.
- MNIST was written by American census workers and students around 1990. Other hands, pens and
  cultures are read less well, and calibration, thresholds and prediction sets hold for images like
  MNIST's only.{digits}
{outliers}- One digit at a time: of two digits in one picture it reads neither.
- Turned by more than about 30 degrees a digit is another sign, and often another digit, to it.
- MC dropout is an approximation of Bayesian inference. Its uncertainty is useful, not exact; it
  was calibrated with independent masks. With few passes it is too small, for letters by half.
- An adversary can make it sure of anything."""

_NO_OUTLIERS = """\
- In training it saw digits only. What is no digit is more uncertain than a digit, but not always.
"""
_OUTLIERS_ALIKE = """\
- In training it was shown some kinds of images that are not digits (`outliers` in the recipe). Each
  pass finds no digit likely in them: the uncertainty is in the expected entropy, and mutual
  information, variance and votes say little about them.
"""
_OUTLIERS_APART = """\
- In training it was shown some kinds of images that are not digits (`outliers` in the recipe), and
  its passes were trained to disagree about them. Images of such kinds raise the mutual information;
  where digits blur into each other, the passes agree, and the expected entropy rises.
"""
_DIGITS = (
    " Ones with a flag and sevens with a bar, of which MNIST has few, were drawn for training."
)
_POOL = """\
- Printed letters, of other fonts than notMNIST's, were among these images. KMNIST's characters, and
  handwriting of any other alphabet, were not.
"""


def headline(report: Report) -> str:
    """The most important numbers, for the terminal."""
    subject = report["checkpoint"]
    lines = [
        f"{subject['name']} {subject['version']}, {report['images']:,} test images, "
        f"{report['passes']} passes, dropout {subject['serving_rates'][0]:.3f}",
        f"{'':28}{'error':>7}{'NLL':>9}{'Brier':>9}{'ECE':>9}  if calibrated",
    ]
    for name, row in report["scores"]["rows"].items():
        low, high = row["ece_band"]
        lines.append(
            f"{name:28}{row['error']:>7.2%}{row['nll']:>9.4f}{row['brier']:>9.4f}"
            f"{row['ece']:>9.4f}  {low:.4f}-{high:.4f}"
        )
    decided = report["abstaining"]["decisions"]["mc"]
    if decided:
        lines.append(
            f"accepted: {decided['coverage']:.2%} of the digits, "
            f"error among them {decided['error']:.2%}"
        )
    for level, measured in report["abstaining"]["sets"]["mc"].items():
        lines.append(
            f"prediction sets at {level}: coverage {measured['coverage']:.2%}, "
            f"mean size {measured['mean_size']:.3f}"
        )
    for name, other in report.get("unfamiliar", {}).get("sets", {}).items():
        if "auroc" in other:
            lines.append(f"AUROC against {name}: {other['auroc'][ABSTAINING_SCORE]:.4f}")
    return "\n".join(lines)


def report_page(report: Report) -> str:
    """The whole report; its figures lie in the folder `figures` next to it."""
    subject, abstaining = report["checkpoint"], report["abstaining"]
    difference = report["scores"]["nll_difference"]
    areas = {**abstaining["aurc"], "oracle": abstaining["aurc_oracle"]}
    parts = [
        f"# {subject['name']} {subject['version']}",
        f"{report['images']:,} test images, {report['passes']} passes with independent masks, "
        f"seeds from {report['seed']} on. Dropout in serving: "
        f"{_rates(subject['serving_rates'], ', ')}; in training: "
        f"{_rates(subject['training_rates'], ', ')}. Everything was fitted on validation images.",
        "## Scores",
        scores_table(report),
        f"NLL of the calibrated MC answers minus that of the calibrated deterministic ones: "
        f"{difference['mean']:+.5f}, 95 % interval of a paired bootstrap "
        f"{difference['low']:+.5f} to {difference['high']:+.5f}; z = {difference['z']:.1f}.",
        _image("reliability"),
        *_against(report),
        "## Abstaining",
        abstaining_text(report),
        table(
            ["uncertainty score", "AURC, 1e-4"],
            [[name, f"{1e4 * area:.3f}"] for name, area in areas.items()],
        ),
        _image("risk_coverage"),
        "## Prediction sets",
        sets_table(report),
        "## Numbers of passes",
        passes_table(report["passes_table"]),
        "## Images that are not digits",
        "All of the images as they are (`preprocess=none`).",
        unfamiliar_table(report),
        _image("unfamiliar"),
        *split_section(report),
        *prepared_section(report),
        *corrupted_section(report),
        "## Rotated digits",
        "One digit 1, every pass, after Gal and Ghahramani 2016, figure 4; then all test images.",
        _image("rotated_digit"),
        _rotation_table(report["rotation"]),
        _image("rotation"),
        "## Convergence",
        _convergence_text(report["convergence"]),
        _image("convergence"),
        "## Gallery",
        _image("uncertain"),
        _image("errors"),
    ]
    return "\n\n".join(parts) + "\n"


def model_card(report: Report) -> str:
    """The card; the figures `CARD_FIGURES` lie in the folder `figures` next to it."""
    subject = report["checkpoint"]
    training = subject["training"]
    recipe = training.get("recipe", {})
    parts = [
        f"# Model card: {subject['name']} {subject['version']}",
        "Written by `dropserve-train evaluate --card`; every number is measured.",
        "## Intended use",
        _INTENDED_USE,
        "## Network and data",
        f"{subject['network']}: {_rates(subject['training_rates'], '/')} in training, "
        f"{_rates(subject['serving_rates'], '/')} in serving. Data set: `{subject['name']}`, "
        f"60,000 training images less {recipe.get('validation_images', 0):,} for "
        "validation, and 10,000 test images, used only for this card.",
        f"Recipe: {_recipe(recipe) or 'not recorded'}; seed {training.get('seed')}. Temperatures, "
        "thresholds and prediction sets were fitted on the validation images "
        "(`dropserve-train calibrate`).",
        "## How good it is",
        scores_table(report),
        *_seeds(report),
        _image("reliability"),
        "## When it abstains",
        abstaining_text(report),
        sets_table(report),
        unfamiliar_table(report),
        _image("unfamiliar"),
        *prepared_section(report),
        "## Limits",
        _LIMITS.format(outliers=shown_outliers(recipe), digits=drawn_digits(recipe)),
    ]
    return "\n\n".join(parts) + "\n"


def shown_outliers(recipe: Mapping[str, Any]) -> str:
    """What the network was shown that is no digit."""
    if not recipe.get("outliers"):
        return _NO_OUTLIERS
    shown = _OUTLIERS_APART if recipe.get("disagreement") else _OUTLIERS_ALIKE
    return shown + (_POOL if "pool" in recipe else "")


def drawn_digits(recipe: Mapping[str, Any]) -> str:
    """What the network was shown of digits that MNIST hardly has."""
    return _DIGITS if recipe.get("pool", {}).get("digits") else ""


def _recipe(recipe: Mapping[str, Any]) -> str:
    """Every setting and, of a teacher, its members without their own recipes."""
    lists = ("pool", "teacher", "initial")
    parts = [f"{name} {value}" for name, value in sorted(recipe.items()) if name not in lists]
    if "pool" in recipe:
        parts.append(f"pool {recipe['pool']['version']} of {recipe['pool']['images']:,} outliers")
    parts += [
        f"taught by the {member['kind']} {member['version']}, validation error "
        f"{share(member['validation_error'], 'not recorded')}"
        for member in recipe.get("teacher", [])
    ]
    if "initial" in recipe:
        begun = recipe["initial"]["recipe"] | {"version": recipe["initial"]["version"]}
        parts.append(f"begun with {begun['version']}, whose recipe is: {_recipe(begun)}")
    return ", ".join(parts)


def _seeds(report: Mapping[str, Any]) -> list[str]:
    """Errors of checkpoints from other seeds, and how far they spread."""
    seeds = report.get("seeds", [])
    if len(seeds) < 2:
        return []
    header = ["seed", "version", "validation error", "test error, deterministic", "test error, MC"]
    errors = ("validation_error", "error", "mc_error")
    rows = [
        [
            str(each["seed"]),
            each["version"],
            *(share(each[name], "not recorded") for name in errors),
        ]
        for each in seeds
    ]
    spreads = []
    for name, words in (("error", "deterministic"), ("mc_error", "MC")):
        values = [each[name] for each in seeds]
        spreads.append(
            f"Test error of {len(seeds)} seeds, {words}: mean {statistics.mean(values):.3%}, "
            f"standard deviation {statistics.stdev(values):.3%}."
        )
    return [table(header, rows), *spreads]


def _rates(rates: Sequence[float], separator: str) -> str:
    return separator.join(f"{rate:.3f}" for rate in rates)


def scores_table(report: Report) -> str:
    """Deterministic and MC, uncalibrated and calibrated, side by side."""
    rows = [
        [name, f"{row['error']:.2%}", f"{row['nll']:.4f}", f"{row['brier']:.4f}"]
        + [
            "{:.4f} ({:.4f}-{:.4f})".format(row[ece], *row[f"{ece}_band"])
            for ece in ("ece", "ece_mass")
        ]
        for name, row in report["scores"]["rows"].items()
    ]
    header = ["", "error", "NLL", "Brier", "ECE, equal width", "ECE, equal mass"]
    return (
        table(header, rows)
        + "\n\nECE over 15 bins; in brackets what a perfectly calibrated model of the same "
        "confidences would show, 5th to 95th percentile."
    )


def abstaining_text(report: Report) -> str:
    """The effect of the stored thresholds, and of thresholds chosen with the labels."""
    abstaining = report["abstaining"]
    lines = []
    for kind, name in (("mc", "MC answers"), ("predict", "deterministic answers")):
        decided = abstaining["decisions"][kind]
        if decided:
            lines.append(
                f"- {name}: the stored threshold, {decided['threshold']:.4f} nats, accepts "
                f"{decided['coverage']:.2%} of the test images; {decided['errors']} of them are "
                f"wrong, {decided['error']:.2%}."
            )
            if decided["unfamiliar_threshold"] is not None:
                lines[-1] += (
                    f" It also rejects a mutual information above "
                    f"{decided['unfamiliar_threshold']:.4f} nats."
                )
    reached = abstaining["coverage_at"]
    lines.append(
        f"- A threshold that knew the labels would accept {reached['0.001']:.2%} at an error of "
        f"0.1 %, and {reached['0.002']:.2%} at 0.2 %."
    )
    return "\n".join(lines)


def sets_table(report: Report) -> str:
    """Coverage and size of the prediction sets."""
    shown = (("coverage", ".2%"), ("mean_size", ".3f"), ("single", ".2%"))
    rows = [
        [level, name, *(f"{each[key]:{form}}" for key, form in shown)]
        for kind, name in (("mc", "MC dropout"), ("predict", "deterministic"))
        for level, each in report["abstaining"]["sets"][kind].items()
    ]
    header = ["level", "answers", "coverage", "mean size", "of one digit"]
    return table(header, rows) if rows else "The checkpoint has no prediction sets."


def unfamiliar_table(report: Report) -> str:
    """AUROC of every score against every data set, and the share that is rejected."""
    sets = report["unfamiliar"]["sets"]
    measured = {name: each for name, each in sets.items() if "auroc" in each}
    skipped = [
        f"{name} was skipped: {sets[name]['skipped']}." for name in sets if name not in measured
    ]
    rows = [
        [score, *(f"{each['auroc'][score]:.4f}" for each in measured.values())]
        for score in report["abstaining"]["aurc"]
    ]
    rows += [
        [f"abstained, {name}", *(share(each["abstained"][kind]) for each in measured.values())]
        for kind, name in (("mc", "MC"), ("predict", "deterministic"))
    ]
    for measure in ("predictive_entropy", "mutual_information"):
        cells = [f"{each['auroc_of_few'][measure]:.4f}" for each in measured.values()]
        few = next(iter(measured.values()))["few_passes"] if measured else 0
        rows.append([f"{measure.replace('_', ' ')} of {few} passes", *cells])
    header = ["AUROC of", *(f"{name} ({each['images']:,})" for name, each in measured.items())]
    return "\n\n".join([*([table(header, rows)] if measured else []), *skipped])


def _against(report: Report) -> list[str]:
    if "against" not in report:
        return []
    other = report["against"]
    lines = [f"Against the checkpoint {other['version']} on the same images, McNemar's exact test:"]
    for kind, name in (("predict", "deterministic"), ("mc", "MC dropout")):
        each = other[kind]
        lines.append(
            f"- {name}: {each['errors']} errors against {each['other_errors']}; "
            f"{each['only_first_wrong']} wrong here only, {each['only_second_wrong']} there only, "
            f"p = {each['p_value']:.3g}"
        )
    measured = other.get("unfamiliar", {})
    rows = [
        [f"{version}, {name}", *(f"{each[score]:.4f}" for each in sets.values())]
        for version, sets in measured.items()
        for score, name in _STORY.items()
    ]
    if not rows:
        return ["\n".join(lines)]
    sets = next(iter(measured.values()))
    story = "Gal and Ghahramani 2016, section 5, on digits against other images, AUROC:"
    return ["\n".join(lines), story, table(["AUROC of", *sets], rows)]


def _rotation_table(rotation: Mapping[str, Any]) -> str:
    columns = (rotation[name] for name in ("angles", "accuracy", "ece", "entropy", "accepted"))
    rows = [
        [f"{angle}°", f"{accuracy:.2%}", f"{ece:.4f}", f"{entropy:.3f}", f"{accepted:.2%}"]
        for angle, accuracy, ece, entropy, accepted in zip(*columns, strict=True)
    ]
    return table(["angle", "accuracy", "ECE", "mean entropy", "accepted"], rows)


def _convergence_text(convergence: Mapping[str, Any]) -> str:
    passes = convergence["passes"]
    rows = [
        [estimator, name, *(f"{value:.4f}" for value in errors[name])]
        for estimator, errors in convergence["rmse"].items()
        for name in ("mean", "variance")
    ]
    return (
        f"Root mean square error over the {convergence['images']} most uncertain digits and "
        f"{convergence['repetitions']} seeds, against {convergence['reference_passes']:,} passes.\n"
        "\n" + table(["masks", "of the", *map(str, passes)], rows)
    )


def _image(name: str) -> str:
    return f"![{name.replace('_', ' ')}](figures/{name}.svg)"

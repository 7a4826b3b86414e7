"""The report as Markdown, and the tables that it shares with the terminal and the model card."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.report.subject import ABSTAINING_SCORE

Report = Mapping[str, Any]


def headline(report: Report) -> str:
    """The most important figures, for the terminal."""
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


def report_page(report: Report, figures: Sequence[str]) -> str:
    """The whole report; its figures lie beside it."""
    subject = report["checkpoint"]
    parts = [
        f"# {subject['name']} {subject['version']}",
        f"{report['images']:,} test images, {report['passes']} passes with independent masks, "
        f"seeds from {report['seed']} on. Dropout in serving: "
        f"{_list(subject['serving_rates'], '.3f')}; in training: "
        f"{_list(subject['training_rates'], '.3f')}. Everything was fitted on validation images.",
        "## Scores",
        scores_table(report),
        _nll_difference(report),
        _image("reliability", figures),
        *_against(report),
        "## Abstaining",
        abstaining_text(report),
        _table(
            ["score of doubt", "AURC, 1e-4"],
            [
                *(
                    [name, f"{1e4 * area:.3f}"]
                    for name, area in report["abstaining"]["aurc"].items()
                ),
                ["oracle", f"{1e4 * report['abstaining']['aurc_oracle']:.3f}"],
            ],
        ),
        _image("risk_coverage", figures),
        "## Prediction sets",
        sets_table(report),
    ]
    if "unfamiliar" in report:
        parts += [
            "## What is no digit",
            "All of the images as they are (`preprocess=none`).",
            unfamiliar_table(report),
            _image("unfamiliar", figures),
        ]
    if "rotation" in report:
        parts += [
            "## Rotated digits",
            "One digit 1, every pass, after Gal and Ghahramani 2016, figure 4; then all test "
            "images.",
            _image("rotated_digit", figures),
            _rotation_table(report["rotation"]),
            _image("rotation", figures),
        ]
    if "convergence" in report:
        parts += [
            "## Convergence",
            _convergence_text(report["convergence"]),
            _image("convergence", figures),
        ]
    parts += ["## Gallery", _image("doubtful", figures), _image("errors", figures)]
    return "\n\n".join(part for part in parts if part) + "\n"


def scores_table(report: Report) -> str:
    """Deterministic and MC, uncalibrated and calibrated, side by side."""
    rows = []
    for name, row in report["scores"]["rows"].items():
        rows.append(
            [
                name,
                f"{row['error']:.2%}",
                f"{row['nll']:.4f}",
                f"{row['brier']:.4f}",
                f"{row['ece']:.4f} ({_band(row['ece_band'])})",
                f"{row['ece_mass']:.4f} ({_band(row['ece_mass_band'])})",
            ]
        )
    header = ["", "error", "NLL", "Brier", "ECE, equal width", "ECE, equal mass"]
    return (
        _table(header, rows)
        + "\n\nECE over 15 bins; in brackets what a perfectly calibrated model of the same "
        "confidences would show, 5th to 95th percentile."
    )


def abstaining_text(report: Report) -> str:
    """What the stored thresholds do, and what a threshold chosen afterwards could do."""
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
    reached = abstaining["coverage_at"]
    lines.append(
        f"- A threshold that knew the labels would accept {reached['0.001']:.2%} at an error of "
        f"0.1 %, and {reached['0.002']:.2%} at 0.2 %."
    )
    return "\n".join(lines)


def sets_table(report: Report) -> str:
    """Coverage and size of the prediction sets."""
    rows = [
        [
            level,
            name,
            f"{each['coverage']:.2%}",
            f"{each['mean_size']:.3f}",
            f"{each['single']:.2%}",
        ]
        for kind, name in (("mc", "MC dropout"), ("predict", "deterministic"))
        for level, each in report["abstaining"]["sets"][kind].items()
    ]
    if not rows:
        return "The checkpoint has no prediction sets."
    return _table(["level", "answers", "coverage", "mean size", "of one digit"], rows)


def unfamiliar_table(report: Report) -> str:
    """AUROC of every score against every data set, and what the threshold turns away."""
    sets = report["unfamiliar"]["sets"]
    measured = {name: each for name, each in sets.items() if "auroc" in each}
    skipped = [
        f"{name} was skipped: {each['skipped']}."
        for name, each in sets.items()
        if "skipped" in each
    ]
    rows = [
        [score, *(f"{each['auroc'][score]:.4f}" for each in measured.values())]
        for score in report["abstaining"]["aurc"]
    ]
    rows += [
        [f"abstained, {name}", *(_share(each["abstained"][kind]) for each in measured.values())]
        for kind, name in (("mc", "MC"), ("predict", "deterministic"))
    ]
    header = ["AUROC of", *(f"{name} ({each['images']:,})" for name, each in measured.items())]
    return "\n\n".join([*([_table(header, rows)] if measured else []), *skipped])


def _nll_difference(report: Report) -> str:
    difference = report["scores"]["nll_difference"]
    return (
        f"NLL of the calibrated MC answers minus that of the calibrated deterministic ones: "
        f"{difference['mean']:+.5f}, 95 % interval of a paired bootstrap "
        f"{difference['low']:+.5f} to {difference['high']:+.5f}."
    )


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
    return ["\n".join(lines)]


def _rotation_table(rotation: Mapping[str, Any]) -> str:
    rows = [
        [
            f"{angle}°",
            f"{rotation['accuracy'][place]:.2%}",
            f"{rotation['ece'][place]:.4f}",
            f"{rotation['entropy'][place]:.3f}",
            f"{rotation['accepted'][place]:.2%}",
        ]
        for place, angle in enumerate(rotation["angles"])
    ]
    return _table(["angle", "accuracy", "ECE", "mean entropy", "accepted"], rows)


def _convergence_text(convergence: Mapping[str, Any]) -> str:
    passes = convergence["passes"]
    rows = [
        [estimator, name, *(f"{value:.4f}" for value in errors[name])]
        for estimator, errors in convergence["rmse"].items()
        for name in ("mean", "variance")
    ]
    return (
        f"Root mean square error over the {convergence['images']} most doubtful digits and "
        f"{convergence['repetitions']} seeds, against {convergence['reference_passes']:,} passes.\n"
        "\n" + _table(["masks", "of the", *map(str, passes)], rows)
    )


def _image(name: str, figures: Sequence[str]) -> str:
    return f"![{name.replace('_', ' ')}](figures/{name}.svg)" if name in figures else ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _band(band: Sequence[float]) -> str:
    return f"{band[0]:.4f}-{band[1]:.4f}"


def _share(value: float | None) -> str:
    return "no threshold" if value is None else f"{value:.2%}"


def _list(values: Iterable[float], form: str) -> str:
    return ", ".join(format(value, form) for value in values)

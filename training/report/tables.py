"""The report's sections on passes, prepared images and corruptions, and the form of its tables."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Report = Mapping[str, Any]
_CORRUPTED = ("error", "accepted_and_wrong")


def passes_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scores, sets and decisions for each number of passes."""
    levels = list(rows[0]["sets"])
    header = ["passes", "error", "NLL", "ECE", *(f"sets at {level}" for level in levels)]
    cells = [
        [str(row["passes"]), f"{row['error']:.2%}", f"{row['nll']:.4f}", f"{row['ece']:.4f}"]
        + [f"{each['coverage']:.2%}, size {each['mean_size']:.3f}" for each in row["sets"].values()]
        + [share(row["accepted"]), share(row["accepted_error"])]
        for row in rows
    ]
    return table([*header, "accepted", "error among them"], cells)


def split_section(report: Report) -> list[str]:
    """How far the passes disagree about what is rejected."""
    if "split" not in report:
        return []
    header = [
        "rejected",
        "images",
        "no variance",
        "all votes alike",
        "mutual information / entropy",
    ]
    header += ["AUROC against ambiguous digits", "prepared"]
    rows = [
        [name, f"{row['rejected']:,}"]
        + [share(row[key], "-") for key in ("no_variance", "unanimous", "mean_share")]
        + ["-" if each is None else f"{each:.4f}" for each in row["auroc"].values()]
        for name, row in report["split"].items()
    ]
    return [
        "No variance: the largest is below 1e-6. The ambiguous digits are the 100 that other "
        "networks, `--judges`, find most ambiguous.",
        table(header, rows),
    ]


def prepared_section(report: Report) -> list[str]:
    """What the server's default path makes of digits and of other images, class by class."""
    measured = {
        name: row for name, row in report.get("prepared", {}).items() if "skipped" not in row
    }
    if not measured:
        return []
    header = ["prepared", "images", "accepted", "refused", "several digits", "error among accepted"]
    rows = [
        [name, f"{row['images']:,}"]
        + [share(row[key]) for key in ("accepted", "refused", "several_digits")]
        + [share(row["accepted_error"]) if "accepted_error" in row else "-"]
        for name, row in measured.items()
    ]
    classes = [
        f"Accepted, class by class, {name}: "
        + ", ".join(f"{label} {part:.1%}" for label, part in row["classes"].items())
        + "."
        for name, row in measured.items()
        if row["classes"]
    ]
    text = "As a server answers them with `preprocess=auto`, its default."
    return ["## Prepared images", text, table(header, rows), *classes]


def corrupted_section(report: Report) -> list[str]:
    if not report.get("corrupted"):
        return []
    header = ["MNIST-C", "error", "accepted and wrong", "error, prepared", "accepted and wrong"]
    measured = list(report["corrupted"].items())
    rows = [
        [name] + [share(row[form][key]) for form in ("none", "auto") for key in _CORRUPTED]
        for name, row in measured
    ]
    means = [
        f"{statistics.mean(row[form]['error'] for _, row in measured):.2%}"
        for form in ("none", "auto")
    ]
    rows.append(["mean", means[0], "", means[1], ""])
    return ["## Corrupted digits", table(header, rows)]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(value: float | None, missing: str = "no threshold") -> str:
    return missing if value is None else f"{value:.2%}"

"""The report's figures, each made from its measurement; SVG and PNG.

Colours are Okabe and Ito's, which colour-blind readers can distinguish; line styles and markers
serve readers in black and white.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.answers import ABSTAINING_SCORE

_BLUE, _ORANGE, _GREEN, _PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_SKY, _GREY = "#56B4E9", "#666666"
_STYLES = [
    {"color": _BLUE, "linestyle": "-", "marker": "o"},
    {"color": _ORANGE, "linestyle": "--", "marker": "s"},
    {"color": _GREEN, "linestyle": "-.", "marker": "^"},
    {"color": _PINK, "linestyle": ":", "marker": "D"},
]
_SETTINGS: dict[Any, Any] = {
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "path",
    # Identifiers in SVG files are hashes: with this the same figure has the same bytes.
    "svg.hashsalt": "dropserve",
}
_WIDTH = 7.0  # inches


def save_figures(report: Mapping[str, Any], folder: Path) -> None:
    """Draws every measurement of the report."""
    for name in _FIGURES:
        save_figure(name, report, folder)


def save_figure(name: str, report: Mapping[str, Any], folder: Path) -> None:
    """Draws one measurement."""
    folder.mkdir(parents=True, exist_ok=True)
    section, draw = _FIGURES[name]
    with mpl.rc_context(_SETTINGS):
        figure = draw(report[section])
        for ending, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            figure.savefig(folder / f"{name}.{ending}", metadata=metadata)


def _figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def draw_reliability(scores: Mapping[str, Any]) -> Figure:
    """Accuracy against confidence, with a histogram of the confidences below."""
    figure, axes = _figure(4.6, 2, 2, sharex=True, height_ratios=[3, 1])
    for column, (title, bins) in enumerate(scores["reliability"].items()):
        images = np.array(bins["images"])
        filled = images > 0
        confidence = np.array(bins["confidence"])[filled]
        accuracy = np.array(bins["accuracy"])[filled]
        # Of n answers of confidence p, a share within two standard errors of p is expected.
        spread = 2 * np.sqrt(confidence * (1 - confidence) / images[filled])
        above, below = axes[0, column], axes[1, column]
        above.plot([0, 1], [0, 1], color=_GREY, linestyle="--", label="calibrated")
        band = np.clip([confidence - spread, confidence + spread], 0, 1)
        above.fill_between(confidence, *band, color=_GREY, alpha=0.2, label="± 2 standard errors")
        above.plot(confidence, accuracy, color=_BLUE, marker="o", label="observed")
        row = scores["rows"][f"{title}, calibrated"]
        above.set_title(f"{title}, calibrated: ECE {row['ece']:.4f}")
        above.set_ylim(0, 1.02)
        edges = np.linspace(0, 1, len(images) + 1)
        below.stairs(images, edges, fill=True, color=_SKY)
        below.set_yscale("symlog", linthresh=1)
        below.set_ylim(bottom=0)
        below.set_xlabel("confidence")
    axes[0, 0].set_ylabel("share that is right")
    axes[0, 0].legend(loc="upper left")
    axes[1, 0].set_ylabel("answers")
    return figure


def draw_risk_coverage(abstaining: Mapping[str, Any]) -> Figure:
    """Error among accepted answers against the share that is accepted."""
    figure, axes = _figure(3.8)
    names = ["1 - confidence, deterministic", ABSTAINING_SCORE, "mutual information, MC", "oracle"]
    for name, style in zip(names, _STYLES, strict=True):
        curve = abstaining["curves"][name]
        area = abstaining["aurc_oracle"] if name == "oracle" else abstaining["aurc"][name]
        shown = style | {"label": f"{name} (AURC {1e4 * area:.2f}e-4)", "markersize": 4}
        axes.plot(curve["coverage"], 100 * np.array(curve["risk"]), markevery=6, **shown)
    if decided := abstaining["decisions"]["mc"]:
        star = {"marker": "*", "markersize": 14, "linestyle": "", "color": "black"}
        x, y = decided["coverage"], 100 * decided["error"]
        axes.plot(x, y, label="the stored threshold", **star)
    axes.set_xlabel("coverage: share of answers accepted")
    axes.set_ylabel("error among them, %")
    axes.set_xlim(0.85, 1.003)
    axes.legend(loc="upper left")
    return figure


def draw_rotated_digit(rotated: Mapping[str, Any]) -> Figure:
    """Softmax inputs and outputs of every pass for the favourite classes, as one digit turns."""
    probs = np.array(rotated["probabilities"])  # (angles, T, C)
    favourites = np.argsort(-probs.mean(axis=1).max(axis=0), kind="stable")[:3]
    figure, panels = _figure(7.0, 2, 1)
    for axes, name in zip(panels, ("input", "output"), strict=True):
        values = np.array(rotated["logits"]) if name == "input" else probs
        for order, (index, style) in enumerate(zip(favourites, _STYLES, strict=False)):
            places = np.arange(len(values))[:, None] + (order - 1) * 0.22 + 0 * values[:, :, index]
            label = rotated["labels"][index] if name == "input" else None
            dashes: Any = {"marker": "_", "color": style["color"], "alpha": 0.35, "label": label}
            axes.scatter(places, values[:, :, index], rasterized=True, **dashes)
        axes.set_xticks(range(len(values)), [f"{angle}°" for angle in rotated["angles"]])
        axes.set_ylabel(f"softmax {name}")
        for column, pixels in enumerate(rotated["pixels"]):
            place = (column - 0.45, -0.3, 0.9, 0.17)
            _show(axes.inset_axes(place, transform=axes.get_xaxis_transform()), pixels)
    panels[0].legend(title="label", ncols=3, loc="lower center")
    return figure


def draw_rotation(rotation: Mapping[str, Any]) -> Figure:
    """Accuracy, calibration error, entropy and acceptance of all test images as they turn."""
    figure, axes = _figure(4.2, 2, 2, sharex=True)
    words = {
        "accuracy": "accuracy",
        "ece": "ECE, calibrated",
        "entropy": "mean entropy, nats",
        "accepted": "share accepted",
    }
    for place, (name, word), style in zip(axes.flat, words.items(), _STYLES, strict=True):
        place.plot(rotation["angles"], rotation[name], markersize=4, **style)
        place.set_ylabel(word)
        place.set_ylim(bottom=0)
        place.set_xticks(rotation["angles"][::2])
    for place in axes[1]:
        place.set_xlabel("angle, degrees")
    return figure


def draw_unfamiliar(unfamiliar: Mapping[str, Any]) -> Figure:
    """Histograms of the predictive entropy of digits and of out-of-distribution images."""
    figure, axes = _figure(3.4)
    edges = unfamiliar["edges"]
    grey = {"fill": True, "color": _GREY, "alpha": 0.4}
    axes.stairs(unfamiliar["digits"], edges, label="MNIST's test digits", **grey)
    others = {name: each for name, each in unfamiliar["sets"].items() if "auroc" in each}
    for (name, other), style in zip(others.items(), _STYLES, strict=False):
        line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.8}
        label = f"{name}: AUROC {other['auroc'][ABSTAINING_SCORE]:.3f}"
        axes.stairs(other["histogram"], edges, label=label, **line)
    axes.set_yscale("log")
    axes.set_xlabel("predictive entropy of 50 passes, nats")
    axes.set_ylabel("share of images")
    axes.legend()
    return figure


def draw_convergence(convergence: Mapping[str, Any]) -> Figure:
    """Error of mean and variance against the number of passes."""
    figure, axes = _figure(3.4, 1, 2)
    for place, name in zip(axes, ("mean", "variance"), strict=True):
        for (estimator, errors), style in zip(convergence["rmse"].items(), _STYLES, strict=False):
            place.loglog(
                convergence["passes"], errors[name], label=estimator, markersize=4, **style
            )
        place.set_title(name)
        place.set_xlabel("passes")
    axes[0].set_ylabel("root mean square error")
    axes[0].legend()
    return figure


def draw_gallery(gallery: Mapping[str, Any]) -> Figure:
    """Digits with their label, the network's answer and its predictive entropy."""
    columns = 10
    shown = gallery["images"]
    rows = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(_WIDTH, 0.95 * rows + 0.3), layout="constrained")
    grid = figure.add_gridspec(rows, columns)
    for number, image in enumerate(shown):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        _show(axes, image["pixels"])
        axes.set_title(f"{image['label']}: {image['answer']}  {image['entropy']:.2f}", fontsize=7)
    figure.suptitle(gallery["title"], fontsize=10)
    return figure


def _show(axes: Axes, pixels: Any) -> None:
    axes.imshow(np.array(pixels), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()


_FIGURES: dict[str, tuple[str, Callable[[Mapping[str, Any]], Figure]]] = {
    "reliability": ("scores", draw_reliability),
    "risk_coverage": ("abstaining", draw_risk_coverage),
    "unfamiliar": ("unfamiliar", draw_unfamiliar),
    "rotated_digit": ("rotated_digit", draw_rotated_digit),
    "rotation": ("rotation", draw_rotation),
    "convergence": ("convergence", draw_convergence),
    "uncertain": ("uncertain", draw_gallery),
    "errors": ("errors", draw_gallery),
}

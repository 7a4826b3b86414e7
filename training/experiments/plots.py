"""Figures of the experiments, SVG and PNG: one style, colours for the colour-blind."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design"; without the yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@contextmanager
def figure(folder: Path, name: str, *, panels: int, width: float = 4.4) -> Iterator[Sequence[Axes]]:
    """Panels in a row, `width` inches each; saved as `name`.svg and `name`.png on leaving.

    Equal data gives equal files: neither holds a date, and the SVG's ids are not random.
    """
    style: Any = {  # stubs name every key
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "svg.hashsalt": name,
        "svg.fonttype": "none",
    }
    with mpl.rc_context(style):
        drawn = Figure(figsize=(width * panels, 3.4), layout="constrained")
        yield [drawn.add_subplot(1, panels, number + 1) for number in range(panels)]
        folder.mkdir(parents=True, exist_ok=True)
        drawn.savefig(folder / f"{name}.svg", metadata={"Date": None})
        drawn.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


def draw_spread(
    axes: Axes,
    x: Sequence[float],
    runs: Sequence[Sequence[float]],
    *,
    label: str,
    colour: str,
    style: str = "-",
    marker: str = "",
) -> None:
    """The mean of several runs, (runs, N), as a line, and a band from the lowest to the highest."""
    values = np.array(runs)
    axes.plot(x, values.mean(axis=0), style, color=colour, label=label, marker=marker, markersize=4)
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)

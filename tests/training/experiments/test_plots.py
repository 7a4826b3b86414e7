"""The figures of the experiments."""

import sys
from dataclasses import replace

import pytest

from tests.training.experiments.conftest import figures_in
from training.cli import main
from training.config import CompareOptions, Experiment
from training.experiments import compare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_the_same_runs_give_the_same_figures_byte_for_byte(experiment: Experiment) -> None:
    compare.compare(CompareOptions("relu"), experiment)
    first = figures_in(experiment)
    assert first.keys() == {"compare-relu.svg", "compare-relu.png"}
    elsewhere = replace(experiment, figures=experiment.figures.with_name("again"))
    compare.compare(CompareOptions("relu"), elsewhere)
    assert figures_in(elsewhere) == first
    assert all(len(content) < 150_000 for content in first.values())
    # Text stays text: it can be searched, and read by a screen reader.
    assert b"with dropout: validation" in first["compare-relu.svg"]


def test_without_matplotlib_nothing_is_trained_in_vain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "training.experiments.sweep")
    monkeypatch.delitem(sys.modules, "training.experiments.plots")
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "--device", "cpu", "--data-dir", "nowhere"])
    assert ended.value.code == 1
    assert "matplotlib is not installed; pip install" in capsys.readouterr().err

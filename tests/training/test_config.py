"""Settings: their ranges, their recipes, and choices that are declared elsewhere too."""

from dataclasses import fields

import pytest

from training.config import (
    CalibrationRules,
    CompareOptions,
    Experiment,
    TrainConfig,
    TrainOptions,
)
from training.data import DATASETS
from training.errors import TrainingError


def test_a_value_out_of_range_names_option_and_range() -> None:
    with pytest.raises(TrainingError, match=r"--batch-size must be from 1 to 60000, not 0"):
        TrainConfig(batch_size=0)
    with pytest.raises(TrainingError, match=r"--dropout must be from 0 to 0.99, not 1.0"):
        TrainConfig(dropout=(0.2, 1.0, 0.2))
    with pytest.raises(TrainingError, match=r"--accepted-error must be from 0 "):
        CalibrationRules(accepted_error=1.0)


def test_a_value_that_is_no_choice_names_the_choices() -> None:
    with pytest.raises(TrainingError, match=r"--optimiser must be one of adamw, sgd"):
        TrainConfig(optimiser="adagrad")


def test_a_recipe_leaves_out_options_that_are_off() -> None:
    recipe = TrainConfig().recipe()
    assert recipe["dropout"] == [0.2, 0.2, 0.2]
    assert "l2" not in recipe
    assert TrainConfig(l2=0.5).recipe() == {**recipe, "l2": 0.5}


def test_seeds_and_epochs_of_an_experiment_replace_those_of_a_setting() -> None:
    config = TrainConfig(epochs=7)
    assert [each.seed for each in Experiment(seeds=2).seeded(config)] == [0, 1]
    assert [each.epochs for each in Experiment(seeds=1, epochs=3).seeded(config)] == [3]


def test_choices_are_those_of_the_data_sets_and_presets() -> None:
    """The command line lists them without importing what defines them."""
    from training.experiments.compare import PRESETS

    choices = {
        each.name: each.metadata["choices"]
        for kind in (TrainOptions, CompareOptions)
        for each in fields(kind)
    }
    assert choices["dataset"] == tuple(DATASETS)
    assert choices["preset"] == tuple(PRESETS)

"""Names and limits that all packages share: the values of enumerated options, and sizes.

This module imports neither NumPy nor torch, so clients, settings and help texts can use it.
"""

from typing import Literal

# Rows and columns of the network's input images.
SIDE = 28

# The largest seed: the largest integer that JavaScript represents exactly.
MAX_SEED = 2**53 - 1

# Activation function of the hidden layers.
Activation = Literal["relu", "linear"]

# How the dropout masks of the passes are drawn; see `model.sampling.masks`.
Estimator = Literal["independent", "balanced"]

# Dropout off (`predict`) or on (`mc`); each mode has its own calibration.
Mode = Literal["predict", "mc"]

# The outcome of a decision, and the reason for abstaining.
Outcome = Literal["accept", "abstain"]
Reason = Literal["ambiguous", "unfamiliar", "several_digits"]

# What a decision was made by: the total predictive uncertainty, or how far the passes disagree.
Measure = Literal["predictive_entropy", "mutual_information"]

# Number format of the products in the hidden stochastic layers.
Precision = Literal["float32", "bfloat16"]

# `auto` finds the ink in any picture; `none` takes a 28x28 image as it is.
Preprocess = Literal["auto", "none"]

# Why sampling stopped: all passes were computed, or the target standard error was reached.
StopReason = Literal["passes", "standard_error"]

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

# Where an input of three dimensions has its channels.
Channels = Literal["first", "last"]

# What requests send for one number of a network's input.
InputType = Literal["uint8", "float32"]

# `digit` makes MNIST's pixels of any picture; `none` takes a network's inputs as they are.
Preparation = Literal["digit", "none"]

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

# Why sampling stopped: all passes were computed, the target standard error was reached, or the
# decision had settled.
StopReason = Literal["passes", "standard_error", "decision"]

# What may end sampling early, besides a standard error.
Until = Literal["decision"]

# Upper bounds of the buckets of a histogram of predictive entropy, nats: `/metrics` counts by them,
# and a checkpoint holds the shares of the validation images.
ENTROPY_BOUNDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
    *(1.0, 1.5, 2.0, 2.302),
)

"""The values that names of the API can have, and the sizes that everything else follows from.

This module imports nothing heavy, so that clients, settings and help texts can use it without NumPy
or torch.
"""

from typing import Literal

# Rows and columns of the images that the network takes.
SIDE = 28

# The largest integer that JavaScript repeats exactly.
MAX_SEED = 2**53 - 1

# Hidden layers' activation function.
Activation = Literal["relu", "linear"]

# How the masks of the passes are drawn.
Estimator = Literal["independent", "balanced"]

# Dropout off or on: each has its own calibration.
Mode = Literal["predict", "mc"]

# What a decision says, and why it abstains.
Outcome = Literal["accept", "abstain"]
Reason = Literal["ambiguous", "unfamiliar", "several_digits"]

# Of the stochastic layers.
Precision = Literal["float32", "bfloat16"]

# `auto` finds the ink in any picture; `none` takes a 28x28 image as it is.
Preprocess = Literal["auto", "none"]

# Why no further passes were computed.
StopReason = Literal["passes", "standard_error"]

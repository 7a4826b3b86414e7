"""Names for the kinds of arrays that the functions of `model` take and return.

Shapes are written with one letter per axis: T passes, B images, C classes, H rows and W columns of
pixels.
"""

import numpy as np
from numpy.typing import NDArray

# Grey levels 0 to 255, (H, W): the brightness of a picture, or the ink of a 28x28 image.
Pixels = NDArray[np.uint8]
# Which pixels of a picture belong to something, (H, W).
Bitmap = NDArray[np.bool_]

# Single precision, in which engines compute.
Floats = NDArray[np.float32]
# Double precision, in which statistics are computed.
Array = NDArray[np.float64]
# Class probabilities on the last axis; they sum to 1.
Probs = Floats | Array

# Masks of hidden units, (T, units); True keeps the unit.
KeepMasks = NDArray[np.bool_]

Integers = NDArray[np.int64]

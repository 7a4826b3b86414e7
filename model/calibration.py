"""Temperature scaling of class probabilities."""

import numpy as np

from model.uncertainty import Array, Probs


def apply_temperature(probs: Probs, temperature: float) -> Array:
    """softmax(log(probs) / temperature): above 1 softens, below 1 sharpens, 1 changes nothing.

    For a softmax of logits this is softmax(logits / temperature); Guo et al. 2017, "On Calibration
    of Modern Neural Networks", section 4.2.

    Args:
        probs: (C,) or (B, C); rows sum to 1.
        temperature: above 0.

    Returns:
        float64, of the same shape.
    """
    p = np.asarray(probs, dtype=np.float64)
    if temperature == 1:
        return p
    scaled = np.log(np.maximum(p, np.finfo(np.float64).tiny)) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result

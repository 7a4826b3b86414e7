"""exp and log of our own, of which every system computes the same bits.

The platform's are accurate, too, but differ in their last bits between C libraries, processors and
vector widths. These consist of additions, multiplications and one division in a written order, all
of which IEEE 754 determines. Errors are below 2 units in the last place.
"""

import numpy as np

from model.compiling import compiled

_LOG2_E = 1.4426950408889634
# ln 2 in two parts: k times the first is exact for the exponents k of float64.
_LN2_HIGH = 0.6931471803691238
_LN2_LOW = 1.9082149292705877e-10
_SQRT_2 = 1.4142135623730951
_MANTISSA_BITS = 52
_MANTISSA = (1 << _MANTISSA_BITS) - 1
_BIAS = 1023
_SMALLEST = -700.0  # of which exp is about 1e-304


@compiled()
def exp(x: float) -> float:
    """Computes the exponential of x <= 0; below -700 that of -700.

    exp(x) = 2^k exp(r) with r within ln 2 / 2 of 0, where twelve terms of the series suffice.
    """
    x = max(x, _SMALLEST)
    k = np.int32(x * _LOG2_E - 0.5)  # the nearest integer, since conversion truncates
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    y = r / 479001600.0 + 1 / 39916800.0
    y = y * r + 1 / 3628800.0
    y = y * r + 1 / 362880.0
    y = y * r + 1 / 40320.0
    y = y * r + 1 / 5040.0
    y = y * r + 1 / 720.0
    y = y * r + 1 / 120.0
    y = y * r + 1 / 24.0
    y = y * r + 1 / 6.0
    y = y * r + 0.5
    y = y * r + 1.0
    y = y * r + 1.0
    return y * np.int64((np.int64(k) + _BIAS) << _MANTISSA_BITS).view(np.float64)


@compiled()
def log(x: float) -> float:
    """Computes the natural logarithm of a positive normal number.

    x = 2^k m with m within a factor of sqrt 2 of 1, and with s = (m - 1) / (m + 1)
    log m = 2 (s + s^3 / 3 + s^5 / 5 + ...).
    """
    bits = np.float64(x).view(np.int64)
    k = np.int32((bits >> _MANTISSA_BITS) - _BIAS)
    m = np.int64((bits & _MANTISSA) | (_BIAS << _MANTISSA_BITS)).view(np.float64)
    is_large = m > _SQRT_2
    m = m * 0.5 if is_large else m
    k = k + is_large
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    y = q / 21.0 + 1 / 19.0
    y = y * q + 1 / 17.0
    y = y * q + 1 / 15.0
    y = y * q + 1 / 13.0
    y = y * q + 1 / 11.0
    y = y * q + 1 / 9.0
    y = y * q + 1 / 7.0
    y = y * q + 1 / 5.0
    y = y * q + 1 / 3.0
    y = y * q
    return k * _LN2_HIGH + (k * _LN2_LOW + 2.0 * (s + s * y))

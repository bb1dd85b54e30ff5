"""Random numbers that are the same on every machine and with every version of numpy.

PCG64 gives raw 64-bit numbers, and everything else is made of them by additions, multiplications, divisions and square
roots, which IEEE 754 defines to the last bit. The logarithms and distributions of numpy differ in it by processor and
version.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


PART = 1 << 16
"""Numbers that are worked on together: what stands between the steps of a formula is soon much larger than a result."""


def in_parts(formula: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """A formula for each number of an array, applied to parts of it: with the same bytes, in less memory."""

    @wraps(formula)
    def apply(x: Floats) -> Floats:
        if len(x) <= PART:
            return formula(x)
        out = np.empty(len(x))
        for at in range(0, len(x), PART):
            out[at : at + PART] = formula(x[at : at + PART])
        return out

    return apply


class Purpose(IntEnum):
    """What a stream of random numbers is for. Each has its own, so that a change of one leaves the others alone."""

    GAPS = 0
    PHASES = 1
    KINDS = 2
    INPUT = 3
    OUTPUT = 4
    TURNS = 5
    THINK = 6
    ADAPTERS = 7
    ADAPTED = 8
    IMAGES = 9


class Stream:
    """The random numbers of one ``purpose``, for one of several classes of requests."""

    def __init__(self, seed: int, purpose: Purpose, kind: int = 0) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(kind, int(purpose))))

    def uniform(self, n: int) -> Floats:
        """``n`` numbers in (0, 1): the upper 53 bits of the raw number times 2^-53, and 2^-54 in place of 0."""
        out = np.empty(n)
        for at in range(0, n, PART):
            raw = self._bits.random_raw(min(PART, n - at))
            out[at : at + PART] = np.maximum((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53, 2.0**-54)
        return out

    def exponential(self, n: int) -> Floats:
        """``n`` numbers with mean 1: ``-log(u)``."""
        return -log(self.uniform(n))

    def normal(self, n: int) -> Floats:
        """``n`` standard normal numbers: the quantile function at ``u``."""
        return normal_quantile(self.uniform(n))

    def gamma(self, n: int, shape: float) -> Floats:
        """``n`` gamma distributed numbers with mean 1, so that their variance is ``1 / shape``.

        With ``d = shape - 1/3`` and a standard normal x, ``d v`` with ``v = (1 + x / sqrt(9 d))^3`` is accepted if
        ``log u < x^2 / 2 + d (1 - v + log v)``. A shape below 1 draws with ``shape + 1``, times ``u^(1 / shape)``.

        Source: Marsaglia and Tsang, "A simple method for generating gamma variables", 2000.
        """
        d = (shape if shape >= 1 else shape + 1) - 1 / 3
        out, open_ = np.empty(n), np.arange(n)
        while len(open_):
            x, u = self.normal(len(open_)), self.uniform(len(open_))
            root = 1 + x / np.sqrt(9 * d)
            v = np.where(root > 0, root * root * root, 1.0)
            taken = (root > 0) & (log(u) < x * x / 2 + d * (1 - v + log(v)))
            out[open_[taken]] = d * v[taken]
            open_ = open_[~taken]
        if shape < 1:
            out *= exp(np.maximum(log(self.uniform(n)) / shape, -700.0))
        return out / shape


# ---- functions

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LOG = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
_EXP = (
    1.66666666666666019037e-01, -2.77777777770155933842e-03, 6.61375632143793436117e-05, -1.65339022054652515390e-06,
    4.13813679705723846039e-08,
)  # fmt: skip


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """``c[0] + c[1] x + c[2] x^2 + ...``."""
    out = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        out = out * x + c
    return out


@in_parts
def log(x: Floats) -> Floats:
    """The natural logarithm of positive numbers, to within 1 ulp.

    ``x = 2^k (1 + f)`` with ``sqrt(1/2) <= 1 + f < sqrt(2)``; ``log(1 + f)`` is a series in ``s = f / (2 + f)``.
    Source: fdlibm, `e_log.c`.
    """
    m, k = np.frexp(x)
    small = m < 0.70710678118654752440
    f = np.where(small, 2 * m, m) - 1
    k = k - small
    s = f / (2 + f)
    z = s * s
    r = z * _polynomial(_LOG, z)
    half = 0.5 * f * f
    out: Floats = k * _LN2_HIGH - ((half - (s * (half + r) + k * _LN2_LOW)) - f)
    return out


@in_parts
def exp(x: Floats) -> Floats:
    """The exponential of numbers from -700 to 700, to within 1 ulp.

    ``x = k log 2 + r``; ``exp(r)`` is a rational function. Source: fdlibm, `e_exp.c`.
    """
    k = np.rint(x / (_LN2_HIGH + _LN2_LOW))
    high, low = x - k * _LN2_HIGH, k * _LN2_LOW
    r = high - low
    c = r - r * r * _polynomial(_EXP, r * r)
    return np.ldexp(1 - ((low - (r * c) / (2 - c)) - high), k.astype(np.int32))


_CENTRE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_TAIL = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip


@in_parts
def normal_quantile(p: Floats) -> Floats:
    """The number that a standard normal variable stays below with probability ``p``, 0 < p < 1.

    Source: Wichura, "Algorithm AS 241: the percentage points of the normal distribution", 1988; error below 1e-15.
    """
    q = p - 0.5
    centre = q * _ratio(_CENTRE, 0.180625 - q * q)
    r = np.sqrt(-log(np.minimum(p, 1 - p)))
    tail = np.where(r <= 5, _ratio(_TAIL, r - 1.6), _ratio(_FAR, r - 5))
    return np.where(np.abs(q) <= 0.425, centre, np.where(q < 0, -tail, tail))


def _ratio(form: tuple[tuple[float, ...], tuple[float, ...]], x: Floats) -> Floats:
    return _polynomial(form[0], x) / _polynomial(form[1], x)

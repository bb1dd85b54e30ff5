"""Lengths of the requests of a row, drawn as its load generator draws them."""

from __future__ import annotations

import re

import numpy as np

from plandsl.backends.accuracy.answer import Floats
from plandsl.backends.cost.serving.requests import Ints

JITTER = 0.9
"""Lengths drawn evenly from 0.8 to 1.0 of the nominal are this on average."""

EVEN = (0.8 / JITTER, 1.0 / JITTER)
"""The least and the greatest of such lengths, as shares of their mean."""

FIXED = (1.0, 1.0)
"""All lengths are equal."""


def read_jitter(text: str) -> tuple[float, float]:
    """The least and the greatest length as shares of the nominal, from words such as "uniform 0.8-1.0 x nominal"."""
    found = re.search(r"uniform\D*([\d.]+)\s*-\s*([\d.]+)", text)
    if found is None:
        return (0.8, 1.0) if "uniform" in text else FIXED
    try:
        low, high = float(found[1]), float(found[2])
    except ValueError:
        return FIXED
    return (low, high) if 0 < low <= high else FIXED


def draw_lengths(mean: float, spread: tuple[float, float], count: int, rng: np.random.Generator) -> Ints:
    """``count`` lengths of this ``mean``, drawn evenly between both ends of ``spread``, in shares of the mean."""
    low, high = spread
    values: Floats = np.full(count, mean) if low == high else rng.uniform(low * mean, high * mean, count)
    return np.maximum(np.rint(values), 1).astype(np.int64)


def scale_of(mean: float, longest: float) -> float:
    """The scale ``s`` of an exponential distribution that has this ``mean`` where it is cut at ``longest``.

    ``mean = s (1 - exp(-longest / s))``, solved by iteration; the mean is at most 95 % of ``longest``.
    """
    mean = min(mean, 0.95 * longest)
    scale = mean
    for _ in range(100):
        scale = mean / -float(np.expm1(-longest / scale))
    return scale


def draw_cut(mean: float, longest: float, count: int, rng: np.random.Generator) -> Ints:
    """``count`` lengths of this ``mean``, exponentially distributed and cut at ``longest``."""
    values = np.minimum(rng.exponential(scale_of(mean, longest), count), longest)
    return np.maximum(np.rint(values), 1).astype(np.int64)

"""How errors count in fits of engines: small ones by their squares, large ones by their size."""

from __future__ import annotations

import numpy as np

from plandsl.backends.calibrate.kind import Floats

OUTLIER = 0.1
"""Logarithms of errors beyond this count less than their squares."""


def soften(errors: Floats) -> Floats:
    """Residuals whose squares are the losses of logarithms of ``errors``: `soft_l1` of scipy, with its sign."""
    off = errors / OUTLIER
    found: Floats = np.sign(off) * np.sqrt(2 * (np.sqrt(1 + off**2) - 1))
    return found

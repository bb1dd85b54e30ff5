"""The power of GPUs: what a limit does to their clock, and what they draw at work."""

from __future__ import annotations

STATIC, EXPONENT = 0.2, 1.51
"""The share of a board's power that does not depend on the clock, and how the rest grows with the clock.

Fitted by `benchmarks/power.py` to GEMMs of an RTX PRO 6000 at six limits.
"""

LEAST_LIMIT = 0.25
"""The smallest limit, as a share of the board's power. Drivers take none below: 100 of 400 W of an A100, 200 of 700 W
of an H100.
"""


def clock_at(limit: float, board: float) -> float:
    """The clock under a ``limit``, relative to the clock at the power of the ``board``, both in W.

        power = board * (STATIC + (1 - STATIC) * clock^EXPONENT)

    Dynamic power is proportional to the clock and the square of the voltage: EXPONENT is 1 where the voltage stays, and
    3 where it is proportional to the clock (Mudge, "Power: a first-class architectural design constraint", IEEE
    Computer 34(4), 2001). The clock of the memory stays, so kernels that wait for memory are as fast as before.
    """
    if limit >= board:
        return 1.0
    return float(((limit / board - STATIC) / (1 - STATIC)) ** (1 / EXPONENT))


ACTIVE, COMPUTE, MEMORY = 0.457, 1.477, 0.385
"""What a GPU draws above its idle power, as shares of what it may draw above it: while it has requests, for each second
of arithmetic at its peak, and for each second of reads and writes at its bandwidth.

Fitted by `benchmarks/energy.py` to 450 servings of 21 checkpoints on H100 and B200 whose power was measured (ML.ENERGY
Leaderboard v3, github.com/ml-energy/leaderboard, commit 0cd52da, February 2026).
"""

POWER_BAND = (0.82, 1.22)
"""Measured over predicted power of 80 % of these servings, each predicted by a fit that did not see its model."""

POWER_FITTED = ("h100_sxm", "b200")
"""The GPUs whose power the constants were fitted to."""

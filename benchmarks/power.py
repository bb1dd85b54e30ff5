"""The law of a power limit beside measurements: what it is fitted to, and what it is judged on.

python -m benchmarks.power
"""

from __future__ import annotations

from math import log

import numpy as np

from plandsl.spec import power

FITTED = {
    "fp8": {600: 514.0, 480: 428.0, 400: 369.0, 320: 298.0, 280: 260.0, 240: 217.0},
    "bf16": {600: 317.0, 480: 259.0, 400: 218.0, 320: 170.0, 280: 147.0, 240: 120.0},
}
"""TFLOP/s of large GEMMs on an RTX PRO 6000 (600 W) by W of its limit: github.com/1a1a11a/gpu_power, commit a4f290c,
`figures/tflops_vs_power.png`, read off the figure to 1 TFLOP/s.
"""

PREFILL = {350: 9893.0, 300: 9326.0, 250: 8436.0, 200: 5941.0, 150: 2549.0, 100: 1390.0}
"""Prompt tokens/s of MiniMax M2.5 in 2 bits on six RTX 3090 (350 W) by W of each GPU's limit, llama.cpp:
llmgarage.ai/power-limit-tokens-per-second-benchmark, February 2026. The fit does not see them.
"""


def board_shares(rows: dict[int, float]) -> list[tuple[float, float]]:
    """(share of the board's power, share of its speed) of each limit below the board's."""
    board = max(rows)
    return [(watts / board, rate / rows[board]) for watts, rate in rows.items() if watts < board]


def fit() -> tuple[float, float]:
    """The static share and the exponent with the least squared relative error on `FITTED`."""
    rows = [row for each in FITTED.values() for row in board_shares(each)]

    def error(static: float, exponent: float) -> float:
        return sum((log((p - static) / (1 - static)) / exponent - log(speed)) ** 2 for p, speed in rows)

    found = ((s, a) for s in np.arange(0.0, 0.24, 0.01) for a in np.arange(1.0, 3.01, 0.01))
    static, exponent = min(found, key=lambda pair: error(*pair))
    return round(float(static), 3), round(float(exponent), 3)


def main() -> None:
    """Print the fitted constants, and the law beside every row."""
    static, exponent = fit()
    print(f"static {static}, exponent {exponent}; in use {power.STATIC}, {power.EXPONENT}")
    for name, rows in (*FITTED.items(), ("prefill, unseen", PREFILL)):
        for share, speed in board_shares(rows):
            print(f"{name:<16} {share:6.1%} of the power: speed {speed:6.1%}, law {power.clock_at(share, 1.0):6.1%}")


if __name__ == "__main__":
    main()

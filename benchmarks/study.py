"""The study arXiv 2603.05692: its claims about Llama-3.1-70B and 405B on eight GPUs beside ours.

    python -m benchmarks.study                  every claim: claimed, ours, and whether within its tolerance
    python -m benchmarks.study --figures DIR    its figures as SVG files (needs matplotlib)
    python -m benchmarks.study fit              fit the calibration `study_2603_05692` again, and write it (needs scipy)

Claims are cited by the identifiers that `examples/study_2603_05692/` uses. The fit uses the ratios marked ``fitted``;
all others check it.
"""

from __future__ import annotations

import argparse
from math import exp, log
from pathlib import Path

import numpy as np

from benchmarks.claim import Claim, settle, table
from benchmarks.study_facts import FACTS
from benchmarks.study_others import OTHERS
from benchmarks.study_plans import ROOT
from benchmarks.study_ratios import RATIOS, Answers, answers, compiled
from benchmarks.study_trends import TRENDS
from plandsl.backends.calibrate.kind import Floats
from plandsl.backends.calibrate.solve import least_squares
from plandsl.driver import CompiledPlan

TARGET = ROOT / "plandsl" / "catalog" / "calibrations" / "study_2603_05692.plan"
CLAIMS: tuple[Claim, ...] = (*FACTS, *(r.claim() for r in RATIOS), *TRENDS, *OTHERS)

START = {
    # arXiv 2603.05692: shares of peak that follow from the calibration of its simulator
    "gemm": 0.46,
    "attention_prefill": 0.48,
    "hbm": 0.72,
    "link": 0.75,
    # its speed-ups imply about 67 us of launches per block, and about 14 us for an all_reduce
    "launch": 4e-6,
    "launch_elementwise": 4e-6,
    "launch_collective": 10e-6,
}
LOOSE = {"launch": 0.5, "launch_elementwise": 0.5, "launch_collective": 0.5}
RATE = 0.04
"""Change of a constant from its start, as a logarithm, that costs as much as an error of one tolerance."""


def report() -> str:
    """The table of all claims."""
    return table(settle(CLAIMS))


# ---- the fit


def residuals(plans: dict[str, CompiledPlan], values: dict[str, float]) -> Floats:
    """Errors of the fitted ratios, in tolerances, then the changes of constants from `START`, in `RATE` or `LOOSE`."""
    metrics = answers(plans, values)
    errors = [(r.predicted(metrics) - r.printed) / r.tolerance for r in RATIOS if r.fit]
    return np.array([*errors, *(log(v / START[k]) / LOOSE.get(k, RATE) for k, v in values.items())])


def loss(plans: dict[str, CompiledPlan], values: dict[str, float]) -> float:
    """Sum of squares of the `residuals`."""
    return float((residuals(plans, values) ** 2).sum())


def fit(plans: dict[str, CompiledPlan]) -> dict[str, float]:
    """The constants with the least `loss`, by least squares from `START`. Raises `PlanError` (E451) without scipy."""

    def constants(y: Floats) -> dict[str, float]:
        return {k: v * exp(LOOSE.get(k, RATE) * at) for (k, v), at in zip(START.items(), y.tolist(), strict=True)}

    return constants(least_squares(lambda y: residuals(plans, constants(y)), np.zeros(len(START))))


def plan_text(values: dict[str, float], metrics: Answers) -> str:
    """The calibration as a `.plan` file."""
    errors = [(r.fit, abs(r.predicted(metrics) / r.printed - 1)) for r in RATIOS]
    seen, unseen = (max(e for fitted, e in errors if fitted == side) for side in (True, False))
    lines = [
        "# Made by `python -m benchmarks.study fit`: do not edit.",
        "calibration study_2603_05692 {",
        '  source = "fitted to the ratios printed for Llama-3.1-405B in arXiv 2603.05692: off by at most'
        f" {100 * seen:.1f} % on fitted ratios, {100 * unseen:.1f} % on others;"
        ' starting values are the shares of peak that the study comes to"',
        "",
    ]
    for key, value in values.items():
        text = f"{value * 1e6:.2f} us" if key.startswith("launch") else f"{value:.3f}"
        lines.append(f"  {key} = {text}")
    return "\n".join([*lines, "}", ""])


def refit() -> None:
    """Fit, write the calibration, and print it."""
    plans = compiled()
    values = {k: float(f"{v:.3g}") for k, v in fit(plans).items()}
    text = plan_text(values, answers(plans, values))
    TARGET.write_text(text, encoding="utf-8")
    print(text)


def main(arguments: list[str] | None = None) -> int:
    """The command; exit status 1 where a gated claim misses its tolerance or figures cannot be drawn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description="arXiv 2603.05692, recomputed")
    parser.add_argument("action", nargs="?", choices=["fit"], help="fit the calibration again, and write it")
    parser.add_argument("--figures", metavar="DIR", type=Path, help="draw the figures as SVG files there instead")
    chosen = parser.parse_args(arguments)
    if chosen.figures is not None:
        return draw(chosen.figures)
    if chosen.action == "fit":
        refit()
        return 0
    found = settle(CLAIMS)
    print(table(found))
    return 0 if all(c.holds(ours) for c, ours in found if c.gated) else 1


def draw(folder: Path) -> int:
    """Draw every figure into ``folder``."""
    from benchmarks.figures import MissingLibrary
    from benchmarks.study_figures import FIGURES

    try:
        for name, make in FIGURES.items():
            path = folder / f"{name}.svg"
            make(path)
            print(path)
    except MissingLibrary as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

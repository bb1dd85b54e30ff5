"""`planc measure` on a device of formulas: a real one would take seconds for each case."""

from __future__ import annotations

from tests.fuzz.case import Answer, Case, planc


def run_measure(case: Case) -> Answer:
    """The command of the case, with the device of formulas in the place of the one that is found."""
    from plandsl.backends import measure
    from tests.devices import Made

    found, measure.find_device = measure.find_device, lambda devices, library: Made()  # type: ignore[assignment]
    try:
        return planc(case)
    finally:
        measure.find_device = found

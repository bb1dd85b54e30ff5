"""The device that measures."""

from __future__ import annotations

import importlib.util

from plandsl.backends.measure.devices import Device
from plandsl.backends.measure.jax_device import JaxDevice
from plandsl.diagnostics import Diagnostic, PlanError


def find_device(devices: int | None) -> Device:
    """The first device that jax finds; a CPU is taken as so many ``devices``.

    Raises `PlanError`: E550 without jax, and E551 where jax finds no device.
    """
    if importlib.util.find_spec("jax") is None:
        why = "`planc measure` needs jax, which is not installed"
        raise PlanError([Diagnostic("E550", why, hint="pip install 'plandsl[run]'")])
    try:
        return JaxDevice(devices)
    except RuntimeError as error:
        raise PlanError([Diagnostic("E551", f"jax finds no device: {error}")]) from error

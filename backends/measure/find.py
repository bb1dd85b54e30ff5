"""The device that measures, by the library that runs its kernels."""

from __future__ import annotations

import importlib.util

from plandsl import ending
from plandsl.backends.measure.devices import Device
from plandsl.backends.measure.jax_device import JaxDevice
from plandsl.backends.measure.torch_device import TorchDevice
from plandsl.diagnostics import Diagnostic, PlanError

LIBRARIES = ("jax", "torch")
"""Libraries that run kernels; the first one that is installed measures unless another is asked for."""

HELP = {"jax": "pip install 'plandsl[run]'", "torch": "install PyTorch as its makers say (pytorch.org)"}


def find_device(devices: int | None, library: str | None = None) -> Device:
    """The first device that ``library`` finds; jax takes a CPU as so many ``devices``.

    Raises `PlanError`: E550 where the library is not installed, and E551 where it finds no device.
    """
    there = [name for name in LIBRARIES if importlib.util.find_spec(name) is not None]
    if library is None and not there:
        why = "`planc measure` needs jax or PyTorch, and neither is installed"
        raise PlanError([Diagnostic("E550", why, hint=HELP["jax"])])
    chosen = library or there[0]
    if chosen not in there:
        other = f", or `--with {there[0]}`" if there else ""
        raise PlanError([Diagnostic("E550", f"`{chosen}` is not installed", hint=HELP[chosen] + other)])
    if chosen == "torch" and devices is not None:
        why = "`--devices` makes several devices of a CPU, which PyTorch does not have"
        raise PlanError([Diagnostic("E400", why, hint="`--with jax`, or leave `--devices` out")])
    try:
        with ending.hold():  # an exception in the middle of their C++ aborts the process
            return TorchDevice() if chosen == "torch" else JaxDevice(devices)
    except RuntimeError as error:
        raise PlanError([Diagnostic("E551", f"{chosen} finds no device: {error}")]) from error

"""Measure the kernels of plans on this machine, in the columns that `planc calibrate` reads."""

from plandsl.backends.measure.cases import Case, default_cases, device_cases
from plandsl.backends.measure.devices import Device
from plandsl.backends.measure.find import find_device
from plandsl.backends.measure.run import Done, measure
from plandsl.backends.measure.shapes import Asked, plan_cases
from plandsl.backends.measure.table import Rows

__all__ = [
    "Asked",
    "Case",
    "Device",
    "Done",
    "Rows",
    "default_cases",
    "device_cases",
    "find_device",
    "measure",
    "plan_cases",
]

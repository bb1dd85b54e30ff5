"""The reference backend: runs a program on numpy in float64, one array per device.

It defines what programs mean. A device computes from its own arrays only, and a collective moves only arrays that the
devices of its group hold. So a program with too little communication fails here, or computes other values.
"""

from plandsl.backends.reference.machine import Machine
from plandsl.backends.reference.placement import Mismatch
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import Verdict, expected, judge, verify_plan, verify_programs
from plandsl.backends.reference.weights import make_weights

__all__ = [
    "Machine",
    "Mismatch",
    "Verdict",
    "expected",
    "judge",
    "make_weights",
    "shrink",
    "verify_plan",
    "verify_programs",
]

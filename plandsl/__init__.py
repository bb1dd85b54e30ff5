"""plandsl: a compiler for `.plan` files, which say how a language model is spread over GPUs.

>>> import plandsl
>>> (plan,) = plandsl.compile_text('''
...     plan p { model = llama_3_1_8b, node = h100_8, sharding { tp = 2 }
...              workload { input = 1024, output = 128, batch = 8 } }''')
>>> estimate = plan.estimate()
>>> estimate.fits
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plandsl._version import __version__

if TYPE_CHECKING:
    from plandsl.answers.estimate import Estimate
    from plandsl.diagnostics import Diagnostic, PlanError
    from plandsl.driver import CompiledPlan, compile_file, compile_text, simulate
    from plandsl.ir.program import Program
    from plandsl.ir.schedule import Schedule

_HOME = {
    "compile_file": "plandsl.driver",
    "compile_text": "plandsl.driver",
    "CompiledPlan": "plandsl.driver",
    "Diagnostic": "plandsl.diagnostics",
    "Estimate": "plandsl.answers.estimate",
    "PlanError": "plandsl.diagnostics",
    "Program": "plandsl.ir.program",
    "Schedule": "plandsl.ir.schedule",
    "simulate": "plandsl.driver",
}

__all__ = [
    "CompiledPlan",
    "Diagnostic",
    "Estimate",
    "PlanError",
    "Program",
    "Schedule",
    "__version__",
    "compile_file",
    "compile_text",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for: `planc --version` needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module 'plandsl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)

"""plandsl: a compiler for `.plan` files, which say how a language model is spread over GPUs.

>>> import plandsl
>>> from plandsl import Plan, Sharding, Workload
>>> plan = Plan(model="llama_3_1_8b", node="h100_8", sharding=Sharding(tp=2), workload=Workload(input=1024, output=128))
>>> plandsl.estimate(plan).fits
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plandsl._version import __version__

if TYPE_CHECKING:
    from plandsl.answers.estimate import Estimate
    from plandsl.api.functions import (
        check,
        compare,
        compile,
        compile_all,
        diff,
        draw,
        estimate,
        evaluate,
        explain,
        run,
        search,
        simulate,
        verify,
    )
    from plandsl.api.kinds import (
        Calibration,
        Cluster,
        Engine,
        Gpu,
        Link,
        Model,
        Network,
        Node,
        Pool,
        RequestClass,
        Sessions,
        Sharding,
        Shift,
        Speculate,
        Transfer,
        Workload,
    )
    from plandsl.api.plans import Plan, Search
    from plandsl.api.searching import SearchAnswer
    from plandsl.api.sources import Plans
    from plandsl.columns import Table
    from plandsl.diagnostics import Diagnostic, PlanError
    from plandsl.driver import CompiledPlan
    from plandsl.ir.program import Program
    from plandsl.ir.schedule import Schedule

_FUNCTIONS = (
    "check", "compare", "compile", "compile_all", "diff", "draw", "estimate", "evaluate", "explain", "run", "search",
    "simulate", "verify",
)  # fmt: skip
_PARTS = (
    "Calibration", "Cluster", "Engine", "Gpu", "Link", "Model", "Network", "Node", "Pool", "RequestClass",
    "Sessions", "Sharding", "Shift", "Speculate", "Transfer", "Workload",
)  # fmt: skip
_HOME = {
    **dict.fromkeys(_FUNCTIONS, "plandsl.api.functions"),
    **dict.fromkeys(_PARTS, "plandsl.api.kinds"),
    "Plan": "plandsl.api.plans",
    "Search": "plandsl.api.plans",
    "CompiledPlan": "plandsl.driver",
    "Diagnostic": "plandsl.diagnostics",
    "Estimate": "plandsl.answers.estimate",
    "PlanError": "plandsl.diagnostics",
    "Plans": "plandsl.api.sources",
    "Program": "plandsl.ir.program",
    "Schedule": "plandsl.ir.schedule",
    "SearchAnswer": "plandsl.api.searching",
    "Table": "plandsl.columns",
    "compile_file": "plandsl.driver",  # as `compile_all`, for scripts that have it
    "compile_text": "plandsl.driver",
}

__all__ = [
    "Calibration",
    "Cluster",
    "CompiledPlan",
    "Diagnostic",
    "Engine",
    "Estimate",
    "Gpu",
    "Link",
    "Model",
    "Network",
    "Node",
    "Plan",
    "PlanError",
    "Plans",
    "Pool",
    "Program",
    "RequestClass",
    "Schedule",
    "Search",
    "SearchAnswer",
    "Sessions",
    "Sharding",
    "Shift",
    "Speculate",
    "Table",
    "Transfer",
    "Workload",
    "__version__",
    "check",
    "compare",
    "compile",
    "compile_all",
    "diff",
    "draw",
    "estimate",
    "evaluate",
    "explain",
    "run",
    "search",
    "simulate",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Load what is asked for when it is asked for: `planc --version` needs none of it."""
    if name not in _HOME:
        raise AttributeError(f"module 'plandsl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext plandsl` in IPython and Jupyter: the cell magic `%%plan`."""
    from plandsl.api.magic import load

    load(shell)

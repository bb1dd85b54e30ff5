"""Property tests for users: laws that every plan obeys, and strategies that draw models, machines, shardings and plans.

    from hypothesis import given
    from plandsl.testing import laws, shardings

    @given(shardings(model="llama_3_1_8b", node="h100_8"))
    def test_any_sharding_of_my_model_on_my_mesh(sharding):
        laws.check(sharding, model="llama_3_1_8b", node="h100_8")

Laws need nothing else; strategies need the extra ``plandsl[testing]``. docs/laws.md has examples.
"""

from typing import Any

from plandsl.show import show_plan
from plandsl.testing import laws
from plandsl.testing.compare import bare, compiled, same
from plandsl.testing.laws import LAWS, DoesNotApply, LawBroken, assert_law, assert_laws
from plandsl.testing.parts import plan_of

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError:
    _MISSING = True
else:
    _MISSING = False
    from plandsl.testing.engines import engines
    from plandsl.testing.hardware import calibrations, clusters, gpus, links, nodes
    from plandsl.testing.mixtures import deployments, mixtures
    from plandsl.testing.models import models
    from plandsl.testing.neighbours import neighbours
    from plandsl.testing.plans import plan_texts, plans, programs, speculations, workloads
    from plandsl.testing.shardings import meshes, shardings
    from plandsl.testing.traffic import traffic


__all__ = [
    "LAWS",
    "DoesNotApply",
    "LawBroken",
    "assert_law",
    "assert_laws",
    "bare",
    "calibrations",
    "clusters",
    "compiled",
    "deployments",
    "engines",
    "gpus",
    "laws",
    "links",
    "meshes",
    "mixtures",
    "models",
    "neighbours",
    "nodes",
    "plan_of",
    "plan_texts",
    "plans",
    "programs",
    "same",
    "shardings",
    "show_plan",
    "speculations",
    "traffic",
    "workloads",
]


def __getattr__(name: str) -> Any:
    """Strategies are missing without Hypothesis; laws are not."""
    if _MISSING and name in __all__:
        raise ImportError(f"plandsl.testing.{name} needs hypothesis: pip install 'plandsl[testing]'")
    raise AttributeError(f"module 'plandsl.testing' has no attribute {name!r}")

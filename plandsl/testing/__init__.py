"""Property tests for users: hypothesis strategies that draw plans, and laws that every plan obeys.

    from hypothesis import given
    from plandsl.testing import assert_laws, compiled, plans

    @given(plans())
    def test_my_backend(plan):
        assert_laws(compiled(plan))

The strategies draw small models on small nodes, sharded in every legal way. Needs the extra
``plandsl[testing]``.
"""

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError as missing:
    raise ImportError("plandsl.testing needs hypothesis: pip install 'plandsl[testing]'") from missing

from plandsl.show import show_plan
from plandsl.testing.compare import bare, compiled, same
from plandsl.testing.hardware import calibrations, gpus, links, nodes
from plandsl.testing.laws import LAWS, assert_law, assert_laws
from plandsl.testing.mixtures import deployments, mixtures
from plandsl.testing.models import models
from plandsl.testing.plans import plan_texts, plans, programs, speculations, workloads
from plandsl.testing.shardings import meshes, shardings
from plandsl.testing.traffic import traffic

__all__ = [
    "LAWS",
    "assert_law",
    "assert_laws",
    "bare",
    "calibrations",
    "compiled",
    "deployments",
    "gpus",
    "links",
    "meshes",
    "mixtures",
    "models",
    "nodes",
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

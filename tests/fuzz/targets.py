"""All targets, by name."""

from __future__ import annotations

from tests.fuzz.case import Target
from tests.fuzz.readers import READERS
from tests.fuzz.verbs import VERBS

TARGETS: dict[str, Target] = {target.name: target for target in (*READERS, *VERBS)}


def load_product() -> None:
    """Load what most cases need, before workers are forked."""
    import importlib
    import pkgutil

    import plandsl.commands
    from plandsl.driver import compile_text

    for module in pkgutil.iter_modules(plandsl.commands.__path__):
        importlib.import_module(f"plandsl.commands.{module.name}")
    (plan,) = compile_text(FIRST)
    plan.estimate().as_json()


FIRST = """
plan p {
  model = llama_3_1_8b, node = h100_2, sharding { tp = 2 }
  workload { input = 100, output = 10, batch = 4 }
}
"""

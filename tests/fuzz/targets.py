"""All targets, by name."""

from __future__ import annotations

from tests.fuzz.case import Target
from tests.fuzz.http import HTTP
from tests.fuzz.readers import READERS
from tests.fuzz.verbs import VERBS

TARGETS: dict[str, Target] = {target.name: target for target in (*READERS, *VERBS, *HTTP)}


def load_product() -> None:
    """Load and read what most cases need, before workers are forked: they all begin with the same process."""
    import importlib
    import pkgutil

    import plandsl.commands
    from plandsl.driver import compile_text
    from plandsl.grammar.modules import FOLDERS, catalog_find, catalog_names
    from tests.fuzz.plans import shown

    for module in pkgutil.iter_modules(plandsl.commands.__path__):
        importlib.import_module(f"plandsl.commands.{module.name}")
    for kind in FOLDERS:
        for name in catalog_names(kind):
            catalog_find(kind, name)
    for text in shown()[:4]:
        for plan in compile_text(text)[:1]:
            plan.estimate().as_json()

"""All targets, by name."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import suppress
from itertools import zip_longest

import plandsl
from plandsl.driver import compile_text, open_text
from plandsl.grammar.modules import FOLDERS, catalog_find, catalog_names
from tests.fuzz.case import Target
from tests.fuzz.http import HTTP
from tests.fuzz.plans import shown
from tests.fuzz.readers import READERS
from tests.fuzz.verbs import VERBS

TARGETS: dict[str, Target] = {target.name: target for target in (*READERS, *VERBS, *HTTP)}


LIBRARIES = ("graphviz", "scipy.optimize", "yaml")
"""What commands load when they need it."""


def load_product() -> None:
    """Load and read what most cases need, before workers are forked: they all begin with the same process."""
    modules = pkgutil.walk_packages(plandsl.__path__, "plandsl.", onerror=lambda _: None)
    for name in (*LIBRARIES, *(module.name for module in modules if not module.name.endswith("__main__"))):
        with suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)
    for kind in FOLDERS:
        for name in catalog_names(kind):
            catalog_find(kind, name)
    # what is read of the catalog is kept in a process: models, machines, and calibrations for what a model has
    for pair in zip_longest(catalog_names("model"), catalog_names("node")):
        model, node = (one or usual for one, usual in zip(pair, ("llama_3_2_1b", "h100_8"), strict=True))
        for calibration in ("", "calibration = generic, ") if pair[0] else ("",):
            text = f"plan p {{ {calibration}model = {model}, node = {node}, workload {{ input = 8, output = 2 }} }}"
            open_text(text).plan("p")
    for text in shown()[:4]:
        for plan in compile_text(text)[:1]:
            plan.estimate().as_json()

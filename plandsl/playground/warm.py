"""Importing this module loads the compiler and runs it once, so that processes forked from the importer start warm.

They also open no file of the program any more, only those of the catalog.
"""

from __future__ import annotations

import gc
import importlib
import json
import pkgutil

import plandsl
from plandsl.playground.answers import answer
from plandsl.starter import starter

PACKAGES = ("answers", "backends.cost", "backends.graphviz", "editing", "grammar", "ir", "passes", "searches", "spec")
"""What a worker may need, with all modules that few plans need."""

_BODY = json.dumps({"text": starter()}).encode()
_SECONDS = 60.0

for _package in PACKAGES:
    _found = importlib.import_module(f"{plandsl.__name__}.{_package}")
    for _module in pkgutil.walk_packages(_found.__path__, f"{_found.__name__}."):
        importlib.import_module(_module.name)

for _kind in ("estimate", "picture", "complete", "hover", "fixes"):
    answer(_kind, _BODY, _SECONDS)

gc.collect()
gc.freeze()  # what is loaded stays: no worker searches it for cycles, which would also copy its pages
gc.set_threshold(100_000, 50, 50)  # as `planc` does

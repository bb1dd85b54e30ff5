"""Who may import whom: every import of the package, those inside functions and for the type checker included."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
STAGES = ("grammar", "passes", "backends")
FLOORS = ("num", "forms", "machine", "work", "time", "deployments", "answers")
"""Of `backends/cost`, from the ground up: each imports those below it."""

KNOW_ALL = ("driver", "entries", "commands", "search", "testing")
"""What may import every stage: the compiler on one page, and those who stand above it."""

STARTS = ("__init__", "__main__", "cli", *KNOW_ALL)
"""Each verb loads what it needs where it needs it, so that start-up stays short."""

WINGS = {
    "answers.text.parts", "backends.cost.answers.modes", "backends.cost.answers.pool_terms",
    "backends.cost.answers.pools", "backends.cost.deployments.drafted",
    "backends.cost.deployments.pools", "backends.cost.deployments.shift",
    "backends.cost.machine.tables", "backends.cost.work.crossing", "backends.cost.work.experts",
    "backends.cost.work.latent", "backends.cost.work.lookup", "backends.cost.time.mixed", "backends.cost.time.trace",
    "backends.cost.time.unlike", "backends.graphviz.devices_cluster", "backends.graphviz.devices_pools",
    "grammar.experts", "grammar.hf", "grammar.latent", "grammar.searches", "grammar.shift", "grammar.speculate",
    "grammar.split", "grammar.unlike", "ir.kinds", "passes.drafts", "passes.latent", "passes.nodes",
    "passes.shard_latent",
}  # fmt: skip
"""Modules that few plans need: the first that does loads them, inside a function, for start-up's sake."""

BACK = {
    ("backends.graphviz.devices_cluster", "backends.graphviz.devices"), ("commands", "search.command"),
    ("backends.graphviz.devices_pools", "backends.graphviz.devices"), ("grammar.split", "grammar.plans"),
    ("grammar.experts", "grammar.terms"), ("grammar.latent", "grammar.terms"), ("ir.kinds", "spec.plan"),
    ("backends.cost.answers.pools", "backends.cost.answers.estimate"), ("passes.drafts", "passes.legality"),
    ("passes.shard_latent", "passes.shard"),
}  # fmt: skip
"""Wings that call what loads them again: their part of a recursion. There is no other circle."""


class Arrow(NamedTuple):
    """An import: of ``to``, in ``module``; ``late`` in a function, or for ``types`` alone."""

    module: str
    to: str
    late: bool
    types: bool

    def __str__(self) -> str:
        return f"{self.module} imports {self.to}"


def modules() -> Iterator[tuple[str, Path]]:
    for folder in ("plandsl", *STAGES):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("plandsl.")
            if folder != "plandsl" or not name.startswith(STAGES):  # links, in a checkout
                yield name.removesuffix(".__init__"), path


@cache
def arrows() -> tuple[Arrow, ...]:
    known, found = dict(modules()), []
    for name, path in known.items():
        tree = ast.parse(path.read_text("utf-8"))
        checks = (n for n in tree.body if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
        types = {inner for check in checks for inner in ast.walk(check)}
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module):
            if node.module.startswith("plandsl.") or node.module == "plandsl":
                base = node.module.removeprefix("plandsl").removeprefix(".")
                inner = (f"{base}.{alias.name}".removeprefix(".") for alias in node.names)
                targets = {full if full in known else base for full in inner} - {name, "", "_version"}
                found += [Arrow(name, to, node not in tree.body, node in types) for to in sorted(targets)]
    return tuple(found)


def stage(module: str) -> str:
    return module.partition(".")[0]


def floor(module: str) -> int | None:
    """The floor of the cost backend that a module is on."""
    first, _, rest = module.partition("backends.cost.")
    return FLOORS.index(stage(rest)) if not first and rest else None


def test_stages_import_what_they_share_and_not_one_another() -> None:
    wrong = [a for a in arrows() if stage(a.to) in STAGES and stage(a.module) not in (stage(a.to), *KNOW_ALL)]
    assert not [*map(str, wrong)]


def test_nothing_but_commands_imports_what_knows_all() -> None:
    wrong = [a for a in arrows() if stage(a.to) in KNOW_ALL and stage(a.module) not in STARTS]
    assert not [*map(str, wrong)]


def test_each_floor_of_the_cost_backend_imports_those_below() -> None:
    heights = [(a, floor(a.module), floor(a.to)) for a in arrows()]
    assert not [str(a) for a, mine, other in heights if mine is not None and other is not None and other > mine]


def test_only_wings_are_imported_late() -> None:
    late = [a for a in arrows() if a.late and not a.types and stage(a.module) not in STARTS]
    assert not [str(a) for a in late if a.to not in WINGS and (a.module, a.to) not in BACK]
    assert {a.to for a in late} - {to for _, to in BACK} == WINGS, "a wing that is imported at the top is none"


def test_imports_run_in_no_circles() -> None:
    graph: dict[str, set[str]] = {}
    for a in arrows():
        if (a.module, a.to) not in BACK and not a.types:
            graph.setdefault(a.module, set()).add(a.to)
    assert list(TopologicalSorter(graph).static_order())
    assert {(a.module, a.to) for a in arrows()} >= BACK

"""Who may import whom: every import of the package, those inside functions and for the type checker included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
STAGES = ("grammar", "passes", "backends")
FLOORS = ("num", "forms", "machine", "work", "time", "deployments", "serving", "answers")
"""Of `backends/cost`, from the ground up: each imports those below it."""

SCHEDULERS = {
    f"backends.cost.serving.{name}"
    for name in ("adapters", "blocks", "scheduler", "vllm", "sglang", "trtllm", "routers", "priorities")
} | {"spec.scheduler"}
"""Of the floor `serving`, what knows tokens and blocks alone, and the words for it: nothing else is imported there."""

KNOW_ALL = ("api", "driver", "editing", "entries", "commands", "lsp", "playground", "searches", "starter", "testing")
"""What may import every stage: the compiler on one page, and those who stand above it."""

STARTS = ("__init__", "__main__", "cli", *KNOW_ALL)
"""Each verb loads what it needs where it needs it, so that start-up stays short."""

WHOLE = SCHEDULERS | {
    *(f"backends.cost.serving.{name}" for name in ("leap", "own_blocks", "ranks", "replica")),
    "backends.jax.child", "printing", "reflow",
}  # fmt: skip
"""Modules that add whole numbers alone: tokens, blocks and requests; sizes; characters."""

WINGS = {
    "answers.tables", "answers.text.parts", "answers.text.short", "answers.text.start",
    "backends.cost.answers.start",
    "backends.cost.answers.modes", "backends.cost.answers.pool_terms",
    "backends.cost.answers.pools", "backends.cost.deployments.drafted", "backends.cost.deployments.pools",
    "backends.cost.deployments.shift", "backends.cost.deployments.towered",
    "backends.cost.machine.tables", "backends.cost.work.crossing",
    "backends.cost.work.experts", "backends.cost.work.joined", "backends.cost.work.latent", "backends.cost.work.lookup",
    "backends.cost.work.adapters", "grammar.hf_towers",
    "grammar.lora", "grammar.merging", "grammar.streams", "grammar.towers", "passes.streams", "passes.adapters",
    "spec.adapter_mix",
    "backends.cost.work.index", "grammar.index", "passes.index", "passes.shard_index",
    "backends.cost.work.states", "grammar.states", "passes.shard_states", "passes.states",
    "backends.cost.time.mixed", "backends.cost.time.trace", "backends.cost.time.unlike",
    "backends.graphviz.devices_cluster", "backends.graphviz.devices_sections", "grammar.experts", "grammar.foreign",
    "grammar.hf", "grammar.homes", "grammar.latent", "grammar.misplaced", "grammar.near", "grammar.overrides",
    "grammar.places",
    "grammar.repair", "grammar.searches", "grammar.shift", "grammar.speculate", "grammar.spellings", "grammar.split",
    "grammar.traffic", "grammar.unlike",
    "columns", "ir.kinds", "ir.text", "passes.drafts", "passes.latent", "passes.nodes", "passes.shard_latent",
    "passes.shard_norms", "reflow",
    "spec.fractions",
}  # fmt: skip
"""Modules that few plans need: the first that does loads them, inside a function, for start-up's sake."""

SHOWN = ("autoscale", "comparison", "difference", "estimate", "explanation", "rate", "seeds", "simulation")
"""Answers that show themselves: what prints their reports imports them."""

BACK = {
    ("ir.program", "ir.text"),
    *((f"answers.{name}", "answers.shown") for name in SHOWN),
    ("api.parts", "api.write"), ("api.plans", "api.functions"), ("api.plans", "api.read"), ("api.texts", "api.read"),
    ("backends.graphviz.devices_cluster", "backends.graphviz.devices"),
    ("backends.graphviz.devices_sections", "backends.graphviz.devices"), ("grammar.split", "grammar.plans"),
    ("grammar.experts", "grammar.terms"), ("grammar.latent", "grammar.terms"), ("grammar.states", "grammar.terms"),
    ("grammar.towers", "grammar.models"), ("grammar.towers", "grammar.speculate"),
    ("grammar.merging", "grammar.functions"), ("grammar.streams", "grammar.functions"),
    ("grammar.index", "grammar.terms"), ("passes.shard_index", "passes.shard"),
    ("passes.shard_states", "passes.shard"), ("ir.kinds", "spec.plan"),
    ("backends.cost.answers.pools", "backends.cost.answers.estimate"), ("passes.drafts", "passes.legality"),
    ("passes.shard_latent", "passes.shard"), ("grammar.traffic", "grammar.workloads"),
    ("grammar.near", "grammar.modules"), ("grammar.places", "grammar.plans"), ("grammar.places", "grammar.sharding"),
    ("grammar.places", "grammar.workloads"),
}  # fmt: skip
"""Wings that call what loads them again: their part of a recursion. There is no other circle."""


class Arrow(NamedTuple):
    """An import of ``to`` in ``module``: at the top, ``late`` in a function, or for ``types`` alone."""

    module: str
    to: str
    when: str


def arrows() -> Iterator[Arrow]:
    paths = (path for folder in ("plandsl", *STAGES) for path in (ROOT / folder).rglob("*.py"))
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("plandsl."): path for path in paths}
    known = {name.removesuffix(".__init__"): path for name, path in named.items()}
    for name, path in known.items():
        for top in ast.parse(path.read_text("utf-8")).body:
            guarded = isinstance(top, ast.If) and "TYPE_CHECKING" in ast.unparse(top.test)
            for node in (n for n in ast.walk(top) if isinstance(n, ast.ImportFrom)):
                package, _, base = (node.module or "").partition(".")
                inner = [".".join(filter(None, (base, alias.name))) for alias in node.names if package == "plandsl"]
                for to in {full if full in known else base for full in inner} - {name, "", "_version"}:
                    yield Arrow(name, to, "top" if node is top else "types" if guarded else "late")


def room(module: str) -> str:
    return module.partition(".")[0]


def floor(module: str, outside: int) -> int:
    """The floor of the cost backend that a module is on."""
    first, _, rest = module.partition("backends.cost.")
    return FLOORS.index(room(rest)) if rest and not first else outside


def test_imports_go_down_and_only_wings_are_late() -> None:
    found = sorted(arrows())
    late = [a for a in found if a.when == "late" and room(a.module) not in STARTS]
    wrong = {
        "a stage imports another": [
            a for a in found if room(a.to) in STAGES and room(a.module) not in (room(a.to), *KNOW_ALL)
        ],
        "no command, and imports what knows all": [
            a for a in found if room(a.to) in KNOW_ALL and room(a.module) not in STARTS
        ],
        "a floor imports one above": [a for a in found if floor(a.to, -1) > floor(a.module, len(FLOORS))],
        "a scheduler knows seconds": [a for a in found if a.module in SCHEDULERS and a.to not in SCHEDULERS],
        "imported late, and no wing": [a for a in late if a.to not in WINGS and a[:2] not in BACK],
    }
    assert not {rule: breaks for rule, breaks in wrong.items() if breaks}
    assert {a.to for a in late if a[:2] not in BACK} == WINGS, "a wing that is imported at the top is none"
    assert {a[:2] for a in found} >= BACK
    onward = [a for a in found if a.when != "types" and a[:2] not in BACK]
    TopologicalSorter({module: {a.to for a in onward if a.module == module} for module, *_ in onward}).prepare()


def test_calls_name_their_arguments() -> None:
    """Six numbers in a row say nothing of what each is. (Functions that take any number have no names for them.)"""
    any_number = {"Limit", "call_traced", "given", "planc", "run", "tuples", "write"}
    folders = ("plandsl", *STAGES, "benchmarks", "tests")
    found = []
    for path in (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and len(call.args) > 5:
                name = ast.unparse(call.func).rpartition(".")[2]
                found += [] if name in any_number else [f"{path.relative_to(ROOT)}:{call.lineno}: {name}"]
    assert found == []


def is_whole(value: ast.expr) -> bool:
    """Whether an expression is a whole number or a truth value by its form alone."""
    match value:
        case ast.Constant(value=int()) | ast.Compare() | ast.UnaryOp(op=ast.Not()):
            return True
        case ast.Call(func=ast.Name(id="len" | "int" | "any" | "all") | ast.Attribute(attr="startswith")):
            return True
        case ast.Call(ast.Name(id="sum"), [ast.GeneratorExp(elt=each) | ast.ListComp(elt=each)], []):
            return is_whole(each)
        case ast.Call(ast.Name(id="sum"), [ast.Call(ast.Name(id="map"), [ast.Name(id="len"), *_])], []):
            return True
        case ast.IfExp(body=left, orelse=right):
            return is_whole(left) and is_whole(right)
        case ast.BinOp(left, ast.Add() | ast.Sub() | ast.Mult(), right):
            return is_whole(left) and is_whole(right)
    return False


def added(source: str) -> Iterator[int]:
    """Lines where the builtin `sum` may meet floats: it is called with what need not be whole, or is handed on."""
    nodes = list(ast.walk(ast.parse(source)))
    counts = {id(node.func) for node in nodes if isinstance(node, ast.Call) and is_whole(node)}
    names = (node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    yield from (name.lineno for name in names if name.id == "sum" and id(name) not in counts)


def test_floats_are_added_from_left_to_right() -> None:
    """The builtin `sum` has other last digits from Python 3.12 on: `plandsl.values.sum_up` has the same on each."""
    wrong = ("sum(x)", "sum(a.s for a in x)", "max(x, key=sum)", "sum([1], start=0.5)", "sum(n / 2 for n in x)")
    whole = ("sum(1 for _ in x)", "sum([len(a) + 2 for a in x])", "sum(a > b for a in x)", "sum_up(x)", "x.sum()")
    assert [list(added(text)) for text in (*wrong, *whole)] == [[1]] * len(wrong) + [[]] * len(whole)
    found = []
    for path in (path for folder in ("plandsl", *STAGES) for path in sorted((ROOT / folder).rglob("*.py"))):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removeprefix("plandsl.")
        source = path.read_text("utf-8")
        if name not in WHOLE and re.search(r"\bsum\b", source):
            found += [f"{path.relative_to(ROOT)}:{line}" for line in added(source)]
    assert found == []

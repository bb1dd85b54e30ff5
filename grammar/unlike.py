"""Reads lists of unlike hardware: `gpus = [4 * h100_sxm, 4 * h200_sxm]`, `nodes = [2 * h100_8, 2 * h200_8]`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from attrs import evolve

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of, whole
from plandsl.spec.hardware import ClusterSpec, GpuSpec, NodeSpec

T = TypeVar("T", GpuSpec, NodeSpec)

WORDS = {"gpu": "GPUs", "node": "nodes"}
EXAMPLES = {"gpu": "4 * h100_sxm", "node": "2 * h100_8"}
LISTS = {"gpu": "`gpus = [4 * h100_sxm, 4 * h200_sxm]`", "node": "`nodes = [2 * h100_8, 2 * h200_8]`"}
HOMES = {
    "gpu": "`node mixed { gpus = [...], link { ... } }`",
    "node": "`cluster pod { nodes = [...], network { ... } }`",
}


def members(reader: Reader, kind: str) -> list[tuple[int, Record]]:
    """The members of the list ``kind + s`` of a record, each with its number; a wrong item gives a finding."""
    name = f"{kind}s"
    layer = reader.layer(name)
    assert layer is not None, "the caller checks that the list exists"
    items = layer.value.items if isinstance(layer.value, s.Seq) else ()
    if not items:
        reader.fail(Wrong("E210", f"expected a list of {WORDS[kind]}", span_of(layer), hint=LISTS[kind]))
    _check_alone(reader, kind, layer)
    found = [reader.attempt(partial(_member, reader.context, item, layer, kind)) for item in items]
    return [member for member in found if member]


def _check_alone(reader: Reader, kind: str, layer: Layer) -> None:
    """Check that neither `gpu` (or `node`) nor `count` is given beside the list."""
    name = layer.name.text
    if one := reader.layer(kind):
        labels = (Label(one.name.span, f"`{kind}` is given here"),)
        hint = f"drop one of the two; a list needs a new declaration: {HOMES[kind]}"
        why = f"`{name}` and `{kind}` cannot both be given"
        reader.fail(Wrong("E202", why, layer.name.span, hint=hint, labels=labels))
    elif count := reader.layer("count"):
        labels = (Label(layer.name.span, "this list has the number of each"),)
        why = f"`{name}` and `count` cannot both be given"
        reader.fail(Wrong("E202", why, count.name.span, hint="drop `count`", labels=labels))


def _member(context: Context, item: s.Expr, layer: Layer, kind: str) -> tuple[int, Record]:
    """``4 * h100_sxm``."""
    example = EXAMPLES[kind]
    if not isinstance(item, s.Binary) or item.op != "*" or isinstance(item.b, s.Num):
        raise Wrong("E210", f"expected a number of {WORDS[kind]}, as in `{example}`", item.span, hint=f"`[{example}]`")
    count = context.evaluator.value(item.a, layer.unit)
    many = whole(count, Layer(s.Name(layer.name.text, item.a.span), item.a, layer.unit), 1, limits.MAX_COUNT)
    return many, context.records.of_value(kind, item.b, layer.unit)


def give_unique_names(node: NodeSpec, cluster: ClusterSpec | None) -> tuple[NodeSpec, ClusterSpec | None]:
    """The same hardware, in which different GPUs have different names, and different nodes too.

    A second, different GPU called `h100_sxm` becomes `h100_sxm_2`, with `h100_sxm` among its ``bases``, so that tables
    of measurements may still name it.
    """
    groups = ((1, node),) if cluster is None else cluster.groups
    gpus: dict[str, GpuSpec] = {}
    nodes: dict[str, NodeSpec] = {}
    found = []
    for many, one in groups:
        inside = tuple((count, _give_unique_name(gpu, gpus, _rename_gpu)) for count, gpu in one.groups)
        found.append(
            (
                many,
                _give_unique_name(evolve(one, gpu=inside[0][1], gpus=inside if one.gpus else ()), nodes, _rename_node),
            )
        )
    first = found[0][1]
    if cluster is None:
        return first, None
    return first, evolve(cluster, node=first, nodes=tuple(found) if cluster.nodes else ())


def _give_unique_name(spec: T, taken: dict[str, T], renamed: Callable[[T, str], T]) -> T:
    """``spec`` under a name that no different spec in ``taken`` has."""
    n, named = 1, spec
    while taken.setdefault(named.name, named) != named:
        n += 1
        named = renamed(spec, f"{spec.name}_{n}")
    return named


def _rename_gpu(gpu: GpuSpec, name: str) -> GpuSpec:
    return evolve(gpu, name=name, bases=(gpu.name, *gpu.bases))


def _rename_node(node: NodeSpec, name: str) -> NodeSpec:
    return evolve(node, name=name)

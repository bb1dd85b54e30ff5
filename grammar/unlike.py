"""Unlike GPUs and nodes: `gpus = [4 * h100_sxm, 4 * h200_sxm]`, `nodes = [2 * h100_8, 2 * h200_8]`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from attrs import evolve

from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of, whole
from plandsl.limits import MAX_COUNT
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
    """How many of which ``kind`` the list ``kind + s`` of a record names; a finding for each item that does not."""
    name = f"{kind}s"
    layer = reader.layer(name)
    assert layer is not None, "the caller saw it"
    items = layer.value.items if isinstance(layer.value, s.Seq) else ()
    if not items:
        reader.fail(Wrong("E210", f"expected a list of {WORDS[kind]}", span_of(layer), hint=LISTS[kind]))
    _alone(reader, kind, layer)
    found = [reader.attempt(partial(_member, reader.context, item, layer, kind)) for item in items]
    return [member for member in found if member]


def _alone(reader: Reader, kind: str, layer: Layer) -> None:
    """The list says all that `gpu` and `count` would."""
    name = layer.name.text
    if one := reader.layer(kind):
        labels = (Label(one.name.span, "and this one too"),)
        hint = f"drop one of the two; a list needs a declaration of its own: {HOMES[kind]}"
        reader.fail(Wrong("E202", f"`{name}` and `{kind}` say the same", layer.name.span, hint=hint, labels=labels))
    elif count := reader.layer("count"):
        labels = (Label(layer.name.span, "this says how many of each"),)
        why = f"`{name}` counts its own, so there is no `count`"
        reader.fail(Wrong("E202", why, count.name.span, hint="drop `count`", labels=labels))


def _member(context: Context, item: s.Expr, layer: Layer, kind: str) -> tuple[int, Record]:
    """``4 * h100_sxm``."""
    example = EXAMPLES[kind]
    if not isinstance(item, s.Binary) or item.op != "*" or isinstance(item.b, s.Num):
        raise Wrong("E210", f"expected a number of {WORDS[kind]}, as in `{example}`", item.span, hint=f"`[{example}]`")
    count = context.evaluator.value(item.a, layer.unit)
    many = whole(count, Layer(s.Name(layer.name.text, item.a.span), item.a, layer.unit), 1, MAX_COUNT)
    return many, context.records.of_value(kind, item.b, layer.unit)


def apart(node: NodeSpec, cluster: ClusterSpec | None) -> tuple[NodeSpec, ClusterSpec | None]:
    """The same hardware, in which GPUs that differ have names that do, and so have nodes.

    A second, different one called `h100_sxm` becomes `h100_sxm_2`, made from `h100_sxm`: tables may name that.
    """
    groups = ((1, node),) if cluster is None else cluster.groups
    gpus: dict[str, GpuSpec] = {}
    nodes: dict[str, NodeSpec] = {}
    found = []
    for many, one in groups:
        inside = tuple((count, _named(gpu, gpus, _gpu)) for count, gpu in one.groups)
        found.append((many, _named(evolve(one, gpu=inside[0][1], gpus=inside if one.gpus else ()), nodes, _node)))
    first = found[0][1]
    if cluster is None:
        return first, None
    return first, evolve(cluster, node=first, nodes=tuple(found) if cluster.nodes else ())


def _named(spec: T, taken: dict[str, T], renamed: Callable[[T, str], T]) -> T:
    """``spec`` under a name that nothing else among ``taken`` has."""
    n, named = 1, spec
    while taken.setdefault(named.name, named) != named:
        n += 1
        named = renamed(spec, f"{spec.name}_{n}")
    return named


def _gpu(gpu: GpuSpec, name: str) -> GpuSpec:
    return evolve(gpu, name=name, bases=(gpu.name, *gpu.bases))


def _node(node: NodeSpec, name: str) -> NodeSpec:
    return evolve(node, name=name)

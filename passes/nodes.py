"""Checks of a plan on several nodes: placed axes must stay inside a node; a note names other axes that cross nodes."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.diagnostics import Diagnostic, Label
from plandsl.ir.nodes import NodeSpan, boundaries, node_span
from plandsl.passes.build import mesh_of
from plandsl.passes.cut_stages import stage_axes
from plandsl.spec.hardware import ClusterSpec
from plandsl.spec.plan import AxisSpec, PlanSpec
from plandsl.values import sum_up


def check_nodes(plan: PlanSpec, cluster: ClusterSpec) -> Iterator[Diagnostic]:
    """An error (E310) for a placed axis whose groups leave a node, else a note (N310) for each axis that crosses nodes.

    Replicas (`dp`) exchange nothing, so their axis may cross nodes without a note.
    """
    mesh = mesh_of(plan)
    lies = {a.name: node_span(mesh, a.name, cluster.node.count) for a in plan.sharding.axes}
    placed = {place.axis for place in plan.sharding.placed}
    leaving = [a for a in plan.sharding.axes if lies[a.name].spans > 1]
    wrong = [a for a in leaving if a.name in placed]
    if wrong:  # only the innermost: it is the reason that the axes outside of it leave the node
        yield _leaving_axis(plan, cluster, wrong[-1], lies[wrong[-1].name])
        return
    stages = stage_axes(plan)
    for axis in leaving:
        if axis.name in stages:
            hops = boundaries(mesh, stages, cluster.node.count)
            far = sum_up(hop.far for hop in hops)
            why = f"`{axis.name}` crosses nodes: {far} of {len(hops)} pipeline hops cross the network"
            yield Diagnostic("N310", why, axis.span or plan.sharding.span)
        elif axis.name not in plan.sharding.replica_axes:
            why = f"`{axis.name}` crosses nodes: {_show_reach(cluster, axis, lies[axis.name])}"
            yield Diagnostic("N310", why, axis.span or plan.sharding.span)


def _show_reach(cluster: ClusterSpec, axis: AxisSpec, at: NodeSpan) -> str:
    each = f", {at.inside} in each" if at.inside > 1 else "" if at.even else ", unevenly"
    return f"its groups of {axis.size} ranks span {at.spans} nodes of `{cluster.name}`{each}"


def _leaving_axis(plan: PlanSpec, cluster: ClusterSpec, axis: AxisSpec, at: NodeSpan) -> Diagnostic:
    """The error for ``axis``; its hint names the placed axes that fit a node, or the sizes of ``axis`` that would."""
    within = {place.axis: place.span for place in plan.sharding.placed}
    order = [a for a in plan.sharding.axes if a.name in within]
    inner = order[order.index(axis) + 1 :]
    have = room = cluster.node.count
    for other in inner:
        room //= other.size
    sizes = " or ".join(str(n) for n in range(2, room + 1) if room % n == 0)
    if inner:
        hint = f"its {have} GPUs have room for `place {', '.join(a.name for a in inner)} in node`"
        hint += f"; with `{axis.name}` of {sizes}, both fit" if sizes else ""
    else:
        hint = f"give `{axis.name}` a size that divides the {have} GPUs of a node: {sizes or 1}"
    labels = (Label(axis.span, f"{axis.size} ranks"),) if axis.span else ()
    why = f"`{axis.name}` is placed in a node, but {_show_reach(cluster, axis, at)}"
    label = f"a `{cluster.node.name}` has {have} GPUs"
    return Diagnostic("E310", why, within[axis.name], label=label, hint=hint, labels=labels)

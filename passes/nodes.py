"""What must hold of a plan on several nodes: placed axes lie in one node; of the others, which leave it."""

from __future__ import annotations

from collections.abc import Iterator

from plandsl.diagnostics import Diagnostic, Label
from plandsl.ir.nodes import Spread, boundaries, spread
from plandsl.passes.build import mesh_of
from plandsl.passes.cut_stages import stage_axes
from plandsl.spec.hardware import ClusterSpec
from plandsl.spec.plan import AxisSpec, PlanSpec


def nodes(plan: PlanSpec, cluster: ClusterSpec) -> Iterator[Diagnostic]:
    """An error for a placed axis whose groups leave a node; else a note for each axis over which nodes exchange.

    Replicas (`dp`) exchange nothing, so their axis may lie as it will.
    """
    mesh = mesh_of(plan)
    lies = {a.name: spread(mesh, a.name, cluster.node.count) for a in plan.sharding.axes}
    placed = {place.axis for place in plan.sharding.placed}
    leaving = [a for a in plan.sharding.axes if lies[a.name].spans > 1]
    wrong = [a for a in leaving if a.name in placed]
    if wrong:  # the innermost alone: it is why those outside of it leave
        yield _leaves(plan, cluster, wrong[-1], lies[wrong[-1].name])
        return
    stages = stage_axes(plan)
    for axis in leaving:
        if axis.name in stages:
            hops = boundaries(mesh, stages, cluster.node.count)
            far = sum(hop.far for hop in hops)
            why = f"`{axis.name}` crosses nodes: {far} of {len(hops)} hops of the pipeline pass the network"
            yield Diagnostic("N310", why, axis.span or plan.sharding.span)
        elif axis.name not in plan.sharding.replica_axes:
            why = f"`{axis.name}` crosses nodes: {_reach(cluster, axis, lies[axis.name])}"
            yield Diagnostic("N310", why, axis.span or plan.sharding.span)


def _reach(cluster: ClusterSpec, axis: AxisSpec, at: Spread) -> str:
    each = f", {at.inside} in each" if at.inside > 1 else "" if at.even else ", not alike"
    return f"its groups of {axis.size} ranks span {at.spans} nodes of `{cluster.name}`{each}"


def _leaves(plan: PlanSpec, cluster: ClusterSpec, axis: AxisSpec, at: Spread) -> Diagnostic:
    """With the placed axes that fit a node, or the sizes of this one that would."""
    within = {place.axis: place.span for place in plan.sharding.placed}
    order = [a for a in plan.sharding.axes if a.name in within]
    inner = order[order.index(axis) + 1 :]
    have = room = cluster.node.count
    for other in inner:
        room //= other.size
    sizes = " or ".join(str(n) for n in range(2, room + 1) if room % n == 0)
    if inner:
        hint = f"`place {', '.join(a.name for a in inner)} in node` is what fits its {have} GPUs"
        hint += f"; with `{axis.name}` of {sizes}, both do" if sizes else ""
    else:
        hint = f"give `{axis.name}` a size that divides the {have} GPUs of a node: {sizes or 1}"
    labels = (Label(axis.span, f"{axis.size} ranks"),) if axis.span else ()
    why = f"`{axis.name}` is placed in a node, but {_reach(cluster, axis, at)}"
    label = f"a `{cluster.node.name}` has {have} GPUs"
    return Diagnostic("E310", why, within[axis.name], label, hint, labels)

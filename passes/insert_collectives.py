"""Insert collectives: each reshard becomes the cheapest run of collectives from one layout to the other."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import combinations, product

from attrs import evolve

from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter, Rescale, Reshard, Slice
from plandsl.ir.extents import Extents
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.types import PADDED, Dim, TensorType, Value, axes_of
from plandsl.passes.rewrite import Names, each_region
from plandsl.spec.plan import PlanSpec

Axes = tuple[str, ...]
Move = AllReduce | ReduceScatter | AllGather | AllToAll | Rescale | Slice

MOST_AXES = 3
"""With more moving axes than this the layouts between are too many to search: the way goes straight."""

_SLICE, _STEP = 1e-6, 1.0
"""Of bytes moved: keeping one's own part costs almost nothing. A byte more for every step, so that ties go to fewer."""

NOMINAL = 8
"""Ranks that every axis is taken to have where ways are compared: a node's worth."""


def insert_collectives(program: Program, plan: PlanSpec) -> Program:
    """Turn every reshard into collectives: a shortest path over layouts, by bytes moved.

    Each is on one axis, or on several that are neighbours on the mesh and so make one group of evenly spaced ranks.

    Before:  %y.1 : bf16[batch, position, hidden] = reshard %y            (%y is {+tensor})
    After:   %y.1 : bf16[batch, position, hidden] = all_reduce %y {axis = "tensor"}
    """
    # the way must not depend on the sizes at hand, so that one structure serves all of them
    bind = {**dict.fromkeys(("batch", "input", "context"), 1 << 12), "queries": 1}
    mesh = dict.fromkeys((name for name, _ in program.mesh.axes), NOMINAL)
    router = Router(Extents(program, bind, mesh))
    return each_region(program, lambda region: _route(region, router))


def _route(region: Region, router: Router) -> Region:
    if not any(isinstance(op, Reshard) for op in region.ops):
        return region
    names = Names(region.values())
    ops: list[Op] = []
    for op in region.ops:
        if not isinstance(op, Reshard):
            ops.append(op)
            continue
        x = op.x
        steps = router.path(x.type, op.out.type)
        for i, step in enumerate(steps):
            name = op.out.name if i == len(steps) - 1 else names.fresh(op.out.name)
            move = evolve(step, x=x, span=op.span)
            out = Value(name, move.infer()[0])
            ops.append(evolve(move, out=out))
            x = out
    return evolve(region, ops=tuple(ops))


class Router:
    """Shortest paths between layouts. Paths are found once per pair of types."""

    def __init__(self, extents: Extents) -> None:
        self.extents = extents
        self._known: dict[tuple[TensorType, TensorType], tuple[Move, ...]] = {}

    def path(self, start: TensorType, goal: TensorType) -> tuple[Move, ...]:
        """The cheapest moves from ``start`` to ``goal``, with placeholder operands."""
        key = (start, goal)
        if key not in self._known:
            self._known[key] = self._search(start, goal)
        return self._known[key]

    def _search(self, start: TensorType, goal: TensorType) -> tuple[Move, ...]:
        moving = _moving(start, goal)
        if len(moving) > MOST_AXES:
            return tuple(_straight(start, goal))
        runs = _runs(self.extents.mesh, moving)
        # an axis may wait on a dimension that is cut anyway; another one might not divide by it
        places = [d.name for d, want in zip(start.dims, goal.dims, strict=True) if d.axes or want.axes]
        best: dict[TensorType, float] = {start: 0.0}
        came: dict[TensorType, tuple[TensorType, Move]] = {}
        queue = [(0.0, 0, start)]
        count = 0
        while queue:
            cost, _, here = heapq.heappop(queue)
            if here == goal:
                break
            if cost > best[here]:
                continue
            for move in _moves(here, runs, places):
                there = move.infer()[0]
                if _parks(there, start, goal):
                    continue
                total = cost + self._cost(move, here, there)
                if total < best.get(there, float("inf")):
                    best[there] = total
                    came[there] = (here, move)
                    count += 1
                    heapq.heappush(queue, (total, count, there))
        steps: list[Move] = []
        while here != start:
            here, move = came[here]
            steps.append(move)
        return tuple(reversed(steps))

    def _cost(self, move: Move, before: TensorType, after: TensorType) -> float:
        """Bytes each rank sends, plus a little for every step."""
        n = self.extents.ways(axes_of(move.axis))
        share = float((n - 1) / n)
        have, get = float(self.extents.bytes(before)), float(self.extents.bytes(after))
        match move:
            case AllReduce():
                sent = 2 * share * have
            case ReduceScatter() | AllToAll():
                sent = share * have
            case AllGather():
                sent = share * get
            case Rescale():
                sent = _SLICE * have
            case Slice():
                sent = _SLICE * get
        return sent + _STEP


def _moving(start: TensorType, goal: TensorType) -> set[str]:
    """The axes that do not stay where they are."""
    moving = set(start.pending ^ goal.pending)
    for have, want in zip(start.dims, goal.dims, strict=True):
        if have.axes != want.axes:
            moving |= {*have.axes, *want.axes}
    return moving


def _parks(here: TensorType, start: TensorType, goal: TensorType) -> bool:
    """Whether ``here`` splits a dimension by an axis that neither end does: its size may not divide."""
    dims = (d for d in here.dims if d.name not in PADDED)
    return any(a not in start.on(d.name) and a not in goal.on(d.name) for d in dims for a in d.axes)


def _runs(mesh: Iterable[str], moving: set[str]) -> list[Axes]:
    """The axes that move, then those among them that are neighbours on the mesh, major first."""
    order = list(mesh)
    spans = [tuple(order[i:j]) for i, j in combinations(range(len(order) + 1), 2) if moving.issuperset(order[i:j])]
    return sorted(spans, key=lambda run: (len(run), run))


def _moves(t: TensorType, runs: list[Axes], places: list[str]) -> Iterator[Move]:
    """Every legal collective on one of ``runs`` from ``t`` that puts it on one of ``places``, or nowhere."""
    x = out = Value("_", t)
    if t.softmax:  # before anything else moves: the statistics are small, and what they leave is a sum as any other
        yield Rescale(out, x, min(t.softmax))
        return
    for run in runs:
        if t.partial.issuperset(run):
            yield AllReduce(out, x, "*".join(run))
            for place in places:
                yield ReduceScatter(out, x, "*".join(run), place)
        elif len(run) == 1 and run[0] not in t.axes:  # where nothing travels there is nothing to join
            for place in places:
                yield Slice(out, x, run[0], place)
    for dim, run in product(t.dims, runs):
        if dim.axes[-len(run) :] == run:
            yield AllGather(out, x, "*".join(run), dim.name)
            for place in places:
                if place != dim.name:
                    yield AllToAll(out, x, "*".join(run), dim.name, place)


def _straight(start: TensorType, goal: TensorType) -> Iterator[Move]:
    """A way for many moving axes: undo what is not wanted, an axis going to its place where that is next."""
    here = start
    while here != goal:
        move = _next(here, goal)
        yield move
        here = move.infer()[0]


def _next(t: TensorType, goal: TensorType) -> Move:
    x = out = Value("_", t)
    if t.softmax:
        return Rescale(out, x, min(t.softmax))
    open_places = {want.axes[len(d.axes)]: d.name for d, want in zip(t.dims, goal.dims, strict=True) if _begun(d, want)}
    for axis in sorted(t.partial - goal.partial):
        place = open_places.get(axis)
        return ReduceScatter(out, x, axis, place) if place else AllReduce(out, x, axis)
    for dim, want in zip(t.dims, goal.dims, strict=True):
        if want.axes[: len(dim.axes)] != dim.axes:
            axis = dim.axes[-1]
            place = open_places.get(axis)
            return AllToAll(out, x, axis, dim.name, place) if place else AllGather(out, x, axis, dim.name)
    axis, place = min(open_places.items())
    return Slice(out, x, axis, place)


def _begun(dim: Dim, want: Dim) -> bool:
    """Whether ``dim`` holds the first of the axes it is to have, and lacks some."""
    return len(dim.axes) < len(want.axes) and want.axes[: len(dim.axes)] == dim.axes

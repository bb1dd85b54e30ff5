"""Insert collectives: replace each reshard by the cheapest sequence of collectives between its two layouts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from itertools import combinations, product
from typing import assert_never

from attrs import evolve

from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter, Rescale, Reshard, Slice
from plandsl.ir.extents import Extents
from plandsl.ir.names import axes_of, group_of
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.types import Dim, TensorType, Value, makes_rows
from plandsl.passes.rewrite import Names, each_region
from plandsl.spec.plan import PlanSpec

Axes = tuple[str, ...]
Move = AllReduce | ReduceScatter | AllGather | AllToAll | Rescale | Slice

MOST_AXES = 3
"""Most moving axes for a search. With more, there are too many layouts, and the path is built directly."""

_STEP = 1.0
"""A step counts as a byte more than it sends: of paths that send as much, the one with the fewest steps is taken."""

NOMINAL = 8
"""The number of ranks (one node) that every axis counts as when paths are compared."""


def insert_collectives(program: Program, plan: PlanSpec) -> Program:
    """Turn every reshard into collectives: a shortest path over layouts, by bytes moved.

    Each collective runs on one axis, or on several neighbouring mesh axes, whose groups are evenly spaced ranks.

    Before:  %y.1 : bf16[batch, position, hidden] = reshard %y            (%y is {+tensor})
    After:   %y.1 : bf16[batch, position, hidden] = all_reduce %y {axis = "tensor"}
    """
    # the path must not depend on the plan's sizes, so that plans of one structure share a program
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
    """Finds shortest paths between layouts, once per pair of types."""

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
        moving = _moving_axes(start, goal)
        if len(moving) > MOST_AXES:
            return tuple(_straight_path(start, goal))
        runs = _axis_runs(self.extents.mesh, moving)
        # an axis may move to a dimension that start or goal splits; the size of another one might not divide
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
            for move in _legal_moves(here, runs, places):
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
        """Bytes that each rank sends, plus `_STEP`."""
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
            case Rescale() | Slice():
                sent = 0.0
            case _:
                assert_never(move)
        return sent + _STEP


def _moving_axes(start: TensorType, goal: TensorType) -> set[str]:
    """The axes whose place differs between ``start`` and ``goal``."""
    moving = set(start.pending ^ goal.pending)
    for have, want in zip(start.dims, goal.dims, strict=True):
        if have.axes != want.axes:
            moving |= {*have.axes, *want.axes}
    return moving


def _parks(here: TensorType, start: TensorType, goal: TensorType) -> bool:
    """Whether ``here`` splits a dimension by an axis that splits it neither at the start nor at the goal.

    Such a dimension's size may not divide by the axis.
    """
    dims = (d for d in here.dims if not makes_rows(d.name))
    return any(a not in start.on(d.name) and a not in goal.on(d.name) for d in dims for a in d.axes)


def _axis_runs(mesh: Iterable[str], moving: set[str]) -> list[Axes]:
    """Each moving axis, then each run of moving axes that are neighbours on the mesh, major first."""
    order = list(mesh)
    spans = [tuple(order[i:j]) for i, j in combinations(range(len(order) + 1), 2) if moving.issuperset(order[i:j])]
    return sorted(spans, key=lambda run: (len(run), run))


def _legal_moves(t: TensorType, runs: list[Axes], places: list[str]) -> Iterator[Move]:
    """Every legal collective from ``t`` that moves one of ``runs`` to one of the dimensions ``places``, or to none."""
    x = out = Value("_", t)
    if t.softmax:  # always first: only small statistics move, and the result is an ordinary partial sum
        yield Rescale(out, x, min(t.softmax))
        return
    for run in runs:
        if t.partial.issuperset(run):
            yield AllReduce(out, x, group_of(run))
            for place in places:
                yield ReduceScatter(out, x, group_of(run), place)
        elif len(run) == 1 and run[0] not in t.axes:  # a slice sends nothing, so one over several axes saves nothing
            for place in places:
                yield Slice(out, x, run[0], place)
    for dim, run in product(t.dims, runs):
        if dim.axes[-len(run) :] == run:
            yield AllGather(out, x, group_of(run), dim.name)
            for place in places:
                if place != dim.name:
                    yield AllToAll(out, x, group_of(run), dim.name, place)


def _straight_path(start: TensorType, goal: TensorType) -> Iterator[Move]:
    """A path for many moving axes: each step frees an axis, or moves it to the goal where its place is next."""
    here = start
    while here != goal:
        move = _next_move(here, goal)
        yield move
        here = move.infer()[0]


def _next_move(t: TensorType, goal: TensorType) -> Move:
    x = out = Value("_", t)
    if t.softmax:
        return Rescale(out, x, min(t.softmax))
    open_places = {
        want.axes[len(d.axes)]: d.name for d, want in zip(t.dims, goal.dims, strict=True) if _has_begun(d, want)
    }
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


def _has_begun(dim: Dim, want: Dim) -> bool:
    """Whether the axes of ``dim`` are a proper prefix of the axes of ``want``."""
    return len(dim.axes) < len(want.axes) and want.axes[: len(dim.axes)] == dim.axes

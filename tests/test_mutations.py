"""Collectives made wrong, one at a time, in drawn plans: each is found by `verify` of the program or by running it.

Two sorts. A *misplaced* collective is another program: the op is missing, of another kind, over another axis or
dimension, and the types after it follow, so that `verify` sees what a careful liar would write. A *broken* one is the
same program on a machine that runs it wrongly: a member's part is lost, parts come in another order, a rank does not
get what others sent. Types say nothing of that; the answer must.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import starmap
from typing import NamedTuple, TypeAlias
from unittest.mock import patch

import numpy as np
from attrs import evolve
from hypothesis import assume, given
from hypothesis import strategies as st

from plandsl.backends.reference import collectives as executor
from plandsl.backends.reference import machine
from plandsl.backends.reference.placement import Array, Placement, Shards
from plandsl.backends.reference.shrink import shrink
from plandsl.backends.reference.verify import Phases, compare
from plandsl.driver import plain_programs, programs
from plandsl.ir.collectives import AllGather, AllReduce, AllToAll, ReduceScatter, Rescale, Reshard, Ring, Send, Slice
from plandsl.ir.compute import Attention, CacheWrite
from plandsl.ir.experts import Combine
from plandsl.ir.meaning import experts
from plandsl.ir.names import Places
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.program import verify as findings
from plandsl.ir.text import show, show_op
from plandsl.ir.types import PADDED, TensorType, Value, routed
from plandsl.passes.rewrite import replace_fields, substitute
from plandsl.spec.model import Apply, BlockSpec, Statement
from plandsl.testing import mixtures, models
from tests.draws import draws

Moving: TypeAlias = AllReduce | ReduceScatter | AllGather | AllToAll | Rescale | Ring
MOVING = (AllReduce, ReduceScatter, AllGather, AllToAll, Rescale, Ring)

LOADS = {"batch": 4, "input": 8}, {"batch": 5, "input": 7}
"""Parts of equal size on most axes, and of unequal ones."""

FEW = draws(1 / 3)
"""Each example runs several programs."""


class Site(NamedTuple):
    """A collective of one phase of sharded programs, and what they are to compute."""

    sharded: Phases
    plain: Phases
    phase: int
    region: Region
    at: int
    load: dict[str, int]

    def __repr__(self) -> str:
        return f"phase {self.phase}, {self.region.name}, {self.at}: {show_op(self.op)}, in\n{show(self.program)}"

    @property
    def op(self) -> Op:
        return self.region.ops[self.at]

    @property
    def program(self) -> Program:
        return self.sharded[self.phase]


@st.composite
def sites(draw: st.DrawFn, kinds: tuple[type, ...] = MOVING) -> Site:
    """Any collective over more than one rank, of any plan.

    All tokens go to the head, although attention mostly looks back, and no window hides keys: what is wrong with any
    of them shows in the answer.
    """
    spec = shrink(draw(mixtures(models(windows=()))))
    spec = evolve(spec, shift=None, model=evolve(spec.model, causal=False, blocks=_looking_back(spec.model.blocks)))
    sharded, plain, load = programs(spec), plain_programs(spec), draw(st.sampled_from(LOADS))
    found = [
        Site(sharded, plain, phase=phase, region=region, at=at, load=load)
        for phase, program in enumerate(sharded)
        for region in program.regions
        for at, op in enumerate(region.ops)
        if isinstance(op, kinds)
        and program.mesh.ways([getattr(op, "axis", "")] if hasattr(op, "axis") else program.stage_axes) > 1
    ]
    assume(found)
    return draw(st.sampled_from(found))


def _looking_back(blocks: tuple[BlockSpec, ...]) -> tuple[BlockSpec, ...]:
    """Attention as in a model that looks back, whatever goes to the head."""

    def changed(s: Statement) -> Statement:
        if not isinstance(s.term, Apply) or s.term.fn != "attention" or s.term.option("causal", None) is not None:
            return s
        return s._replace(term=s.term._replace(options=(*s.term.options, ("causal", True))))

    return tuple(b._replace(statements=tuple(map(changed, b.statements))) for b in blocks)


def _over(op: Op, program: Program) -> tuple[str, ...]:
    return (op.axis,) if isinstance(op, MOVING) else program.stage_axes


def with_region(site: Site, region: Region) -> Phases:
    """The programs with one region exchanged."""
    regions = tuple(region if r.name == region.name else r for r in site.program.regions)
    wrong = list(site.sharded)
    wrong[site.phase] = evolve(site.program, regions=regions)
    return wrong[0], wrong[1]


# ---- misplaced


def instead(site: Site) -> Iterator[tuple[Op, ...]]:
    """What may stand where a collective should: nothing, another kind, another axis, other dimensions."""
    op = site.op
    assert isinstance(op, MOVING)
    pairs = list(zip(op.results, op.operands, strict=True))
    yield tuple(Reshard(Value(out.name, x.type), x) for out, x in pairs)
    for out, x in pairs:
        for axis, _ in site.program.mesh.axes:
            yield (AllReduce(out, x, axis),)
            yield (Rescale(out, x, axis),)
            for dim in x.type.names:
                yield (ReduceScatter(out, x, axis, dim),)
                yield (AllGather(out, x, axis, dim),)
                yield (Slice(out, x, axis, dim),)
                yield from ((AllToAll(out, x, axis, dim, other),) for other in x.type.names if other != dim)
                yield (Ring((out,), (x,), axis, dim),)


def followed(region: Region, at: int, ops: tuple[Op, ...]) -> Region:
    """``region`` with ``ops`` in the place of one, every type after it inferred anew."""
    now: dict[str, Value] = {}
    out: list[Op] = list(region.ops[:at])
    for op in (*ops, *region.ops[at + 1 :]):
        read = substitute(op, now)
        made = (
            read.results if isinstance(read, Reshard) else tuple(map(Value, [v.name for v in op.results], read.infer()))
        )
        results = iter(made)
        fields = {
            n: tuple(next(results) for _ in h) if type(h := getattr(op, n)) is tuple else next(results)
            for n in op.RESULTS
        }
        out.append(replace_fields(read, fields))
        now |= {v.name: v for v in made}
    return evolve(region, ops=tuple(out), results=tuple(now.get(v.name, v) for v in region.results))


@FEW
@given(site=sites())
def test_law_misplaced_collectives_are_caught(site: Site) -> None:
    for ops in instead(site):
        try:
            wrong = with_region(site, followed(site.region, site.at, ops))
            sound = not list(findings(wrong[site.phase]))
        except (KeyError, ValueError, IndexError):  # no type can be told at all
            continue
        assert not sound or as_good(site, wrong) or differs(wrong, site), " and ".join(map(show_op, ops))


def as_good(site: Site, wrong: Phases) -> bool:
    """Whether the wrong program is another right one.

    Collectives keep the value, whatever they are (`test_any_run_of_collectives_keeps_the_value`). So another one that
    leads to the same type is as good (the all_gather that a ring is), at once or by way of the collectives behind it;
    and so is one after which ranks have more of a tensor than they need, if the cache is laid out as before. At the end
    of the program so is one that leaves the logits of a token together, wherever the token is.
    """
    final, mesh = wrong[site.phase].regions, wrong[site.phase].mesh
    (region,) = (r for r in final if r.name == site.region.name)
    if all(starmap(has_no_less, zip(computed(region), computed(site.region), strict=True))):
        return True
    (out,) = next(r for r in final if r.name == "head").results
    ends = site.region.name == "head" and not out.type.pending
    return ends and all(d.name in PADDED or mesh.ways(d.axes) == 1 for d in out.type.dims)


def computed(region: Region) -> list[tuple[TensorType, bool]]:
    """The types of all that a region computes, and of what it hands on, and whether others rely on the layout."""
    made = [op for op in region.ops if not isinstance(op, (*MOVING, Slice, Reshard))]
    found = [(v.type, isinstance(op, CacheWrite)) for op in made for v in op.results]
    return [*found, *((v.type, True) for v in region.results)]


def has_no_less(made: tuple[TensorType, bool], wanted: tuple[TensorType, bool]) -> bool:
    """Whether each rank has its part of a tensor, or more than that."""
    (a, fixed), (b, _) = made, wanted
    if a == b or fixed:
        return a == b
    pairs = zip(a.dims, b.dims, strict=True)
    return a.pending == b.pending and all(x.name == y.name and {*x.axes} <= {*y.axes} for x, y in pairs)


def differs(wrong: Phases, site: Site) -> bool:
    """Whether running shows a difference."""
    return not compare(wrong, site.plain, site.load, steps=2, check=True).ok


# ---- broken

Fault: TypeAlias = Callable[[int, list[int], Shards], Shards]
"""What a rank sees of the parts of its group."""


def lost(rank: int, group: list[int], x: Shards) -> Shards:
    """The last member's part does not come: one hop less, a term left out."""
    return {**x, group[-1]: np.zeros_like(x[group[-1]])}


def alone(rank: int, group: list[int], x: Shards) -> Shards:
    """Nothing comes: the op is left out."""
    return {r: part if r == rank or r not in group else np.zeros_like(part) for r, part in x.items()}


def turned(rank: int, group: list[int], x: Shards) -> Shards:
    """Parts come in another order: a ring the other way round, blocks counted from elsewhere."""
    moved = dict(zip(group, (x[r] for r in (*group[1:], group[0])), strict=True))
    return {**x, **moved} if len({x[r].shape for r in group}) == 1 else x


def ordered(site: Site) -> bool:
    """Whether the order of parts matters: where they are put side by side, while terms of a sum come in any order.

    A ring brings keys with their values, and a softmax over all of them knows no order either.
    """
    if isinstance(site.op, Ring):
        readers = [op for op in site.region.ops if isinstance(op, Attention) and op.k in site.op.outs]
        return any(op.causal or op.window for op in readers)
    if not isinstance(site.op, AllGather | AllToAll):
        return False
    gathered = site.op.gather if isinstance(site.op, AllToAll) else site.op.dim
    return not isinstance(gathered, Places) or not summed_as_they_are(site, site.op.out)


def summed_as_they_are(site: Site, value: Value) -> bool:
    """Whether ``value``, results of experts, has those of all of them, and goes where all are added without weights.

    Where some are left out, their places tell which, so that order matters again.
    """
    readers = [op for op in site.region.ops if value in op.operands]
    for op in readers:
        if isinstance(op, Combine):
            place = routed(op.x.type)
            if not op.plain or site.program.size(place) != site.program.size(place.experts):
                return False
        elif not isinstance(op, (*MOVING, Slice)) or not summed_as_they_are(site, op.results[0]):
            return False
    return bool(readers)


class Broken:
    """Runs one op of a program wrongly; ``changed`` tells whether that gave any rank another array.

    With ``marked``, elements that come out wrong are not a number instead, so that whatever reads them shows it.
    """

    def __init__(self, op: Op, fault: Fault, *, marked: bool = False) -> None:
        self.op, self.fault, self.marked, self.changed = op, fault, marked, False

    def communicate(self, op: executor.Layout, x: Shards, place: Placement) -> Shards:
        right = executor.communicate(op, x, place)
        return self._seen(op, x, place, right) if op is self.op else right

    def run_ring(self, op: Ring, held: dict[str, Shards], place: Placement) -> list[Shards]:
        right = executor.run_ring(op, held, place)
        if op is not self.op:
            return right
        steps = [AllGather(out, x, op.axis, op.dim) for out, x in zip(op.outs, op.xs, strict=True)]
        return [self._seen(s, held[s.x.name], place, out) for s, out in zip(steps, right, strict=True)]

    def _seen(self, op: Moving, x: Shards, place: Placement, right: Shards) -> Shards:
        out = {}
        for rank in x:
            seen = self.fault(rank, place.group(rank, [op.axis]), x)
            out[rank] = executor.communicate(op, seen, place)[rank]
            wrong = out[rank] != right[rank]
            self.changed |= bool(wrong.any())
            if self.marked:
                out[rank] = np.where(wrong, np.nan, right[rank])
        return out

    def runs_right(self, site: Site) -> bool:
        with patch.object(machine, "communicate", self.communicate), patch.object(machine, "run_ring", self.run_ring):
            # marks are equal to nothing, so copies that bear them are not compared: what reads them shows them
            return compare(site.sharded, site.plain, site.load, steps=2, check=not self.marked).ok


@FEW
@given(site=sites())
def test_law_broken_collectives_are_caught(site: Site) -> None:
    for fault in (lost, alone, turned) if ordered(site) else (lost, alone):
        broken = Broken(site.op, fault)
        right = broken.runs_right(site)
        assert not right or not broken.changed or not is_read(site, fault), f"{fault.__doc__} {show_op(site.op)}"


def is_read(site: Site, fault: Fault) -> bool:
    """Whether the logits depend on any element that ``fault`` changes.

    An expert computes results for tokens that do not choose it too, and a function with f(0) != 0 makes them nonzero.
    Nothing reads these.
    """

    def combine(x: Array, share: Array) -> Array:
        shape = share.shape + (1,) * (x.ndim - share.ndim)
        return weighted_sum(np.where(share.reshape(shape) != 0, x, 0.0), share)

    weighted_sum = experts.combine
    with patch.object(experts, "combine", combine):
        return not Broken(site.op, fault, marked=True).runs_right(site)


@FEW
@given(site=sites((Send,)), nothing=st.booleans())
def test_law_hops_that_bring_nothing_or_are_left_out_are_caught(site: Site, nothing: bool) -> None:
    send = machine._Step._send

    def broken(step: machine._Step, op: Send, x: Shards) -> None:
        if nothing:
            send(step, op, {r: np.zeros_like(part) for r, part in x.items()})

    with patch.object(machine._Step, "_send", broken):
        assert not compare(site.sharded, site.plain, site.load, steps=2).ok

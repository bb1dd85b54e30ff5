"""Shard: give every value the layout of the rules, and add a reshard where a use needs another layout.

The rule of a regular op, and the sharding's rules of one region, say how its operands lie. `dispatch` and `combine`
have code of their own here, because two regions meet in them. Tokens follow the rules outside of `experts`, without the
axes that split the inside of an expert of this block. The tokens' places at experts follow the rules of `experts`,
without the axes that split the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from typing import TYPE_CHECKING, assert_never

from attrs import evolve

from plandsl.diagnostics import Span
from plandsl.ir.adapters import AdapterGemm
from plandsl.ir.base import Relay
from plandsl.ir.collectives import Reshard, Ring
from plandsl.ir.compute import Attention, CacheWrite, Ids, Map, Norm
from plandsl.ir.earlier import Earlier
from plandsl.ir.experts import Combine, Dispatch, GroupedGemm
from plandsl.ir.index import PickKeys
from plandsl.ir.latent import LatentAttention
from plandsl.ir.names import ENDS, HEAD, MOMENTS, group_of, has_places, stem
from plandsl.ir.ops import Op
from plandsl.ir.program import Program, Region
from plandsl.ir.rule import Regular, Rule
from plandsl.ir.states import BlockState, BlockTail, Recurrence, ShortConv, States
from plandsl.ir.types import Dim, Mesh, TensorType, Value, routed
from plandsl.passes.layout import Layout
from plandsl.passes.rewrite import Names, count_uses, each_region, replace_fields, substitute
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.passes.shard_latent import Latents


EXPERT_OPS = (GroupedGemm, AdapterGemm, Map)
"""Ops that may work on values of experts."""


def shard(program: Program, plan: PlanSpec) -> Program:
    """Lay every value out by the sharding's rules.

    Before:  %y : bf16[batch, position, hidden] = gemm %u, %w_down
             %x1 : bf16[batch, position, hidden] = map %x, %y {fn = "add"}
    After:   %y : bf16[batch, position, hidden]{+tensor} = gemm %u, %w_down
             %y.1 : bf16[batch, position, hidden] = reshard %y
             %x1 : bf16[batch, position, hidden] = map %x, %y.1 {fn = "add"}
    """
    experts = frozenset(stem(name) for name, _ in program.imbalance)
    layout = Layout(plan.sharding, program.phase, experts)
    sizes = dict(program.sizes)
    handed: dict[str, TensorType] = {}
    made = each_region(program, lambda region: Sharder(region, layout, program.mesh, sizes, handed).run())
    if plan.model.stateful:
        from plandsl.passes.shard_states import block_sizes

        made = evolve(made, sizes=(*made.sizes, *block_sizes(made)))
    sums = any(MOMENTS in v.type.names for region in made.regions for v in region.values().values())
    return evolve(made, sizes=(*made.sizes, (MOMENTS, 2))) if sums and MOMENTS not in sizes else made


class Sharder:
    """Walks one region; gives each op operands in the layout that it needs, and each result its type."""

    def __init__(
        self,
        region: Region,
        layout: Layout,
        mesh: Mesh,
        sizes: Mapping[str, int | str],
        handed: dict[str, TensorType],
    ) -> None:
        self.region, self.layout, self.mesh, self.sizes, self.handed = region, layout, mesh, sizes, handed
        self.uses = count_uses(region.ops)
        self.rule_region = region.name if region.name in ENDS else ""
        self.names = Names(region.values())
        self.now: dict[str, Value] = {}
        self.made: dict[tuple[str, TensorType], Value] = {}
        self.ops: list[Op] = []
        self.reader = {x.name: op for op in region.ops if isinstance(op, Attention) for x in (op.k, op.v)}
        self.placed = {op.sinks.name for op in region.ops if isinstance(op, Attention) and op.sinks is not None}
        self.placed |= self._state_weights()
        self.latents = self._latents()
        self.indexed = {op.k.name for op in region.ops if isinstance(op, PickKeys)}
        self.inside = {x.name for op in region.ops if isinstance(op, EXPERT_OPS) for x in _expert_operands(op)}
        matrices = (w for op in region.ops if isinstance(op, GroupedGemm) for w in op.weights)
        self.adapting = {v.name for op in region.ops if isinstance(op, AdapterGemm) for v in op.outs}
        self.busy = frozenset(a for w in matrices for a in self._inner_axes(w.type))

    def _latents(self) -> Latents | None:
        if not any(isinstance(op, LatentAttention) for op in self.region.ops):
            return None
        from plandsl.passes.shard_latent import Latents

        return Latents(self)

    def _state_weights(self) -> set[str]:
        found = [op for op in self.region.ops if isinstance(op, States)]
        if not found:
            return set()
        from plandsl.passes.shard_states import state_weights

        return set().union(*map(state_weights, found))

    def run(self) -> Region:
        """The region with every value laid out."""
        region = self.region
        args = tuple(self._bind(v, self._argument(v.type)) for v in region.args)
        weights = tuple(self._bind(v, self._weight(v)) for v in region.weights)
        for op in region.ops:
            self._emit(op)
        first = tuple(self._resharded(v, self._result(v)) for v in region.results[:1])
        handed = tuple(self._resharded(v, self._handed(name, v)) for name, v in region.handed)
        return evolve(region, args=args, weights=weights, ops=tuple(self.ops), results=(*first, *handed))

    def _handed(self, name: str, value: Value) -> TensorType:
        """How a value lies that later layers read: as the first layer that makes it leaves it, and complete."""
        return self.handed.setdefault(name, self.now[value.name].type.summed())

    def _bind(self, old: Value, type_: TensorType) -> Value:
        new = self.now[old.name] = Value(old.name, type_)
        return new

    def _weight(self, value: Value) -> TensorType:
        if value.name in self.placed:
            return self.layout.weight(value.type, "attention")
        return self.layout.weight(value.type, "experts" if value.name in self.inside else self.rule_region)

    def _inner_axes(self, type_: TensorType) -> set[str]:
        """The axes that split the dimensions inside an expert: each rank along them needs the same tokens."""
        first, *others = self.layout.weight(type_, "experts").dims
        return {a for d in others for a in d.axes}.difference(first.axes)

    def _region_of(self, type_: TensorType) -> str:
        """The region of the sharding whose rules apply to a value; "" for the rules that apply everywhere."""
        return "experts" if has_places(type_.names) else self.rule_region

    def _argument(self, type_: TensorType) -> TensorType:
        if type_.dtype == "int32":  # every rank has all token ids, which are a few bytes
            return type_
        return self.layout.lay_out(type_)

    def _result(self, value: Value) -> TensorType:
        if self.region.name == HEAD:  # logits are whole; only requests and positions may be split over ranks
            type_ = self.now[value.name].type
            return TensorType(
                type_.dtype, tuple(d if d.name in ("batch", "position") else Dim(d.name) for d in type_.dims)
            )
        return self.layout.lay_out(value.type)

    def _resharded(self, old: Value, want: TensorType) -> Value:
        """The present form of ``old`` in layout ``want``, through a reshard where it lies otherwise."""
        have = self.now[old.name]
        if have.type == want:
            return have
        key = (old.name, want)
        if key not in self.made:
            new = Value(self.names.fresh(old.name), want)
            self.ops.append(Reshard(new, have))
            self.made[key] = new
        return self.made[key]

    def lay(self, old: Value, dims: tuple[Dim, ...]) -> Value:
        """The present form of ``old`` with dimensions ``dims`` and no partial sum."""
        have = self.now[old.name]
        if have.type.dims == dims and not have.type.pending and have.type.dtype == old.type.dtype:
            return have
        return self._resharded(old, TensorType(old.type.dtype, dims))

    def complete(self, value: Value) -> Value:
        """The sum of the new partial sum ``value``, through a reshard."""
        self.now[value.name] = value
        return self._resharded(value, value.type.summed())

    def _emit(self, op: Op) -> None:
        """Add ``op`` with operands in the layouts that it needs, and record the types of its results."""
        new = (self.latents and self.latents.lay_out(op)) or self._lay_out(op)
        types = new.infer()
        outs = [self._bind(old, t) for old, t in zip(op.results, types, strict=True)]
        results = iter(outs)
        changes: dict[str, object] = {}
        for name in op.RESULTS:
            held = getattr(op, name)
            changes[name] = tuple(next(results) for _ in held) if type(held) is tuple else next(results)
        self.ops.append(replace_fields(new, changes))
        if isinstance(op, Norm) and op.groups is not None:  # what follows has the heads of its own rank
            self.now[op.out.name] = self._resharded(
                op.out, self.layout.lay_out(op.out.type, self._region_of(op.out.type))
            )

    def _lay_out(self, op: Op) -> Op:
        match op:
            case Dispatch():
                return self._dispatch(op)
            case Combine():
                return self._combine(op)
            case CacheWrite() if op.outs[0].name in self.indexed:
                from plandsl.passes.shard_index import write_keys

                return write_keys(op, self)
            case PickKeys():
                from plandsl.passes.shard_index import lay_out_picks

                return lay_out_picks(op, self)
            case CacheWrite():
                cached = self._cache_dims(self.reader[op.outs[0].name])
                written = Dim("position", self.layout.written_axes(cached[1].axes))
                dims = (cached[0], written, *cached[2:])
                outs = tuple(Value(o.name, TensorType(o.type.dtype, _rename(cached, o.type.names))) for o in op.outs)
                return evolve(op, xs=tuple(self.lay(x, _rename(dims, x.type.names)) for x in op.xs), outs=outs)
            case Attention():
                q = self.lay(op.q, self._query_dims(op))
                position = q.type.on("position")
                staying = tuple(a for a in self.now[op.k.name].type.on("context") if a not in position)
                k, v = self.bring_keys((op.k, op.v), staying, position, op.span)
                sinks = None if op.sinks is None else self.lay(op.sinks, q.type.dims[2:3])
                among = None if op.among is None else self.lay(op.among, (*q.type.dims[:2], op.among.type.dims[2]))
                return evolve(op, q=q, k=k, v=v, sinks=sinks, among=among)
            case LatentAttention():
                raise AssertionError("Latents lays it out")
            case ShortConv() | Recurrence():
                from plandsl.passes.shard_states import lay_out_state

                return lay_out_state(op, self)
            case Norm(groups=str()):
                return self._grouped_norm(op)
            case Map() if self._adds_adapter(op):
                return evolve(op, xs=tuple(self.now[x.name] for x in op.xs))
            case Map() if self._adds_bias_to_partial(op):
                return self._add_on_first(op)
            case Map() if self._lie_alike(op):
                return self._in_place(op)
            case AdapterGemm() if (kept := self.keep_partial(op)) is not None:
                return kept
            case Norm() if self._sums_travel(op):
                from plandsl.passes.shard_norms import norm_in_parts

                return norm_in_parts(op, self._by_rules(op.x), self)
            case Ids():
                return op
            case Earlier():
                return evolve(op, out=Value(op.out.name, self.handed[op.made]))
            case Regular():
                return substitute(op, {name: x for rule in op.rules for name, x in self._by_rule(rule)})
            case Relay() | BlockTail() | BlockState():
                raise AssertionError(f"{op.keyword} before layouts are known")
            case _:
                assert_never(op)

    def keep_partial(self, op: AdapterGemm) -> AdapterGemm | None:
        """``op`` on a partial sum, to be added to its target's before both are completed; None if it cannot be."""
        have = self.now[op.x.name].type
        if not have.partial or have.softmax:
            return None
        kept = evolve(op, x=self.now[op.x.name], weights=tuple(self.now[w.name] for w in op.weights))
        return None if any(kept.misfits()) else kept

    def _adds_adapter(self, op: Map) -> bool:
        """Whether ``op`` adds partial sums of a target and its adapter in one layout, to be completed together."""
        if op.fn != "add" or op.xs[-1].name not in self.adapting:
            return False
        first, *others = (self.now[x.name].type for x in op.xs)
        return bool(first.partial) and not first.softmax and all(t == first for t in others)

    def _adds_bias_to_partial(self, op: Map) -> bool:
        """Whether ``op`` adds a weight to a partial sum that nothing else reads."""
        if op.fn != "add":
            return False
        x, bias = op.xs  # without limits, which `fuse` moves into an op
        have = self.now[x.name].type
        return bool(have.partial) and not have.softmax and bias in self.region.weights and self.uses[x.name] == 1

    def _add_on_first(self, op: Map) -> Map:
        """Add the bias to the partial sum of one rank: no collective comes between a product and its bias."""
        x, bias = self.now[op.xs[0].name], op.xs[1]
        dims = {stem(d.name): d.axes for d in x.type.dims}
        laid = self.lay(bias, tuple([Dim(n, dims[stem(n)]) for n in bias.type.names]))
        axes = tuple(axis for axis, _ in self.mesh.axes if axis in x.type.partial)
        return evolve(op, xs=(x, laid), first=group_of(axes))

    def _by_rules(self, x: Value) -> tuple[Dim, ...]:
        return self.layout.dims(x.type.names, self._region_of(x.type))

    def _sums_travel(self, op: Norm) -> bool:
        """Whether the rules split what ``op`` norms over, and no op that reads the result needs it whole."""
        if op.groups is not None:  # a rank has whole groups
            return False
        axes = next(d.axes for d in self._by_rules(op.x) if d.name == op.over)
        if self.mesh.ways(axes) == 1:
            return False
        from plandsl.passes.shard_norms import all_take_parts

        return all_take_parts(op, axes, self)

    def _lie_alike(self, op: Map) -> bool:
        """Whether all operands of ``op`` that are not weights are complete and have one layout."""
        types = [self.now[x.name].type for x in op.xs if x not in self.region.weights]
        return bool(types) and all(not t.pending and t.dims == types[0].dims for t in types)

    def _in_place(self, op: Map) -> Map:
        """``op`` on operands as they lie. Each element is by itself, so that no other layout is needed first.

        A GEMM of `batch` and `ffn` over one axis may have made them; the next GEMM then takes them in this layout.
        """
        first = next(x for x in op.xs if x not in self.region.weights)
        axes = {stem(d.name): d.axes for d in self.now[first.name].type.dims}
        laid = (self.lay(x, tuple([Dim(n, axes[stem(n)]) for n in x.type.names])) for x in op.xs)
        return evolve(op, xs=tuple(laid))

    def _grouped_norm(self, op: Norm) -> Norm:
        """Heads stay split as far as each rank has whole groups of them; over the other axes they are gathered.

        So do vLLM's ranks (`Mixer2RMSNormGated` in model_executor/layers/mamba/mamba_mixer2.py).
        """
        (rule,), groups = op.rules, int(self.sizes[op.groups or ""])
        by_name = {d.name: d for d in self.layout.dims(rule.dims, self._region_of(op.x.type))} | {op.over: Dim(op.over)}
        axes = by_name[op.heads].axes
        whole = takewhile(lambda n: groups % self.mesh.ways(axes[:n]) == 0, range(1, len(axes) + 1))
        by_name[op.heads] = Dim(op.heads, axes[: max(whole, default=0)])
        x, *gains = (self.lay(v, tuple(by_name[n] for n in v.type.names)) for v in op.operands)
        return evolve(op, x=x, gain=gains[0] if gains else None)

    def _by_rule(self, rule: Rule) -> Iterator[tuple[str, Value]]:
        """Lay out the operands of ``rule``, by name.

        Operands that stay keep their layout, with partial sums completed. The others match them in shared dimensions,
        and follow the sharding's rules in the rest.
        """
        wanted, staying = self.layout.dims(rule.dims, self._region_of(rule.operands[0].type)), dict[str, Value]()
        if rule.stay:
            staying = {x.name: self._resharded(x, self.now[x.name].type.summed()) for x in rule.stay}
            wanted = _drop_axes(wanted, frozenset([a for x in staying.values() for a in x.type.axes]))
        axes = {stem(d.name): d.axes for d in wanted}
        for x in staying.values():
            axes.update([(stem(d.name), d.axes) for d in x.type.dims])
        for n in rule.whole:
            axes[stem(n)] = ()
        for x in rule.operands:
            if x.name in staying:
                yield x.name, staying[x.name]
            else:
                yield x.name, self.lay(x, tuple([Dim(n, axes[stem(n)]) for n in x.type.names]))

    def _dispatch(self, op: Dispatch) -> Dispatch:
        """Tokens keep their layout; the experts' places are split over axes that the tokens do not use."""
        x = self.tokens(op.x.type.names, op.gates.type.names)
        place = routed(op.out.type)
        wanted = self.layout.dims(op.out.type.names, "experts")
        axes = next(_free_axes(d.axes, x) for d in wanted if d.name == place)
        gates = self.lay(op.gates, _pick((*x, Dim(place, axes)), op.gates.type.names))
        return evolve(op, x=self.lay(op.x, x), gates=gates)

    def _combine(self, op: Combine) -> Combine:
        """Lay out results like their tokens. Over axes that split experts but not tokens, a partial sum is left."""
        have, place = self.now[op.x.name].type, routed(op.x.type)
        tokens = self.tokens(op.out.type.names, op.gates.type.names)
        tokens = tuple(d for d in tokens if d.name in op.gates.type.names)
        rest = tuple(
            Dim(d.name, _free_axes(d.axes, tokens))
            for d in have.dims
            if d.name == place or d.name not in op.gates.type.names
        )
        dims = _pick((*tokens, *rest), have.names)
        gates = self.lay(op.gates, _pick(dims, op.gates.type.names))
        return evolve(op, x=self._resharded(op.x, TensorType(have.dtype, dims, have.partial)), gates=gates)

    def tokens(self, names: tuple[str, ...], tokens: tuple[str, ...]) -> tuple[Dim, ...]:
        """A value of each token by the rules outside of `experts`, not split over axes that split inside an expert."""
        dims = self.layout.dims(names, self.rule_region)
        return tuple(_drop_axes((d,), self.busy)[0] if d.name in tokens else d for d in dims)

    def _query_dims(self, op: Attention) -> tuple[Dim, ...]:
        """Queries follow the rules for attention, with the requests split like those of the cache."""
        batch, context = self.layout.cache(op.k.type.names)[:2]
        wanted = self.layout.dims(op.q.type.names, "attention")
        _, position, heads, head_dim = wanted
        (heads,) = _drop_axes((heads,), frozenset((*batch.axes, *context.axes)))
        (position,) = _drop_axes((position,), frozenset((*batch.axes, *heads.axes)))
        return (batch, position, heads, Dim(head_dim.name))

    def _cache_dims(self, op: Attention) -> tuple[Dim, ...]:
        """The cache follows rules that do not depend on the phase; its heads are split like the queries' heads."""
        batch, context, heads, head_dim = self.layout.cache(op.k.type.names)
        queries = self._query_dims(op)[2].axes
        if heads.name == op.q.type.names[2]:
            shared = queries
        else:
            shared = ()
            for have, want in zip(heads.axes, queries, strict=False):
                if have != want:
                    break
                shared += (have,)
        return (batch, context, Dim(heads.name, shared), Dim(head_dim.name))

    def bring_keys(
        self, xs: tuple[Value, ...], staying: tuple[str, ...], position: tuple[str, ...], span: Span | None
    ) -> tuple[Value, ...]:
        """Bring the keys and values ``xs`` to queries whose positions are split over the axes ``position``.

        Over axes that split both queries and keys by position, every key travels to each query. The keys are gathered,
        or passed around a ring: a ring runs along the first of several such axes, after a gather over the others. Over
        the axes ``staying``, which do not split the queries, keys stay; the result is a softmax over some of the keys.
        """
        axes = self.now[xs[0].name].type.on("context")
        if staying == axes:
            return tuple(self.now[x.name] for x in xs)
        shared = () if self.layout.gathers else (a for a in axes if a not in staying and a in position)
        around = tuple(islice(shared, 1))
        met = [self.lay(x, self.now[x.name].type.with_axes("context", (*staying, *around)).dims) for x in xs]
        if around:
            outs = tuple(Value(self.names.fresh(x.name), x.type.with_axes("context", staying)) for x in met)
            self.ops.append(Ring(outs, tuple(met), around[0], "context", span=span))
            met = list(outs)
        return tuple(met)


def _drop_axes(dims: tuple[Dim, ...], axes: frozenset[str]) -> tuple[Dim, ...]:
    return tuple([Dim(d.name, tuple([a for a in d.axes if a not in axes])) if d.axes else d for d in dims])


def _free_axes(axes: tuple[str, ...], dims: tuple[Dim, ...]) -> tuple[str, ...]:
    """The first of ``axes``, up to an axis that splits one of ``dims``. Later axes could not stay innermost."""
    taken = {a for d in dims for a in d.axes}
    return tuple(takewhile(lambda axis: axis not in taken, axes))


def _expert_operands(op: GroupedGemm | AdapterGemm | Map) -> tuple[Value, ...]:
    """The operands of an op that works on values of experts; empty for other ops."""
    return op.operands if has_places(op.operands[0].type.names) else ()


def _pick(dims: tuple[Dim, ...], names: tuple[str, ...]) -> tuple[Dim, ...]:
    by_name = {stem(d.name): d.axes for d in dims}
    return tuple(Dim(n, by_name[stem(n)]) for n in names)


def _rename(dims: tuple[Dim, ...], names: tuple[str, ...]) -> tuple[Dim, ...]:
    return tuple(Dim(n, d.axes) for n, d in zip(names, dims, strict=True))

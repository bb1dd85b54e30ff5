"""The unsharded function of a phase of a plan as a program in JAX, for XLA's partitioner.

It has the ops of the sharded program on whole tensors, and no collective. Where the plan exchanges something, the value
passes through `constrain`, which states the layouts that the plan gives it before and after. A layout says how a value
is split; that a sum is not complete yet cannot be stated.

Two kinds of exchange have no counterpart: a ring passes parts of keys from rank to rank while attention works on them,
and tokens go to the experts that they chose. What comes of these is an argument of the function, in the plan's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from typing import Any, NamedTuple

from attrs import evolve

from plandsl.backends.jax import texts
from plandsl.backends.jax.export import formats_text, layouts_of, names_in
from plandsl.backends.jax.layouts import Layouts, Slots, spec
from plandsl.backends.jax.ops import Writer, cast
from plandsl.backends.jax.regions import (
    caches_of,
    layers_of,
    stage_name,
    value_in,
    value_out,
    write_region,
    write_stage,
)
from plandsl.backends.jax.sources import functions_of_one, meanings
from plandsl.ir.base import LINK
from plandsl.ir.collectives import Ring, Slice
from plandsl.ir.compute import CacheWrite, Map
from plandsl.ir.names import has_places
from plandsl.ir.ops import Op
from plandsl.ir.program import PREFILL, Program, Region
from plandsl.ir.types import Mesh, TensorType, Value
from plandsl.passes.rewrite import each_region, replace_fields

INSIDE = '''def constrain(x: Array, *layouts: P) -> Array:
    """``x`` in each of ``layouts`` in turn, where the function is given layouts inside."""
    for layout in layouts if INSIDE else ():
        x = lax.with_sharding_constraint(x, NamedSharding(MESH, layout))
    return x


def gemm(dims: str, x: Array, w: Array, compute: Any, out: Any) -> Array:
    """The product of ``x`` and ``w`` in format ``out``, so that its partial sums travel in this format too."""
    return jnp.einsum(dims, x.astype(compute), w.astype(compute), preferred_element_type=out)


def combine(x: Array, share: Array) -> Array:
    """The sum over experts of ``x [tokens, experts, ...]`` times ``share [tokens, experts]``, in the format of x."""
    return jnp.einsum("bte...,bte->bt...", x, share.astype(x.dtype), preferred_element_type=x.dtype)


def put_token(kept: Array, new: Array, at: Array) -> Array:
    """``kept [batch, context, ...]`` with ``new [batch, 1, ...]`` at position ``at``: each device looks at its own."""
    here = (jnp.arange(kept.shape[1]) == at).reshape((1, -1) + (1,) * (kept.ndim - 2))
    return jnp.where(here, new, kept)
'''
"""What the function calls beside what every program in JAX has. ``MESH`` and ``INSIDE`` are set by who runs it."""


class Given(NamedTuple):
    """An argument of the function: its shape, format and layout (the text of a `PartitionSpec`)."""

    shape: tuple[int, ...]
    dtype: str
    spec: str


class Unsharded(NamedTuple):
    """The function of one phase: the text of its module, its name, and its arguments.

    ``weights`` and ``caches`` stand under their regions. ``takes`` and ``gives`` are the layouts of the token ids and
    of the logits; ``ids`` is the number of requests and of tokens of each.
    """

    text: str
    function: str
    weights: dict[str, dict[str, Given]]
    caches: dict[str, dict[str, tuple[Given, ...]]]
    takes: str
    gives: str
    ids: tuple[int, int]


def unsharded(program: Program, batch: int, tokens: int, context: int) -> Unsharded:
    """The function of ``program`` for a step of ``tokens`` tokens of each of ``batch`` requests, with a cache of
    ``context`` keys. Its program has one stage.
    """
    sizes = {**layouts_of(program).sizes, "batch": batch, "position": tokens, "context": context}
    layouts = Layouts(sizes, Mesh())
    words = {op.fn for r in program.regions for op in r.ops if isinstance(op, Map)}
    fixed = [meanings(), functions_of_one(words), texts.ON_A_DEVICE, INSIDE]
    taken = names_in("\n".join([texts.HEAD, *fixed]))
    (stage,) = program.stage_parts
    made = Unsharded(
        text="",
        function=stage_name("", program.phase, 0),
        weights={},
        caches={},
        takes=spec(value_in(program.region(stage[0].region))),
        gives=spec(value_out(program.region(stage[-1].region)).type),
        ids=(batch, tokens),
    )
    parts = [texts.HEAD, formats_text([program], exact=False), *fixed]
    whole, handed = each_region(program, _on_whole_tensors), Slots.none()
    for name, layers in layers_of(stage).items():
        region, give = program.region(name), partial(_given, sizes=sizes, layers=layers)
        kind = type("RegionWriter", (_Writer,), {"region": region, "phase": program.phase})
        parts.append(write_region(whole, whole.region(name), layouts, "", taken=taken, handed=handed, kind=kind))
        made.weights[name] = {w.name: give(w) for w in region.weights}
        lacking = (v for op in region.ops if lacks_counterpart(op) for v in op.results)
        made.weights[name] |= {_argument(v): give(v) for v in lacking}
        if layers != (None,):
            made.caches[name] = {cache: tuple(map(give, held)) for cache, held in caches_of(region)}
    parts.append(write_stage(program, 0, stage, ""))
    return made._replace(text="\n\n\n".join(part.strip("\n") for part in parts if part) + "\n")


def lacks_counterpart(op: Op) -> bool:
    """Whether a function of whole tensors cannot say what ``op`` exchanges: keys in a ring, tokens for experts."""
    places = any(has_places(v.type.names) for v in (*op.operands, *op.results))
    return isinstance(op, Ring) or (op.facts.stream == LINK and places)


def _argument(value: Value) -> str:
    return f"given {value.name}"


def _given(value: Value, sizes: Mapping[str, int], layers: tuple[int | None, ...]) -> Given:
    stacked = layers != (None,)
    shape = tuple(sizes[d.name] for d in value.type.dims)
    return Given((len(layers), *shape) if stacked else shape, value.type.dtype, spec(value.type, stacked=stacked))


def _on_whole_tensors(region: Region) -> Region:
    """The region with every value in one piece."""

    def whole(value: Value) -> Value:
        return Value(value.name, value.type.whole())

    def on_whole(op: Op) -> Op:
        fields: dict[str, object] = {}
        for name in (*op.RESULTS, *op.OPERANDS):
            held: Any = getattr(op, name)
            fields[name] = tuple(map(whole, held)) if isinstance(held, tuple) else held and whole(held)
        if isinstance(op, Map):
            fields["first"] = None
        return replace_fields(op, fields)

    args, weights, results = (tuple(map(whole, some)) for some in (region.args, region.weights, region.results))
    return evolve(region, args=args, weights=weights, results=results, ops=tuple(map(on_whole, region.ops)))


class _Writer(Writer):
    """Writes the ops of a region on whole tensors; ``region`` has the layouts that the plan gives them."""

    region: Region
    phase: str

    @cached_property
    def planned(self) -> dict[str, TensorType]:
        """The types of the region's values in the plan, by name."""
        return {name: v.type for name, v in self.region.values().items()}

    @cached_property
    def lacking(self) -> set[str]:
        """The names of values that whole tensors have no op for."""
        return {v.name for op in self.region.ops if lacks_counterpart(op) for v in op.results}

    def _expressions(self, op: Op) -> list[str]:
        if op.results and op.results[0].name in self.lacking:
            return [f'w["{_argument(v)}"]' for v in op.results]
        if op.facts.stream == LINK or isinstance(op, Slice):
            x, out = op.operands[0], op.results[0]
            layouts = dict.fromkeys(spec(self.planned[v.name].summed()) for v in (x, out))
            return [f"constrain({', '.join([self.names(x), *layouts])})"]
        return super()._expressions(op)

    def _cache_write(self, op: CacheWrite) -> list[str]:
        """A prefill makes the cache; a decode step puts one token into it."""
        new = [cast(self.names(x), out) for x, out in zip(op.xs, op.outs, strict=True)]
        if self.phase == PREFILL:
            return new
        return [f'put_token(cache["{op.cache}"][{i}], {x}, past)' for i, x in enumerate(new)]

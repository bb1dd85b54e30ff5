"""Reads shardings: mesh axes, rules, and the degrees that are sugar for both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from math import prod
from typing import NamedTuple

from attrs import evolve

from plandsl import limits
from plandsl.diagnostics import Label, Span
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.schema import Reader
from plandsl.grammar.values import span_of, whole
from plandsl.spec.model import ModelSpec
from plandsl.spec.plan import AxisSpec, CutSpec, PlaceSpec, RuleSpec, ShardingSpec


class Sugar(NamedTuple):
    """The axis and the rules that a degree stands for; a rule is (region, dimensions, axes)."""

    axis: str
    rules: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]


HEADS = ("heads", "kv_heads", "wide_kv_heads", "state_heads", "state_groups")
"""Dimensions of heads, of attention and of recurrences, by which `tp` and `sp` split these."""

SUGAR = {
    "dp": Sugar("data", ()),
    "pp": Sugar("stage", (("", ("layers",), ("stage",)),)),
    "cp": Sugar("context", (("", ("tokens",), ("context",)), ("", ("context",), ("context",)))),
    "sp": Sugar("seq", (("", ("tokens",), ("seq",)), ("attention", HEADS, ("tensor", "seq")))),
    "ep": Sugar("expert", (("", ("experts",), ("expert",)), ("", ("batch",), ("expert",)))),
    "tp": Sugar("tensor", (("", (*HEADS, "ffn", "wide_ffn", "expert_ffn", "vocab", "row_vocab"), ("tensor",)),)),
}
"""The degrees, in the order of their axes: major first."""

KNOWN = (*SUGAR, "context_form", "hop_tensors", "cut")
LEVELS = ("node", "cluster")
REGIONS = ("attention", "experts", "embedding", "head")
EVERY_MODEL = ("tokens", "batch", "context", "layers")
"""Dimensions that a rule may name for every model."""

_LARGEST = 10**18  # a degree between limits.MAX_RANKS and this gives E306, which names the product


def sharding_spec(context: Context, record: Record) -> ShardingSpec | None:
    """A sharding without regard to a model; `fit` then adapts it to one."""
    reader = Reader(context, record, KNOWN)
    degrees = {name: _degree(reader, name) for name in SUGAR if name in record.fields}
    axes = _axes(reader, {name: size for name, size in degrees.items() if size is not None})
    rules = tuple(_rules(reader, [axis.name for axis in axes]))
    placed = _placed_axes(reader)
    if placed:  # the innermost axes, so that they are neighbours in a node
        within = {place.axis for place in placed}
        axes = (*(a for a in axes if a.name not in within), *(a for a in axes if a.name in within))
    if len(rules) > (most := limits.MAX_RULES):
        why = f"a sharding has at most {most} rules, found {len(rules):,}"
        reader.fail(
            Wrong("E214", why, rules[most].span, hint=most.hint("name several dimensions in a rule", len(rules)))
        )
    form = reader.word("context_form", ("ring", "gather")) or "ring"
    hops = reader.whole("hop_tensors", most=2)
    cut = reader.read("cut", partial(_cut, reader))
    _check_ranks(reader, axes)
    if not reader.ok:
        return None
    replicas = ("data",) if "dp" in degrees else ()
    _warn_idle(reader, tuple(a for a in axes if a.name not in replicas), rules)
    return ShardingSpec(
        record.name,
        axes=axes,
        rules=rules,
        replica_axes=replicas,
        context_form=form,
        hop_tensors=hops,
        placed=placed,
        span=record.span,
        cut=cut,
    )


def _cut(reader: Reader, layer: Layer) -> CutSpec:
    """``cut = [48, 32]``, the layers of each stage, or ``cut = balanced``."""
    if not isinstance(layer.value, s.Seq):
        word = reader.choice(layer, ("balanced",), "E210") if isinstance(layer.value, s.Ref | s.Str) else ""
        if not word:
            hint = "`cut = [48, 32]`, or `cut = balanced`"
            raise Wrong("E210", "expected the layers of each stage, or `balanced`", span_of(layer), hint=hint)
        return CutSpec(balanced=True, span=span_of(layer))
    values = ((item, reader.context.evaluator.value(item, layer.unit)) for item in layer.value.items)
    counts = (
        whole(value, Layer(s.Name("cut", item.span), item, layer.unit), 1, limits.MAX_LAYERS) for item, value in values
    )
    return CutSpec(tuple(counts), span=span_of(layer))


def _degree(reader: Reader, name: str) -> int | None:
    return reader.whole(name, most=_LARGEST)


# ---- axes


def _axes(reader: Reader, degrees: dict[str, int]) -> tuple[AxisSpec, ...]:
    axes: dict[str, AxisSpec] = {}
    mesh = Reader(reader.context, _mesh_record(reader.record), None)
    for name, layer in reader.record.axes.items():
        size = mesh.whole(name, most=_LARGEST)
        axes[name] = AxisSpec(name, size or 1, layer.name.span)
    reader.ok &= mesh.ok
    for sugar, (axis, _) in SUGAR.items():
        if sugar not in degrees:
            continue
        span = reader.record.fields[sugar][-1].name.span
        if axis not in axes:
            axes[axis] = AxisSpec(axis, degrees[sugar], span, sugar)
        elif axes[axis].size != degrees[sugar]:
            reader.fail(_size_conflict(sugar, degrees[sugar], span, axes[axis]))
    if "dp" in degrees:  # the axis of replicas is the outermost, even if the mesh names it later
        axes = {"data": axes["data"], **axes}
    return tuple(axes.values())


def _mesh_record(record: Record) -> Record:
    """The mesh axes as the fields of a record, so that a `Reader` can read them."""
    out = Record("mesh", "", record.span, record.unit)
    out.fields = {name: (layer,) for name, layer in record.axes.items()}
    return out


def _size_conflict(sugar: str, size: int, span: Span, axis: AxisSpec) -> Wrong:
    labels = (Label(axis.span, f"here `{axis.name}` has {axis.size} ranks"),) if axis.span else ()
    message = f"`{sugar} = {size}` and `mesh {axis.name} = {axis.size}` give the same axis different sizes"
    return Wrong("E220", message, span, labels=labels, hint="give one of the two, or make them equal")


def _warn_idle(reader: Reader, axes: tuple[AxisSpec, ...], rules: tuple[RuleSpec, ...]) -> None:
    used = {name for rule in rules for name in rule.axes}
    for axis in axes:
        if axis.size > 1 and axis.name not in used and not axis.sugar:
            message = f"no rule names the axis `{axis.name}`, so its {axis.size} ranks do the same work"
            hint = f"name it in a rule, `heads -> {axis.name}`, or leave it out"
            if axis.name in SUGAR:
                hint = f"a comma continues `mesh`: for the degree, write `{axis.name} = {axis.size}` on a new line"
            reader.context.library.record(Wrong("W204", message, axis.span, hint=hint))


def _check_ranks(reader: Reader, axes: tuple[AxisSpec, ...]) -> None:
    if len(axes) > (most := limits.MAX_AXES):
        why = f"a mesh has at most {most} axes, found {len(axes):,}"
        reader.fail(Wrong("E214", why, axes[most].span, hint=most.hint("join some of them", len(axes))))
    total = 1
    for axis in axes:
        total *= axis.size
        if total > limits.MAX_RANKS:
            largest = max(axes, key=lambda axis: axis.size)
            product = " * ".join(f"{axis.size:,}" for axis in axes[:8] if axis.size > 1)
            message = f"this sharding has {product} ranks"
            hint = limits.MAX_RANKS.hint(f"at most {limits.MAX_RANKS:,} ranks are allowed", prod(a.size for a in axes))
            reader.fail(Wrong("E306", message, largest.span, hint=hint))
            return


# ---- rules


def _rules(reader: Reader, axes: list[str]) -> Iterator[RuleSpec]:
    for entry in reader.record.entries:
        if isinstance(entry, str):
            if entry in SUGAR:
                yield from _sugar_rules(reader, entry, axes)
        elif isinstance(entry.item, s.Rule):
            yield from _written_rules(reader, entry.item, "", axes)
        elif isinstance(entry.item, s.Region):
            yield from _region(reader, entry.item, axes)
        elif isinstance(entry.item, s.Place):
            _check_axes(reader, entry.item.axes, axes)
            level = entry.item.level
            if level.text not in LEVELS:
                message = f"axes can be placed in {' or '.join(LEVELS)}, not in `{level.text}`"
                reader.fail(Wrong("E201", message, level.span, hint=f"`place {entry.item.axes[0].text} in node`"))


def _check_axes(reader: Reader, names: tuple[s.Name, ...], axes: list[str]) -> None:
    for axis in names:
        if axis.text not in axes:
            hint = reader.context.library.suggest(axis.text, iter(axes)) or f"declare it: `mesh {axis.text} = 2`"
            reader.fail(Wrong("E219", f"there is no mesh axis `{axis.text}`", axis.span, hint=hint))


def _placed_axes(reader: Reader) -> tuple[PlaceSpec, ...]:
    """The axes placed in a node, each once; `_rules` has checked their names."""
    found: dict[str, PlaceSpec] = {}
    for entry in reader.record.entries:
        if not isinstance(entry, str) and isinstance(entry.item, s.Place) and entry.item.level.text == "node":
            for axis in entry.item.axes:
                found.setdefault(axis.text, PlaceSpec(axis.text, axis.span))
    return tuple(found.values())


def _sugar_rules(reader: Reader, sugar: str, axes: list[str]) -> Iterator[RuleSpec]:
    span = reader.record.fields[sugar][-1].name.span
    for region, dims, wanted in SUGAR[sugar].rules:
        there = tuple(axis for axis in wanted if axis in axes)
        if there:
            yield RuleSpec(dims, there, region, span, sugar)


def _region(reader: Reader, region: s.Region, axes: list[str]) -> Iterator[RuleSpec]:
    name = region.name
    if name.text not in REGIONS:
        hint = reader.context.library.suggest(name.text, iter(REGIONS))
        reader.fail(Wrong("E219", f"there is no region `{name.text}`", name.span, hint=hint))
    for item in region.body.items:
        if isinstance(item, s.Rule):
            yield from _written_rules(reader, item, name.text, axes)
        else:
            hint = "`heads -> tensor`"
            reader.fail(Wrong("E210", f"`in {name.text}` can hold only rules", item.span, hint=hint))


def _written_rules(reader: Reader, rule: s.Rule, region: str, axes: list[str]) -> Iterator[RuleSpec]:
    for names in (rule.dims, rule.axes):
        for number, name in enumerate(names):
            if name.text in [other.text for other in names[:number]]:
                reader.fail(Wrong("E219", f"this rule names `{name.text}` twice", name.span))
    _check_axes(reader, rule.axes, axes)
    dims = tuple(name.text for name in rule.dims)
    yield RuleSpec(dims, tuple(name.text for name in rule.axes), region, rule.span)


# ---- against a model


def fit(context: Context, sharding: ShardingSpec, model: ModelSpec) -> ShardingSpec | None:
    """The sharding adapted to ``model``; None, and findings, if it does not fit.

    Rules of a degree lose the dimensions that the model lacks; in a written rule such a dimension is an error.
    """
    known = [*EVERY_MODEL, *(name for name, _ in model.sizes)]
    rules = []
    fine = True
    for rule in sharding.rules:
        if not rule.sugar:
            fine &= _check_dims(context, rule, known, model)
            rules.append(rule)
        elif dims := tuple(dim for dim in rule.dims if dim in known):
            rules.append(rule._replace(dims=dims))
        elif sharding.axis(SUGAR[rule.sugar].axis) > 1:
            fine = False
            _report_no_dims(context, rule, model)
    return evolve(sharding, rules=tuple(rules)) if fine else None


def _check_dims(context: Context, rule: RuleSpec, known: Iterable[str], model: ModelSpec) -> bool:
    fine = True
    for dim in rule.dims:
        if dim not in known:
            fine = False
            message = f"model `{model.name}` has no dimension `{dim}`"
            hint = context.library.suggest(dim, iter(known))
            context.library.record(Wrong("E219", message, _dim_span(context, rule.span, dim), hint=hint))
    return fine


def _dim_span(context: Context, span: Span | None, name: str) -> Span | None:
    """The place of ``name`` in a rule on one line; else the place of the rule."""
    if span is None or span.line != span.end_line:
        return span
    line = context.library.lines(span.file)[span.line - 1]
    at = next((m.start() for m in _words(name, line) if m.start() >= span.column - 1), None)
    if at is None:
        return span
    return span._replace(column=at + 1, end_column=at + 1 + len(name))


def _words(name: str, line: str) -> Iterator[re.Match[str]]:
    return re.finditer(rf"\b{re.escape(name)}\b", line)


def _report_no_dims(context: Context, rule: RuleSpec, model: ModelSpec) -> None:
    wanted = ", ".join(f"`{dim}`" for dim in rule.dims)
    message = f"`{rule.sugar}` splits {wanted}, but model `{model.name}` has none of these dimensions"
    hint = f"leave `{rule.sugar}` out" if len(rule.dims) > 1 else f"`{rule.sugar}` is for models with {wanted}"
    context.library.record(Wrong("E220", message, rule.span, hint=hint))

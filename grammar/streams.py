"""Reads the functions over one item of a dimension, such as one of several residual streams.

Loaded by the first model that has one.
"""

from __future__ import annotations

from plandsl import limits
from plandsl.grammar import syntax as s
from plandsl.grammar.functions import STEP_DIMS, Scope, Typed, dims_text
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.values import expect, whole
from plandsl.spec.model import LAYER, Apply, Weight
from plandsl.units import NUMBER

STACK = "for example `stack(a, b, into = streams)`, `spread(x, into = streams)`, where `streams = 2` is declared"
MIX = (
    "`mix(x, c, over = streams, by = mixed)`: x[tokens, streams, hidden], c[tokens, streams, mixed], `mixed = streams`"
)
MATCH = "`match(x, e, over = wide)`: x[tokens, wide] and e[tokens, hidden], where `wide = hidden`"
EXCESS = "for example `excess(g, share = 0.05)`: the largest twentieth of normal numbers"
LEAST_SHARE = 1e-6
ITEM = "`item(x, over = each, at = layer)`, or `at = 0` for the first item"


def item(call: s.Call, x: Typed, scope: Scope) -> Typed:
    """``item(x, over = each, at = layer)``: the value without the dimension."""
    given = {option.name.text: option for option in call.kwargs}
    if given.keys() != {"over", "at"}:
        raise Wrong("E570", "`item` says along which dimension, and which item", call.span, hint=ITEM)
    over = _dimension(given["over"].value, x, scope)
    at = given["at"]
    have = scope.sizes.get(over, 0)
    rest = tuple(dim for dim in x.dims if dim != over)
    if isinstance(at.value, s.Ref) and at.value.name == LAYER:
        return Typed(Apply("item", (x.term,), (("over", over), ("at", LAYER)), call.span), rest)
    value = scope.context.evaluator.value(at.value, scope.unit, scope.record)
    number = whole(value, Layer(at.name, at.value, scope.unit), 0, limits.MAX_DIMENSION)
    if have and number >= have:
        why = f"item {number} of `{over}`, which has {have:,} items from 0"
        raise Wrong("E570", why, at.value.span, hint=f"at most `at = {have - 1}`")
    return Typed(Apply("item", (x.term,), (("over", over), ("at", number)), call.span), rest)


def _dimension(value: s.Expr, x: Typed, scope: Scope) -> str:
    if not isinstance(value, s.Ref) or value.name not in x.dims or value.name in STEP_DIMS:
        hint = scope.suggest(value.name, x.dims[1:]) if isinstance(value, s.Ref) else ITEM
        raise Wrong(
            "E570", f"`over` names a dimension of {dims_text(x.dims)} other than its first", value.span, hint=hint
        )
    return value.name


# ---- several streams


def stack(call: s.Call, xs: list[Typed], scope: Scope) -> Typed:
    """``stack(a, b, c, into = streams)``: the values as items of a new dimension."""
    into = _new_dimension(call, "into", xs[0], scope)
    for x, expr in zip(xs, call.args, strict=True):
        if x.dims != xs[0].dims or isinstance(x.term, Weight):
            why = f"`stack` joins values of the same dimensions, {dims_text(xs[0].dims)} and {dims_text(x.dims)}"
            raise Wrong("E571", why, expr.span, hint=STACK)
    if (have := scope.sizes.get(into, 0)) and have != len(xs):
        why = f"{len(xs)} values are stacked, but `{into}` has {have:,} items"
        raise Wrong("E571", why, call.span, hint=f"`{into} = {len(xs)}`")
    rows, *rest = xs[0].dims
    term = Apply("stack", tuple(x.term for x in xs), (("into", into),), call.span)
    return Typed(term, (rows, into, *rest))


def spread(call: s.Call, x: Typed, scope: Scope) -> Typed:
    """``spread(x, into = streams, first = 1)``: the value as each item of a new dimension."""
    into = _new_dimension(call, "into", x, scope)
    options: tuple[tuple[str, int | str], ...] = (("into", into),)
    option = next((option for option in call.kwargs if option.name.text == "first"), None)
    if option is not None:
        value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
        first = whole(value, Layer(option.name, option.value, scope.unit), 0, limits.MAX_DIMENSION)
        have = scope.sizes.get(into, 0)
        if have and first >= have:
            why = f"`first = {first}` leaves nothing of `{into}`, which has {have:,} items from 0"
            raise Wrong("E571", why, option.value.span, hint=f"at most `first = {have - 1}`")
        options += (("first", first),)
    rows, *rest = x.dims
    return Typed(Apply("spread", (x.term,), options, call.span), (rows, into, *rest))


def mix(call: s.Call, xs: list[Typed], scope: Scope) -> Typed:
    """``mix(x, c, over = streams, by = mixed)``: each stream becomes a sum of all streams, by weights of the token."""
    x, weights = xs
    over, by = (_named(call, name) for name in ("over", "by"))
    rows = x.dims[0]
    if x.dims[:2] != (rows, over) or len(x.dims) != 3 or weights.dims != (rows, over, by) or by in x.dims:
        why = f"`mix` takes streams and their weights, found {dims_text(x.dims)} and {dims_text(weights.dims)}"
        raise Wrong("E571", why, call.span, hint=MIX)
    _check_sizes(call, over, by, scope, MIX)
    return Typed(Apply("mix", (x.term, weights.term), (("over", over), ("by", by)), call.span), x.dims)


def match(call: s.Call, xs: list[Typed], scope: Scope) -> Typed:
    """``match(x, e, over = wide)``: ``x`` with the mean square of ``e``, and its dimensions; ``over`` is x's last."""
    x, like = xs
    over = _named(call, "over")
    if x.dims[:-1] != like.dims[:-1] or len(x.dims) < 2 or over != x.dims[-1]:
        why = f"`match` takes values with the same rows, found {dims_text(x.dims)} and {dims_text(like.dims)}"
        raise Wrong("E571", why, call.span, hint=MATCH)
    _check_sizes(call, like.dims[-1], over, scope, MATCH)
    return Typed(Apply("match", (x.term, like.term), (("over", over),), call.span), like.dims)


def _named(call: s.Call, name: str) -> str:
    """The dimension that an option names; empty without one."""
    found = next((option.value for option in call.kwargs if option.name.text == name), None)
    return found.name if isinstance(found, s.Ref) else ""


def _check_sizes(call: s.Call, ours: str, theirs: str, scope: Scope, hint: str) -> None:
    have, other = (scope.sizes.get(name, 0) for name in (ours, theirs))
    if have and other and have != other:
        why = f"`{ours}` has {have:,} items, and `{theirs}` {other:,}"
        raise Wrong("E571", why, call.span, hint=hint)


def excess(call: s.Call, x: Typed, scope: Scope) -> Typed:
    """``excess(x, share = 0.05)``: by how much elements exceed what a share of normal numbers exceeds."""
    option = next((option for option in call.kwargs), None)
    if option is None:
        raise Wrong("E571", "`excess` does not say which share of the elements is large", call.span, hint=EXCESS)
    value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
    share = float(expect(value, NUMBER, Layer(option.name, option.value, scope.unit)).value)
    if not LEAST_SHARE <= share <= 1 - LEAST_SHARE:
        why = f"`share` must be from {LEAST_SHARE:g} to {1 - LEAST_SHARE:g}, found {share:g}"
        raise Wrong("E571", why, option.value.span, hint=EXCESS)
    return Typed(Apply("excess", (x.term,), (("share", share),), call.span), x.dims)


def _new_dimension(call: s.Call, name: str, x: Typed, scope: Scope) -> str:
    option = next((option for option in call.kwargs if option.name.text == name), None)
    found = option.value if option is not None else None
    if not isinstance(found, s.Ref) or found.name not in scope.sizes or found.name in x.dims:
        why = f"`{name}` names a dimension of the model that {dims_text(x.dims)} does not have"
        raise Wrong("E571", why, found.span if found else call.span, hint=STACK)
    return found.name

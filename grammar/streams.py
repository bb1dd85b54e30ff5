"""Reads the functions over one item of a dimension, such as one of several residual streams.

Loaded by the first model that has one.
"""

from __future__ import annotations

from plandsl.grammar import syntax as s
from plandsl.grammar.functions import STEP_DIMS, Scope, Typed, dims_text
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.values import whole
from plandsl.limits import MAX_DIMENSION
from plandsl.spec.model import LAYER, Apply

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
    number = whole(value, Layer(at.name, at.value, scope.unit), 0, MAX_DIMENSION)
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

"""Reads `merge(x, tokens = 4, into = merged)` in the head of an encoder. Loaded by the first model that has one."""

from __future__ import annotations

from plandsl import limits
from plandsl.grammar import syntax as s
from plandsl.grammar.functions import Scope, Typed, dims_text
from plandsl.grammar.modules import Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.values import whole
from plandsl.ir.names import Merged
from plandsl.spec.model import Apply

MERGED = "merge(x, tokens = 4, into = merged)"


def merge_tokens(call: s.Call, x: Typed, scope: Scope) -> Typed:
    """``merge(x, tokens = 4, into = merged)``: one token of each 4 neighbours, whose rows are joined or averaged."""
    if x.dims[0] != "tokens" or len(x.dims) < 2:
        why = f"`merge` takes all tokens of a request, found {dims_text(x.dims)}"
        hint = "`merge` stands once, in the head of a model with `causal = false`"
        raise Wrong("E548", why, call.args[0].span, hint=hint)
    given = {option.name.text: option for option in call.kwargs}
    if "tokens" not in given:
        raise Wrong("E548", "`merge` has no number of `tokens`", call.span, hint=f"`{MERGED}`")
    tokens = _whole(given["tokens"], scope)
    if "into" not in given:
        term = Apply("merge", (x.term,), (("tokens", tokens),), call.span)
        return Typed(term, (Merged("tokens", tokens), *x.dims[1:]))
    into = given["into"].value
    if not isinstance(into, s.Ref) or into.name not in scope.sizes:
        hint = f"declare one, such as `merged = {tokens} * {x.dims[-1]}`, and write `{MERGED}`"
        raise Wrong("E548", "`into` must name the last dimension of the result", into.span, hint=hint)
    have, wanted = scope.sizes[into.name], tokens * scope.sizes[x.dims[-1]]
    if have and wanted and have != wanted:
        why = f"`{into.name}` is {have:,}, but {tokens} tokens of {scope.sizes[x.dims[-1]]:,} have {wanted:,} elements"
        raise Wrong("E548", why, into.span, hint=f"`{into.name} = {tokens} * {x.dims[-1]}`")
    term = Apply("merge", (x.term,), (("tokens", tokens), ("into", into.name)), call.span)
    return Typed(term, (Merged("tokens", tokens), *x.dims[1:-1], into.name))


def _whole(option: s.Field, scope: Scope) -> int:
    value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
    return whole(value, Layer(option.name, option.value, scope.unit), 2, limits.MAX_DIMENSION)

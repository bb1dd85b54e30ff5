"""Reads sparse attention: `index(q, k, w, top_k = 2048)`, which picks keys for each query, and `among = picked`.

Loaded by the first model that has one.
"""

from __future__ import annotations

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.earlier import take_earlier
from plandsl.grammar.functions import Typed, check_call, dims_text
from plandsl.grammar.modules import Follows, Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.terms import Terms
from plandsl.grammar.values import whole
from plandsl.spec.model import AMONG, EARLIER, INDEX, Apply, Var, Weight

FORM = "`index(q, k, w, top_k = 2048)`"
SHAPES = f"{FORM} takes q[tokens, index_heads, index_dim], k[tokens, index_dim], and perhaps w[tokens, index_heads]"


def choice_term(call: s.Call, terms: Terms) -> Typed:
    """The term of `index(...)`, its dimensions checked."""
    check_call(call, terms.scope)
    found = [terms.attempt(arg) for arg in call.args]
    args = [arg for arg in found if arg]
    if len(args) < len(found):
        raise Follows
    if len(args) not in (2, 3):
        message = f"`index` takes queries, keys and at most a weight for each head, found {len(args)} tensors"
        raise Wrong("E530", message, call.span, hint=SHAPES)
    labels = tuple(
        Label(expr.span, f"{name} is {dims_text(x.dims)}")
        for name, expr, x in zip("qkw", call.args, args, strict=False)
    )
    if reason := _misfit(args):
        raise Wrong("E530", reason, call.func.span, labels=labels, hint=SHAPES)
    term = Apply(INDEX, tuple(x.term for x in args), (("top_k", _top_k(call, terms)),), call.span)
    return Typed(term, args[0].dims[:1])


def _misfit(args: list[Typed]) -> str:
    """What is wrong with the tensors of an `index`; empty if they fit."""
    q, k, *weights = args
    if any(isinstance(x.term, Weight) or x.dims[0] != "tokens" for x in args):
        return "queries, keys and weights of an `index` are computed for each token"
    if len(q.dims) != 3:
        return "queries of an `index` have a dimension of heads, and one more"
    if k.dims != ("tokens", q.dims[2]):
        return f"keys of an `index` are [tokens, {q.dims[2]}]: one key of a token for all heads"
    if weights and weights[0].dims != q.dims[:2]:
        return f"weights of an `index` are {dims_text(q.dims[:2])}: one number for each head of a query"
    return ""


def _top_k(call: s.Call, terms: Terms) -> int:
    """The number of keys that each query picks."""
    if not call.kwargs:
        message = "`index` does not say how many keys a query picks"
        raise Wrong("E530", message, call.span, hint=f"add `top_k`: {FORM}")
    (option,) = call.kwargs
    scope = terms.scope
    value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
    return whole(value, Layer(option.name, option.value, scope.unit), 1, limits.MAX_DIMENSION)


def attention_among(call: s.Call, terms: Terms) -> Typed:
    """The term of an attention with `among`: its last argument is the choice of keys."""
    option = next(option for option in call.kwargs if option.name.text == AMONG)
    choice = _choice(option.value, terms)
    rest = call._replace(kwargs=tuple(other for other in call.kwargs if other is not option))
    made = terms.term(rest)
    term = made.term
    assert isinstance(term, Apply), "attention is a call"
    return made._replace(term=term._replace(args=(*term.args, choice.term), options=(*term.options, (AMONG, True))))


def _choice(expr: s.Expr, terms: Terms) -> Typed:
    """The choice that `among` names, or makes in place."""
    if isinstance(expr, s.Call) and expr.func.text == INDEX:
        return choice_term(expr, terms)
    if isinstance(expr, s.Dot) and isinstance(expr.base, s.Ref) and expr.base.name == EARLIER:
        typed, made = take_earlier(expr, terms)
        if made.chooses:
            return typed
    seen = terms.values.get(expr.name) if isinstance(expr, s.Ref) else None
    if isinstance(expr, s.Ref) and seen is not None and seen.dims is None:
        terms.unread.pop(expr.name, None)
        raise Follows
    if not isinstance(expr, s.Ref) or seen is None or not seen.chooses:
        labels = (Label(seen.span, "made here"),) if seen is not None and seen.span else ()
        raise Wrong("E531", "`among` takes the result of an `index`", expr.span, labels=labels, hint=f"write {FORM}")
    terms.unread.pop(expr.name, None)
    return Typed(Var(expr.name, expr.span), ("tokens",))

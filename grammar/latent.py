"""Reads latent attention as a term: `attention(query(qn, qr), latent(c, kr, w_uk[...], w_uv[...]))`.

Loaded by the first model that has one.
"""

from __future__ import annotations

from plandsl.diagnostics import Label, Span
from plandsl.grammar import syntax as s
from plandsl.grammar.functions import Typed, attention_options, dims_text
from plandsl.grammar.modules import Follows, Wrong
from plandsl.grammar.terms import Terms
from plandsl.spec.model import Apply, Term, Var, Weight

FORM = "`attention(query(qn, rope(qr)), latent(c, kr, w_uk[kv_rank, heads, nope_dim], w_uv[kv_rank, heads, v_dim]))`"
QUERY = "`query` needs qn[tokens, heads, nope_dim] and qr[tokens, heads, rope_dim]; qr has the positions"
LATENT = "`latent` needs c[tokens, kv_rank], kr[tokens, rope_dim], and the weights that compute keys and values from c"


def latent_attention(call: s.Call, terms: Terms) -> Typed:
    """The term of attention over a latent cache, its dimensions checked."""
    if len(call.args) != 2:
        message = f"latent attention takes two arguments, `query(...)` and `latent(...)`, found {len(call.args)}"
        raise Wrong("E213", message, call.span, hint=f"write {FORM}")
    first, second = call.args
    query, latent = group_parts(first, "query", terms), group_parts(second, "latent", terms)
    dims = _check_query(first, *query)
    v_dim = _check_latent(second, latent, dims)
    made = (_term(first, "query", query), _term(second, "latent", latent))
    options = attention_options(call, terms.scope)
    return Typed(Apply("attention", made, options, call.span), (*query[0].dims[:-1], v_dim))


def _term(expr: s.Expr, name: str, found: list[Typed]) -> Term:
    if isinstance(expr, s.Ref):
        return Var(expr.name, expr.span)
    return Apply(name, tuple(x.term for x in found), (), expr.span)


def group_parts(expr: s.Expr, name: str, terms: Terms) -> list[Typed]:
    """The arguments of `query(...)` or `latent(...)`; ``expr`` is the call, or the name of such a call."""
    wanted = 2 if name == "query" else 4
    if isinstance(expr, s.Ref) and (seen := terms.values.get(expr.name)) and len(seen.parts) == wanted:
        terms.unread.pop(expr.name, None)
        return list(seen.parts)
    if not isinstance(expr, s.Call) or expr.func.text != name:
        raise Wrong("E213", f"expected `{name}(...)` here", expr.span, hint=f"write {FORM}")
    if expr.kwargs or expr.body is not None:
        raise Wrong("E213", f"`{name}(...)` takes tensors only", expr.span, hint=f"write {FORM}")
    if len(expr.args) != wanted:
        message = f"`{name}` takes {wanted} tensors, found {len(expr.args)}"
        raise Wrong("E213", message, expr.span, hint=f"write {FORM}")
    args = [terms.attempt(arg) for arg in expr.args]
    found = [arg for arg in args if arg]
    if len(found) < wanted:
        raise Follows
    return found


def _check_query(call: s.Expr, qn: Typed, qr: Typed) -> tuple[str, str, str]:
    """The heads, and the last dimensions without and with positions."""
    labels = _labels(call, ("qn", "qr"), [qn, qr])
    weights = any(isinstance(x.term, Weight) for x in (qn, qr))
    if weights or any(len(x.dims) != 3 or x.dims[0] != "tokens" for x in (qn, qr)) or qn.dims[1] != qr.dims[1]:
        message = "`query` needs two tensors of tokens, the same heads, and a dimension of each head"
        raise Wrong("E213", message, _span(call), labels=labels, hint=QUERY)
    return qn.dims[1], qn.dims[2], qr.dims[2]


def _check_latent(call: s.Expr, latent: list[Typed], query: tuple[str, str, str]) -> str:
    """The last dimension of the values of a head."""
    c, kr, w_uk, w_uv = latent
    heads, nope, rope = query
    labels = _labels(call, ("c", "kr", "w_uk", "w_uv"), latent)

    def wrong(message: str) -> Wrong:
        return Wrong("E213", message, _span(call), labels=labels, hint=LATENT)

    for x in (c, kr):
        if isinstance(x.term, Weight) or len(x.dims) != 2 or x.dims[0] != "tokens":
            raise wrong("the first two arguments of `latent` are tensors of tokens and one more dimension")
    if kr.dims[1] != rope:
        raise wrong(f"queries with positions end in `{rope}`, but keys in `{kr.dims[1]}`")
    rank = c.dims[1]
    if not isinstance(w_uk.term, Weight) or not isinstance(w_uv.term, Weight):
        raise wrong("the last two arguments of `latent` are weights")
    if w_uk.dims != (rank, heads, nope):
        raise wrong(f"the weight for keys must be {dims_text((rank, heads, nope))}")
    if w_uv.dims[:2] != (rank, heads) or len(w_uv.dims) != 3:
        raise wrong(f"the weight for values must be {dims_text((rank, heads, 'v_dim'))}")
    if w_uv.term.name == w_uk.term.name:
        raise wrong("keys and values need different weights")
    return w_uv.dims[2]


def _labels(call: s.Expr, names: tuple[str, ...], found: list[Typed]) -> tuple[Label, ...]:
    where = call.args if isinstance(call, s.Call) else (call,) * len(found)
    return tuple(Label(e.span, f"{n} is {dims_text(x.dims)}") for n, e, x in zip(names, where, found, strict=True))


def _span(call: s.Expr) -> Span:
    return call.func.span if isinstance(call, s.Call) else call.span

"""Reads layers that keep a state for each request: `short_conv(x, w)` and `recurrence(q, k, v, ...)`, as terms.

Loaded by the first model that has one.
"""

from __future__ import annotations

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.functions import Typed, dims_text
from plandsl.grammar.modules import Follows, Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.terms import Terms
from plandsl.grammar.values import flag, whole
from plandsl.ir.states import ROLES
from plandsl.spec.model import Apply, Weight

CONV = "`short_conv(x, w_conv[conv_width, channels])`, and a bias `b_conv[channels]` where there is one"
FORM = "`recurrence(q, k, v, step = dt, rate = a_log[state_heads], write = beta, delta = true)`"
SHAPES = "v[tokens, state_heads, state_dim], and q and k [tokens, state_groups, state_width] or [tokens, state_width]"


def state_term(call: s.Call, terms: Terms) -> Typed:
    """The term of a checked call of a function with a state."""
    return _short_conv(call, terms) if call.func.text == "short_conv" else _recurrence(call, terms)


def _arguments(call: s.Call, exprs: tuple[s.Expr, ...], terms: Terms) -> list[Typed]:
    found = [terms.attempt(expr) for expr in exprs]
    args = [arg for arg in found if arg]
    if len(args) < len(found):
        raise Follows
    return args


# ---- short convolutions


def _short_conv(call: s.Call, terms: Terms) -> Typed:
    if len(call.args) not in (2, 3):
        message = f"`short_conv` takes a value, a weight and at most a bias, found {len(call.args)}"
        raise Wrong("E475", message, call.span, hint=f"write {CONV}")
    x, w, *biases = args = _arguments(call, call.args, terms)
    labels = _labels(("x", "w", "b"), call.args, args)
    if isinstance(x.term, Weight) or x.dims[0] != "tokens" or len(x.dims) < 2:
        message = "`short_conv` needs a value of tokens and their channels"
        raise Wrong("E475", message, call.args[0].span, labels=labels[1:], hint=CONV)
    channels = x.dims[1:]
    if not isinstance(w.term, Weight) or w.dims[1:] != channels or w.dims[0] in channels:
        message = f"the weight of this `short_conv` is [width, {', '.join(channels)}], a factor for each tap"
        raise Wrong("E475", message, call.args[1].span, label=f"this is {dims_text(w.dims)}", hint=CONV)
    if terms.sizes[w.dims[0]] == 1:
        message = f"a convolution over `{w.dims[0]} = 1` token keeps no state"
        raise Wrong("E475", message, call.args[1].span, hint="multiply by a weight instead, or make it wider")
    for bias, expr in zip(biases, call.args[2:], strict=True):
        if not isinstance(bias.term, Weight) or bias.dims != channels:
            message = f"the bias of this `short_conv` is a weight [{', '.join(channels)}]"
            raise Wrong("E475", message, expr.span, label=f"this is {dims_text(bias.dims)}", hint=CONV)
    return Typed(Apply("short_conv", tuple(a.term for a in args), (), call.span), x.dims)


# ---- recurrences


def _recurrence(call: s.Call, terms: Terms) -> Typed:
    if len(call.args) != 3:
        message = f"`recurrence` takes three tensors, and others by name, found {len(call.args)}"
        raise Wrong("E475", message, call.span, hint=f"write {FORM}")
    given = {option.name.text: option for option in call.kwargs}
    roles = [role for role in ROLES if role in given]
    q, k, v, *more = args = _arguments(call, (*call.args, *(given[role].value for role in roles)), terms)
    labels = _labels(("q", "k", "v"), call.args, args)
    if reason := _misfit(q, k, v, terms.sizes):
        raise Wrong("E475", reason, call.func.span, labels=labels, hint=f"`recurrence` needs {SHAPES}")
    heads, width = v.dims[1], k.dims[-1]
    for role, found in zip(roles, more, strict=True):
        _check_role(given[role], found, heads, width)
    _check_decay(call, given)
    options = tuple(_option(option, terms) for name, option in given.items() if name not in ROLES)
    named = (("named", " ".join(roles)),) if roles else ()
    term = Apply("recurrence", tuple(a.term for a in args), (*named, *options), call.span)
    return Typed(term, v.dims)


def _misfit(q: Typed, k: Typed, v: Typed, sizes: dict[str, int]) -> str:
    """What is wrong with the dimensions of queries, keys and values; empty if they fit."""
    if any(isinstance(x.term, Weight) or x.dims[0] != "tokens" for x in (q, k, v)):
        return "queries, keys and values of a `recurrence` are computed for each token"
    if q.dims != k.dims or len(k.dims) not in (2, 3):
        return "queries and keys of a `recurrence` have the same two or three dimensions"
    if len(v.dims) not in (2, 3):
        return "values of a `recurrence` have a dimension of heads, and at most one more"
    if k.dims[-1] in v.dims:
        return f"keys and values both have the dimension `{k.dims[-1]}`, which a state has once: give them two names"
    groups, heads = sizes[k.dims[1]] if len(k.dims) == 3 else 1, sizes[v.dims[1]]
    if groups and heads and heads % groups:
        return f"{heads} `{v.dims[1]}` cannot share {groups} `{k.dims[1]}` evenly"
    return ""


def _check_role(option: s.Field, found: Typed, heads: str, width: str) -> None:
    """Check an argument that is given by name: a weight of heads, or a value of tokens and heads."""
    role, weight = option.name.text, isinstance(found.term, Weight)
    wide = role in ("step", "rate")
    if role in ("rate", "skip"):
        fits = weight and found.dims in ((heads,), (heads, width) if wide else (heads,))
        wanted = f"a weight [{heads}]" + (f" or [{heads}, {width}]" if wide else "")
    else:
        fits = not weight and found.dims in (("tokens", heads), ("tokens", heads, width) if wide else ("tokens", heads))
        wanted = f"a value [tokens, {heads}]" + (f" or [tokens, {heads}, {width}]" if wide else "")
    if not fits:
        message = f"`{role}` of this `recurrence` must be {wanted}"
        raise Wrong("E475", message, option.value.span, label=f"this is {dims_text(found.dims)}", hint=f"write {FORM}")


def _check_decay(call: s.Call, given: dict[str, s.Field]) -> None:
    """Check that a decay is given in one way: by `step` and `rate`, by `slopes`, or not at all."""
    lone = next((role for role in ("step", "rate") if (role in given) != bool({"step", "rate"} <= given.keys())), "")
    if lone:
        other = "rate" if lone == "step" else "step"
        why = "the state decays by exp(-exp(rate) * step)"
        raise Wrong("E475", f"`{lone}` needs `{other}`", given[lone].span, hint=f"{why}: write {FORM}")
    if "slopes" in given and "step" in given:
        message = "this `recurrence` has both `slopes` and `step`, and a state decays in one way"
        raise Wrong("E475", message, given["slopes"].span, hint="leave one of the two out")


def _option(option: s.Field, terms: Terms) -> tuple[str, int | float | bool | str]:
    scope = terms.scope
    value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
    layer = Layer(option.name, option.value, scope.unit)
    if option.name.text == "chunk":
        return "chunk", whole(value, layer, 1, limits.MAX_DIMENSION)
    return option.name.text, flag(value, layer)


def _labels(names: tuple[str, ...], exprs: tuple[s.Expr, ...], found: list[Typed]) -> tuple[Label, ...]:
    return tuple(Label(e.span, f"{n} is {dims_text(x.dims)}") for n, e, x in zip(names, exprs, found, strict=False))

"""Reads mixtures of experts: `experts(h, w_router[hidden, experts], top_k = 8) { ... }` and its block, as terms.

Loaded by the first model that has one.
"""

from __future__ import annotations

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.functions import Dims, Scope, Typed, dims_text
from plandsl.grammar.modules import Follows, Wrong
from plandsl.grammar.records import Layer
from plandsl.grammar.terms import Seen, Terms
from plandsl.grammar.values import expect, flag, whole
from plandsl.ir.functions import MAPS
from plandsl.ir.skew import WIDEST, Skew, Varying, Zipf
from plandsl.spec.formats import BITS, is_storage
from plandsl.spec.model import Apply, Statement, Term, Var, Weight
from plandsl.units import NUMBER

FORM = "`y = experts(h, w_router[hidden, experts], top_k = 8) { ... }`"
WORDS = {"score": ("softmax", "sigmoid"), "weigh": ("result", "input"), "weights": tuple(BITS)}
"""Options whose value is a word, and the words."""
SKEWS = {"zipf": "`imbalance = zipf(0.6)`", "lognormal": "`imbalance = lognormal(mean = 1.2, p95 = 1.6)`"}
STEEPEST = 10.0
"""Forms of an `imbalance` that is not a number (with an example of each), and the largest exponent of `zipf`."""

MOST = 1e6
"""Largest `imbalance` or `scale`."""


def experts_term(call: s.Call, outer: Terms) -> Typed:
    """The term of a mixture of experts: the value, the router, and the statements that each expert runs per token."""
    if call.body is None:
        message = "`experts(...)` needs a block with the statements of one expert"
        raise Wrong("E213", message, call.span, hint=f"write {FORM}")
    if len(call.args) not in (2, 3):
        raise Wrong("E213", f"`experts` takes a value and a router, found {len(call.args)}", call.span, hint=FORM)
    args = [outer.attempt(arg) for arg in call.args]
    found = [arg for arg in args if arg]
    if len(found) < len(args):
        raise Follows
    x = found[0]
    if not isinstance(x.term, Var):
        raise Wrong("E213", "the first argument of `experts` must be the name of a value", call.args[0].span, hint=FORM)
    router, of = _router(call, x, found[1])
    bias = _bias(call, found[2], of) if len(found) == 3 else ()
    options = _options(call, outer.scope)
    _check_top_k(call, dict(options), of, outer.scope)
    body, dims = _body(call.body, x, x.term.name, of, outer)
    return Typed(Apply("experts", (x.term, router, *bias), options, call.span, body), dims)


def _router(call: s.Call, x: Typed, router: Typed) -> tuple[Term, str]:
    """The logits ``[tokens, experts]``, and the name of their last dimension. A weight is contracted with ``x``."""
    span = call.args[1].span
    hint = f"a router is a weight such as `w_router[{x.dims[-1]}, experts]`, or logits made with one"
    if not isinstance(router.term, Weight):
        if len(router.dims) != 2 or router.dims[0] != x.dims[0] or router.dims[1] in x.dims:
            message = f"the logits of a router have dimensions [tokens, experts], found {dims_text(router.dims)}"
            raise Wrong("E213", message, span, label="one logit for each token and expert", hint=hint)
        return router.term, router.dims[1]
    kept = [dim for dim in router.dims if dim not in x.dims]
    if len(kept) != 1 or any(dim not in router.dims for dim in x.dims[1:]):
        labels = (Label(call.args[0].span, f"this is {dims_text(x.dims)}"),)
        message = "a router has the dimensions of a token, and one dimension for the experts"
        raise Wrong("E213", message, span, label=f"this is {dims_text(router.dims)}", labels=labels, hint=hint)
    return Apply("matmul", (x.term, router.term), (), span), kept[0]


def _bias(call: s.Call, bias: Typed, of: str) -> tuple[Term, ...]:
    if not isinstance(bias.term, Weight) or bias.dims != (of,):
        hint = f"write `b_router[{of}]`; it is added to the scores that choose experts, not to the gates"
        raise Wrong("E213", "the third argument of `experts` is a bias of the scores", call.args[2].span, hint=hint)
    return (bias.term,)


def _check_top_k(call: s.Call, options: dict[str, int | float | bool | str], of: str, scope: Scope) -> None:
    if "top_k" not in options:
        raise Wrong("E207", "`experts(...)` has no `top_k`", call.func.span, hint=f"write {FORM}")
    top_k, have = int(options["top_k"]), scope.sizes[of]
    if have and have > limits.MAX_EXPERTS:
        message = f"`{of} = {have:,}`: a layer has at most {limits.MAX_EXPERTS:,} experts"
        raise Wrong(
            "E214",
            message,
            call.args[1].span,
            hint=limits.MAX_EXPERTS.hint(f"at most `{of} = {limits.MAX_EXPERTS:d}`", have),
        )
    if have and top_k > have:
        span = next(option.value.span for option in call.kwargs if option.name.text == "top_k")
        raise Wrong("E214", f"`top_k = {top_k}` is more than `{of} = {have}`", span)


# ---- options


def _options(call: s.Call, scope: Scope) -> tuple[tuple[str, int | float | bool | str], ...]:
    return tuple((option.name.text, _option(option, scope)) for option in call.kwargs)


def _option(option: s.Field, scope: Scope) -> int | float | bool | str:
    name = option.name.text
    if name == "imbalance" and isinstance(option.value, s.Call):
        return str(_distribution(option.value, scope))
    if name in WORDS:
        return _word(option, WORDS[name], scope)
    value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
    layer = Layer(option.name, option.value, scope.unit)
    if name == "top_k":
        return whole(value, layer, 1, limits.MAX_EXPERTS)
    if name == "normalize":
        return flag(value, layer)
    number = expect(value, NUMBER, layer).value
    least = 1.0 if name == "imbalance" else 0.0
    if not least <= number <= MOST or number == 0:
        fullest = "it is the load of the fullest rank divided by the mean load"
        hint = fullest if name == "imbalance" else "gates are multiplied by it"
        bounds = "between 1 and 1,000,000" if least else "above zero, and at most 1,000,000"
        raise Wrong("E214", f"`{name}` must be {bounds}", option.value.span, hint=hint)
    return float(number)


def _distribution(call: s.Call, scope: Scope) -> Skew:
    """An `imbalance` that is a call.

    `zipf(0.6)` gives the popularity of experts, `lognormal(mean = 1.2, p95 = 1.6)` the load of the fullest rank.
    """
    form = SKEWS.get(call.func.text)
    if form is None:
        hint = scope.suggest(call.func.text, tuple(SKEWS))
        raise Wrong("E201", f"there is no distribution `{call.func.text}`", call.func.span, hint=hint)
    given = {option.name.text: option for option in call.kwargs}
    zipf = call.func.text == "zipf"
    if len(given) != len(call.kwargs) or (len(call.args), set(given)) != ((1, set()) if zipf else (0, {"mean", "p95"})):
        raise Wrong("E226", f"`{call.func.text}` needs {'a number' if zipf else 'two options'}", call.span, hint=form)
    if zipf:
        exponent = _plain_number("zipf", call.args[0], scope)
        if not 0 <= exponent <= STEEPEST:
            why = f"the exponent of `zipf` must be from 0 (all experts are equally popular) to {STEEPEST:g}"
            raise Wrong("E226", why, call.args[0].span, hint=form)
        return Zipf(exponent)
    mean, p95 = (_plain_number(name, given[name].value, scope) for name in ("mean", "p95"))
    if mean < 1:
        why = "`mean` must be 1 or more: the load of the fullest rank is never below the mean load"
        raise Wrong("E226", why, given["mean"].value.span, hint=form)
    if not mean <= p95 <= mean * WIDEST:
        why = f"`p95` must be from 1 to {WIDEST:.3g} times `mean`: no lognormal is wider"
        raise Wrong("E226", why, given["p95"].value.span, hint=form)
    return Varying(mean, p95)


def _plain_number(name: str, value: s.Expr, scope: Scope) -> float:
    layer = Layer(s.Name(name, value.span), value, scope.unit)
    return float(expect(scope.context.evaluator.value(value, scope.unit, scope.record), NUMBER, layer).value)


def _word(option: s.Field, choices: tuple[str, ...], scope: Scope) -> str:
    name, value = option.name.text, option.value
    if name == "weights" and isinstance(value, s.Ref) and is_storage(value.name):
        return value.name
    code = "E217" if name == "weights" else "E210"
    if not isinstance(value, s.Ref):
        raise Wrong("E210", f"`{name}` must be one of {', '.join(choices[:4])}", value.span)
    if value.name not in choices:
        what = "number format" if name == "weights" else name
        raise Wrong(code, f"there is no {what} `{value.name}`", value.span, hint=scope.suggest(value.name, choices))
    return value.name


# ---- the block


def _body(body: s.Body, x: Typed, name: str, of: str, outer: Terms) -> tuple[tuple[Statement, ...], Dims]:
    """The statements of the block, of which the last has no target, and the dimensions of the result."""
    *items, last = body.items or (None,)
    if not isinstance(last, s.Bare):
        hint = "for example `g @ w_down[expert_ffn, hidden]`"
        message = "the block of `experts` must end with its result: an expression without a name"
        raise Wrong("E213", message, body.span, hint=hint)
    inner = _Inside(outer.scope, of)
    inner.bind(name, x.dims, None)
    statements = [*inner.statements(tuple(items))]
    result = inner.attempt(last.value)
    outer.failed |= inner.failed
    if inner.failed or result is None:
        raise Follows
    inner.warn_unused("")
    for weight, seen in inner.weights.items():
        _adopt_weight(weight, seen, of, outer)
    return (*statements, Statement("", result.term, last.span)), result.dims


def _adopt_weight(name: str, seen: Seen, of: str, outer: Terms) -> None:
    """Record a weight of the experts in the block around them: its name is used up, and its dimensions are used."""
    whole_dims = (of, *(seen.dims or ()))
    if name in outer.values:
        raise Wrong("E213", f"`{name}` is a value of this block, not a weight", seen.span)
    first = outer.weights.setdefault(name, Seen(whole_dims, seen.span))
    if first.dims != whole_dims:
        labels = (Label(first.span, f"here it is {dims_text(first.dims or ())}"),) if first.span else ()
        message = f"weight `{name}` is named again with other dimensions"
        hint = f"inside `experts` every weight has `{of}` as its first dimension; give this weight another name"
        raise Wrong("E213", message, seen.span, label=f"here {dims_text(whole_dims)}", labels=labels, hint=hint)


class _Inside(Terms):
    """Reads the statements in the block of `experts`, which apply to one token at one expert."""

    def __init__(self, scope: Scope, of: str) -> None:
        super().__init__(scope)
        self.of = of

    def weight(self, index: s.Index) -> Typed:
        """A weight of one expert; in the term, the dimension of the experts comes first."""
        typed = super().weight(index)
        if self.of in typed.dims:
            hint = f"inside `experts` every weight has the dimension `{self.of}` without saying so: leave it out"
            raise Wrong("E213", f"`{self.of}` is given in a weight inside `experts`", index.span, hint=hint)
        return Typed(Weight(index.name.text, (self.of, *typed.dims), index.span), typed.dims)

    def _choice(self, item: s.Field, call: s.Call) -> Statement:
        self._check_allowed(call)
        return super()._choice(item, call)

    def _call(self, call: s.Call) -> Typed:
        self._check_allowed(call)
        return super()._call(call)

    def _check_allowed(self, call: s.Call) -> None:
        if call.func.text not in MAPS:
            hint = f"allowed inside: `@`, `+`, `-`, `*` and {', '.join(MAPS)}"
            raise Wrong("E213", f"`{call.func.text}` is not allowed inside `experts`", call.func.span, hint=hint)

"""The functions of the block language: the arguments of each, and the dimensions of its result."""

from math import inf
from typing import NamedTuple, TypeAlias

from plandsl import limits
from plandsl.diagnostics import Label
from plandsl.grammar import syntax as s
from plandsl.grammar.context import Context
from plandsl.grammar.evaluate import Value
from plandsl.grammar.modules import Unit, Wrong
from plandsl.grammar.records import Layer, Record
from plandsl.grammar.values import expect, flag, whole
from plandsl.ir.functions import MAPS
from plandsl.ir.names import Merged
from plandsl.spec.model import AMONG, INDEX, STATEFUL, STREAMS, Apply, Term, Weight
from plandsl.units import NUMBER

Dims: TypeAlias = "tuple[str, ...]"

STEP_DIMS = ("tokens", "batch")
"""The first dimension of values in a block (``tokens``) and in the head (``batch``)."""

NORMS = ("rms_norm", "layer_norm")
PARTS = ("query", "latent")
"""Functions that are allowed only as arguments of `attention(...)`."""

LOOKUPS = ("token", "position", "type")
"""What a `lookup` may pick rows by."""

FUNCTIONS = (
    *NORMS,
    *MAPS,
    "rope",
    "item",
    *STREAMS,
    "concat",
    "merge",
    "lookup",
    "attention",
    *PARTS,
    INDEX,
    *STATEFUL,
    "experts",
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "rms_norm": ("over", "gain", "groups"),
    "layer_norm": ("over", "gain", "groups"),
    "clamp": ("low", "high"),
    "concat": ("into",),
    "merge": ("tokens", "into"),
    "lookup": ("by",),
    "recurrence": ("step", "rate", "write", "skip", "delta", "normalize", "slopes", "chunk"),
    "rope": ("first",),
    "item": ("over", "at"),
    "stack": ("into",),
    "spread": ("into", "first"),
    "excess": ("share",),
    "mix": ("over", "by"),
    "match": ("over",),
    INDEX: ("top_k",),
    "attention": ("window", "chunk", "causal", "softcap", "alibi", AMONG),
    "experts": ("top_k", "score", "normalize", "scale", "weigh", "imbalance", "weights"),
}


FORMS = {
    "attention": "attention(q, k, v)",
    "concat": "concat(x, e, into = pair)",
    "mix": "mix(x, c, over = streams, by = mixed)",
    "match": "match(x, e, over = wide)",
    "stack": "stack(a, b, into = streams)",
}
"""How functions of more than one tensor are written."""

MOST = 1e12
"""Largest number that a tensor is clamped to, or multiplied by."""

CLAMPED = "for example `clamp(x, low = -7, high = 7)`, or one of the two"


class Typed(NamedTuple):
    """A term and the dimensions of its value."""

    term: Term
    dims: Dims


class Scope(NamedTuple):
    """The scope of a block: its model, its file, and the sizes of the model's dimensions."""

    context: Context
    record: Record
    unit: Unit
    sizes: dict[str, int]

    def suggest(self, word: str, names: tuple[str, ...]) -> str:
        """A hint at the known name nearest to ``word``."""
        return self.context.library.suggest(word, iter(names))


def dims_text(dims: Dims) -> str:
    """``[tokens, hidden]``."""
    return f"[{', '.join(dims)}]"


def check_call(call: s.Call, scope: Scope) -> None:
    """Raise `Wrong` unless the function exists and has every option that the call gives."""
    name = call.func.text
    if name not in FUNCTIONS:
        hint = scope.suggest(name, FUNCTIONS)
        raise Wrong("E201", f"there is no function `{name}`", call.func.span, hint=hint)
    if call.body is not None and name != "experts":
        raise Wrong("E213", f"`{name}(...)` takes no block", call.body.span)
    known = OPTIONS.get(name, ())
    for number, option in enumerate(call.kwargs):
        if option.name.text not in known:
            message = f"`{name}` has no option `{option.name.text}`"
            raise Wrong("E206", message, option.name.span, hint=scope.suggest(option.name.text, known))
        if option.name.text in [other.name.text for other in call.kwargs[:number]]:
            raise Wrong("E202", f"option `{option.name.text}` is given twice", option.name.span)


def apply(call: s.Call, args: list[Typed], scope: Scope) -> Typed:
    """The term of a checked call."""
    name = call.func.text
    if name == "lookup":
        return _lookup(call, args, scope)
    wanted = {"attention": 3, "concat": 2, "mix": 2, "match": 2, "stack": max(len(args), 2)}.get(name, 1)
    if len(args) != wanted and not (name == "attention" and len(args) == 4):
        form = FORMS.get(name, f"{name}(x)")
        message = f"`{name}` takes {wanted} tensor{'s' * (wanted > 1)}, found {len(args)}"
        raise Wrong("E213", message, call.span, hint=f"write `{form}`")
    for arg, expr in zip(args[:wanted], call.args, strict=False):
        if isinstance(arg.term, Weight):
            hint = "give it a computed value"
            raise Wrong("E213", f"`{name}` cannot be applied to a weight alone", expr.span, hint=hint)
    if name == "attention":
        return _attention(call, args, scope)
    if name == "concat":
        return _concat(call, args, scope)
    if name in STREAMS or name == "item":
        return _streams(call, args, scope)
    if name == "merge":
        from plandsl.grammar.merging import merge_tokens

        return merge_tokens(call, args[0], scope)
    if name == "rope" and isinstance(args[0].dims[0], Merged):
        raise Wrong("E548", "merged tokens have no positions to turn by", call.span, hint="`rope` before `merge`")
    return Typed(Apply(name, (args[0].term,), _options(name, call, args[0], scope), call.span), args[0].dims)


def _streams(call: s.Call, args: list[Typed], scope: Scope) -> Typed:
    from plandsl.grammar import streams

    match call.func.text:
        case "stack":
            return streams.stack(call, args, scope)
        case "mix":
            return streams.mix(call, args, scope)
        case "match":
            return streams.match(call, args, scope)
        case "spread":
            return streams.spread(call, args[0], scope)
        case "excess":
            return streams.excess(call, args[0], scope)
        case _:
            return streams.item(call, args[0], scope)


def _options(name: str, call: s.Call, x: Typed, scope: Scope) -> tuple[tuple[str, int | float | bool | str], ...]:
    """The keyword arguments of a function of one tensor."""
    match name:
        case "rms_norm" | "layer_norm":
            return _norm_options(call, x, scope)
        case "clamp":
            return _bounds(call, scope)
        case "rope":
            _check_pairs(call, x, scope)
            return tuple(_first(option, x, scope) for option in call.kwargs)
        case _:
            return ()


def _check_pairs(call: s.Call, x: Typed, scope: Scope) -> None:
    """Raise `Wrong` (E214) where a `rope` that turns all elements has one that is in no pair."""
    last = x.dims[-1]
    size = scope.sizes.get(last, 0)
    if call.kwargs or size % 2 == 0:
        return
    why = f"`rope` turns pairs of elements, and `{last}` has {size:,}"
    given = scope.record.fields.get(last, ())[-1:]
    labels = tuple(Label(layer.value.span, "an odd number") for layer in given if not isinstance(layer.value, Record))
    turned = f", or turn a part: `rope(..., first = {size - 1})`" if size > 2 else ""
    raise Wrong("E214", why, call.span, labels=labels, hint=f"make `{last}` even{turned}")


def _first(option: s.Field, x: Typed, scope: Scope) -> tuple[str, int]:
    """``first`` of a `rope`: how many elements of the last dimension it turns, in pairs."""
    value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
    found = whole(value, Layer(option.name, option.value, scope.unit), 2, limits.MAX_DIMENSION)
    last = x.dims[-1]
    size = scope.sizes.get(last, 0)
    if size and found > size:
        why = f"`first = {found:,}`, but `{last}` has {size:,} elements"
        raise Wrong("E214", why, option.value.span, hint=f"`first` is at most {size:,}; leave it out to turn all")
    if found % 2:
        why = f"`rope` turns pairs of elements, and `first = {found:,}` is odd"
        raise Wrong("E214", why, option.value.span, hint=f"write `first = {found - 1}`")
    return "first", found


def _bounds(call: s.Call, scope: Scope) -> tuple[tuple[str, float], ...]:
    """``low`` and ``high`` of a `clamp`, which must have at least one of them."""
    found: dict[str, float] = {}
    for option in call.kwargs:
        value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
        bound = float(expect(value, NUMBER, Layer(option.name, option.value, scope.unit)).value)
        found[option.name.text] = bound
        if abs(bound) > MOST:
            why = f"`{option.name.text}` must be from {-MOST:g} to {MOST:g}"
            raise Wrong("E214", why, option.value.span, hint=CLAMPED)
    if not found:
        raise Wrong("E207", "`clamp` has neither `low` nor `high`", call.span, hint=CLAMPED)
    low, high = found.get("low", -inf), found.get("high", inf)
    if low >= high:
        raise Wrong("E214", f"`low = {low:g}` is not below `high = {high:g}`", call.span, hint=CLAMPED)
    return tuple(found.items())


TABLE = "lookup(w_table[vocab, hidden])"


def _lookup(call: s.Call, args: list[Typed], scope: Scope) -> Typed:
    """Rows of a table, picked by the id, the position or the type of each token."""
    table = args[0].term if len(args) == 1 else None
    if not isinstance(table, Weight) or len(table.dims) < 2:
        raise Wrong("E213", "`lookup` takes a weight of two dimensions or more", call.span, hint=f"`{TABLE}`")
    by = "token"
    for option in call.kwargs:
        if not isinstance(option.value, s.Ref) or option.value.name not in LOOKUPS:
            raise Wrong("E213", f"`by` must be one of {', '.join(LOOKUPS)}", option.value.span, hint="`by = position`")
        by = option.value.name
    options = () if by == "token" else (("by", by),)
    return Typed(Apply("lookup", (table,), options, call.span), ("tokens", *table.dims[1:]))


JOINED = FORMS["concat"]


def _concat(call: s.Call, args: list[Typed], scope: Scope) -> Typed:
    """The concatenation of two values along their last dimension; ``into`` names the last dimension of the result."""
    a, b = args
    if a.dims != b.dims or len(a.dims) < 2:
        labels = (Label(call.args[1].span, f"this is {dims_text(b.dims)}"),)
        why = "`concat` joins values of the same dimensions"
        raise Wrong("E213", why, call.args[0].span, label=f"this is {dims_text(a.dims)}", labels=labels, hint=JOINED)
    into = next((option.value for option in call.kwargs), None)
    if not isinstance(into, s.Ref) or into.name not in scope.sizes:
        hint = f"declare one, such as `pair = 2 * {a.dims[-1]}`, and write `{JOINED}`"
        raise Wrong(
            "E213", "`into` must name the last dimension of the result", into.span if into else call.span, hint=hint
        )
    have, wanted = scope.sizes[into.name], 2 * scope.sizes[a.dims[-1]]
    if have and wanted and have != wanted:
        message = f"`{into.name}` is {have:,}, but the result has {wanted:,} elements along it"
        raise Wrong("E213", message, into.span, hint=f"`{into.name} = 2 * {a.dims[-1]}`")
    term = Apply("concat", (a.term, b.term), (("into", into.name),), call.span)
    return Typed(term, (*a.dims[:-1], into.name))


def _norm_options(call: s.Call, x: Typed, scope: Scope) -> tuple[tuple[str, str], ...]:
    given = {option.name.text: option.value for option in call.kwargs}
    over = x.dims[-1]
    if (value := given.get("over")) is not None:
        over = _dim_option(value, x, scope)
    if over in STEP_DIMS:
        raise Wrong("E213", f"a norm over `{over}` would mix tokens", call.span)
    made = [("over", over)]
    if (gain := given.get("gain")) is not None:
        if not isinstance(gain, s.Ref) or gain.name != "none":
            raise Wrong("E213", "`gain` can only be `none`", gain.span, hint="leave it out to have a gain")
        made.append(("gain", "none"))
    if (groups := given.get("groups")) is not None:
        made.append(("groups", _norm_groups(groups, x, over, scope)))
    return tuple(made)


def _norm_groups(value: s.Expr, x: Typed, over: str, scope: Scope) -> str:
    """The dimension that says into how many groups the dimension before ``over`` falls."""
    at = x.dims.index(over)
    heads = x.dims[at - 1] if at else ""
    if not heads or heads in STEP_DIMS:
        why = f"there are no heads before `{over}` of {dims_text(x.dims)} that could form groups"
        raise Wrong(
            "E575", why, value.span, hint="leave `groups` out, or split the dimension: `w[hidden, heads, head_dim]`"
        )
    example = f"declare how many, such as `groups = 8`, and write `groups = groups`; it divides `{heads}`"
    if not isinstance(value, s.Ref) or value.name not in scope.sizes:
        raise Wrong("E575", "`groups` must name a dimension that says how many there are", value.span, hint=example)
    have, count = scope.sizes[heads], scope.sizes[value.name]
    if have and count and have % count:
        why = f"`{heads}` is {have:,}, which {count:,} groups (`{value.name}`) do not divide"
        raise Wrong("E575", why, value.span, hint=example)
    return value.name


def _dim_option(value: s.Expr, x: Typed, scope: Scope) -> str:
    if not isinstance(value, s.Ref):
        raise Wrong("E213", "`over` must name a dimension", value.span, hint=f"`over = {x.dims[-1]}`")
    if value.name not in x.dims:
        hint = scope.suggest(value.name, x.dims)
        raise Wrong("E213", f"`over = {value.name}`, but the tensor is {dims_text(x.dims)}", value.span, hint=hint)
    return value.name


def _attention(call: s.Call, args: list[Typed], scope: Scope) -> Typed:
    q, k, v, *sinks = args
    labels = tuple(
        Label(expr.span, f"{name} is {dims_text(x.dims)}")
        for name, expr, x in zip("qkv", call.args, (q, k, v), strict=False)
    )
    if reason := _attention_mistake(q.dims, k.dims, v.dims, scope.sizes):
        hint = "`attention` needs q[tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim]"
        raise Wrong("E213", reason, call.func.span, labels=labels, hint=hint)
    for sink, expr in zip(sinks, call.args[3:], strict=True):
        if not isinstance(sink.term, Weight) or sink.dims != q.dims[1:2]:
            hint = f"write `w_sinks[{q.dims[1]}]`: one logit for each head, added to the denominator of its softmax"
            why = "the fourth argument of `attention` must be a weight with one sink logit for each query head"
            raise Wrong("E227", why, expr.span, hint=hint)
    term = Apply("attention", tuple(x.term for x in args), attention_options(call, scope), call.span)
    return Typed(term, (*q.dims[:-1], v.dims[-1]))


def _attention_mistake(q: Dims, k: Dims, v: Dims, sizes: dict[str, int]) -> str:
    if any(len(dims) != 3 or dims[0] != "tokens" for dims in (q, k, v)):
        return "`attention` needs three tensors of tokens, heads and a dimension of each head"
    if q[2] != k[2]:
        return f"queries and keys must end in the same dimension, found `{q[2]}` and `{k[2]}`"
    if k[1] != v[1]:
        return f"keys and values must have the same heads, found `{k[1]}` and `{v[1]}`"
    heads, shared = sizes[q[1]], sizes[k[1]]
    if heads and shared and heads % shared:
        return f"{heads} `{q[1]}` cannot share {shared} `{k[1]}` evenly"
    return ""


def attention_options(call: s.Call, scope: Scope) -> tuple[tuple[str, int | float | bool], ...]:
    """The keyword arguments of a call of `attention`."""
    given = {option.name.text: option.value for option in call.kwargs}
    if "window" in given and "chunk" in given:
        hint = "a window moves with the query, chunks are fixed: leave one of the two out"
        raise Wrong("E228", "one attention has both `window` and `chunk`", given["chunk"].span, hint=hint)
    return tuple(_attention_option(option, scope) for option in call.kwargs)


def _attention_option(option: s.Field, scope: Scope) -> tuple[str, int | float | bool]:
    value = scope.context.evaluator.value(option.value, scope.unit, scope.record)
    layer = Layer(option.name, option.value, scope.unit)
    if option.name.text in ("window", "chunk"):
        return option.name.text, whole(value, layer, 1, limits.MAX_DIMENSION)
    if option.name.text == "softcap":
        return "softcap", _cap(value, layer)
    return option.name.text, flag(value, layer)


def _cap(value: Value, layer: Layer) -> float:
    """The number that scores stay below."""
    found = float(expect(value, NUMBER, layer).value)
    if not 1 / MOST <= found <= MOST:
        why = f"`softcap` must be from {1 / MOST:g} to {MOST:g}"
        raise Wrong("E214", why, layer.value.span, hint="for example `softcap = 50`; leave it out for none")
    return found

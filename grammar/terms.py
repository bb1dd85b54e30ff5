"""The block language: from expressions over named dimensions to terms, with their dimensions checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plandsl import limits
from plandsl.diagnostics import Label, Span
from plandsl.grammar import syntax as s
from plandsl.grammar.earlier import Handing, take_earlier
from plandsl.grammar.functions import MOST, PARTS, STEP_DIMS, Dims, Scope, Typed, apply, check_call, dims_text
from plandsl.grammar.modules import Follows, Wrong
from plandsl.spec.model import AMONG, EARLIER, INDEX, STATEFUL, Apply, Statement, Var, Weight

ELEMENTWISE = {"+": "add", "-": "sub", "*": "mul"}
SCALED = "a number can multiply or divide a tensor, or be added to it: `x * 0.5`, `x / 2`, `x + 1`, `x - 1`"

_OPS_OF_STATEMENT = 4  # operations in one block, for each statement that it may have: statements may nest


class Seen(NamedTuple):
    """A value or weight that was read before: its dimensions (None if it was wrong), and its place.

    ``parts`` are the tensors of a group such as `query(qn, qr)`, which is not a tensor itself. A value that ``chooses``
    is a choice of keys, made by `index(...)`, and no tensor either.
    """

    dims: Dims | None
    span: Span | None
    parts: tuple[Typed, ...] = ()
    chooses: bool = False


class Argument(NamedTuple):
    """The argument of a block, whose dimensions the block must not change."""

    name: str
    dims: Dims


class Terms:
    """Translates the statements of one block, or a head. ``failed`` is true after a mistake."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.context = scope.context
        self.sizes = scope.sizes
        self.failed = False
        self.values: dict[str, Seen] = {}
        self.weights: dict[str, Seen] = {}
        self.unread: dict[str, Span] = {}
        self.lost: list[tuple[str, Span]] = []
        self.kept: Argument | None = None
        self.handing: Handing | None = None  # of a block of layers, the first of which is `first_layer`
        self.first_layer = 0
        self._depth = 0
        self._ops = 0

    def bind(self, name: str, dims: Dims, span: Span | None) -> Seen:
        """Give a block or a head its argument."""
        self.kept = Argument(name, dims)
        self.values[name] = seen = Seen(dims, span)
        return seen

    # ---- statements

    def statements(self, items: tuple[s.Item, ...]) -> Iterator[Statement]:
        """The statements of a body; after a finding, reading continues with the next statement."""
        for number, item in enumerate(items):
            if not isinstance(item, s.Field):
                self.note(_statement_error(item))
            elif number >= limits.MAX_STATEMENTS:
                why = f"a block has at most {limits.MAX_STATEMENTS} statements, found {len(items):,}"
                hint = limits.MAX_STATEMENTS.hint("split it into blocks", len(items))
                self.note(Wrong("E214", why, item.span, hint=hint))
                return
            elif (statement := self._statement(item)) is not None:
                yield statement

    def _statement(self, item: s.Field) -> Statement | None:
        name = item.name
        try:
            if isinstance(item.value, s.Call) and item.value.func.text in PARTS:
                return self._group(item, item.value)
            if isinstance(item.value, s.Call) and item.value.func.text == INDEX:
                return self._choice(item, item.value)
            typed = self.term(item.value)
            self._bind(name, typed)
            return Statement(name.text, typed.term, item.span)
        except Wrong as wrong:
            self.note(wrong)
            # the block's argument keeps its dimensions, so the next statements can be read as if this were right
            dims = self.kept.dims if self.kept and self.kept.name == name.text else None
            self.values[name.text] = Seen(dims, name.span)
            self.unread.pop(name.text, None)
            return None

    def _group(self, item: s.Field, call: s.Call) -> Statement:
        """``q = query(qn, qr)``: a name for a group of tensors, which only `attention` takes."""
        from plandsl.grammar.latent import group_parts

        typed = group_parts(call, call.func.text, self)
        dims = (*typed[0].dims, *typed[1].dims[-1:])
        term = Apply(call.func.text, tuple(x.term for x in typed), (), call.span)
        self._bind(item.name, Typed(term, dims))
        self.values[item.name.text] = Seen(dims, item.name.span, tuple(typed))
        return Statement(item.name.text, term, item.span)

    def _choice(self, item: s.Field, call: s.Call) -> Statement:
        """``picked = index(q, k, w, top_k = 2048)``: a name for a choice of keys, which only `among` takes."""
        from plandsl.grammar.index import choice_term

        typed = choice_term(call, self)
        self._bind(item.name, typed)
        self.values[item.name.text] = Seen(typed.dims, item.name.span, chooses=True)
        return Statement(item.name.text, typed.term, item.span)

    def note(self, wrong: Wrong) -> None:
        """Record a mistake."""
        self.failed = True
        self.context.library.record(wrong)

    def attempt(self, expr: s.Expr) -> Typed | None:
        """The term of an expression; None and a finding if it is wrong."""
        try:
            return self.term(expr)
        except Wrong as wrong:
            self.note(wrong)
            return None

    def _bind(self, name: s.Name, typed: Typed) -> None:
        if name.text in self.sizes:
            raise Wrong("E213", f"`{name.text}` is a dimension of this model, not a value", name.span)
        if (lost := self.unread.get(name.text)) is not None:
            self.lost.append((name.text, lost))
        self.values[name.text] = Seen(typed.dims, name.span)
        self.unread[name.text] = name.span

    def warn_unused(self, result: str) -> None:
        """Warn of every value that nothing reads, except the block's ``result``."""
        self.unread.pop(result, None)
        for name, span in (*self.lost, *self.unread.items()):
            hint = "remove the statement, or use its result"
            self.context.library.record(Wrong("W201", f"nothing uses this value of `{name}`", span, hint=hint))

    # ---- terms

    def term(self, expr: s.Expr) -> Typed:
        """The term of an expression."""
        self._depth += 1
        self._ops += 1
        self.context.library.spend(expr.span)
        try:
            if self._depth > 2 * limits.MAX_NESTING or self._ops > _OPS_OF_STATEMENT * limits.MAX_STATEMENTS:
                raise Wrong(
                    "E214",
                    "this block is too long",
                    expr.span,
                    hint=limits.MAX_STATEMENTS.hint("split it into statements"),
                )
            return self._term(expr)
        finally:
            self._depth -= 1

    def _term(self, expr: s.Expr) -> Typed:
        match expr:
            case s.Ref():
                return self._var(expr)
            case s.Index():
                return self.weight(expr)
            case s.Binary():
                return self._chain(expr)
            case s.Call():
                return self._call(expr)
            case s.Dot(base=s.Ref(name=name)) if name == EARLIER:
                return self._earlier(expr)
            case s.Num() | s.Unary(op="-", x=s.Num()):
                raise Wrong("E213", "expected a tensor, found a number", expr.span, hint=SCALED)
            case s.Unary(op="-"):
                hint = "subtract it: `a - b`, or multiply it: `x * -1`"
                raise Wrong("E213", "`-` needs a tensor on its left", expr.span, hint=hint)
            case _:
                raise Wrong("E213", "expected a tensor", expr.span, hint="values, weights, `@ + - *` and calls")

    def _var(self, ref: s.Ref) -> Typed:
        seen = self.values.get(ref.name)
        if seen is None:
            hint = self.context.library.suggest(ref.name, iter(self.values))
            if ref.name in self.sizes:
                hint = f"`{ref.name}` is a dimension; a weight is written `w[{ref.name}]`"
            raise Wrong("E201", f"there is no value `{ref.name}` here", ref.span, hint=hint)
        self.unread.pop(ref.name, None)
        if seen.dims is None:
            raise Follows
        if seen.parts:
            labels = (Label(seen.span, "made here"),) if seen.span else ()
            message = f"`{ref.name}` is a group of tensors, which only `attention` takes"
            raise Wrong("E213", message, ref.span, labels=labels, hint="`attention(query(...), latent(...))`")
        if seen.chooses:
            labels = (Label(seen.span, "made here"),) if seen.span else ()
            message = f"`{ref.name}` is a choice of keys, and no tensor"
            raise Wrong("E531", message, ref.span, labels=labels, hint=f"`attention(q, k, v, among = {ref.name})`")
        return Typed(Var(ref.name, ref.span), seen.dims)

    def _earlier(self, dot: s.Dot) -> Typed:
        """``earlier.k``: what an earlier layer made."""
        typed, seen = take_earlier(dot, self)
        if seen.chooses:
            labels = (Label(seen.span, "made here"),) if seen.span else ()
            name = dot.name.text
            message = f"`{name}` is a choice of keys, and no tensor"
            hint = f"`attention(q, k, v, among = earlier.{name})`"
            raise Wrong("E531", message, dot.span, labels=labels, hint=hint)
        return typed

    def weight(self, index: s.Index) -> Typed:
        """A parameter tensor; it must have the same dimensions wherever it is named."""
        name = index.name.text
        dims = tuple(dim.text for dim in index.dims)
        self.check_dims(index.dims)
        if name in self.values:
            hint = f"write `{name}` alone, or give the weight another name"
            raise Wrong("E213", f"`{name}` is a value of this block, not a weight", index.span, hint=hint)
        first = self.weights.setdefault(name, Seen(dims, index.span))
        if first.dims != dims:
            labels = (Label(first.span, f"here it is {dims_text(first.dims or ())}"),) if first.span else ()
            message = f"weight `{name}` is named again with other dimensions"
            hint = "give both the same dimensions, or different names"
            raise Wrong("E213", message, index.span, label=f"here {dims_text(dims)}", labels=labels, hint=hint)
        return Typed(Weight(name, dims, index.span), dims)

    def check_dims(self, dims: tuple[s.Name, ...], *also: str) -> None:
        """Check that every dimension is a dimension of the model (or in ``also``), and is given once."""
        for number, dim in enumerate(dims):
            if dim.text not in self.sizes and dim.text not in also:
                hint = self.context.library.suggest(dim.text, iter((*self.sizes, *also)))
                if dim.text in STEP_DIMS:
                    hint = "a weight has dimensions of the model only"
                raise Wrong("E201", f"this model has no dimension `{dim.text}`", dim.span, hint=hint)
            if dim.text in [other.text for other in dims[:number]]:
                raise Wrong("E213", f"dimension `{dim.text}` is given twice in one tensor", dim.span)

    # ---- operators

    def _chain(self, expr: s.Binary) -> Typed:
        """``a + b + c``: a loop along the left side, so that a long chain needs no deep recursion."""
        links = [expr]
        while isinstance(links[-1].a, s.Binary):
            links.append(links[-1].a)
        out = self._side(links[-1].a)
        for link in reversed(links):
            self._ops += 1
            if self._ops > _OPS_OF_STATEMENT * limits.MAX_STATEMENTS:
                raise Wrong(
                    "E214",
                    "this block is too long",
                    expr.span,
                    hint=limits.MAX_STATEMENTS.hint("split the model into blocks"),
                )
            right = self._side(link.b)  # even where the left is wrong: one run finds all mistakes
            out = self._binary(link, out, right) if out is not None and right is not None else None
        if out is None:
            raise Follows
        if isinstance(out, float):
            raise Wrong("E213", "expected a tensor, found a number", expr.span, hint=SCALED)
        return out

    def _side(self, expr: s.Expr) -> Typed | float | None:
        """One side of an operator: a tensor or a plain number."""
        sign, inner = (-1.0, expr.x) if isinstance(expr, s.Unary) and expr.op == "-" else (1.0, expr)
        if isinstance(inner, s.Num) and inner.unit is None:
            return sign * float(inner.value)
        return self.attempt(expr)

    def _call(self, call: s.Call) -> Typed:
        check_call(call, self.scope)
        if call.func.text == "experts":
            from plandsl.grammar.experts import experts_term

            return experts_term(call, self)
        if call.func.text in PARTS:
            hint = "write it as an argument, `attention(query(...), latent(...))`, or give it a name"
            raise Wrong("E213", f"`{call.func.text}(...)` is not a tensor", call.func.span, hint=hint)
        if call.func.text == INDEX:
            hint = "give it a name, `picked = index(...)`, and write `attention(..., among = picked)`"
            raise Wrong("E531", "`index(...)` is a choice of keys, and no tensor", call.func.span, hint=hint)
        if call.func.text == "attention" and any(option.name.text == AMONG for option in call.kwargs):
            from plandsl.grammar.index import attention_among

            return attention_among(call, self)
        if call.func.text == "attention" and any(map(self._is_group, call.args)):
            from plandsl.grammar.latent import latent_attention

            return latent_attention(call, self)
        if call.func.text in STATEFUL:
            from plandsl.grammar.states import state_term

            return state_term(call, self)
        args = [self.attempt(arg) for arg in call.args]
        found = [arg for arg in args if arg]
        if len(found) < len(args):
            raise Follows
        return apply(call, found, self.scope)

    def _is_group(self, expr: s.Expr) -> bool:
        if isinstance(expr, s.Call):
            return expr.func.text in PARTS
        return isinstance(expr, s.Ref) and expr.name in self.values and bool(self.values[expr.name].parts)

    def _binary(self, expr: s.Binary, a: Typed | float, b: Typed | float) -> Typed | float:
        if isinstance(a, float) or isinstance(b, float):
            return _combine_number(expr, a, b)
        if expr.op == "@":
            return self._matmul(expr, a, b)
        if expr.op not in ELEMENTWISE:
            hint = "tensors have the operators `@`, `+`, `-`, `*`"
            raise Wrong("E213", f"`{expr.op}` is not an operator on tensors", expr.op_span, hint=hint)
        return _elementwise(expr, a, b)

    def _matmul(self, expr: s.Binary, a: Typed, b: Typed) -> Typed:
        text = self.context.library.text
        if isinstance(a.term, Weight):
            hint = f"write it `{text(expr.b.span)} @ {text(expr.a.span)}`"
            if not isinstance(b.term, Weight):
                raise Wrong("E213", "the weight must be on the right of `@`", expr.a.span, hint=hint)
            why = "both sides of `@` are weights"
            raise Wrong("E213", why, expr.span, hint="the left side must be a computed value")
        if not isinstance(b.term, Weight):
            hint = "products of two values belong in `attention(...)`"
            raise Wrong("E213", "the right of `@` must be a weight, such as `w[hidden, ffn]`", expr.b.span, hint=hint)
        shared = [dim for dim in a.dims if dim in b.dims]
        if not shared:
            labels = (Label(expr.b.span, f"this is {dims_text(b.dims)}"),)
            message = "the two sides of `@` share no dimension to contract"
            raise Wrong("E213", message, expr.a.span, label=f"this is {dims_text(a.dims)}", labels=labels)
        dims = tuple(d for d in (*a.dims, *b.dims) if d not in shared)
        return Typed(Apply("matmul", (a.term, b.term), (), expr.span), dims)


def _combine_number(expr: s.Binary, a: Typed | float, b: Typed | float) -> Typed | float:
    """A tensor and a number: multiplied, divided, added or subtracted; or the product or quotient of two numbers."""
    if expr.op in "+-" and isinstance(a, Typed) != isinstance(b, Typed) and (expr.op == "+" or isinstance(b, float)):
        return _add_number(expr, a, b)
    if expr.op not in "*/" or (expr.op == "/" and not isinstance(b, float)):
        raise Wrong("E213", f"`{expr.op}` cannot combine a tensor and a number in this way", expr.op_span, hint=SCALED)
    if isinstance(b, float):
        x, by = a, 1 / b if expr.op == "/" and b else b
    else:
        x, by = b, a if isinstance(a, float) else 1.0
    if not by or abs(by) > MOST or abs(by) < 1 / MOST:
        why = f"the number that multiplies a tensor must be from {1 / MOST:g} to {MOST:g} in absolute value"
        raise Wrong("E214", why, expr.span, hint=SCALED)
    if isinstance(x, float):
        return x * by
    if isinstance(x.term, Weight):
        raise Wrong("E213", "a weight cannot be multiplied by a number", expr.span, hint="leave the number out")
    return Typed(Apply("scale", (x.term,), (("by", by),), expr.span), x.dims)


def _add_number(expr: s.Binary, a: Typed | float, b: Typed | float) -> Typed:
    """``x + 1``, ``1 + x``, ``x - 1``."""
    x, by = (a, b) if isinstance(a, Typed) else (b, a)
    assert isinstance(x, Typed), "one side is a tensor"
    assert isinstance(by, float), "the other side is a number"
    if isinstance(x.term, Weight):
        raise Wrong("E213", "a number cannot be added to a weight", expr.span, hint="leave the number out")
    if not by or abs(by) > MOST or abs(by) < 1 / MOST:
        why = f"the number that is added to a tensor must be from {1 / MOST:g} to {MOST:g} in absolute value"
        raise Wrong("E214", why, expr.span, hint=SCALED)
    return Typed(Apply("plus", (x.term,), (("by", -by if expr.op == "-" else by),), expr.span), x.dims)


def _elementwise(expr: s.Binary, a: Typed, b: Typed) -> Typed:
    fn = ELEMENTWISE[expr.op]
    if isinstance(a.term, Weight) and isinstance(b.term, Weight):
        why = f"both sides of `{expr.op}` are weights"
        raise Wrong("E213", why, expr.span, hint="one side must be a computed value")
    narrow, wide = set(a.dims), set(b.dims)
    if wide <= narrow and not (isinstance(a.term, Weight) and wide == narrow):
        return Typed(Apply(fn, (a.term, b.term), (), expr.span), a.dims)
    if narrow <= wide and fn != "sub":  # the wider operand first: the other is repeated along it
        return Typed(Apply(fn, (b.term, a.term), (), expr.span), b.dims)
    labels = (Label(expr.b.span, f"this is {dims_text(b.dims)}"),)
    message = f"`{expr.op}` needs the same dimensions on both sides, or fewer of them on the right"
    raise Wrong("E213", message, expr.a.span, label=f"this is {dims_text(a.dims)}", labels=labels)


def _statement_error(item: s.Item) -> Wrong:
    if isinstance(item, s.Bare):
        hint = "name its result: `y = ...`"
        return Wrong("E213", "a statement of a block is `name = expression`", item.span, hint=hint)
    return Wrong("E213", f"a {type(item).__name__.lower()} does not belong in a block", item.span)

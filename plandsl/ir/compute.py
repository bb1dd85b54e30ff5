"""Operations that compute: their fields, the types of their results, and when they are legal.

Most ops state a sharding rule (`plandsl.ir.rule`), from which types, findings and layouts follow. The cache and
attention define ``infer`` and ``verify`` instead. ``span`` is where the user's plan asked for the op. ``fused`` are
names of fusions by which the op runs in the kernel of an op before it (`plandsl.ir.fusions`); it changes no result.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, BaseOp, Facts, finding, span_field
from plandsl.ir.functions import measured_map
from plandsl.ir.names import MOMENTS, Merged, axes_of, stem
from plandsl.ir.rule import Regular, Rule
from plandsl.ir.types import Dim, TensorType, Value
from plandsl.values import once


@frozen(eq=False, repr=False, slots=False)
class Embed(Regular):
    """Rows of ``table`` picked by token ids; a table split on its first dimension leaves a partial sum."""

    keyword: ClassVar[str] = "embed"
    facts: ClassVar[Facts] = Facts(COMPUTE, "embedding", "embedding", measured="embedding")
    TWICE: ClassVar[str] = "embed of ids and table split on one axis"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("ids", "table")
    out: Value
    ids: Value
    table: Value
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """``ids: [batch, position]``, ``table: [vocab, hidden]`` -> ``[batch, position, hidden]``."""
        vocab, *rest = self.table.type.names
        dims = (*self.ids.type.names, *rest)
        return (Rule((self.ids, self.table), dims, self.out.type.dtype, contracts=(vocab,), stay=(self.table,)),)

    @property
    def touches(self) -> tuple[TensorType, ...]:
        """The ids, the rows of the table that they pick, and the result."""
        out = self.out.type
        return (self.ids.type, TensorType(self.table.type.dtype, out.dims), out)

    @property
    def title(self) -> str:
        """As a report calls such ops."""
        return "embedding"


@frozen(eq=False, repr=False, slots=False)
class Ids(BaseOp):
    """Numbers of this step's tokens ``[batch, position]``, which every rank has: their id, position or type, by ``of``.

    The type of a token is 0, as engines set it unless a request says otherwise.
    """

    keyword: ClassVar[str] = "ids"
    facts: ClassVar[Facts] = Facts(COMPUTE, "embedding", "embedding", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ()
    out: Value
    of: str = "token"
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As recorded: a rank has all of them."""
        return (self.out.type,)


@frozen(eq=False, repr=False, slots=False)
class Norm(Regular):
    """``fn`` (rms_norm or layer_norm) over dimension ``over``, times the optional ``gain``.

    With ``sums`` (`plandsl.ir.norms`), complete over all ranks, ``over`` may be split. With ``groups``, a dimension
    that says how many, neighbouring heads of a group are normalised together. The heads are the dimension before
    ``over``. A rank has whole groups.
    """

    keyword: ClassVar[str] = "norm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "norm", "norm", measured="rmsnorm")
    SPLIT: ClassVar[str] = "norm over '{dim}', which is split"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "gain", "sums")
    out: Value
    x: Value
    gain: Value | None = None
    fn: str = "rms_norm"
    over: str = "hidden"
    sums: Value | None = None
    fused: str | None = None
    groups: str | None = None
    span: Span | None = span_field()

    @property
    def heads(self) -> str:
        """The dimension of which ``groups`` are made."""
        names = self.x.type.names
        return names[names.index(self.over) - 1]

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``x``, with ``over`` whole unless its sums are given."""
        whole = self.over if self.sums is None else MOMENTS
        return (Rule(self.operands, self.x.type.names, self.x.type.dtype, whole=(whole,)),)


@frozen(eq=False, repr=False, slots=False)
class AddNorm(Regular):
    """``sum = a + b`` and ``out = norm(sum)`` in one pass over memory."""

    keyword: ClassVar[str] = "add_norm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "norm", "norm", measured="fused_add_rmsnorm")
    SPLIT: ClassVar[str] = "norm over '{dim}', which is split"
    RESULTS: ClassVar[tuple[str, ...]] = ("sum", "out")
    OPERANDS: ClassVar[tuple[str, ...]] = ("a", "b", "gain")
    sum: Value
    out: Value
    a: Value
    b: Value
    gain: Value | None = None
    fn: str = "rms_norm"
    over: str = "hidden"
    fused: str | None = None
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """Both results as ``a``, with ``over`` whole."""
        return (Rule(self.operands, self.a.type.names, self.a.type.dtype, whole=(self.over,)),) * 2

    def verify(self) -> Iterator[Diagnostic]:
        yield from Regular.verify(self)
        if self.a.type.names != self.b.type.names:
            yield finding("add_norm of tensors with different dimensions", self.span, str(self.b.type))


@frozen(eq=False, repr=False, slots=False)
class Gemm(Regular):
    """``out_i = x @ w_i``, all in one kernel: contracts the dimensions that ``x`` and ``w_i`` share.

    ``compute`` is the dtype it multiplies in. Contracting a split dimension leaves a partial sum.
    """

    keyword: ClassVar[str] = "gemm"
    facts: ClassVar[Facts] = Facts(COMPUTE, "gemm", "gemm", measured="gemm")
    APART: ClassVar[str] = "gemm of operands that split a shared dimension differently"
    TWICE: ClassVar[str] = "gemm uses one axis for two dimensions"
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "weights")
    outs: tuple[Value, ...]
    x: Value
    weights: tuple[Value, ...]
    compute: str = "bf16"
    span: Span | None = span_field()

    @property
    def each(self) -> tuple[str, str] | None:
        """A shared dimension that is not summed over (one product for each index): its names in ``x`` and in ``w``."""
        return None

    def contracted(self, i: int = 0) -> tuple[str, ...]:
        """Names of the dimensions that output ``i`` sums over."""
        return self._contracted[i]

    @once
    def _contracted(self) -> tuple[tuple[str, ...], ...]:
        """The same of each output."""
        have, each = self.x.type.names, self.each
        gone = () if each is None else each[1:]
        return tuple(tuple([n for n in w.type.names if n in have and n not in gone]) for w in self.weights)

    @once
    def multiplied(self) -> tuple[tuple[str, ...], ...]:
        """The dimensions of each product, whose sizes multiply to its pairs; ``experts:8`` rather than ``experts``."""
        rows = self.x.type.names
        return tuple(tuple({stem(n): n for n in (*w.type.names, *rows)}.values()) for w in self.weights)

    @once
    def sides(self) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
        """The dimensions of ``x`` that are kept, which make the rows, and those that the first output sums over."""
        inner = self.contracted()
        return tuple(d for d in self.x.type.dims if d.name not in inner), tuple(map(self.x.type.dim, inner))

    @once
    def rules(self) -> tuple[Rule, ...]:
        """Dimensions of ``x`` that are kept, then dimensions of ``w`` that are kept. The weights stay as they lie."""
        return tuple(self._rule(i) for i in range(len(self.weights)))

    def _rule(self, i: int) -> Rule:
        w, inner, each = self.weights[i], self.contracted(i), self.each
        gone = inner if each is None else (*inner, each[1])
        dims = [n for n in self.x.type.names if n not in inner] + [n for n in w.type.names if n not in gone]
        return Rule((self.x, w), tuple(dims), self.outs[i].type.dtype, contracts=inner, stay=(w,))

    def verify(self) -> Iterator[Diagnostic]:
        yield from Regular.verify(self)
        for i, w in enumerate(self.weights):
            if not self.contracted(i):
                yield finding(f"gemm contracts nothing with '{w.name}'", self.span, str(w.type))


@frozen(eq=False, repr=False, slots=False)
class Rope(Regular):
    """Rotary position embedding over ``head_dim`` of each operand, or over its ``first`` elements alone."""

    keyword: ClassVar[str] = "rope"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="rope")
    SPLIT: ClassVar[str] = "rope needs its last dimension whole"
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    outs: tuple[Value, ...]
    xs: tuple[Value, ...]
    first: int | None = None
    fused: str | None = None
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """Each result as its operand, with the last dimension whole."""
        return tuple(Rule((x,), x.type.names, x.type.dtype, whole=x.type.names[-1:]) for x in self.xs)


@frozen(eq=False, repr=False, slots=False)
class Map(Regular):
    """The function ``fn``, element by element: ``add mul silu gelu relu silu_mul ...``.

    Operands after the first may lack dimensions. ``limits`` (written by `plandsl.ir.limits`) clamps and shifts the
    operands first; ``clamp`` and ``plus`` do only that. Where the first operand is a partial sum along the ranks
    ``first``, whole operands are added to it on the first of these ranks alone.
    """

    keyword: ClassVar[str] = "map"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    APART: ClassVar[str] = "{op.fn} of tensors with different layouts"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    out: Value
    xs: tuple[Value, ...]
    fn: str
    limits: str | None = None
    first: str | None = None
    fused: str | None = None
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As the first operand. (The ``experts`` of a bias are the ``experts:8`` of the tokens: they share a stem.)"""
        first = self.xs[0].type
        return (Rule(self.xs, first.names, first.dtype),)

    @property
    def adds(self) -> bool:
        """Whether it adds values of one type: partial sums over the same axes then add up to another one."""
        first = self.xs[0].type
        return self.fn == "add" and not first.softmax and all(x.type == first for x in self.xs)

    @property
    def linear(self) -> tuple[Value, ...]:
        """All operands of a sum of partial sums, or the one that the first rank adds to; none of another function."""
        if self.first is not None:
            return self.xs[:1]
        return self.xs if self.adds else ()

    def verify(self) -> Iterator[Diagnostic]:
        yield from Regular.verify(self)
        if self.first is not None and (self.fn != "add" or frozenset(axes_of(self.first)) != self.xs[0].type.partial):
            yield finding(
                "an addition on the first of some ranks needs a partial sum along them", self.span, self.first
            )

    @property
    def measured_as(self) -> str:
        """The name under which its function was measured."""
        return measured_map(self.fn)

    @property
    def title(self) -> str:
        """The function's word; for an addition, ``sum`` (of partial sums), ``residual`` or ``bias``."""
        if self.fn != "add":
            return self.fn
        if self.adds and self.xs[0].type.partial:
            return "sum"
        return "residual" if self.xs[0].type.names == self.xs[1].type.names else "bias"


@frozen(eq=False, repr=False, slots=False)
class Concat(Regular):
    """Join ``xs`` along their last dimension, which is whole and has another name in the result."""

    keyword: ClassVar[str] = "concat"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    APART: ClassVar[str] = "concat of tensors with different layouts, or with a split last dimension"
    SPLIT: ClassVar[str] = APART
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    out: Value
    xs: tuple[Value, ...]
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """``[tokens, hidden]`` twice -> ``[tokens, pair]``."""
        (*rows, last), into = self.xs[0].type.names, self.out.type.names[-1]
        return (Rule(self.xs, (*rows, into), self.xs[0].type.dtype, whole=(last, into)),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from Regular.verify(self)
        for x in self.xs:
            if x.type.names != self.xs[0].type.names:
                yield finding(self.APART, self.span, str(x.type))


@frozen(eq=False, repr=False, slots=False)
class Merge(Regular):
    """One token of each ``tokens`` neighbours: ``[batch, position, ...]`` -> ``[batch, position/4, ...]``.

    Their rows are joined along the last dimension, which has another name in the result; where the last dimension keeps
    its name, the result is their mean. The positions and, if joined, the last dimension are whole. Where positions are
    no multiple of ``tokens``, rows of zeros follow the last one.
    """

    keyword: ClassVar[str] = "merge"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    tokens: int
    span: Span | None = span_field()

    @property
    def joins(self) -> bool:
        """Whether rows are joined, and not averaged."""
        return self.x.type.names[-1] != self.out.type.names[-1]

    @once
    def rules(self) -> tuple[Rule, ...]:
        """``[batch, position, hidden]`` -> ``[batch, position/4, merged]``, with positions and what is joined whole."""
        names, into = self.x.type.names, self.out.type.names[-1]
        dims = tuple(Merged(n, self.tokens) if n == "position" else n for n in names[:-1])
        ends = (names[-1], into) if self.joins else ()
        return (Rule((self.x,), (*dims, into), self.x.type.dtype, whole=("position", *ends)),)


@frozen(eq=False, repr=False, slots=False)
class Scale(Regular):
    """``x`` times a number."""

    keyword: ClassVar[str] = "scale"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    by: float
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``x``."""
        return (Rule((self.x,), self.x.type.names, self.x.type.dtype),)


@frozen(eq=False, repr=False, slots=False)
class Quantize(Regular):
    """``x`` converted to a narrower dtype, for a GEMM that multiplies in it."""

    keyword: ClassVar[str] = "quantize"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="static_quant_fp8")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    fused: str | None = None
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """As ``x``, in the result's dtype."""
        return (Rule((self.x,), self.x.type.names, self.out.type.dtype, stay=(self.x,)),)


@frozen(eq=False, repr=False, slots=False)
class CacheWrite(BaseOp):
    """Append this step's ``xs`` ``[batch, position, ...]`` to cache ``cache``; the results are the cache so far.

    The results are ``[batch, context, ...]`` in the dtype of the cache. Where ranks share the context, each rank
    writes the positions that it owns. The step's positions are then split like the context, or whole on every rank.
    ``transient``: the step is all that reads them, and nothing is kept, as in an encoder.
    """

    keyword: ClassVar[str] = "cache_write"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    outs: tuple[Value, ...]
    xs: tuple[Value, ...]
    cache: str
    transient: bool = False
    fused: str | None = None
    span: Span | None = span_field()

    @property
    def kept(self) -> tuple[Value, ...]:
        """The results, which outlive the step unless they are ``transient``."""
        return () if self.transient else self.outs

    def infer(self) -> tuple[TensorType, ...]:
        """As ``xs``, with ``position`` replaced by ``context``, split as in the recorded result."""
        return tuple(
            TensorType(
                out.type.dtype,
                tuple(Dim("context", out.type.on("context")) if d.name == "position" else d for d in x.type.dims),
            )
            for out, x in zip(self.outs, self.xs, strict=True)
        )

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        for x, out in zip(self.xs, self.outs, strict=True):
            if x.type.on("position") not in ((), out.type.on("context")):
                why = "cache_write needs positions that are whole or split like the context of the cache"
                yield finding(why, self.span, str(x.type))


@frozen(eq=False, repr=False, slots=False)
class Attention(BaseOp):
    """Softmax attention of ``q`` ``[batch, position, heads, head_dim]`` over cached keys and values.

    ``k, v: [batch, context, kv_heads, head_dim]``. ``window`` 0 is the whole context. With ``chunk``, positions are cut
    into chunks of this length, and a query sees only the keys of its own chunk. ``sinks: [heads]`` are logits: each
    adds ``exp(sink)`` to the denominator of its head's softmax, like a key without a value. Where mesh axes split the
    context, each rank makes a softmax over its own keys (`TensorType`), and the first rank includes the sink.
    ``among: [batch, position, picks]`` are the positions of the keys that each query picked (`plandsl.ir.index`): it
    sees no other keys. ``softcap`` c makes ``c tanh(score / c)`` of a score. With ``alibi``, a score falls with the
    distance between query and key, by a slope of the head (Press et al., "Train Short, Test Long", 2022).
    """

    keyword: ClassVar[str] = "attention"
    facts: ClassVar[Facts] = Facts(COMPUTE, "attention", "attention", measured="attention")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("q", "k", "v", "sinks", "among")
    out: Value
    q: Value
    k: Value
    v: Value
    causal: bool = True
    window: int = 0
    sinks: Value | None = None
    among: Value | None = None
    chunk: int | None = None
    softcap: float | None = None
    alibi: bool = False
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """``q`` with the value's last dimension; over the axes that share the context, a softmax over some keys."""
        dims, softmax = (*self.q.type.dims[:-1], self.v.type.dims[-1]), frozenset(self.k.type.on("context"))
        return (TensorType(self.out.type.dtype, dims, softmax=softmax),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        q, k, v = self.q.type, self.k.type, self.v.type
        if q.dims[-1].axes or k.dims[-1].axes or v.dims[-1].axes:
            yield finding("attention needs its last dimension whole", self.span, str(q))
        if q.axes & set(k.on("context")):
            yield finding("attention over keys split by context on an axis of the queries", self.span, str(k))
        if k.dims[:3] != v.dims[:3] or q.on("batch") != k.on("batch"):
            yield finding("attention operands have different layouts", self.span, str(k))
        shared = k.dims[2].axes
        if q.dims[2].axes[: len(shared)] != shared:
            yield finding("query and key heads are split differently", self.span, str(k))
        if self.sinks is not None and self.sinks.type.dims != q.dims[2:3]:
            yield finding("attention sinks and queries have different heads", self.span, str(self.sinks.type))
        if self.among is not None and self.among.type.dims[:2] != q.dims[:2]:
            yield finding("attention among keys that other queries picked", self.span, str(self.among.type))


@frozen(eq=False, repr=False, slots=False)
class LastToken(Regular):
    """The last position of each request: ``[batch, position, ...]`` -> ``[batch, ...]``.

    Where positions are split, only one rank holds the last position: the others add zero.
    """

    keyword: ClassVar[str] = "last_token"
    facts: ClassVar[Facts] = Facts(COMPUTE, "elementwise", "elementwise", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    span: Span | None = span_field()

    @once
    def rules(self) -> tuple[Rule, ...]:
        """Without ``position``; partial over the axes that split it."""
        x = self.x.type
        rest = tuple(n for n in x.names if n != "position")
        return (Rule((self.x,), rest, x.dtype, contracts=("position",), stay=(self.x,)),)

    @property
    def touches(self) -> tuple[TensorType, ...]:
        """The last rows, once read and once written."""
        return (self.out.type, self.out.type)


Compute: TypeAlias = (
    Embed | Ids | Norm | AddNorm | Gemm | Rope | Map | Concat | Merge | Scale | Quantize | Attention | LastToken
)
"""Every op of this module except `CacheWrite`: a device runs them on its own shards."""

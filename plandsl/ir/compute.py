"""Operations that compute: fields, the type each one makes, and what makes it legal.

``infer`` gives the result types from the operand types; ``verify`` yields every finding about the operands.
``span`` is where the user's plan asked for the op.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import BaseOp, finding, sharded_alike, span_field
from plandsl.ir.types import Dim, TensorType, Value, stem


@frozen
class Embed(BaseOp):
    """Rows of ``table`` picked by token ids; a table split on its first dimension leaves a partial sum."""

    keyword: ClassVar[str] = "embed"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("ids", "table")
    out: Value
    ids: Value
    table: Value
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """``ids: [batch, position]``, ``table: [vocab, hidden]`` -> ``[batch, position, hidden]``."""
        first, *rest = self.table.type.dims
        return (TensorType(self.out.type.dtype, (*self.ids.type.dims, *rest), frozenset(first.axes)),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        if self.ids.type.axes & self.table.type.axes:
            yield finding("embed of ids and table split on one axis", self.span, str(self.table.type))


@frozen
class Norm(BaseOp):
    """``fn`` (rms_norm or layer_norm) over dimension ``over``, times ``gain`` where there is one."""

    keyword: ClassVar[str] = "norm"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "gain")
    out: Value
    x: Value
    gain: Value | None = None
    fn: str = "rms_norm"
    over: str = "hidden"
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As ``x``."""
        return (self.x.type,)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        if self.x.type.on(self.over):
            yield finding(f"norm over '{self.over}', which is split", self.span, str(self.x.type))


@frozen
class AddNorm(BaseOp):
    """``sum = a + b`` and ``out = norm(sum)`` in one pass over memory."""

    keyword: ClassVar[str] = "add_norm"
    RESULTS: ClassVar[tuple[str, ...]] = ("sum", "out")
    OPERANDS: ClassVar[tuple[str, ...]] = ("a", "b", "gain")
    sum: Value
    out: Value
    a: Value
    b: Value
    gain: Value | None = None
    fn: str = "rms_norm"
    over: str = "hidden"
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Both as ``a``."""
        return (self.a.type, self.a.type)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        if self.a.type.dims != self.b.type.dims:
            yield finding("add_norm of tensors that lie differently", self.span, str(self.b.type))
        if self.a.type.on(self.over):
            yield finding(f"norm over '{self.over}', which is split", self.span, str(self.a.type))


@frozen
class Gemm(BaseOp):
    """``out_i = x @ w_i``: contracts the dimensions that ``x`` and ``w_i`` share, all in one kernel.

    ``compute`` is the dtype it multiplies in. Contracting a split dimension leaves a partial sum.
    """

    keyword: ClassVar[str] = "gemm"
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x", "weights")
    outs: tuple[Value, ...]
    x: Value
    weights: tuple[Value, ...]
    compute: str = "bf16"
    span: Span | None = span_field()

    @property
    def each(self) -> tuple[str, str] | None:
        """What ``x`` and the weights call a dimension that both have and no output sums over: a product for each."""
        return None

    def contracted(self, i: int = 0) -> tuple[str, ...]:
        """Names of the dimensions that output ``i`` sums over."""
        shared = (n for n in self.weights[i].type.names if n in self.x.type.names)
        return tuple(n for n in shared if self.each is None or n != self.each[1])

    def infer(self) -> tuple[TensorType, ...]:
        """Kept dimensions of ``x``, then kept dimensions of ``w``; partial over the contracted axes."""
        types = []
        for i, (out, w) in enumerate(zip(self.outs, self.weights, strict=True)):
            inner = self.contracted(i)
            dims = [d for d in self.x.type.dims if d.name not in inner]
            dims += [d for d in w.type.dims if d.name not in inner and (self.each is None or d.name != self.each[1])]
            partial = frozenset(a for n in inner for a in w.type.on(n))
            types.append(TensorType(out.type.dtype, tuple(dims), partial))
        return tuple(types)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        ours, theirs = self.each or ("", "")
        for i, w in enumerate(self.weights):
            inner = self.contracted(i)
            if not inner:
                yield finding(f"gemm contracts nothing with '{w.name}'", self.span, str(w.type))
            if not sharded_alike(self.x.type, w.type) or (ours and self.x.type.on(ours) != w.type.on(theirs)):
                yield finding("gemm of operands split differently where they meet", self.span, str(w.type))
            kept = {a for d in self.x.type.dims if d.name not in (*inner, ours) for a in d.axes}
            if kept & w.type.axes:
                yield finding("gemm uses one axis for two dimensions", self.span, str(w.type))


@frozen
class Rope(BaseOp):
    """Rotary position embedding over ``head_dim`` of each operand."""

    keyword: ClassVar[str] = "rope"
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    outs: tuple[Value, ...]
    xs: tuple[Value, ...]
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As the operands."""
        return tuple(x.type for x in self.xs)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        for x in self.xs:
            if x.type.dims[-1].axes:
                yield finding("rope needs its last dimension whole", self.span, str(x.type))


@frozen
class Map(BaseOp):
    """Element by element: ``add mul silu gelu relu silu_mul ...``; later operands may lack dimensions.

    ``limits`` are what is done to the operands first, as `plandsl.ir.limits` writes them; ``clamp`` and ``plus`` are
    nothing more than that.
    """

    keyword: ClassVar[str] = "map"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    out: Value
    xs: tuple[Value, ...]
    fn: str
    limits: str | None = None
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As the first operand."""
        return (self.xs[0].type,)

    @property
    def adds(self) -> bool:
        """Whether it adds values that lie alike: of partial sums over the same axes it makes another."""
        first = self.xs[0].type
        return self.fn == "add" and not first.softmax and all(x.type == first for x in self.xs)

    def verify(self) -> Iterator[Diagnostic]:
        if not self.adds:
            yield from BaseOp.verify(self)
        first = self.xs[0].type
        there = {stem(d.name): d.axes for d in first.dims}  # a bias of experts meets places of tokens at them
        for x in self.xs[1:]:
            if any(there.get(stem(d.name)) != d.axes for d in x.type.dims):
                yield finding(f"{self.fn} of tensors that lie differently", self.span, str(x.type))


@frozen
class Concat(BaseOp):
    """``xs`` one behind the other along their last dimension, which is whole and has another name in the result."""

    keyword: ClassVar[str] = "concat"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    out: Value
    xs: tuple[Value, ...]
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """``[tokens, hidden]`` twice -> ``[tokens, pair]``."""
        first = self.xs[0].type
        return (TensorType(first.dtype, (*first.dims[:-1], Dim(self.out.type.names[-1]))),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        for x in self.xs:
            if x.type.dims[-1].axes or x.type.dims[:-1] != self.xs[0].type.dims[:-1]:
                yield finding("concat of tensors that lie differently, or whose last dimension is split", self.span,
                              str(x.type))  # fmt: skip


@frozen
class Scale(BaseOp):
    """``x`` times a number."""

    keyword: ClassVar[str] = "scale"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    by: float
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As ``x``."""
        return (self.x.type,)


@frozen
class Quantize(BaseOp):
    """``x`` stored in a narrower dtype, as a GEMM in that dtype wants it."""

    keyword: ClassVar[str] = "quantize"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """As ``x``, in the result's dtype."""
        return (TensorType(self.out.type.dtype, self.x.type.dims, self.x.type.partial),)


@frozen
class CacheWrite(BaseOp):
    """Append this step's ``xs`` ``[batch, position, ...]`` to cache ``cache``; gives all of it so far.

    The results are ``[batch, context, ...]`` in the dtype of the cache. Where ranks share the context, each writes
    the positions that it owns: the step's are split like it, or whole on every rank, of which the owner keeps its own.
    """

    keyword: ClassVar[str] = "cache_write"
    RESULTS: ClassVar[tuple[str, ...]] = ("outs",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("xs",)
    outs: tuple[Value, ...]
    xs: tuple[Value, ...]
    cache: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """``position`` becomes ``context``, which lies as the result says."""
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
                why = "a cache is written with whole positions, or such as it is split by"
                yield finding(why, self.span, str(x.type))


@frozen
class Attention(BaseOp):
    """Softmax attention of ``q`` ``[batch, position, heads, head_dim]`` over cached keys and values.

    ``k, v: [batch, context, kv_heads, head_dim]``; ``window`` 0 is the whole context, and with a ``chunk`` a query sees
    keys of its own chunk of so many positions. ``sinks: [heads]`` are logits
    that join the sum below each softmax of their head, as keys without a value would. Over keys that axes of the mesh
    share, each rank makes a softmax over its own (`TensorType`); the sink is then one of the first rank's.
    """

    keyword: ClassVar[str] = "attention"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("q", "k", "v", "sinks")
    out: Value
    q: Value
    k: Value
    v: Value
    causal: bool = True
    window: int = 0
    sinks: Value | None = None
    chunk: int | None = None
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
            yield finding("attention operands lie differently", self.span, str(k))
        shared = k.dims[2].axes
        if q.dims[2].axes[: len(shared)] != shared:
            yield finding("query and key heads are split differently", self.span, str(k))
        if self.sinks is not None and self.sinks.type.dims != q.dims[2:3]:
            yield finding("attention sinks of other heads than the queries", self.span, str(self.sinks.type))


@frozen
class LastToken(BaseOp):
    """The last position of each request: ``[batch, position, ...]`` -> ``[batch, ...]``.

    Where positions are split, only the rank that owns the last one has it: the others add zero.
    """

    keyword: ClassVar[str] = "last_token"
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """Without ``position``; partial over the axes that split it."""
        dims = tuple(d for d in self.x.type.dims if d.name != "position")
        return (TensorType(self.x.type.dtype, dims, frozenset(self.x.type.on("position"))),)

"""Ops of layers that keep a state of fixed size for each request: short convolutions and recurrences.

A state is a result of its op, as a KV cache is: it outlives the step, and the next step of the request reads it by the
name of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, BaseOp, Facts, finding, span_field
from plandsl.ir.types import Dim, Number, TensorType, Value
from plandsl.spec.formats import item_bytes

if TYPE_CHECKING:
    from plandsl.ir.extents import Extents

TAIL = ".tail"
"""Ends the name of the dimension of tokens that a convolution keeps: ``conv_width.tail``, one less than the width."""

ROLES = ("step", "rate", "write", "skip")
"""What the further operands of a `Recurrence` may be, in this order."""


@frozen(eq=False, repr=False, slots=False)
class ShortConv(BaseOp):
    """Causal convolution along positions, each channel by itself, of one or several ``x``; then the function ``fn``.

    ``y_t = fn(sum_i w_i x_(t - width + 1 + i) + b)``, with ``x: [batch, position, channels...]``, ``w: [width,
    channels...]`` and an optional ``b: [channels...]``. The state of an ``x`` is its last ``width - 1`` tokens,
    ``[batch, width.tail, channels...]``. ``parts`` lists x, w and (if ``biased``) b of the first, then of the second;
    ``made`` the result and the state of each.
    """

    keyword: ClassVar[str] = "short_conv"
    facts: ClassVar[Facts] = Facts(COMPUTE, "short_conv", "recurrence", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("made",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("parts",)
    made: tuple[Value, ...]
    parts: tuple[Value, ...]
    state: str
    biased: bool = False
    fn: str | None = None
    span: Span | None = span_field()

    @property
    def outs(self) -> tuple[Value, ...]:
        """The convolved values."""
        return self.made[::2]

    @property
    def kept(self) -> tuple[Value, ...]:
        """The states."""
        return self.made[1::2]

    @property
    def xs(self) -> tuple[Value, ...]:
        """The values that are convolved."""
        return self.parts[:: 2 + self.biased]

    @property
    def weights(self) -> tuple[Value, ...]:
        """The weight of each."""
        return self.parts[1 :: 2 + self.biased]

    @property
    def biases(self) -> tuple[Value, ...]:
        """The bias of each; empty without."""
        return self.parts[2::3] if self.biased else ()

    def infer(self) -> tuple[TensorType, ...]:
        """Each result as its ``x``; its state has the width's tail in the place of positions."""
        made = []
        for x, kept in zip(self.xs, self.kept, strict=True):
            dims = tuple(Dim(kept.type.names[1]) if d.name == "position" else d for d in x.type.dims)
            made += [x.type, TensorType(kept.type.dtype, dims)]
        return tuple(made)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        for x, w in zip(self.xs, self.weights, strict=True):
            if x.type.on("position") or w.type.dims[0].axes:
                yield finding("short_conv needs all positions and all taps", self.span, str(x.type))
            if w.type.dims[1:] != x.type.dims[2:]:
                yield finding("short_conv of channels that are split unlike its weight", self.span, str(x.type))
        for x, b in zip(self.xs, self.biases, strict=False):
            if b.type.dims != x.type.dims[2:]:
                yield finding("short_conv of channels that are split unlike its bias", self.span, str(x.type))


@frozen(eq=False, repr=False, slots=False)
class Recurrence(BaseOp):
    """A state ``S: [batch, heads, n, p]`` that decays, takes in a product of key and value, and is read by a query.

        S_t = d_t S_(t-1) + k_t w_t (v_t - delta d_t S_(t-1)^T k_t)^T,    y_t = S_t^T q_t + skip v_t

    - ``q, k: [batch, position, groups, n]``, or without ``groups``; neighbouring heads share a group.
    - ``v: [batch, position, heads, p]``; without ``p`` each head has one value, and the state is ``[batch, heads, n]``.
    - The decay d is ``exp(-exp(rate) step)``; ``rate`` is ``[heads]`` or ``[heads, n]``, ``step`` the same for each
      token. With ``slopes``, head h of H (from 0) decays by ``exp(-2^(-8 (h + 1) / H))``. Otherwise d is 1.
    - ``write`` w: ``[batch, position, heads]``, 1 if it is missing; ``skip: [heads]``, 0 if it is missing.
    - ``delta`` is 1 (the delta rule) or 0. ``normalize`` divides q and k by their lengths first, and q by ``sqrt(n)``.

    ``more`` holds the operands that ``roles`` names. Kernels scan prompts in chunks of ``chunk`` tokens.
    """

    keyword: ClassVar[str] = "recurrence"
    facts: ClassVar[Facts] = Facts(COMPUTE, "recurrence", "recurrence", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out", "kept_state")
    OPERANDS: ClassVar[tuple[str, ...]] = ("q", "k", "v", "more")
    out: Value
    kept_state: Value
    q: Value
    k: Value
    v: Value
    more: tuple[Value, ...]
    state: str
    roles: str = ""
    delta: bool = False
    normalize: bool = False
    slopes: bool = False
    chunk: int = 64
    span: Span | None = span_field()

    @property
    def kept(self) -> tuple[Value, ...]:
        """The state."""
        return (self.kept_state,)

    def role(self, name: str) -> Value | None:
        """The operand with this role; None if it is missing."""
        return dict(zip(self.roles.split(), self.more, strict=True)).get(name)

    @property
    def scans(self) -> bool:
        """Whether each element of the state decays by itself, so that prompts are not products of matrices."""
        decay = (self.role(name) for name in ("step", "rate"))
        return any(x is not None and x.type.names[-1] == self.k.type.names[-1] for x in decay)

    def infer(self) -> tuple[TensorType, ...]:
        """The result as ``v``; the state has the heads of ``v``, the last dimension of ``k``, and that of ``v``."""
        batch, _, heads, *values = self.v.type.dims
        state = TensorType(self.kept_state.type.dtype, (batch, heads, self.k.type.dims[-1], *values))
        return (TensorType(self.v.type.dtype, self.v.type.dims), state)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        q, k, v = self.q.type, self.k.type, self.v.type
        heads = v.dims[2]
        for x in (q, k, v):
            if x.on("position") or x.on("batch") != v.on("batch"):
                yield finding("recurrence needs all positions of the same requests", self.span, str(x))
        if q.dims != k.dims or k.dims[-1].axes:
            yield finding("recurrence needs the last dimension of queries and keys whole", self.span, str(k))
        if len(k.dims) == 4 and heads.axes[: len(k.dims[2].axes)] != k.dims[2].axes:
            yield finding("heads and their groups are split differently", self.span, str(k))
        for x in (more.type for more in self.more):
            if x.on(heads.name) != heads.axes or x.on("position") or x.on(k.names[-1]):
                yield finding("recurrence operands have different layouts", self.span, str(x))


States: TypeAlias = ShortConv | Recurrence
"""Every op of this module."""


def state_bytes(ops: Iterable[BaseOp], extents: Extents, guesses: int = 0) -> Number:
    """Bytes of the state of one request that ``ops`` of one layer keep on a rank; 0 without a state.

    With ``guesses`` the convolutions keep as many tokens more, and each guess has another state beside this one.
    """
    total: Number = 0.0
    for op in ops:
        if isinstance(op, States):
            for kept in op.kept:
                size = extents.product(d for d in kept.type.dims if d.name != "batch") * item_bytes(kept.type.dtype)
                if isinstance(op, ShortConv):
                    size = size * (1 + guesses / extents.sizes[kept.type.names[1]])
                total = total + size
    return total


def token_bytes(kept: tuple[Value, ...], extents: Extents) -> Number:
    """Bytes that one token takes in a cache on a rank."""
    total: Number = 0.0
    for out in kept:
        rest = extents.product(d for d in out.type.dims if d.name not in ("batch", "context"))
        total = total + rest * item_bytes(out.type.dtype)
    return total

"""Ops of layers that keep a state of fixed size for each request: short convolutions and recurrences.

A state is a result of its op, as a KV cache is: it outlives the step, and the next step of the request reads it by the
name of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from attrs import frozen

from plandsl.diagnostics import Diagnostic, Span
from plandsl.ir.base import COMPUTE, BaseOp, Facts, finding, span_field
from plandsl.ir.names import Blocks
from plandsl.ir.types import Dim, Number, TensorType, Value
from plandsl.spec.formats import item_bytes

if TYPE_CHECKING:
    from plandsl.ir.extents import Extents

TAIL = ".tail"
"""Ends the name of the dimension of tokens that a convolution keeps: ``conv_width.tail``, one less than the width."""

HANDED = ".decay", ".matrix"
"""Ends the name of the dimension of what a block of positions does to a row of a state: see `BlockState`."""

BLOCKS = "blocks"
"""The role of what all blocks of positions do to a state."""

ROLES = ("step", "rate", "write", "skip", BLOCKS)
"""What the further operands of a `Recurrence` may be, in this order."""


@frozen(eq=False, repr=False, slots=False)
class ShortConv(BaseOp):
    """Causal convolution along positions, each channel by itself, of one or several ``x``; then the function ``fn``.

    ``y_t = fn(sum_i w_i x_(t - width + 1 + i) + b)``, with ``x: [batch, position, channels...]``, ``w: [width,
    channels...]`` and an optional ``b: [channels...]``. The state of an ``x`` is its last ``width - 1`` tokens,
    ``[batch, width.tail, channels...]``. ``parts`` lists x, w and (if ``biased``) b of the first, then of the second;
    ``made`` the result and the state of each.

    Where axes split the positions, the `BlockTail` of every block follows each x, w and b (``handed``): a block begins
    with the last tokens before it, and the state is what the last block leaves.
    """

    keyword: ClassVar[str] = "short_conv"
    facts: ClassVar[Facts] = Facts(COMPUTE, "short_conv", "recurrence", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("made",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("parts",)
    made: tuple[Value, ...]
    parts: tuple[Value, ...]
    state: str
    biased: bool = False
    handed: bool = False
    fn: str | None = None
    span: Span | None = span_field()

    @property
    def _each(self) -> int:
        """How many of ``parts`` belong to one ``x``."""
        return 2 + self.biased + self.handed

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
        return self.parts[:: self._each]

    @property
    def weights(self) -> tuple[Value, ...]:
        """The weight of each."""
        return self.parts[1 :: self._each]

    @property
    def biases(self) -> tuple[Value, ...]:
        """The bias of each; empty without."""
        return self.parts[2 :: self._each] if self.biased else ()

    @property
    def tails(self) -> tuple[Value, ...]:
        """The last tokens of all blocks of each; empty where positions are whole."""
        return self.parts[self._each - 1 :: self._each] if self.handed else ()

    def infer(self) -> tuple[TensorType, ...]:
        """Each result as its ``x``; its state has the width's tail in the place of positions."""
        made = []
        for x, kept in zip(self.xs, self.kept, strict=True):
            dims = tuple(Dim(kept.type.names[1]) if d.name == "position" else d for d in x.type.dims)
            made += [x.type, TensorType(kept.type.dtype, dims)]
        return tuple(made)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        for i, (x, w) in enumerate(zip(self.xs, self.weights, strict=True)):
            tail = self.tails[i].type if self.handed else None
            if not _hands_on(x.type, tail) or w.type.dims[0].axes:
                yield finding("short_conv needs all positions and all taps", self.span, str(x.type))
            if tail is not None and (tail.dims[1], *tail.dims[3:]) != (x.type.dims[0], *x.type.dims[2:]):
                yield finding("short_conv of channels that are split unlike its tails", self.span, str(tail))
            if w.type.dims[1:] != x.type.dims[2:]:
                yield finding("short_conv of channels that are split unlike its weight", self.span, str(x.type))
        for x, b in zip(self.xs, self.biases, strict=False):
            if b.type.dims != x.type.dims[2:]:
                yield finding("short_conv of channels that are split unlike its bias", self.span, str(x.type))


class _Scan(BaseOp):
    """An op whose further operands ``more`` have the ``roles`` of a recurrence."""

    k: Value
    v: Value
    more: tuple[Value, ...]
    roles: str

    def role(self, name: str) -> Value | None:
        """The operand with this role; None if it is missing."""
        return dict(zip(self.roles.split(), self.more, strict=True)).get(name)

    @property
    def scans(self) -> bool:
        """Whether each element of the state decays by itself, so that prompts are not products of matrices."""
        decay = (self.role(name) for name in ("step", "rate"))
        return any(x is not None and x.type.names[-1] == self.k.type.names[-1] for x in decay)


@frozen(eq=False, repr=False, slots=False)
class Recurrence(_Scan):
    """A state ``S: [batch, heads, n, p]`` that decays, takes in a product of key and value, and is read by a query.

        S_t = d_t S_(t-1) + k_t w_t (v_t - delta d_t S_(t-1)^T k_t)^T,    y_t = S_t^T q_t + skip v_t

    - ``q, k: [batch, position, groups, n]``, or without ``groups``; neighbouring heads share a group.
    - ``v: [batch, position, heads, p]``; without ``p`` each head has one value, and the state is ``[batch, heads, n]``.
    - The decay d is ``exp(-exp(rate) step)``; ``rate`` is ``[heads]`` or ``[heads, n]``, ``step`` the same for each
      token. With ``slopes``, head h of H (from 0) decays by ``exp(-2^(-8 (h + 1) / H))``. Otherwise d is 1.
    - ``write`` w: ``[batch, position, heads]``, 1 if it is missing; ``skip: [heads]``, 0 if it is missing.
    - ``delta`` is 1 (the delta rule) or 0. ``normalize`` divides q and k by their lengths first, and q by ``sqrt(n)``.

    ``more`` holds the operands that ``roles`` names. Kernels scan prompts in chunks of ``chunk`` tokens.

    Where axes split the positions, the role ``blocks`` has the `BlockState` of every block: a block begins with what
    the blocks before it leave, and the state is what the last block leaves.
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

    def infer(self) -> tuple[TensorType, ...]:
        """The result as ``v``; the state has the heads of ``v``, the last dimension of ``k``, and that of ``v``."""
        batch, _, heads, *values = self.v.type.dims
        state = TensorType(self.kept_state.type.dtype, (batch, heads, self.k.type.dims[-1], *values))
        return (TensorType(self.v.type.dtype, self.v.type.dims), state)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        q, k, v = self.q.type, self.k.type, self.v.type
        blocks = self.role(BLOCKS)
        if not _hands_on(v, None if blocks is None else blocks.type) or q.dims[:2] != v.dims[:2]:
            yield finding("recurrence needs all positions of the same requests", self.span, str(q))
        if q.dims != k.dims:
            yield finding("recurrence needs the last dimension of queries and keys whole", self.span, str(q))
        yield from _scan_findings(self)


def _scan_findings(op: Recurrence | BlockState) -> Iterator[Diagnostic]:
    """Findings about the operands of a scan: the same requests, positions and heads, and whole keys."""
    k, v = op.k.type, op.v.type
    heads = v.dims[2]
    if k.dims[:2] != v.dims[:2]:
        yield finding(f"{op.keyword} needs all positions of the same requests", op.span, str(k))
    if k.dims[-1].axes:
        yield finding(f"{op.keyword} needs the last dimension of queries and keys whole", op.span, str(k))
    if len(k.dims) == 4 and heads.axes[: len(k.dims[2].axes)] != k.dims[2].axes:
        yield finding("heads and their groups are split differently", op.span, str(k))
    for x in (more.type for more in op.more):
        elsewhere = "position" in x.names and x.on("position") != v.on("position")
        if x.on(heads.name) != heads.axes or elsewhere or x.on(k.names[-1]):
            yield finding(f"{op.keyword} operands have different layouts", op.span, str(x))


def _hands_on(x: TensorType, blocks: TensorType | None) -> bool:
    """Whether the positions of ``x`` are whole, or ``blocks`` has an item for each of their blocks."""
    if blocks is None:
        return not x.on("position")
    return blocks.dims[0] == Dim(Blocks(x.on("position")))


def _own_block(x: TensorType) -> Dim:
    """The dimension of the blocks of positions of ``x``, of which each rank has its own."""
    axes = x.on("position")
    return Dim(Blocks(axes), axes)


@frozen(eq=False, repr=False, slots=False)
class BlockTail(BaseOp):
    """The last ``width - 1`` tokens of each block of positions of ``x``, with which the next block is convolved.

    ``x: [batch, position, channels...]`` gives ``[blocks, batch, width.tail, channels...]``. A block with fewer tokens
    has zeros before them.
    """

    keyword: ClassVar[str] = "block_tail"
    facts: ClassVar[Facts] = Facts(COMPUTE, "block_tail", "recurrence", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("x",)
    out: Value
    x: Value
    width: str
    span: Span | None = span_field()

    def infer(self) -> tuple[TensorType, ...]:
        """A block of each rank, with the tail of ``width`` in the place of positions."""
        x = self.x.type
        return (TensorType(x.dtype, (_own_block(x), x.dims[0], Dim(f"{self.width}{TAIL}"), *x.dims[2:])),)


@frozen(eq=False, repr=False, slots=False)
class BlockState(_Scan):
    """What each block of positions does to the state of a `Recurrence`: it turns S into ``A S + B``.

    ``B: [n, p]`` is the state that the block leaves if it begins with zeros. A is the product of its decays, a factor
    of each row of S; with the delta rule it is the matrix ``prod_t (1 - w_t k_t k_t^T) d_t``. So the state at any block
    follows from what the blocks before it do, exactly, whatever the state before them.

    The result ``[blocks, batch, heads, n, columns]`` is in 32 bits. Its columns are the p columns of B (1 where heads
    have one value), then those of A: 1, or with the delta rule n. Operands and attributes are those of the
    `Recurrence`, without queries. (`chunk_gated_delta_rule_fwd_h_pre_process` in fla/ops/cp/chunk_delta_h.py of
    fla-org/flash-linear-attention; Sun et al., "LASP-2: Rethinking Sequence Parallelism for Linear Attention and Its
    Hybrid", 2025.)
    """

    keyword: ClassVar[str] = "block_state"
    facts: ClassVar[Facts] = Facts(COMPUTE, "block_state", "recurrence", measured="any")
    RESULTS: ClassVar[tuple[str, ...]] = ("out",)
    OPERANDS: ClassVar[tuple[str, ...]] = ("k", "v", "more")
    out: Value
    k: Value
    v: Value
    more: tuple[Value, ...]
    roles: str = ""
    delta: bool = False
    normalize: bool = False
    slopes: bool = False
    chunk: int = 64
    span: Span | None = span_field()

    @property
    def columns(self) -> str:
        """The name of the dimension of the columns of B and A."""
        sizes = [self.k.type.names[-1], *self.v.type.names[3:]]
        return ".".join(sizes) + HANDED[self.delta]

    def count_columns(self, sizes: Mapping[str, Number]) -> Number:
        """How many columns B and A have, for ``sizes`` of dimensions."""
        p = [sizes[n] for n in self.v.type.names[3:]]
        return (p[0] if p else 1) + (sizes[self.k.type.names[-1]] if self.delta else 1)

    def infer(self) -> tuple[TensorType, ...]:
        """A block of each rank, with the heads of ``v``."""
        batch, _, heads = self.v.type.dims[:3]
        return (TensorType("fp32", (_own_block(self.v.type), batch, heads, self.k.type.dims[-1], Dim(self.columns))),)

    def verify(self) -> Iterator[Diagnostic]:
        yield from BaseOp.verify(self)
        if any(d.axes for d in self.v.type.dims[3:]):
            yield finding("block_state needs the last dimension of values whole", self.span, str(self.v.type))
        yield from _scan_findings(self)


States: TypeAlias = ShortConv | Recurrence
"""The ops that keep a state."""

Handovers: TypeAlias = BlockTail | BlockState
"""The ops that say what a block of positions hands on to the next."""


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

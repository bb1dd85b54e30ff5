"""Layouts of layers with a state: requests and heads are split as in the cached state, and keys are whole.

The rules of the region `attention` say how heads, groups and channels are split, as they do for a KV cache. Axes that
split none of them may split the positions of a prompt. A state depends on all tokens before it, so each block of
positions says what it does to a state, and every rank learns that of all blocks: states travel, positions do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from attrs import evolve

from plandsl.diagnostics import Diagnostic
from plandsl.ir.names import RANKS, Blocks
from plandsl.ir.program import PREFILL, Program
from plandsl.ir.states import BLOCKS, BlockState, BlockTail, Handovers, Recurrence, ShortConv, States
from plandsl.ir.types import Dim, Value
from plandsl.spec.plan import PlanSpec

if TYPE_CHECKING:
    from plandsl.passes.shard import Sharder


def state_weights(op: States) -> set[str]:
    """The names of the weights that are split like the state of ``op``."""
    if isinstance(op, ShortConv):
        return {w.name for w in (*op.weights, *op.biases)}
    return {w.name for name in ("rate", "skip") if (w := op.role(name)) is not None}


def lay_out_state(op: States, sharder: Sharder) -> States:
    """``op`` with operands in the layouts that its state asks for."""
    return _short_conv(op, sharder) if isinstance(op, ShortConv) else _recurrence(op, sharder)


def _short_conv(op: ShortConv, sharder: Sharder) -> ShortConv:
    """`op` on a rank's positions, after the tails of all blocks.

    Before:  %y, %tail = short_conv %x, %w
    After:   %ends : bf16[blocks.cp@cp, batch, width.tail, channels] = block_tail %x {width = "width"}
             %ends.1 : bf16[blocks.cp, batch, width.tail, channels] = reshard %ends
             %y, %tail = short_conv %x, %w, %ends.1 {handed = true}
    """
    parts: list[Value] = []
    for i, (x, w) in enumerate(zip(op.xs, op.weights, strict=True)):
        batch, *channels = sharder.layout.cache(("batch", *x.type.names[2:]))
        position = _positions(x, (batch, *channels), sharder)
        laid = sharder.lay(x, (batch, position, *channels))
        parts += [laid, sharder.lay(w, (Dim(w.type.names[0]), *channels))]
        parts += [sharder.lay(b, tuple(channels)) for b in op.biases[i : i + 1]]
        if position.axes:
            parts.append(_hand_on(BlockTail(laid, laid, w.type.names[0], span=op.span), "ends", sharder))
    return evolve(op, parts=tuple(parts), handed=len(parts) > len(op.parts))


def _recurrence(op: Recurrence, sharder: Sharder) -> Recurrence:
    """`op` on a rank's positions, after what all blocks do to a state.

    Before:  %y, %state = recurrence %q, %k, %v
    After:   %does : fp32[blocks.cp@cp, batch, heads, n, n.p.decay] = block_state %k, %v
             %does.1 : fp32[blocks.cp, batch, heads, n, n.p.decay] = reshard %does
             %y, %state = recurrence %q, %k, %v, %does.1 {roles = "blocks"}
    """
    by_name = {d.name: d for d in sharder.layout.cache(("batch", *op.v.type.names[2:]))}
    heads = by_name[op.v.type.names[2]]
    if len(op.k.type.dims) == 4:
        groups = op.k.type.names[2]
        wanted = sharder.layout.cache(("batch", groups))[1].axes
        by_name[groups] = Dim(groups, _shared(wanted, heads.axes))
    if not any(by_name[n].axes for n in op.v.type.names[3:]):
        by_name["position"] = _positions(op.v, tuple(by_name.values()), sharder)

    def lay(x: Value) -> Value:
        return sharder.lay(x, tuple(by_name.get(n, Dim(n)) for n in x.type.names))

    new = evolve(op, q=lay(op.q), k=lay(op.k), v=lay(op.v), more=tuple(map(lay, op.more)))
    if not new.v.type.on("position"):
        return new
    moves = [(name, x) for name in op.roles.split() if name in MOVES and (x := new.role(name)) is not None]
    does = BlockState(
        out=new.v,
        k=new.k,
        v=new.v,
        more=tuple(x for _, x in moves),
        roles=" ".join(name for name, _ in moves),
        delta=op.delta,
        normalize=op.normalize,
        slopes=op.slopes,
        chunk=op.chunk,
        span=op.span,
    )
    all_do = _hand_on(does, "does", sharder)
    return evolve(new, more=(*new.more, all_do), roles=f"{op.roles} {BLOCKS}".strip())


MOVES = ("step", "rate", "write")
"""The roles of a recurrence on which its state depends."""


def _positions(x: Value, others: tuple[Dim, ...], sharder: Sharder) -> Dim:
    """The positions of ``x``, split by the axes that its rules give them, without those of ``others``.

    They are whole in decode, where a state after each token is kept, and where there is one rank along these axes.
    """
    wanted = sharder.layout.dims(x.type.names, "attention")[1].axes
    taken = {a for d in others for a in d.axes}
    axes = sharder.layout.written_axes(tuple(a for a in wanted if a not in taken))
    return Dim("position", axes if sharder.mesh.ways(axes) > 1 else ())


def _hand_on(op: BlockTail | BlockState, name: str, sharder: Sharder) -> Value:
    """Add ``op``; gives what it says of every block, through a reshard."""
    made = Value(sharder.names.fresh(name), *op.infer())
    sharder.ops.append(evolve(op, out=made))
    sharder.now[made.name] = made
    block, *rest = made.type.dims
    return sharder.lay(made, (Dim(block.name), *rest))


def block_sizes(program: Program) -> tuple[tuple[str, int | str], ...]:
    """The sizes of the dimensions that blocks of positions have in ``program``, beside those of its model."""
    sizes, found = dict(program.sizes), dict[str, int | str]()
    for op in (op for region in program.regions for op in region.ops if isinstance(op, Handovers)):
        block = op.out.type.dims[0].name
        assert isinstance(block, Blocks), "a block is handed on"
        found[block] = RANKS
        if isinstance(op, BlockState):
            found[op.columns] = op.count_columns(sizes)
    return tuple(found.items())


def check_states(plan: PlanSpec, program: Program) -> Iterator[Diagnostic]:
    """A note (N475) for each axis whose ranks share positions, but each scan all of them in some layer."""
    if program.phase != PREFILL:
        return
    values = [v for region in program.regions for v in region.values().values()]
    axes = {a for v in values for a in v.type.on("position")}
    ops = [op for region in program.regions for op in region.ops if isinstance(op, Recurrence)]
    whole = [op for op in ops if any(d.axes for d in op.v.type.dims[3:])]
    used = {a for op in whole for a in (*op.kept_state.type.axes, *op.v.type.on("position"))}
    for axis in plan.sharding.axes:
        if axis.size > 1 and whole and axis.name in axes - used:
            split = whole[0].v.type.dims[3].name
            ranks = f"each of the {axis.size} ranks of `{axis.name}`"
            why = f"{ranks} scans all positions of a prompt, because other ranks split `{split}` of its state"
            hint = f"ranks hand on states whose `{split}` is whole: split heads instead of `{split}`"
            yield Diagnostic("N475", why, axis.span, hint=hint)


def _shared(axes: tuple[str, ...], heads: tuple[str, ...]) -> tuple[str, ...]:
    """The first of ``axes``, as long as they are those of ``heads``: heads of a rank then have their groups there."""
    count = next((i for i, (a, b) in enumerate(zip(axes, heads, strict=False)) if a != b), min(len(axes), len(heads)))
    return axes[:count]

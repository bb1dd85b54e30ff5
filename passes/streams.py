"""Several residual streams, and activations that few elements pass: building their ops."""

from __future__ import annotations

from plandsl.ir.names import MOMENTS
from plandsl.ir.ops import Op
from plandsl.ir.streams import Excess, Match, Mix, Moments, Spread, Stack
from plandsl.ir.types import Value, tensor
from plandsl.passes.rewrite import Names
from plandsl.spec.model import Apply


def stream_ops(term: Apply, xs: tuple[Value, ...], name: str, names: Names) -> list[Op]:
    """The ops of one call of a function of `STREAMS`, of the built ``xs``; the last op makes the result ``name``."""
    x, dims = xs[0], xs[0].type.names  # in the head, rows are requests alone
    rows = 1 + (dims[1:2] == ("position",))
    into = str(term.option("into", ""))

    def made(*named: str, dtype: str = "") -> Value:
        return Value(names.fresh(name), tensor(dtype or x.type.dtype, named))

    match term.fn:
        case "stack":
            return [Stack(made(*dims[:rows], into, *dims[rows:]), xs, into, span=term.span)]
        case "spread":
            first = int(term.option("first", 0))
            return [Spread(made(*dims[:rows], into, *dims[rows:]), x, into, first, span=term.span)]
        case "mix":
            return [Mix(made(*dims), x, xs[1], dims[rows], span=term.span)]
        case "match":
            return [Match(made(*xs[1].type.names), x, xs[1], span=term.span)]
        case _:
            over, share = dims[-1], float(term.option("share", 0.5))
            sums = Moments(made(*dims[:-1], MOMENTS, dtype="fp32"), x, over, span=term.span)
            return [sums, Excess(made(*dims), x, sums.out, over, share, span=term.span)]

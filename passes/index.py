"""Sparse attention: building the ops that pick keys for each query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from plandsl.diagnostics import Span
from plandsl.ir.compute import CacheWrite
from plandsl.ir.index import PickKeys
from plandsl.ir.names import picks
from plandsl.ir.ops import Op
from plandsl.ir.types import Value, tensor
from plandsl.passes.rewrite import Names
from plandsl.spec.model import Apply, ModelSpec

if TYPE_CHECKING:
    from plandsl.passes.build import Scores


class Choice(NamedTuple):
    """The operands of one `index`, the op that caches its keys, and the number of keys that a query picks."""

    q: Value
    write: CacheWrite
    w: Value | None
    top_k: int
    span: Span | None


def picked_dims(model: ModelSpec) -> Iterator[tuple[str, int]]:
    """The dimensions of the keys that queries of ``model`` pick, with their sizes."""
    for top_k in sorted({int(term.option("top_k", 1)) for term in model.choices}):
        yield picks(top_k), top_k


def cache_keys(term: Apply, parts: tuple[Value, ...], model: ModelSpec, names: Names) -> Choice:
    """``index(q, k)`` or ``index(q, k, w)`` of the built ``parts``: its keys go to a cache of their own."""
    q, k, *w = parts
    stored = model.index_cache or model.activations
    keys = Value(names.fresh("index_keys"), tensor(stored, ("batch", "context", *k.type.names[2:])))
    write = CacheWrite((keys,), (k,), keys.name, span=term.span)
    return Choice(q, write, w[0] if w else None, int(term.option("top_k", 1)), term.span)


def pick_keys(choice: Choice, scores: Scores, ops: list[Op], names: Names) -> Value:
    """What queries of attention picked among the keys that it sees; adds the ops that are not there yet.

    Attentions that see the same keys share one op.
    """
    out = Value(names.fresh("picked"), tensor("int32", (*choice.q.type.names[:2], picks(choice.top_k))))
    made = PickKeys(
        out,
        choice.q,
        choice.write.outs[0],
        choice.w,
        top_k=choice.top_k,
        causal=scores["causal"],
        window=scores["window"],
        chunk=scores["chunk"],
        span=choice.span,
    )
    for op in ops:
        if isinstance(op, PickKeys) and op.operands == made.operands and _mask(op) == _mask(made):
            return op.out
    ops += [made] if any(op is choice.write for op in ops) else [choice.write, made]
    return out


def _mask(op: PickKeys) -> tuple[int, bool, int, int | None]:
    return op.top_k, op.causal, op.window, op.chunk

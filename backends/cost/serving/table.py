"""A step's time as a table: piecewise linear in the mean context, for each number of requests that decode.

The cost model is asked in arrays, for many steps at once. Between two entries of a table times are interpolated, with
an error of `EXACT` at most in the middle; where the model is linear there is none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from plandsl.backends.cost.time.tape import Traced
from plandsl.backends.cost.time.trace import Straight

Floats = NDArray[np.float64]

EXACT = 1e-4
"""Largest relative error of a table halfway between two entries."""

LAST = 1 << 21
"""The largest context of a table; behind it the last piece goes on."""

ROUNDS = 7
"""How often pieces with too large an error are halved."""

BLOCK = 32
"""Numbers of requests whose pieces are made together."""

ROWS = 1024
"""Numbers of rows whose seconds are computed together."""


class Pieces(NamedTuple):
    """Seconds ``base[i] + slope[i] c`` of a context c from ``cuts[i]`` on, up to the next cut."""

    cuts: list[float]
    base: list[float]
    slope: list[float]

    def at(self, context: float) -> float:
        """Seconds at a context."""
        i = bisect_right(self.cuts, context) - 1
        return self.base[i] + self.slope[i] * context

    def at_all(self, contexts: Floats) -> Floats:
        """The same of contexts that rise."""
        first, last = (bisect_right(self.cuts, end) - 1 for end in (contexts[0], contexts[-1]))
        if first == last:
            found: Floats = self.base[first] + self.slope[first] * contexts
            return found
        i = np.searchsorted(self.cuts[first + 1 : last + 1], contexts, "right")
        base, slope = (np.array(values[first : last + 1]) for values in (self.base, self.slope))
        found = base[i] + slope[i] * contexts
        return found


class Contexts:
    """Seconds by the number of requests that decode and their mean context, of ``function`` of arrays of both."""

    def __init__(self, function: Callable[[Any, Any], Any], bends: Sequence[float] = ()) -> None:
        self.function = function
        self.start = np.unique([*np.round(2.0 ** np.arange(0, 21.01, 0.25)), *bends, LAST])
        self.pieces: dict[int, Pieces] = {}
        self.error = 0.0

    def of(self, n: int) -> Pieces:
        """The pieces for ``n`` requests."""
        found = self.pieces.get(n)
        return found if found is not None else self._make(n)

    def _make(self, n: int) -> Pieces:
        """Make the pieces of a block of numbers. They depend on the block alone, not on what was asked before."""
        first = (n - 1) // BLOCK * BLOCK + 1
        counts = np.arange(first, first + BLOCK, dtype=np.float64)
        cuts, values = self.start, self._ask(counts, self.start)
        for left in reversed(range(ROUNDS)):
            middle = (cuts[1:] + cuts[:-1]) / 2
            exact = self._ask(counts, middle)
            error = (np.abs((values[:, 1:] + values[:, :-1]) / 2 - exact) / np.maximum(exact, 1e-30)).max(axis=0)
            bad = error > EXACT
            if not bad.any() or not left:
                self.error = max(self.error, float(error.max()))
                break
            order = np.argsort(np.concatenate((cuts, middle[bad])), kind="stable")
            cuts = np.concatenate((cuts, middle[bad]))[order]
            values = np.concatenate((values, exact[:, bad]), axis=1)[:, order]
        slope = np.diff(values) / np.diff(cuts)
        base = values[:, :-1] - slope * cuts[:-1]
        starts = [0.0, *cuts[1:-1].tolist()]
        for at, (b, s) in enumerate(zip(base.tolist(), slope.tolist(), strict=True)):
            self.pieces[first + at] = Pieces(starts, b, s)
        return self.pieces[n]

    def _ask(self, counts: Floats, contexts: Floats) -> Floats:
        shape = (len(counts), len(contexts))
        return np.array(np.broadcast_to(self.function(counts[:, None], contexts[None, :]), shape), np.float64)


class Rows:
    """Seconds by a whole number, of ``function`` of an array of them."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.seconds: dict[int, float] = {}

    def at(self, rows: int) -> float:
        """Seconds for so many."""
        found = self.seconds.get(rows)
        return found if found is not None else self._make(rows)

    def _make(self, rows: int) -> float:
        """Make a block of numbers. They depend on the block alone, not on what was asked before."""
        numbers = np.arange(rows // ROWS * ROWS, (rows // ROWS + 1) * ROWS)
        with np.errstate(all="ignore"):  # of no rows at all
            made = np.broadcast_to(self.function(numbers.astype(np.float64)), (ROWS,))
        self.seconds.update(zip(numbers.tolist(), made.tolist(), strict=True))
        return self.seconds[rows]


Terms = list[tuple[float, Traced]]
"""Pairs of a factor and what it multiplies."""


def split_sum(result: Traced, known: Mapping[str, Traced]) -> tuple[float, dict[frozenset[str], Terms]]:
    """A recorded sum as a constant, and terms by what they depend on: names of inputs, and of the ``known`` nodes."""
    nodes, names = result.tape.nodes, {node.index: name for name, node in known.items()}
    leaves: list[str] = []
    depends: list[int] = []  # a bit for each leaf
    for index, (op, operands) in enumerate(nodes):
        bits = 0
        if index in names or op == "input":
            bits = 1 << len(leaves)
            leaves.append(names.get(index, str(operands[0])))
        else:
            for x in operands:
                if isinstance(x, Traced):
                    bits |= depends[x.index]
        depends.append(bits)
    constant, found = 0.0, dict[int, Terms]()
    todo: list[tuple[float, Traced | float]] = [(1.0, result)]
    while todo:
        factor, node = todo.pop()
        if not isinstance(node, Traced):
            constant += factor * node
            continue
        match nodes[node.index]:
            case "+", (a, b):
                todo += [(factor, a), (factor, b)]
            case "-", (a, b):
                todo += [(factor, a), (-factor, b)]
            case "*", (a, b) if not isinstance(a, Traced):
                todo.append((factor * a, b))
            case "*", (a, b) if not isinstance(b, Traced):
                todo.append((factor * b, a))
            case "/", (a, b) if not isinstance(b, Traced):
                todo.append((factor / b, a))
            case _:
                found.setdefault(depends[node.index], []).append((factor, node))
    by_name = {frozenset(name for at, name in enumerate(leaves) if bits >> at & 1): of for bits, of in found.items()}
    return constant, by_name


def write_sum(terms: Terms, inputs: Mapping[str, Traced], arrays: bool = False) -> Callable[..., Any]:
    """The sum of ``terms`` as a function of ``inputs``, nodes that they are made of."""
    if not terms:
        return lambda *_: 0.0
    total: Any = 0.0
    for factor, node in reversed(terms):
        total = total + factor * cast(Any, node)
    return Straight(terms[0][1].tape, inputs, total, arrays)

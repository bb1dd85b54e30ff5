"""`Work`: what the cost model asks of every op, for the sizes of one pass (`Binding`).

Its classes are `kernel.Kernel`, `attention.Softmax`, `experts.Experts`, `adapters.Adapters` and `exchange.Exchange`.
`costing.Costing` makes them from the ops of a program.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

from plandsl.backends.cost.machine.machine import Answer, Machine, Rates
from plandsl.backends.cost.num import maximum
from plandsl.ir.extents import Extents
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.types import Dim, Number

Shape = tuple[tuple[str, int], ...]
"""Named sizes of a kernel, as a report shows them."""


class Modelled(Protocol):
    """Work that the calibrated model times by its rows alone."""

    def modelled_seconds(self, n: Number) -> Number:
        """Seconds of ``n`` rows by the calibrated model."""


class Binding:
    """The sizes of one pass: every dimension of a program, and the ``context`` that attention sees.

    Where a step stands for several contexts, ``contexts`` are pairs of (weight, context) and ``context`` is the mean.
    Where the tokens of ``each`` requests are bound as those of one, as in mixed steps, it says how many. ``judged`` is
    what work remembers of other work that is equal to it.
    """

    __slots__ = ("_modelled", "_rows", "context", "contexts", "each", "extents", "judged")

    def __init__(
        self,
        extents: Extents,
        context: Number = 0,
        contexts: Sequence[tuple[Number, Number]] | None = None,
        each: Number = 1,
    ) -> None:
        self.extents, self.context, self.each = extents, context, each
        self.contexts = ((1.0, context),) if contexts is None else contexts
        self._rows: dict[tuple[Dim, ...], Number] = {}
        self._modelled: dict[tuple[Hashable, Number], tuple[Modelled, Number]] = {}
        self.judged: dict[Hashable, Any] = {}

    def at(self, context: Number, contexts: Sequence[tuple[Number, Number]] | None = None) -> "Binding":
        """The same sizes at another context; what does not depend on the context is shared."""
        other = Binding(self.extents, context, contexts, each=self.each)
        other._rows, other._modelled, other.judged = self._rows, self._modelled, self.judged
        return other

    def modelled(self, work: Modelled, n: Number, alike: Hashable = None) -> Number:
        """``work.modelled_seconds(n)``, found once: evaluation and the lines of an estimate both ask for it.

        Works with one ``alike`` are equal; None: the work stands alone. The entry holds the work, so that nothing else
        gets its identity, or that of its form.
        """
        if n.__class__ is not int and n.__class__ is not float:
            return work.modelled_seconds(n)
        key = id(work) if alike is None else alike, n
        found = self._modelled.get(key)
        if found is None:
            found = self._modelled[key] = work, work.modelled_seconds(n)
        return found[1]

    def rows(self, dims: tuple[Dim, ...]) -> Number:
        """Rows that ``dims`` make on one rank."""
        found = self._rows.get(dims)
        if found is None:
            found = self._rows[dims] = self.extents.product(dims)
        return found

    def requests(self, batch: Dim) -> Number:
        """Requests of one rank, where ``batch`` is the dimension that they have there."""
        return self.extents.local(batch) * self.each

    def time_rows(self, dims: tuple[Dim, ...], seconds: Callable[[Number], Number]) -> Number:
        """``seconds`` of the rows that ``dims`` make; an empty chunk is not launched and takes 0 seconds."""
        n = self.rows(dims)
        for dim in dims:
            if dim.chunk is not None:
                return seconds(maximum(n, 1)) * (n > 0)
        return seconds(n)


class ContextUse(NamedTuple):
    """How an op depends on the context: a rank computes attention for its part of ``batch``.

    Beyond ``bend`` keys a window hides some keys (0: no window). ``chunk`` is the length of attention chunks; None
    without chunks.
    """

    batch: Dim
    bend: Number
    chunk: int | None


class Demand(NamedTuple):
    """What one run needs on a rank: FLOPs, bytes to and from memory, and bytes on the links (one call of a collective).

    Kernels of this kind reach ``rate`` FLOP/s and ``bandwidth`` bytes/s.
    """

    flops: Number = 0.0
    moved: Number = 0.0
    payload: Number = 0.0
    rate: float = 1.0
    bandwidth: float = 1.0

    @property
    def arithmetic(self) -> Number:
        """Seconds of the FLOPs alone."""
        return self.flops / self.rate

    @property
    def memory(self) -> Number:
        """Seconds of the bytes to and from memory alone."""
        return self.moved / self.bandwidth

    def bound(self, launch: float) -> str:
        """What bounds a kernel with ``launch`` seconds of fixed time: compute, memory or latency."""
        arithmetic, memory = self.arithmetic, self.memory
        if launch > max(arithmetic, memory):
            return "latency"
        return "compute" if arithmetic > memory else "memory"


class Path(NamedTuple):
    """Where the bytes of an op travel: along ``axis``, between ranks on so many ``nodes``, in ``calls`` calls."""

    axis: str = ""
    nodes: int = 1
    calls: int = 1
    communicates: bool = True


HERE = Path(communicates=False)
"""A kernel: its bytes stay on the GPU, and it runs once."""


class Work(Protocol):
    """What an op needs of a machine, by the sizes of one pass."""

    @property
    def op(self) -> Op:
        """The op."""

    @property
    def rows(self) -> tuple[Dim, ...]:
        """The dimensions that make its rows; a row is a token, or a request."""

    def context_use(self, extents: Extents) -> ContextUse | None:
        """How it depends on the context; None where it does not."""

    def seconds(self, at: Binding) -> Number:
        """Seconds of one run, with all its calls, by the first layer of the cost model that has an answer."""

    def demand(self, at: Binding) -> Demand:
        """What one run needs, on average over the contexts of the step."""

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """Seconds that no kernel beats: its FLOPs at the peak, its weights or its KV cache through the memory.

        Other bytes may come from caches. None for work without such a bound, for work whose own seconds keep it at this
        ``pace`` of the engine, and for exchanges, whose seconds have one (`forms.collective.least_seconds`).
        """

    def bound(self, at: Binding, demand: Demand) -> str:
        """What bounds its time, of its ``demand``: compute, memory or latency; for communication, link or latency."""

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """The layer of the cost model that timed it."""

    def path(self, program: Program) -> Path:
        """Where its bytes travel."""

    def pace(self, rates: Rates) -> float:
        """The engine's rate that it runs at."""

    def shape(self, at: Binding) -> Shape:
        """Its sizes, as reports show them; empty for ops whose sizes are not shown."""

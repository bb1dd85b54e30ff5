"""The questions that the cost model asks of every op's work, and what it asks them for: the sizes of one pass.

`kernel.Kernel`, `attention.Softmax`, `experts.Experts` and `exchange.Exchange` answer, each in a module of its own;
`costing.Costing` makes them from the ops of a program.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from plandsl.backends.cost.machine.machine import Answered, Machine, Rates
from plandsl.backends.cost.num import maximum
from plandsl.ir.extents import Extents
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.types import Dim, Number

Shape = tuple[tuple[str, int], ...]
"""Named sizes of a kernel, as a report shows them."""


class Binding:
    """The sizes of one pass: every dimension of a program, and the ``context`` that attention looks back on.

    ``contexts`` are (weight, context) that stand for a step whose mean context is ``context``; by default itself.
    """

    __slots__ = ("_rows", "context", "contexts", "extents")

    def __init__(
        self, extents: Extents, context: Number = 0, contexts: Sequence[tuple[Number, Number]] | None = None
    ) -> None:
        self.extents, self.context = extents, context
        self.contexts = ((1.0, context),) if contexts is None else contexts
        self._rows: dict[tuple[Dim, ...], Number] = {}

    def at(self, context: Number) -> "Binding":
        """The same sizes at another context."""
        other = Binding(self.extents, context)
        other._rows = self._rows
        return other

    def rows(self, dims: tuple[Dim, ...]) -> Number:
        """Rows that ``dims`` make on one rank."""
        found = self._rows.get(dims)
        if found is None:
            found = self._rows[dims] = self.extents.product(dims)
        return found

    def launched(self, dims: tuple[Dim, ...], seconds: Callable[[Number], Number]) -> Number:
        """``seconds`` of the rows that ``dims`` make; an empty chunk is not launched and takes none."""
        n = self.rows(dims)
        if not any(d.chunk for d in dims):
            return seconds(n)
        return seconds(maximum(n, 1)) * (n > 0)


class Look(NamedTuple):
    """How an op depends on the context: a rank attends for its part of ``batch``.

    Beyond ``bend`` keys a window hides some (0: there is no window); ``chunk`` is the length of chunks, if keys come in
    such.
    """

    batch: Dim
    bend: Number
    chunk: int | None


class Asked(NamedTuple):
    """What one run asks of a rank: FLOPs, bytes to and from memory, and bytes on the links (one call of a collective).

    ``rate`` in FLOP/s and ``bandwidth`` in bytes/s are those that kernels of its kind reach.
    """

    flops: Number = 0.0
    moved: Number = 0.0
    payload: Number = 0.0
    rate: float = 1.0
    bandwidth: float = 1.0

    @property
    def arithmetic(self) -> Number:
        """Seconds that the FLOPs take by themselves."""
        return self.flops / self.rate

    @property
    def memory(self) -> Number:
        """Seconds that the bytes to and from memory take by themselves."""
        return self.moved / self.bandwidth

    def bound(self, launch: float) -> str:
        """What bounds a kernel that takes ``launch`` seconds before it works: compute, memory or latency."""
        arithmetic, memory = self.arithmetic, self.memory
        if launch > max(arithmetic, memory):
            return "latency"
        return "compute" if arithmetic > memory else "memory"


class Path(NamedTuple):
    """Where the bytes of an op travel: along ``axis`` between ranks on so many ``nodes``, in so many ``calls``."""

    axis: str = ""
    nodes: int = 1
    calls: int = 1
    communicates: bool = True


HERE = Path(communicates=False)
"""A kernel: its bytes stay on the GPU, and it runs once."""


class Work(Protocol):
    """What an op asks of a machine, by the sizes of one pass."""

    @property
    def op(self) -> Op:
        """The op whose work it is."""

    @property
    def rows(self) -> tuple[Dim, ...]:
        """The dimensions that make its rows: one for each token, or request."""

    def look(self, extents: Extents) -> Look | None:
        """How it depends on the context; None where it does not."""

    def seconds(self, at: Binding) -> Number:
        """Seconds of all its runs, by the first layer of the calibration that knows them."""

    def asked(self, at: Binding) -> Asked:
        """What one run asks for, on average over the contexts that stand for the step."""

    def bound(self, at: Binding) -> str:
        """What its time follows: compute, memory or latency; of what communicates, link or latency."""

    def answered(self, at: Binding, machine: Machine) -> Answered:
        """The layer of the calibration that timed it."""

    def path(self, program: Program) -> Path:
        """Where its bytes travel."""

    def pace(self, rates: Rates) -> float:
        """Which of an engine's rates it runs at."""

    def shape(self, at: Binding) -> Shape:
        """Its sizes, where a report names them."""

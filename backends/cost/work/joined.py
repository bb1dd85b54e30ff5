"""Ops that share a kernel: one launch, and no traffic of values that stay inside the kernel.

An op that runs in the kernel of another one takes the seconds of the bytes that it adds. Whether an all_reduce shares
its kernel depends on its bytes and ranks, so the ops behind it have two forms of work (`Gated`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from plandsl.backends.cost.forms.elementwise import traffic_seconds
from plandsl.backends.cost.machine.machine import Answer, Machine, Rates, form_answer
from plandsl.backends.cost.num import maximum, minimum, where
from plandsl.backends.cost.work.exchange import Exchange
from plandsl.backends.cost.work.kernel import ElementForm, Kernel, count_bytes
from plandsl.backends.cost.work.site import Site
from plandsl.backends.cost.work.work import Binding, ContextUse, Demand, Path, Shape, Work
from plandsl.ir.extents import Extents
from plandsl.ir.fusions import Kernels
from plandsl.ir.ops import Op
from plandsl.ir.program import Program
from plandsl.ir.types import Dim, Number


class Inside(NamedTuple):
    """An op in the kernel of another one. ``alone`` is its own kernel, and ``added`` has the bytes that it adds.

        seconds = min(seconds of alone, added bytes / bandwidth)

    The bandwidth is that of kernels of its kind: of the cache for tensors that fit there.
    """

    alone: Kernel
    added: tuple[Number, Number]

    @property
    def op(self) -> Op:
        """The op."""
        return self.alone.op

    @property
    def rows(self) -> tuple[Dim, ...]:
        """The rows of its own kernel."""
        return self.alone.rows

    def _moved(self, n: Number) -> Number:
        fixed, per_row = self.added
        return fixed + per_row * n

    def _traffic(self, n: Number) -> Number:
        form, bandwidth = self.alone.form, self.alone.bandwidth
        if isinstance(form, ElementForm):
            return traffic_seconds(form.constants, bandwidth, self._moved(n))
        return self._moved(n) / bandwidth

    def context_use(self, extents: Extents) -> ContextUse | None:
        """As its own kernel."""
        return self.alone.context_use(extents)

    def seconds(self, at: Binding) -> Number:
        """Seconds that it adds."""
        return minimum(at.time_rows(self.rows, self._traffic), self.alone.seconds(at))

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """As its own kernel: none, as its bytes may come from a cache."""
        return self.alone.least(at, machine, pace)

    def demand(self, at: Binding) -> Demand:
        """The bytes that it adds."""
        return self.alone.demand(at)._replace(moved=self._moved(at.rows(self.rows)))

    def bound(self, at: Binding, demand: Demand) -> str:
        """Memory: it is not launched."""
        return "memory"

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """The layer that has the bandwidth of its kind."""
        form = self.alone.form
        return (machine.flat if form is None else form_answer(form.constants))._replace(fused=True)

    def path(self, program: Program) -> Path:
        """As its own kernel."""
        return self.alone.path(program)

    def pace(self, rates: Rates) -> float:
        """As its own kernel."""
        return self.alone.pace(rates)

    def shape(self, at: Binding) -> Shape:
        """As its own kernel."""
        return self.alone.shape(at)


class Gated(NamedTuple):
    """An op whose hosts begin with ``all_reduce``: ``shared`` while that shares its kernel, else ``apart``.

    It does with two ranks or more and at most ``most`` bytes.
    """

    shared: Kernel | Inside
    apart: Kernel | Inside
    all_reduce: Exchange
    most: Number

    @property
    def op(self) -> Op:
        """The op."""
        return self.apart.op

    @property
    def rows(self) -> tuple[Dim, ...]:
        """The rows of its own kernel."""
        return self.apart.rows

    def _opens(self, at: Binding) -> Number:
        """Whether the all_reduce shares its kernel."""
        found = self.all_reduce
        return (found.payload_per_row * at.rows(found.rows) <= self.most) & (found.ranks > 1)

    def _now(self, at: Binding) -> Kernel | Inside:
        """The work for plain numbers."""
        return self.shared if self._opens(at) else self.apart

    def context_use(self, extents: Extents) -> ContextUse | None:
        """As its own kernel."""
        return self.apart.context_use(extents)

    def seconds(self, at: Binding) -> Number:
        """Seconds of the work that holds."""
        return where(self._opens(at), self.shared.seconds(at), self.apart.seconds(at))

    def least(self, at: Binding, machine: Machine, pace: float) -> Number | None:
        """As its own kernel."""
        return self.apart.least(at, machine, pace)

    def demand(self, at: Binding) -> Demand:
        """The bytes of the work that holds."""
        shared, apart = self.shared.demand(at), self.apart.demand(at)
        return apart._replace(moved=where(self._opens(at), shared.moved, apart.moved))

    def bound(self, at: Binding, demand: Demand) -> str:
        """As the work that holds."""
        now = self._now(at)
        return now.bound(at, now.demand(at))

    def answer(self, at: Binding, machine: Machine) -> Answer:
        """As the work that holds."""
        return self._now(at).answer(at, machine)

    def path(self, program: Program) -> Path:
        """As its own kernel."""
        return self.apart.path(program)

    def pace(self, rates: Rates) -> float:
        """As its own kernel."""
        return self.apart.pace(rates)

    def shape(self, at: Binding) -> Shape:
        """As its own kernel."""
        return self.apart.shape(at)


def join(made: Kernel, site: Site, kernels: Kernels, work: Callable[[Op], Work]) -> Work:
    """``made``, the kernel of an op, as part of the kernel that it shares; ``work`` gives the work of other ops."""
    apart = _placed(made, site, kernels, shared=False)
    first = kernels.hosts.first_all_reduce(made.op)
    if first is None:
        return apart
    exchange, machine = work(first), site.machine
    assert isinstance(exchange, Exchange), "an all_reduce is an exchange"
    if exchange.nodes > 1 or not _reaches_peers(exchange, machine):
        return apart
    shared = _placed(made, site, kernels, shared=True)
    return Gated(shared, apart, exchange, machine.most_fused(exchange.ranks))


def _reaches_peers(exchange: Exchange, machine: Machine) -> bool:
    """Whether the ranks write to one another's memory over more than PCIe, which kernels with an all_reduce need."""
    link = machine.link
    return link.topology != "pcie" or bool(link.bridge and isinstance(exchange.ranks, int) and exchange.ranks == 2)


def _placed(made: Kernel, site: Site, kernels: Kernels, shared: bool) -> Kernel | Inside:
    """The work of a kernel's op where it launches the kernel that it shares, or runs inside that of another op."""
    place = kernels.place(made.op, shared)
    fixed, per_row = count_bytes(site, place.touched)
    less, less_per_row = count_bytes(site, place.spared)
    fixed = minimum(maximum(fixed - less, 0.0), made.bytes_fixed)
    per_row = minimum(maximum(per_row - less_per_row, 0.0), made.bytes_per_row)
    if place.inside:
        return Inside(made, (fixed, per_row))
    return made._replace(bytes_fixed=fixed, bytes_per_row=per_row)

"""What the models of one program on several machines share: work and seconds of ops, made once.

An explanation asks hundreds of models of one plan, each with other figures of the hardware. Most figures change either
kernels or what goes over links, and the ops on the other side keep their work and their seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping

from plandsl.backends.cost.machine.machine import Machine, Rates, Side
from plandsl.backends.cost.num import are_numbers, are_traced
from plandsl.backends.cost.work.costing import sides_of
from plandsl.backends.cost.work.numbers import number_ops
from plandsl.backends.cost.work.work import Binding, Work
from plandsl.ir.fusions import Kernels
from plandsl.ir.program import Program
from plandsl.ir.types import Number


class Known:
    """Work by the side of the machine that it is made of, bindings by their sizes, and seconds by both.

    ``ops`` has for each op, by its identity, the number that it shares with ops of equal work, and its sides.
    """

    def __init__(self, program: Program, kernels: Kernels | None) -> None:
        numbers = number_ops(program, kernels)
        self.ops = {id(op): (numbers[id(op)], sides_of(op)) for region in program.regions for op in region.ops}
        self._sides: dict[Hashable, int] = {}
        self._works: dict[Hashable, Work] = {}
        self._bindings: dict[Hashable, Binding] = {}
        self._seconds: dict[tuple[Binding, int, Rates], tuple[Work, Number]] = {}

    def sides(self, machine: Machine) -> dict[Side, int]:
        """A number for each side of ``machine``, equal for machines whose sides are equal."""
        known = self._sides
        return {side: known.setdefault((side, found), len(known)) for side, found in machine.figures.items()}

    def work(self, key: Hashable, make: Callable[[], Work]) -> Work:
        """The work known by ``key``, which names the op and its side; ``make()`` the first time."""
        found = self._works.get(key)
        if found is None:
            found = self._works[key] = make()
        return found

    def binding(self, bind: Mapping[str, Number], make: Callable[[], Binding]) -> Binding:
        """The binding of ``bind``; where it has arrays, or numbers that a trace does not know yet, always a new one."""
        if not are_numbers(*bind.values()):
            return make()
        key = tuple(bind.items())
        found = self._bindings.get(key)
        if found is None:
            found = self._bindings[key] = make()
        return found

    def at(self, at: Binding, context: Number) -> Binding:
        """``at`` with another context, a number or the array of all contexts of a mean."""
        if are_traced(context):
            return at.at(context)
        key = (at, context) if are_numbers(context) else (at, context.shape, context.tobytes())
        found = self._bindings.get(key)
        if found is None:
            found = self._bindings[key] = at.at(context)
        return found

    def seconds(self, work: Work, at: Binding, rates: Rates, find: Callable[[], Number]) -> Number:
        """``find()``, the seconds of ``work`` at an engine's ``rates``, found once.

        The entry holds the work, so that no other work gets its identity.
        """
        key = at, id(work), rates
        found = self._seconds.get(key)
        if found is None:
            found = self._seconds[key] = work, find()
        return found[1]

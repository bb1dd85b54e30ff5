"""The space of a search: its plans, and the grid of loads under which each plan is evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from plandsl.diagnostics import Diagnostic
from plandsl.ir.types import Number
from plandsl.spec.plan import PlanSpec
from plandsl.spec.search import DEGREES, Choice, Combination, SearchSpec, Setting, count


class Grid(NamedTuple):
    """The loads of every plan: an array in C order with one axis for each load that varies."""

    choices: tuple[Choice, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Values along each axis."""
        return tuple(len(c.settings) for c in self.choices)

    @property
    def size(self) -> int:
        """Number of loads."""
        return count(self.choices)

    def slabs(self, most: int) -> Iterator[tuple[slice, ...]]:
        """Cut the grid into consecutive parts of at most ``most`` loads, or of one row where a row has more."""
        inner, axis = 1, len(self.shape)
        while axis and inner * self.shape[axis - 1] <= most:
            axis -= 1
            inner *= self.shape[axis]
        if not axis:
            yield tuple(slice(0, n) for n in self.shape)
            return
        each = max(1, most // inner)
        rest = tuple(slice(0, n) for n in self.shape[axis:])
        for leading in np.ndindex(*self.shape[: axis - 1]):
            for start in range(0, self.shape[axis - 1], each):
                yield (
                    *(slice(i, i + 1) for i in leading),
                    slice(start, min(start + each, self.shape[axis - 1])),
                    *rest,
                )

    def loads(self, slab: Sequence[slice]) -> dict[str, Number]:
        """The arguments of the cost model for a slab, arrays that broadcast to its shape."""
        out: dict[str, Number] = {}
        for axis, (choice, part) in enumerate(zip(self.choices, slab, strict=True)):
            shape = [1] * len(self.choices)
            shape[axis] = -1
            out[choice.load] = np.array([s.value for s in choice.settings[part]], float).reshape(shape)
        return out

    def numbers(self, slab: Sequence[slice]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """Flat indices of a slab's loads in the whole grid."""
        places = np.zeros((1,) * len(self.shape), np.int64)
        for axis, (size, part) in enumerate(zip(self.shape, slab, strict=True)):
            shape = [1] * len(self.shape)
            shape[axis] = -1
            places = places * size + np.arange(part.start, part.stop).reshape(shape)
        return places.ravel()

    def at(self, place: int) -> Combination:
        """The loads at a flat index."""
        out = []
        for choice, size in zip(reversed(self.choices), reversed(self.shape), strict=True):
            place, i = divmod(place, size)
            out.append((choice, choice.settings[i]))
        return tuple(reversed(out))


class Candidate(NamedTuple):
    """A combination of structural choices with its plan, or with findings where there is none; numbered from 0."""

    number: int
    combination: Combination
    plan: PlanSpec | None
    findings: tuple[Diagnostic, ...]


def combinations(choices: Sequence[Choice], gpus: int | None) -> Iterator[Combination]:
    """Every combination, the last choice fastest, whose product of degrees is at most ``gpus``."""
    chosen: list[tuple[Choice, Setting]] = []

    def walk(i: int, ranks: float) -> Iterator[Combination]:
        if i == len(choices):
            yield tuple(chosen)
            return
        choice = choices[i]
        degree = choice.path.startswith("sharding.") and choice.path[9:] in DEGREES
        for setting in choice.settings:
            more = ranks * setting.value if degree and isinstance(setting.value, int | float) else ranks
            if gpus is not None and more > gpus:
                continue
            chosen.append((choice, setting))
            yield from walk(i + 1, more)
            chosen.pop()

    return walk(0, 1)


class Space:
    """The whole space of a search. Plans differ by ``structural`` choices; each is evaluated on a `Grid` of loads.

    Requests over time have no arrays, nor have loads that the compiler chooses: each load is a plan of its own.
    """

    def __init__(self, search: SearchSpec) -> None:
        self.search = search
        apart = search.over_requests or search.chosen
        self.grid = Grid(tuple(c for c in search.choices if c.load and not apart))
        self.structural = tuple(c for c in search.choices if c not in self.grid.choices)

    def candidates(self) -> Iterator[Candidate]:
        """The plans, in order, without those that a condition on structural choices rules out."""
        early = [c for c in self.search.conditions if c.names <= {s.name for s in self.structural}]
        load = self.grid.at(0)  # a plan needs some load; the grid replaces it
        for number, combination in enumerate(combinations(self.structural, self.search.gpus)):
            values = {choice.name: setting.value for choice, setting in combination}
            if all(condition.holds(values) for condition in early):
                plan, findings = self.search.resolve((*combination, *load))
                yield Candidate(number, combination, plan, tuple(findings))

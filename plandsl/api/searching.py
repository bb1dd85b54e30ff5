"""Run a search from Python, and its answer."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from plandsl import limits
from plandsl.api.plans import Plan
from plandsl.api.read import read_whole
from plandsl.arguments import Arguments
from plandsl.columns import Table, pick_table
from plandsl.grammar.resolve import Module
from plandsl.progress import Tick, silent
from plandsl.searches.answer import Configuration
from plandsl.searches.ask import Asked, keep_most, read_searches, tell
from plandsl.searches.files import row_columns
from plandsl.searches.run import Found, Run
from plandsl.searches.run import Table as Rows
from plandsl.searches.show import Answer, found_json, print_found
from plandsl.searches.spread import open_workers
from plandsl.shown import Print, Printed, report_html

MOST_TOP = 1_000_000
"""Most of the best configurations that are kept."""


class SearchAnswer:
    """What a search found: ``top`` are the best, the best first, and ``front`` the Pareto front.

    ``seen`` configurations were looked at, of which ``met`` meet everything. Where none does, ``missing`` says what the
    nearest one lacks, and ``remedies`` what would help.
    """

    def __init__(self, module: Module, found: Found, answer: Answer, seconds: float) -> None:
        self._module, self._found, self._answer, self.seconds = module, found, answer, seconds

    @property
    def name(self) -> str:
        """The name of the search."""
        return self._found.search.name

    @property
    def ok(self) -> bool:
        """Whether some configuration meets everything."""
        return bool(self.top)

    @property
    def top(self) -> tuple[Configuration, ...]:
        """The best configurations, the best first."""
        return tuple(self._answer.top)

    @property
    def front(self) -> tuple[Configuration, ...]:
        """The Pareto front."""
        return tuple(self._answer.front)

    @property
    def seen(self) -> int:
        """How many configurations were looked at."""
        return self._found.tally.seen

    @property
    def met(self) -> int:
        """How many of them meet everything, in closed form."""
        return self._found.tally.met

    @property
    def missing(self) -> tuple[Any, ...]:
        """What the nearest configuration misses, where none meets everything."""
        return tuple(self._answer.missing)

    @property
    def remedies(self) -> tuple[Any, ...]:
        """Figures of the machine, and how much better each would have to be."""
        return tuple(self._answer.remedies)

    def plan(self, row: int | Configuration = 0, name: str = "") -> Plan:
        """The plan of a configuration, or of the one at a place of ``top``: a `Plan` to compile, print or change."""
        call = Arguments("plan", row=row, name=name)
        if not isinstance(row, Configuration):
            if not self.top:
                raise call.error("E445", "row", f"the search `{self.name}` found no plan: see `missing`")
            row = self.top[call.whole("row", 0, len(self.top) - 1)]
        name = call.text("name") or f"{self.name}_best"
        text = self._found.search.write(name, row.combination)
        return read_whole(Plan, f"{self._module.root.text}\n{text}", name, self._module.path)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        return ("top", "front", "out", "rows")

    def table(self, name: str) -> Table:
        """A table by its name: the best, the front, why others are out, or all ``rows``.

        For ``rows`` the search runs again. Each has the reason why it is out, empty where it meets everything.
        """
        return pick_table(
            name,
            {
                "top": lambda: _configurations("top", self.top),
                "front": lambda: _configurations("front", self.front),
                "out": self._out,
                "rows": self._rows,
            },
        )

    def _out(self) -> Table:
        rows = [{"why": why, "configurations": n, "code": ""} for why, n in self._found.tally.missed.items()]
        rows += [{"why": d.message, "configurations": n, "code": code} for code, (d, n) in self._found.refused.items()]
        return Table.of_rows(
            "out", sorted(rows, key=lambda row: -int(row["configurations"])), ("why", "configurations")
        )

    def _rows(self) -> Table:
        parts: list[dict[str, Any]] = []

        def keep(found: Found, rows: Rows) -> None:
            parts.append(row_columns(found, rows))

        Run(self._found.search, 1, keep).run()
        names = parts[0] if parts else {}
        return Table("rows", {name: np.concatenate([part[name] for part in parts]) for name in names})

    def as_json(self) -> dict[str, Any]:
        """The answer as `planc search --json` prints it."""
        return found_json(self._found, self._answer, self.seconds)

    def __repr__(self) -> str:
        best = f"best: {self.top[0].label}" if self.top else "nothing meets every requirement"
        return f"<SearchAnswer {self.name}: {self.met:,} of {self.seen:,} configurations meet all; {best}>"

    def _report(self) -> Print:
        return lambda console: print_found(self._found, self._answer, self.seconds, console)

    def __rich__(self) -> Any:
        return Printed(self._report())

    def _repr_html_(self) -> str:
        return report_html(self._report())


def run_search(
    call: Arguments, module: Module, name: str | None, scheduler: str | None, tick: Tick | None
) -> SearchAnswer:
    """Run one search of ``module``. Raises `PlanError`."""
    asked = Asked(
        call.whole("top", 1, MOST_TOP),
        *(None if call.given[n] is None else call.whole(n, 1, limits.MAX_REQUESTS) for n in ("simulate", "requests")),
    )
    if tick is not None and not callable(tick):
        raise call.wrong("tick", "a function that takes two numbers: how many are done, of how many")
    searches = read_searches(module, name)
    if len(searches) > 1:
        why = f"{module.path} has {len(searches)} searches: {', '.join(s.name for s in searches)}"
        raise call.error("E403", "source", why, hint=f'name one: name="{searches[0].name}"')
    (search,) = searches
    start = time.perf_counter()

    with open_workers(scheduler) as workers:
        found = workers.search(Run(search, keep_most(search, asked)), tick or silent)
        answer = tell(found, asked, workers, silent)
    return SearchAnswer(module, found, answer, time.perf_counter() - start)


def _configurations(name: str, rows: Iterable[Configuration]) -> Table:
    """Configurations with their choices and metrics; a metric that none of them has is left out."""
    told: list[dict[str, Any]] = [{"configuration": row.number, **row.as_json()} for row in rows]
    flat = [{**row.pop("choices"), **row} for row in told]
    table = Table.of_rows(name, flat)
    return Table(name, {k: c for k, c in table.columns.items() if c.dtype.kind != "f" or not np.isnan(c).all()})

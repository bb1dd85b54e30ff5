"""The largest rate that a plan bears: the typed result of `planc simulate --find-rate`, with its machine form."""

from __future__ import annotations

from math import isfinite
from typing import Any, NamedTuple

from plandsl.answers.about import NOBODY, About
from plandsl.answers.estimate import Requirement
from plandsl.answers.simulation import Simulation
from plandsl.spec.rates import Scaled


class FoundRate(NamedTuple):
    """The largest rate of a load at which a plan meets its requirements, and is stable.

    The load is ``factor`` times the plan's own. ``value`` is its rate in ``unit``, and ``low`` to ``high`` the 95 %
    interval of the answer; NaN where there is none. ``binds`` tells what fails at the next rate that was tried,
    ``fails_at``; it is empty where nothing did. ``fails`` are the requirements that were missed there.

    ``at`` is the run at the rate; None where no rate meets the requirements. ``runs`` were served to find it, and
    ``why`` says how the search ended. A ``demand`` of requests per second takes ``copies`` of the plan, which cost
    ``usd_per_h`` together, None without a price.
    """

    plan: str
    gpus: int
    scaled: Scaled
    unit: str
    factor: float
    value: float
    low: float
    high: float
    fails_at: float
    binds: tuple[str, ...]
    fails: tuple[Requirement, ...]
    at: Simulation | None
    runs: int
    why: str
    warnings: tuple[str, ...] = ()
    demand: float | None = None
    copies: int | None = None
    usd_per_h: float | None = None
    about: About = NOBODY

    @property
    def ok(self) -> bool:
        """Whether there is a rate at which everything is met."""
        return self.at is not None

    def __repr__(self) -> str:
        from plandsl.answers.shown import rate_line

        return rate_line(self)

    def __rich__(self) -> Any:
        from plandsl.answers.shown import rich_of

        return rich_of(self)

    def _repr_html_(self) -> str:
        from plandsl.answers.shown import html_of

        return html_of(self)

    def as_json(self) -> dict[str, Any]:
        """The machine form; null where there is no number."""
        numbers = ("factor", "value", "low", "high", "fails_at")
        return {
            "plan": self.plan, "gpus": self.gpus, "scaled": self.scaled, "unit": self.unit,
            **{name: value if isfinite(value := getattr(self, name)) else None for name in numbers},
            "binds": list(self.binds),
            "fails": [
                {"text": r.text, "value": r.value if isfinite(r.value) else None, "ok": r.ok} for r in self.fails
            ],
            "at": None if self.at is None else self.at.as_json(), "runs": self.runs, "why": self.why,
            **({} if self.demand is None else self._fleet()), "warnings": list(self.warnings), "ok": self.ok,
        }  # fmt: skip

    def _fleet(self) -> dict[str, Any]:
        gpus = None if self.copies is None else self.copies * self.gpus
        return {
            "fleet": {
                "demand_requests_per_s": self.demand, "copies": self.copies, "gpus": gpus, "usd_per_h": self.usd_per_h,
            }
        }  # fmt: skip

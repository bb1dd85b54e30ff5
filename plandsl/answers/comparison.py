"""Runs of a benchmark beside what a plan predicts for their loads: typed results of `planc compare`, in SI units."""

from __future__ import annotations

from math import isfinite, log
from typing import TYPE_CHECKING, Any, NamedTuple

from plandsl.answers.about import NOBODY, About

if TYPE_CHECKING:
    from plandsl.columns import Table
    from plandsl.diagnostics import Diagnostic

NAMES = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "latency": "latency",
    "throughput": "throughput",
    "request_throughput": "request rate",
    "total_throughput": "total throughput",
}
"""Metrics of a run as reports call them."""


class Measure(NamedTuple):
    """A statistic of a metric: ``mean`` or a percentile such as ``p99``, measured and predicted; seconds, or units/s.

    ``low`` and ``high`` are the ends of the band around the prediction in which 80 % of measurements lie; None: no
    band is known.
    """

    metric: str
    statistic: str
    measured: float
    predicted: float
    low: float | None = None
    high: float | None = None

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted if self.predicted > 0 else float("nan")

    @property
    def inside(self) -> bool | None:
        """Whether the measurement is inside the band; None without one."""
        return None if self.low is None or self.high is None else self.low <= self.measured <= self.high

    @property
    def name(self) -> str:
        """``TTFT p99``."""
        return f"{NAMES[self.metric]} {self.statistic}" if self.statistic != "mean" else NAMES[self.metric]

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "metric": self.metric, "statistic": self.statistic, "measured": self.measured,
            "predicted": _number(self.predicted), "ratio": _number(self.ratio), "low": self.low, "high": self.high,
            "inside": self.inside,
        }  # fmt: skip


class ComparedRun(NamedTuple):
    """One run of a benchmark: its file, the place in it, the tool, the load, and each statistic of each metric.

    ``clients`` is the number in flight in a closed loop (0: none), ``rate`` the requests/s of an open loop (0: none).
    ``input`` and ``output`` are mean lengths. The simulation of the load says what ``kv_peak`` share of the KV cache
    was full at most, and how many ``preemptions`` there were. ``notes`` say what differs from the plan.
    """

    file: str
    at: str
    tool: str
    label: str
    load: str
    clients: int
    rate: float
    requests: int
    input: float
    output: float
    measures: tuple[Measure, ...]
    kv_peak: float
    preemptions: int
    notes: tuple[Diagnostic, ...] = ()

    @property
    def name(self) -> str:
        """File and place."""
        return f"{self.file}, {self.at}" if self.at else self.file

    def find(self, metric: str) -> Measure | None:
        """The mean of a metric, or its median where no mean was measured; None where neither was."""
        found = {m.statistic: m for m in self.measures if m.metric == metric}
        return found.get("mean") or found.get("p50")

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "file": self.file, "at": self.at, "tool": self.tool, "label": self.label, "load": self.load,
            "concurrency": self.clients or None, "requests_per_s": self.rate or None, "requests": self.requests,
            "input": self.input, "output": self.output, "measures": [m.as_json() for m in self.measures],
            "kv_cache_peak": _number(self.kv_peak), "preemptions": self.preemptions,
            "notes": [note.as_json() for note in self.notes],
        }  # fmt: skip


class Suspect(NamedTuple):
    """A possible cause: what would have to change of it so that errors are least, and what is left of them then.

    ``share`` is its part of the metric with the largest gap, as predicted. ``explained`` is the share of the gap that
    the change takes away, and ``error`` the mean error of all runs behind it, as a factor minus 1.
    """

    name: str
    title: str
    change: str
    share: float
    explained: float
    error: float

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "name": self.name, "title": self.title, "change": self.change, "share": _number(self.share),
            "explained": _number(self.explained), "error": _number(self.error),
        }  # fmt: skip


class Verdict(NamedTuple):
    """The largest gap, its likeliest causes (several that the runs cannot tell apart), and what would tell.

    ``run`` is the number of the run with the gap in `Comparison.runs`. ``suspects`` are all that were tried, the
    likeliest first; the first ``likely`` of them explain the runs equally well, 0: none does.
    """

    run: int
    gap: Measure
    error: float
    suspects: tuple[Suspect, ...]
    likely: int
    why: tuple[str, ...]
    measure: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "run": self.run, "gap": self.gap.as_json(), "error": _number(self.error),
            "likely": [s.name for s in self.suspects[: self.likely]],
            "suspects": [s.as_json() for s in self.suspects], "why": list(self.why), "measure": list(self.measure),
        }  # fmt: skip


class FittedConstant(NamedTuple):
    """A constant of an engine, before and after the fit, and the factor of its 80 % interval."""

    name: str
    before: float
    after: float
    interval: float


class FittedEngine(NamedTuple):
    """An engine fitted to the runs: what changed, and mean errors (factors minus 1) by metric.

    ``left_out`` are the errors of runs that a fit did not see, one run left out after the other; None where there is
    but one run. ``skipped`` says which constants the runs cannot tell, and why.
    """

    engine: str
    text: str
    constants: tuple[FittedConstant, ...]
    before: tuple[tuple[str, float], ...]
    after: tuple[tuple[str, float], ...]
    left_out: tuple[tuple[str, float], ...] | None
    skipped: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "engine": self.engine, "constants": [c._asdict() for c in self.constants],
            "error_before": dict(self.before), "error_after": dict(self.after),
            "error_left_out": None if self.left_out is None else dict(self.left_out), "skipped": list(self.skipped),
        }  # fmt: skip


class Comparison(NamedTuple):
    """All runs beside a plan, the verdict (None: there is nothing to explain), and the engine that was fitted."""

    plan: str
    runs: tuple[ComparedRun, ...]
    verdict: Verdict | None
    why_not: str = ""
    fitted: FittedEngine | None = None
    about: About = NOBODY

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        from plandsl.answers.tables import COMPARISON

        return COMPARISON

    def table(self, name: str) -> Table:
        """A table by its name: each statistic of each run, or the suspects."""
        from plandsl.answers.tables import comparison_table

        return comparison_table(self, name)

    def __repr__(self) -> str:
        from plandsl.answers.shown import comparison_line

        return comparison_line(self)

    def __rich__(self) -> Any:
        from plandsl.answers.shown import rich_of

        return rich_of(self)

    def _repr_html_(self) -> str:
        from plandsl.answers.shown import html_of

        return html_of(self)

    def as_json(self) -> dict[str, Any]:
        """The machine form."""
        return {
            "plan": self.plan, "runs": [run.as_json() for run in self.runs],
            "verdict": None if self.verdict is None else self.verdict.as_json(),
            **({"why_no_verdict": self.why_not} if self.why_not else {}),
            **({} if self.fitted is None else {"fit": self.fitted.as_json()}),
        }  # fmt: skip


def distance(measure: Measure) -> float:
    """How far a measurement is from the prediction, as a logarithm."""
    return abs(log(measure.ratio)) if measure.ratio > 0 and isfinite(measure.ratio) else 0.0


def _number(value: float) -> float | None:
    return value if isfinite(value) else None

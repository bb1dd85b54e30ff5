"""Why a plan is as fast as it is: typed results of `planc explain`, in SI units, with their machine form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from attrs import frozen

from plandsl.answers.estimate import Estimate
from plandsl.values import sum_up

if TYPE_CHECKING:
    from plandsl.columns import Table

BOUNDS = {
    "memory": "HBM bandwidth",
    "compute": "FLOP/s",
    "link": "link bandwidth",
    "network": "network bandwidth",
    "transfer": "transfer bandwidth",
    "message": "message latency",
    "launch": "kernel launches",
    "unit": "bandwidth of a unit",
    "engine": "engine times",
    "ranks": "engine times of further ranks",
}
"""Figures of hardware and engine that bound a term, by its ``bound``, in the words of reports."""

DUST = 1e-13
"""A rest that is less than this share of the whole is rounding."""


class Term(NamedTuple):
    """A part of a metric, in the metric's unit.

    ``group`` and ``name`` say which ops take it, ``op`` is their kind as in reports. ``bound`` is what bounds the term:
    a key of `BOUNDS`, or ``wait``, ``mixed`` or ``bubble`` where no hardware does. ``runs``, ``flops`` and ``bytes``
    count all runs on one device of each stage in one pass; ``layer``, ``origin`` and ``band`` are as in
    `plandsl.answers.phases.OpTime`. In a plan of several parts, ``part`` names the part that the term belongs to: a
    pool, the ``transfer`` between pools, or the ``draft``.
    """

    phase: str
    group: str
    op: str
    name: str
    value: float
    bound: str
    layer: str = ""
    band: tuple[float, float] | None = None
    runs: float = 0
    flops: float = 0.0
    bytes: float = 0.0
    part: str = ""
    origin: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Terms of two plans with equal keys are compared with each other."""
        return self.phase, self.group, self.op, self.name

    def times(self, n: float) -> Term:
        """The term with its value and its work multiplied by ``n``."""
        return self._replace(value=self.value * n, runs=self.runs * n, flops=self.flops * n, bytes=self.bytes * n)

    def as_json(self) -> dict[str, Any]:
        """An entry of ``terms``."""
        out: dict[str, Any] = {"phase": self.phase} if self.phase else {}
        out |= {"part": self.part} if self.part else {}
        out |= {"group": self.group, "op": self.op, "name": self.name, "value": self.value}
        out |= {"bound": self.bound} if self.bound else {}
        if self.layer:
            out |= {
                "layer": self.layer,
                "origin": self.origin,
                "runs": self.runs,
                "flops": self.flops,
                "bytes": self.bytes,
            }
        return out | ({"band": list(self.band)} if self.band else {})


@frozen
class Breakdown:
    """A metric and the terms that add up to it."""

    metric: str
    total: float
    terms: tuple[Term, ...]

    def by(self, key: Callable[[Term], str]) -> dict[str, float]:
        """Sums of terms that ``key`` gives one name, the largest first."""
        sums: dict[str, float] = {}
        for term in self.terms:
            sums[key(term)] = sums.get(key(term), 0.0) + term.value
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def bounds(self) -> dict[str, float]:
        """The sum of the terms with each bound."""
        return self.by(lambda t: t.bound)

    def groups(self) -> dict[str, float]:
        """The sum of the terms of each group."""
        return self.by(lambda t: t.group)

    def as_json(self) -> dict[str, Any]:
        """The tree: the whole, its sums by bound and by group, and all terms."""
        out: dict[str, Any] = {"total": self.total}
        if any(t.bound for t in self.terms):
            out["by_bound"] = self.bounds()
        return out | {"by_group": self.groups(), "terms": [t.as_json() for t in self.terms]}


class Slope(NamedTuple):
    """``d ln(metric) / d ln(figure)``, from a step down and from a step up. The two differ at a kink."""

    down: float | None
    up: float | None

    @property
    def mean(self) -> float:
        """The mean of the slopes that are not None; 0 if both are."""
        there = [s for s in self if s is not None]
        return sum_up(there) / len(there) if there else 0.0


@frozen
class Sensitivity:
    """The slopes of each metric by one figure, evaluated with the figure at ``low``, ``at`` and ``high``.

    ``at`` is the present value. Figures of the hardware are relative to it (0.99, 1, 1.01); figures of the load are
    counts.
    """

    key: str
    name: str
    low: float | None
    at: float
    high: float
    slopes: Mapping[str, Slope]

    def as_json(self) -> dict[str, Any]:
        """An entry of ``sensitivities``."""
        out: dict[str, Any] = {"figure": self.key, "low": self.low, "at": self.at, "high": self.high}
        return out | {m: {"down": s.down, "up": s.up} for m, s in self.slopes.items()}


@frozen
class Bottleneck:
    """The figure that bounds the largest share of a metric, and how much better it must get until another one does.

    With the figure ``factor`` times as good, the bound ``then`` has a larger share and the metric is ``gain`` times as
    fast; all three are None where that never happens. ``limit`` is the gain from an infinitely good figure. Of the
    ``share``, the part ``hidden`` stays however good the figure gets, because other work takes the same time;
    ``behind`` bounds most of that work, None where ``hidden`` is 0.
    """

    metric: str
    bound: str
    name: str
    share: float
    factor: float | None
    then: str | None
    gain: float | None
    limit: float
    hidden: float
    behind: str | None

    def as_json(self) -> dict[str, Any]:
        """The entry of ``bottlenecks``."""
        return {
            "bound": self.bound, "figure": self.name, "share": self.share, "factor": self.factor, "then": self.then,
            "gain": self.gain, "limit": self.limit, "hidden": self.hidden, "behind": self.behind,
        }  # fmt: skip


@frozen
class Headroom:
    """How far the batch and the context may grow; ``batch`` counts requests of one in-flight batch of one replica.

    From ``compute_batch`` requests on, the arithmetic of a decode step takes longer than its memory traffic; from
    ``gemm_batch`` requests on, the arithmetic of its GEMMs does. Each is None where no batch does this.
    ``max_context`` is the number of tokens (input and output) that each request may have at this batch, 0 if none fit.
    """

    batch: float
    max_batch: int
    gemm_batch: int | None
    compute_batch: int | None
    context: int
    max_context: int

    def as_json(self) -> dict[str, Any]:
        """The ``headroom`` object."""
        return {name: getattr(self, name) for name in
                ("batch", "max_batch", "gemm_batch", "compute_batch", "context", "max_context")}  # fmt: skip


@frozen(repr=False)
class Explanation:
    """Where the time and memory of one plan go, and what would change that.

    ``per_token`` splits 1 / throughput: seconds of all replicas together for each output token. ``modelled`` says that
    the slopes leave out measured tables, which hold for the present figures only. ``unmoved`` is the share of each
    metric that depends on none of the figures.
    """

    estimate: Estimate
    ttft: Breakdown
    tpot: Breakdown
    per_token: Breakdown
    memory: Breakdown
    sensitivities: tuple[Sensitivity, ...]
    unmoved: Mapping[str, float]
    bottlenecks: tuple[Bottleneck, ...]
    headroom: Headroom
    modelled: bool

    @property
    def times(self) -> tuple[Breakdown, ...]:
        """TTFT and TPOT; of a plan without output, TTFT alone."""
        return (self.ttft,) if self.estimate.encodes else (self.ttft, self.tpot)

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of its tables."""
        from plandsl.answers.tables import EXPLANATION

        return tuple(name for name in EXPLANATION if not self.estimate.encodes or name != "tpot")

    def table(self, name: str) -> Table:
        """A table by its name. Raises `PlanError` (E445) for another name."""
        from plandsl.answers.tables import explanation_table

        return explanation_table(self, name)

    def __repr__(self) -> str:
        from plandsl.answers.shown import explanation_line

        return explanation_line(self)

    def __rich__(self) -> Any:
        from plandsl.answers.shown import rich_of

        return rich_of(self)

    def _repr_html_(self) -> str:
        from plandsl.answers.shown import html_of

        return html_of(self)

    def as_json(self) -> dict[str, Any]:
        """One entry of ``plans``."""
        e = self.estimate
        return {
            "plan": e.plan,
            "fits": e.fits,
            **{f"{whole.metric}_s": whole.as_json() for whole in self.times},
            "throughput_tokens_per_s": e.throughput_tokens_per_s,
            "seconds_per_token": self.per_token.as_json(),
            "memory_per_gpu_bytes": self.memory.as_json() | {"capacity": e.memory.capacity},
            "sensitivities": [s.as_json() for s in self.sensitivities],
            "unmoved": dict(self.unmoved),
            "bottlenecks": {b.metric: b.as_json() for b in self.bottlenecks},
            "headroom": self.headroom.as_json(),
            **{name: part.as_json() for name in ("money", "energy") if (part := getattr(e, name)) is not None},
            "measured_left_aside": self.modelled,
            "calibration": e.calibration,
            "assumed": [{"entry": entry, "field": f, "value": v} for entry, f, v in e.assumed],
        }
